//! Sockets, TLS, and the limits of a connection. gRPC and HTTP share one port: an own accept loop, since tonic's TLS
//! server offers HTTP/2 alone.

use std::{
    convert::Infallible,
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use countersign_envelope::sha256;
use futures::FutureExt as _;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{gather::Gather, tls::LiveTls};
use crate::{
    key_file,
    shares::{Full, Most, Pool, Share},
    telemetry::metrics::{
        cells::One,
        labels::{Listener, Rejected},
        metrics,
    },
};

/// A peer is asked for a sign of life after so much silence, and let go when it gives none for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes of one request's headers.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Streams that a peer has reset and that are still being cleaned up (CVE-2023-44487, "rapid reset").
const RESETS_MAX: usize = 50;
/// Bytes that a peer may send on one stream before anybody has looked at them: a message of the public services fits.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same on all streams of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that wait for a slow peer on one stream.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Messages of one connection that are received at a time; the others wait in the windows above. So what one
/// connection can make the broker hold does not grow with its streams.
const RECEIVED_AT_ONCE_MAX: usize = 64;
/// Calls of one connection at a time that need neither a credential nor a signature and are no phone's: health,
/// reflection, and what is not there. Health can be watched for ever, and a reply is kept until it is read: nobody has
/// as many of these as a login server has logins that wait.
const ASIDES_AT_ONCE_MAX: usize = 8;
/// Connections that the operating system keeps until they are accepted.
const BACKLOG: u32 = 1_024;
/// That an address has all its connections is said at most so often.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What bounds the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At a time.
    pub connections: usize,
    /// Of them, those of one address (of IPv6, of one /64: what one household or server has).
    pub connections_per_address: usize,
    /// Streams of one connection: a login server keeps one for each login that waits.
    pub streams_per_connection: u32,
    /// What a peer has for the TLS handshake, then for its first request, and for the headers and the message of each.
    pub request_within: Duration,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer {
    /// Its address; none on a Unix socket.
    pub address: Option<SocketAddr>,
    /// SHA-256 of the client certificate that it has proved to hold, if it has shown one.
    pub certificate_hash: Option<[u8; 32]>,
}

impl Peer {
    /// Whose address it is at; nobody's on a Unix socket.
    pub fn network(&self) -> Option<IpAddr> {
        self.address.map(|address| network(address.ip()))
    }
}

/// How requests of one connection are received; with each of them.
#[derive(Debug, Clone)]
pub struct Receiving {
    /// Their places.
    pub places: Arc<Semaphore>,
    /// What one has for arriving whole.
    pub within: Duration,
    /// Places of calls that nobody has to prove anything for; each is kept until its reply is over.
    pub asides: Arc<Semaphore>,
}

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{at} is in use: is another broker running? Stop it, or change {key}")]
    InUse {
        /// Where.
        at: SocketAddr,
        /// The key of the configuration that says so.
        key: &'static str,
    },
    /// A broker answers on the socket.
    #[error(
        "a broker runs with this configuration already: it answers on {path}; stop it first, or give this one a \
         configuration, keys and a log of its own", path = .path.display()
    )]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Something stands where the socket should, and is not taken away: nobody said that it may be.
    #[error(
        "{path}: is there already and is no socket: move it away, or change admin.socket", path = .path.display()
    )]
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot listen on {at}: {reason}")]
    Listen {
        /// Where.
        at: String,
        /// Why not.
        reason: io::Error,
    },
    /// The key cannot be read, or others could change it.
    #[error(transparent)]
    Key(#[from] key_file::Error),
    /// A certificate or key cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// The file that it is about, where it is about one of TLS.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Key(error) => Some(error.file()),
            Self::Tls { path, .. } => Some(path),
            Self::InUse { .. } | Self::Running { .. } | Self::NoSocket { .. } | Self::Listen { .. } => None,
        }
    }
}

/// Answers requests.
pub trait Answers: Clone + Send + 'static {
    /// Of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one.
    fn answer(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;
}

/// A listener, and how its connections are served.
#[derive(Debug)]
pub struct Server<A> {
    answers: A,
    limits: Limits,
    /// What it is counted as.
    label: Listener,
    connections: Arc<Semaphore>,
    addresses: Addresses,
    stopping: CancellationToken,
    graceful: GracefulShutdown,
}

impl<A: Answers> Server<A> {
    /// Serves what answers within these limits, until told to stop.
    pub fn new(answers: A, limits: Limits, label: Listener, stopping: CancellationToken) -> Self {
        Self {
            answers,
            limits,
            label,
            connections: Arc::new(Semaphore::new(limits.connections)),
            addresses: Addresses::at_most(limits.connections_per_address),
            stopping,
            graceful: GracefulShutdown::new(),
        }
    }

    /// Serves TCP, in TLS where that is configured; returns when it was told to stop and the connections are done, or
    /// have had `patience` for it.
    pub async fn tcp(self, listener: TcpListener, tls: Option<Arc<LiveTls>>, patience: Duration) {
        loop {
            let Some(place) = self.place().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Some(visit) = self.addresses.enter(address.ip()) else {
                metrics().calls.rejected.count(Rejected::TooManyOfAddress);
                continue;
            };
            let place = self.taken(place, Some(visit));
            // A number and a yes are small: they must not wait for more to send.
            let _ = stream.set_nodelay(true);
            match &tls {
                None => self.serve(stream, Peer { address: Some(address), certificate_hash: None }, place),
                Some(tls) => {
                    let acceptor = tls.current();
                    let connection = self.connection();
                    let within = self.limits.request_within;
                    tokio::spawn(async move {
                        let Ok(Ok(stream)) = tokio::time::timeout(within, acceptor.accept(stream)).await
                        else {
                            metrics().calls.rejected.count(Rejected::Handshake);
                            return;
                        };
                        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        let certificate_hash = shown.map(|certificate| sha256(certificate));
                        connection
                            .serve(stream, Peer { address: Some(address), certificate_hash }, place)
                            .await;
                    });
                }
            }
        }
        // Who comes now is refused at once and goes elsewhere: nobody would answer him before the last connection is done.
        drop(listener);
        self.finish(patience).await;
    }

    /// Serves a Unix socket.
    pub async fn unix(self, listener: UnixListener, patience: Duration) {
        loop {
            let Some(place) = self.place().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    self.serve(stream, Peer::default(), self.taken(place, None));
                }
                Err(error) => pause_after(&error).await,
            }
        }
        // Who comes now is refused at once and goes elsewhere: nobody would answer him before the last connection is done.
        drop(listener);
        self.finish(patience).await;
    }

    /// Serves a connection that somebody else has accepted; one for which there is no place is closed.
    pub fn accepted<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() {
            self.serve(stream, peer, self.taken(place, None));
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            place = Arc::clone(&self.connections).acquire_owned() => place.ok(),
            () = self.stopping.cancelled() => None,
        }
    }

    fn taken(&self, connection: OwnedSemaphorePermit, visit: Option<Visit>) -> Place {
        let calls = &metrics().calls;
        calls.accepted.count(self.label);
        Place { _connection: connection, _visit: visit, _counted: calls.connections.one(self.label) }
    }

    fn connection(&self) -> Connection<A> {
        Connection { answers: self.answers.clone(), limits: self.limits, watcher: self.graceful.watcher() }
    }

    fn serve<S>(&self, stream: S, peer: Peer, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(self.connection().serve(stream, peer, place));
    }

    async fn finish(self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.graceful.shutdown()).await;
    }
}

/// What a connection takes up as long as it is there.
struct Place {
    _connection: OwnedSemaphorePermit,
    _visit: Option<Visit>,
    _counted: One<Listener>,
}

/// How many connections each address has.
#[derive(Debug)]
struct Addresses {
    connections: Arc<Pool<IpAddr>>,
    said: Arc<AtomicBool>,
}

/// One connection of an address.
type Visit = Share<IpAddr>;

impl Addresses {
    fn at_most(most: usize) -> Self {
        // How many there are in all, the listener counts: nobody is accepted before there is a place.
        Self { connections: Pool::of(Most { in_all: usize::MAX, of_one: most }), said: Arc::default() }
    }

    /// None where the address has as many as it may.
    fn enter(&self, address: IpAddr) -> Option<Visit> {
        let of = network(address);
        let visit = self.connections.take(of);
        visit.inspect_err(|full| self.say(of, *full)).ok()
    }

    fn say(&self, address: IpAddr, full: Full) {
        if self.said.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            %address,
            %full,
            "an address has as many connections as it may (limits.connections_per_address): no more are taken from it"
        );
        let said = Arc::clone(&self.said);
        tokio::spawn(async move {
            tokio::time::sleep(SAID_AGAIN_AFTER).await;
            said.store(false, Ordering::Relaxed);
        });
    }
}

/// Whose an address is: of IPv6, everybody has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// One connection.
struct Connection<A> {
    answers: A,
    limits: Limits,
    watcher: hyper_util::server::graceful::Watcher,
}

impl<A: Answers> Connection<A> {
    async fn serve<S>(self, stream: S, peer: Peer, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answers = self.answers;
        let called = Arc::new(Notify::new());
        let receiving = Receiving {
            places: Arc::new(Semaphore::new(RECEIVED_AT_ONCE_MAX)),
            within: self.limits.request_within,
            asides: Arc::new(Semaphore::new(ASIDES_AT_ONCE_MAX)),
        };
        let first_call = Arc::clone(&called);
        let service = service_fn(move |mut request: Request<Incoming>| {
            first_call.notify_one();
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(receiving.clone());
            answers.clone().answer(request).map(Ok::<_, Infallible>)
        });
        let builder = builder(self.limits);
        let connection = builder.serve_connection(TokioIo::new(Gather::new(stream)), service).into_owned();
        tokio::select! {
            ended = self.watcher.watch(connection) => if let Err(error) = ended {
                tracing::debug!(peer = ?peer.address, %error, "connection ended");
            },
            () = never_called(&called, self.limits.request_within) => {
                metrics().calls.rejected.count(Rejected::Silent);
                tracing::debug!(peer = ?peer.address, "no request came: connection closed");
            }
        }
        drop(place);
    }
}

/// Ends when nobody has called by then. hyper has no limit of its own on what comes before the first request.
async fn never_called(called: &Notify, within: Duration) {
    if tokio::time::timeout(within, called.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_within)
        // hyper's own limit of what is read ahead is some 400 KiB a connection.
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX);
    builder
}

/// A listener that has run out of file descriptors gets them back by waiting, not by trying again at once.
async fn pause_after(error: &io::Error) {
    metrics().calls.rejected.count(Rejected::NotAccepted);
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Takes an address, and lets nobody in yet: who calls is refused until somebody listens ([`listen`]).
pub fn bind(at: SocketAddr, key: &'static str) -> Result<TcpSocket, Error> {
    let failed = |reason: io::Error| match reason.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { at, key },
        _ => Error::Listen { at: at.to_string(), reason },
    };
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    // What the last broker's connections have left behind does not keep the next one out.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(at).map_err(failed)?;
    Ok(socket)
}

/// Lets callers in.
pub fn listen(socket: TcpSocket, key: &'static str) -> Result<TcpListener, Error> {
    let at = socket.local_addr().map_err(|reason| Error::Listen { at: key.to_owned(), reason })?;
    socket.listen(BACKLOG).map_err(|reason| match reason.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { at, key },
        _ => Error::Listen { at: at.to_string(), reason },
    })
}

/// Whether a Unix socket can be made here: nothing stands there but, at most, a socket that nobody answers on.
pub async fn unix_is_free(path: &Path) -> Result<(), Error> {
    if is_socket(path)? && tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(Error::Running { path: path.to_owned() });
    }
    Ok(())
}

/// Whether there is a socket; what is something else is an error.
pub fn is_socket(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => Ok(true),
        Ok(_) => Err(Error::NoSocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(reason) => Err(Error::Listen { at: path.display().to_string(), reason }),
    }
}

/// Listens on a Unix socket that only its owner may use. One that a broker left behind is replaced; one that answers
/// is not, and neither is anything that is no socket.
pub async fn unix(path: &Path) -> Result<UnixListener, Error> {
    let failed = |reason| Error::Listen { at: path.display().to_string(), reason };
    unix_is_free(path).await?;
    // Made in a folder of its own that nobody else can enter, so that there is no moment at which others could connect.
    let folder = path.with_extension("making");
    let made = folder.join("s");
    // What a start that was cut short has left behind, and nothing else.
    remove_socket(&made);
    let _ = fs::remove_dir(&folder);
    fs::create_dir(&folder).map_err(|reason| Error::Listen { at: folder.display().to_string(), reason })?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let listener = UnixListener::bind(&made).map_err(failed)?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&made, path).map_err(failed)?;
    fs::remove_dir(&folder).map_err(failed)?;
    Ok(listener)
}

/// Takes a socket away, and nothing but a socket.
pub fn remove_socket(path: &Path) {
    if is_socket(path).is_ok_and(|there| there) {
        let _ = fs::remove_file(path);
    }
}
