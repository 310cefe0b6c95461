//! The simulated network under the real gRPC code: hyper's and tonic's bytes go through turmoil's sockets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint};

/// Where the broker listens.
pub(crate) const PORT: u16 = 8443;

/// A connection is asked for a sign of life after so much silence, and given up when it gives none for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// What no call takes that is answered at all.
const CALL_MAX: Duration = Duration::from_secs(4);

/// A way to the broker, made anew when it breaks.
pub(crate) fn to_broker() -> Channel {
    let address = format!("http://{}:{PORT}", crate::stage::BROKER);
    Endpoint::from_shared(address)
        .expect("a URL")
        .timeout(CALL_MAX)
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(|uri: http::Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = turmoil::net::TcpStream::connect((host, PORT)).await?;
            Ok::<_, io::Error>(TokioIo::new(Wire(stream)))
        }))
}

/// One end of a simulated connection.
#[derive(Debug)]
pub(crate) struct Wire(pub(crate) turmoil::net::TcpStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
