//! Calls the administration of a running broker: by its socket, or by TCP with the operator's certificate.

use std::{io, path::Path};

use anyhow::{Context as _, bail};
use countersign::config::Config;
use countersign_proto::v1::administration_client::AdministrationClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The administration of the broker that runs with this configuration.
pub(crate) async fn connect(config: &Config) -> anyhow::Result<AdministrationClient<Channel>> {
    match &config.admin.socket {
        Some(socket) => Ok(AdministrationClient::new(over(socket, config.file()).await?)),
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

async fn over(socket: &Path, config: &Path) -> anyhow::Result<Channel> {
    // Once by itself: tonic would hide why it cannot be connected to.
    UnixStream::connect(socket).await.map_err(|error| anyhow::anyhow!(unanswered(socket, config, &error)))?;
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://administration")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("{}: the broker does not answer", socket.display()))
}

fn unanswered(socket: &Path, config: &Path, error: &io::Error) -> String {
    let (socket, config) = (socket.display(), config.display());
    let start = format!("start it: countersign serve --config {config}");
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("no broker runs with this configuration ({socket} is not there); {start}")
        }
        io::ErrorKind::ConnectionRefused => {
            format!(
                "no broker runs with this configuration (nobody listens on {socket}, which one has left behind); {start}"
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "{socket}: this user may not open it: the user that runs the broker may (`sudo -u USER countersign ...`)"
        ),
        _ => format!("{socket}: {error}"),
    }
}

/// A status as an operator reads it.
pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the broker says: {}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_no_answer_has_its_own_text() {
        let said = |kind: io::ErrorKind| {
            unanswered(Path::new("/b/admin.sock"), Path::new("/b/countersign.toml"), &kind.into())
        };
        let missing = said(io::ErrorKind::NotFound);
        assert!(missing.contains("(/b/admin.sock is not there)"), "{missing}");
        assert!(missing.ends_with("start it: countersign serve --config /b/countersign.toml"), "{missing}");
        assert!(said(io::ErrorKind::ConnectionRefused).contains("nobody listens on /b/admin.sock"));
        let denied = said(io::ErrorKind::PermissionDenied);
        assert!(denied.contains("may not open it") && !denied.contains("start it"), "{denied}");
    }
}
