//! Sockets, TLS, and the limits of a connection. gRPC and HTTP share one port: an own accept loop, since tonic's TLS
//! server offers HTTP/2 alone.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use countersign_envelope::sha256;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Who has not finished the TLS handshake by then is let go.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A peer is asked for a sign of life after so much silence, and let go when it gives none for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// HTTP/1.1 headers must be complete by then.
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// Bytes of one request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams of one connection: a login server keeps one for each login that waits.
const STREAMS_MAX: u32 = 2_000;
/// Streams that a peer has reset and that are still being cleaned up (CVE-2023-44487, "rapid reset").
const RESETS_MAX: usize = 50;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer {
    /// Its address; none on a Unix socket.
    pub address: Option<SocketAddr>,
    /// SHA-256 of the client certificate that it has proved to hold, if it has shown one.
    pub certificate_hash: Option<[u8; 32]>,
}

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot listen on {at}: {source}")]
    Listen {
        /// Where.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where TLS gets its certificate, and whose clients' certificates it takes.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities of client certificates (PEM); none are asked for without.
    pub client_ca_file: Option<PathBuf>,
    /// Nobody is let in without a client certificate.
    pub client_certificate_required: bool,
}

/// A listener, and how its connections are served.
#[derive(Debug)]
pub struct Server {
    router: axum::Router,
    connections: Arc<Semaphore>,
    stopping: CancellationToken,
    graceful: GracefulShutdown,
}

impl Server {
    /// Serves this router to so many connections at a time, until told to stop.
    pub fn new(router: axum::Router, connections_max: usize, stopping: CancellationToken) -> Self {
        Self {
            router,
            connections: Arc::new(Semaphore::new(connections_max)),
            stopping,
            graceful: GracefulShutdown::new(),
        }
    }

    /// Serves TCP, in TLS where that is configured; returns when it was told to stop and the connections are done, or
    /// have had `patience` for it.
    pub async fn tcp(self, listener: TcpListener, tls: Option<TlsAcceptor>, patience: Duration) {
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
            // A number and a yes are small: they must not wait for more to send.
            let _ = stream.set_nodelay(true);
            match tls.clone() {
                None => self.serve(stream, Peer { address: Some(address), certificate_hash: None }, place),
                Some(acceptor) => {
                    let connection = self.connection();
                    tokio::spawn(async move {
                        let Ok(Ok(stream)) =
                            tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await
                        else {
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
                Ok((stream, _)) => self.serve(stream, Peer::default(), place),
                Err(error) => pause_after(&error).await,
            }
        }
        // Who comes now is refused at once and goes elsewhere: nobody would answer him before the last connection is done.
        drop(listener);
        self.finish(patience).await;
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            place = Arc::clone(&self.connections).acquire_owned() => place.ok(),
            () = self.stopping.cancelled() => None,
        }
    }

    fn connection(&self) -> Connection {
        Connection { router: self.router.clone(), watcher: self.graceful.watcher() }
    }

    fn serve<S>(&self, stream: S, peer: Peer, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(self.connection().serve(stream, peer, place));
    }

    async fn finish(self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.graceful.shutdown()).await;
    }
}

/// One connection.
struct Connection {
    router: axum::Router,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn serve<S>(self, stream: S, peer: Peer, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request)
        });
        let builder = builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(peer = ?peer.address, %error, "connection ended");
        }
        drop(place);
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX);
    builder
}

/// A listener that has run out of file descriptors gets them back by waiting, not by trying again at once.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Listens on TCP.
pub async fn tcp(at: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(at).await.map_err(|source| Error::Listen { at: at.to_string(), source })
}

/// Listens on a Unix socket that only its owner may use. One that a broker left behind is replaced; one that answers
/// is not.
pub async fn unix(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { at: path.display().to_string(), source };
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another broker answers there")));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    // Made in a folder of its own that nobody else can enter, so that there is no moment at which others could connect.
    let folder = path.with_extension("making");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).map_err(failed)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let made = folder.join("s");
    let listener = UnixListener::bind(&made).map_err(failed)?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&made, path).map_err(failed)?;
    fs::remove_dir(&folder).map_err(failed)?;
    Ok(listener)
}

/// TLS as configured.
pub fn tls(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let certificates = certificates(&tls.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .map_err(|error| bad(&tls.key_file, format!("holds no private key in PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&tls.certificate_file, error.to_string()))?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, tls, provider)?),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| {
        bad(&tls.certificate_file, format!("does not go with {}: {error}", tls.key_file.display()))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn client_verifier(
    path: &Path,
    tls: &Tls,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| bad(path, error.to_string()))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !tls.client_certificate_required {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(|error| bad(path, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad(path, format!("cannot be read as PEM: {error}")))?;
    if certificates.is_empty() { Err(bad(path, "holds no certificate".to_owned())) } else { Ok(certificates) }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::Tls { path: path.to_owned(), problem }
}
