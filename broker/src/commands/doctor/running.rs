//! Whether a broker runs with this configuration, or could.

use std::fs;

use countersign::{broker::setup::Ports, config::Config, log::is_in_use};
use countersign_proto::v1::administration_client::AdministrationClient;
use rustix::process::{Resource, getrlimit};
use tokio::net::UnixStream;
use tonic::transport::Channel;

use super::report::Findings;
use crate::commands::{admin_client, open_files};

/// A broker that answers on this configuration's socket.
pub(super) struct Running {
    /// To ask it.
    pub(super) administration: AdministrationClient<Channel>,
    /// Its process, if the operating system says.
    process: Option<i32>,
}

impl Running {
    pub(super) async fn find(config: &Config) -> Option<Self> {
        let socket = UnixStream::connect(config.admin.socket.as_ref()?).await.ok()?;
        let process = socket.peer_cred().ok().and_then(|peer| peer.pid());
        drop(socket);
        Some(Self { administration: admin_client::connect(config).await.ok()?, process })
    }
}

pub(super) async fn broker(config: &Config, running: Option<&Running>, findings: &mut Findings) {
    if running.is_some() {
        return findings.good("broker", "runs, and answers its administration");
    }
    if is_in_use(&config.log.folder) {
        // It has the ports, too.
        let says = if config.admin.socket.is_some() {
            "a process has the log open, and nobody answers on admin.socket"
        } else {
            "runs; its administration listens on TCP, and is not asked"
        };
        return findings.warn(
            "broker",
            says,
            "if it hangs, stop it and start it again: nothing that was told is lost",
        );
    }
    match Ports::take(config).await {
        Ok(_) => findings.good("broker", "does not run; its addresses are free"),
        Err(error) => findings.fail(
            "broker",
            format!("does not run, and could not: {error}"),
            "free the address, or change the key",
        ),
    }
}

/// Each connection is an open file.
pub(super) fn open_files(config: &Config, running: Option<&Running>, findings: &mut Findings) {
    let of_broker = running.and_then(|running| open_files_of(running.process?));
    let whose = if of_broker.is_some() { "the broker" } else { "a broker that is started here" };
    let most = of_broker.unwrap_or_else(|| getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    let wanted = (config.limits.connections.get() as u64).saturating_add(open_files::OTHERS);
    let todo = "allow more (LimitNOFILE= of systemd, `ulimit -Hn`), or lower limits.connections";
    if most < open_files::OTHERS + open_files::CONNECTIONS_MIN {
        findings.fail("open-files", format!("{whose} may open {most}, and cannot work with so few"), todo);
    } else if most < wanted {
        let taken = most - open_files::OTHERS;
        let says = format!(
            "{whose} may open {most}: it takes {taken} connections, and limits.connections says {}",
            config.limits.connections
        );
        findings.warn("open-files", says, todo);
    } else {
        findings.good("open-files", format!("{whose} may open {most}: enough for limits.connections"));
    }
}

/// The limit that a running process has.
fn open_files_of(process: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}
