//! `countersign doctor`: looks at all that a broker stands on, and says of each what it found and what to do.
//!
//! Nothing of the broker's is changed: a file is written and taken away again beside the log, to see how long the disk
//! takes; push services are asked about a push that no phone can get.

mod callers;
mod clock;
mod files;
mod log;
mod push;
mod report;
mod running;
mod tls;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use countersign::{broker::setup::Setup, config::Config};

use self::{report::Findings, running::Running};
use crate::ConfigFile;

/// `countersign doctor`
///
/// Status 0: the broker can work, though there may be warnings. Status 1: something must be mended. Status 2: wrong use.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// Read the whole log, not its last segment alone
    #[arg(long)]
    deep: bool,
    /// Ask nobody outside: push services are left out
    #[arg(long)]
    offline: bool,
    /// One JSON object: checks (check, result, says, do), failures, warnings
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    match options.config.load() {
        Ok(config) => look(&config, options, &mut findings).await,
        // Without it there is nothing else to look at.
        Err(error) => findings.fail(
            "configuration",
            error,
            "mend it: each key is explained in what `countersign init` writes",
        ),
    }
    findings.print(options.json)?;
    match findings.failures() {
        0 => Ok(()),
        1 => bail!("one thing must be mended"),
        many => bail!("{many} things must be mended"),
    }
}

async fn look(config: &Config, options: &Options, findings: &mut Findings) {
    findings.good("configuration", format!("{} can be read", config.file().display()));
    files::user(config, findings);
    files::keys(config, findings);
    for problem in Setup::read(config).err().map(|error| error.problems).unwrap_or_default() {
        // Keys are looked at one by one above.
        if problem.key != "keys.folder" {
            findings.fail(check_of(problem.key), &problem, what_to_do(problem.key));
        }
    }
    files::secrets(config, findings);
    tls::look(config, findings);
    callers::look(config, findings);
    let running = Running::find(config).await;
    running::broker(config, running.as_ref(), findings).await;
    running::open_files(config, running.as_ref(), findings);
    let last = log::look(config, running.as_ref(), options.deep, findings).await;
    log::disk(config, findings);
    let (asked, times) = if options.offline { Default::default() } else { push::ask(config).await };
    clock::look(config, last, &times, findings);
    findings.add(asked);
}

/// Which check a key of the configuration belongs to.
fn check_of(key: &str) -> &'static str {
    const SECTIONS: [&str; 5] = ["server.tls", "admin.tls", "push.apns", "push.fcm", "log"];
    SECTIONS.into_iter().find(|section| key.starts_with(section)).unwrap_or("configuration")
}

fn what_to_do(key: &str) -> &'static str {
    match check_of(key) {
        "server.tls" | "admin.tls" => {
            "name a certificate chain, and the private key that belongs to it, both in PEM"
        }
        "push.apns" => "name the .p8 key from Apple's developer account",
        "push.fcm" => "name the service account's JSON file from the Firebase console",
        "log" => "name a folder of the broker's user's own",
        _ => "change it; `countersign config check` says when it is well",
    }
}

/// All files with a private key that somebody else has made.
fn secret_files(config: &Config) -> Vec<PathBuf> {
    let tls = config.server.tls.as_ref().map(|tls| &tls.key_file);
    let admin = config.admin.tls.as_ref().map(|tls| &tls.key_file);
    let apns = config.push.apns.as_ref().map(|apns| &apns.key_file);
    let fcm = config.push.fcm.as_ref().map(|fcm| &fcm.service_account_file);
    [tls, admin, apns, fcm].into_iter().flatten().cloned().collect()
}
