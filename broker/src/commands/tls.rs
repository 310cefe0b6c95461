//! `countersign tls`: has a running broker read certificates again.

use anyhow::bail;
use clap::Subcommand;
use countersign_proto::v1::{
    ReloadTlsRequest,
    reload_tls_reply::{Listener, Result},
};

use super::admin_client::{connect, said};
use crate::ConfigFile;

/// `countersign tls`
#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Read certificates, keys and authorities of clients again; open connections and their streams go on
    ///
    /// The broker finds changed files within 10 seconds by itself, and at once when it is sent SIGHUP. What cannot be
    /// used changes nothing; then the status is 1.
    Reload {
        #[command(flatten)]
        config: ConfigFile,
    },
}

pub(crate) async fn run(command: TlsCommand) -> anyhow::Result<()> {
    let TlsCommand::Reload { config } = command;
    let mut broker = connect(&config.load()?).await?;
    let reply = broker.reload_tls(ReloadTlsRequest {}).await.map_err(|status| said(&status))?.into_inner();
    if reply.listeners.is_empty() {
        println!("No listener has TLS: there is nothing to read.");
    }
    let mut kept = 0;
    for listener in &reply.listeners {
        println!("{}", line(listener));
        kept += usize::from(listener.result() == Result::Kept);
    }
    if kept > 0 {
        bail!(
            "not all of it can be used: mend the files and call this again; meanwhile what was read before is used"
        )
    }
    Ok(())
}

fn line(listener: &Listener) -> String {
    let Listener { section, problem, .. } = listener;
    match listener.result() {
        Result::Changed => format!("[{section}] read again: new connections get it"),
        Result::Unchanged => format!("[{section}] holds what it held"),
        Result::Kept => format!("[{section}] kept as it was: {problem}"),
        Result::Unspecified => format!("[{section}] ?"),
    }
}
