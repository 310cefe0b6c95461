//! Calls the administration of a running broker: by its socket, or by TCP with the operator's certificate.

use std::path::Path;

use anyhow::{Context as _, bail};
use countersign::config::Config;
use countersign_proto::v1::administration_client::AdministrationClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The administration of the broker that runs with this configuration.
pub(crate) async fn connect(config: &Config) -> anyhow::Result<AdministrationClient<Channel>> {
    match &config.admin.socket {
        Some(socket) => Ok(AdministrationClient::new(over(socket).await?)),
        None => bail!(
            "administration listens on TCP: call countersign.v1.Administration there with an operator's certificate \
             (grpcurl -cert -key), or configure [admin] socket"
        ),
    }
}

/// Whether a broker answers on this configuration's socket.
pub(crate) async fn is_running(config: &Config) -> bool {
    match &config.admin.socket {
        Some(socket) => UnixStream::connect(socket).await.is_ok(),
        None => false,
    }
}

async fn over(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://administration").connect_with_connector(connector).await.with_context(
        || format!("{}: no broker answers; is it running, and may you open the socket?", socket.display()),
    )
}

/// A status as an operator reads it.
pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the broker says: {}", status.message())
}
