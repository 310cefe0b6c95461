//! Accepting connections: TCP, TLS, and the two ways to end a connection that a web server never takes, a reset
//! and a GOAWAY on demand.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{apns::Reason, identity::ServerCertificate};

/// A client that has not finished its handshake (TLS, then HTTP/2) by then is dropped.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// More connections than this on one service are refused.
const CONNECTIONS_MAX: usize = 10_000;
/// After a failed accept (too many open files, say) the next one is tried this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// TLS as both services offer it; `protocols` are what ALPN may choose from, the best first.
pub(crate) fn acceptor(
    certificate: &ServerCertificate,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let pem = certificate.server_pem.as_bytes();
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Why the services' certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM file is damaged.
    #[error("the server's certificate cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// rustls does not take it.
    #[error("the server's certificate cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What happens on a connection once TLS stands.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves the connection until its client, `orders` or `stop` ends it.
    fn serve(
        self: Arc<Self>,
        stream: TlsStream<Wire>,
        orders: Orders,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// Accepts connections until `stop`; each is served in a task of `tasks`.
pub(crate) async fn accept<S: Serve>(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Arc<S>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(max = CONNECTIONS_MAX, "too many connections: refused one");
            continue;
        };
        // Small answers must not wait for each other (Nagle).
        let _ = tcp.set_nodelay(true);
        let orders = Orders::default();
        let handshake = tls.accept(Wire { tcp, orders: orders.clone() });
        let (service, stop) = (Arc::clone(&service), stop.clone());
        tasks.spawn(async move {
            match timeout(HANDSHAKE_MAX, handshake).await {
                Ok(Ok(stream)) => service.serve(stream, orders, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
            drop(place);
        });
    }
}

/// What a request may do to the connection that it came over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders(Arc<Given>);

#[derive(Debug, Default)]
struct Given {
    reset: AtomicBool,
    goaway: OnceLock<Reason>,
    changed: Notify,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Drop it; the socket sends RST.
    Reset,
    /// Take no more streams, finish those that are open, and say why.
    GoAway(Reason),
}

impl Orders {
    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(&self) {
        self.0.reset.store(true, Ordering::SeqCst);
        self.0.changed.notify_one();
    }

    /// Ends the connection in an orderly way. Only the first reason counts.
    pub(crate) fn go_away(&self, reason: Reason) {
        let _ = self.0.goaway.set(reason);
        self.0.changed.notify_one();
    }

    /// Waits for the next order.
    pub(crate) async fn next(&self) -> Order {
        loop {
            self.0.changed.notified().await;
            if self.0.reset.load(Ordering::SeqCst) {
                return Order::Reset;
            }
            if let Some(reason) = self.0.goaway.get() {
                return Order::GoAway(*reason);
            }
        }
    }
}

/// The TCP connection below TLS. If a reset was ordered, dropping it sends RST instead of FIN.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    orders: Orders,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.orders.0.reset.load(Ordering::SeqCst) {
            // A socket that is gone already needs no reset.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
