//! `countersign log archive`: what the broker does by itself as the log ages, now.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use countersign::{
    clock::{Clock as _, SystemClock},
    config::Config,
    entropy::{Entropy, OsEntropy},
    log::{ArchiveReport, ArchiveStep, EventLog as _, LocalLog},
};
use countersign_proto::v1::{self, archive_log_update::Update};
use futures::StreamExt as _;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{admin_client, as_far_as_it_is_read, hint, must_exist, said, with_hint};
use crate::{ConfigFile, commands::serve::log_config};

/// Compresses the segments of the journal that are whole, and takes out of sled what is older than `[log]
/// retention_days`, or more than `retention_entries`. Everything can be read as before, from the archive: by `log show`,
/// `log verify`, and the broker. It is safe to interrupt, and to run while a broker runs.
#[derive(Debug, Args)]
pub(crate) struct Archive {
    #[command(flatten)]
    config: ConfigFile,
    /// What was done as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Archive) -> anyhow::Result<()> {
    let config = options.config.load()?;
    must_exist(&config.log.folder)?;
    let report = if admin_client::is_running(&config).await {
        by_the_broker(&config).await?
    } else {
        by_ourselves(&config, &options.config).await?
    };
    let mut out = io::stdout().lock();
    let printed = if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)
    } else {
        print(&mut out, &report)
    };
    if report.damaged.is_empty() {
        return as_far_as_it_is_read(printed.map_err(Into::into));
    }
    anyhow::bail!("the log is not as it was written; {}", hint(&options.config))
}

/// A running broker archives its own log.
async fn by_the_broker(config: &Config) -> anyhow::Result<ArchiveReport> {
    let mut broker = admin_client::connect(config).await?;
    let updates = broker.archive_log(v1::ArchiveLogRequest {}).await.map_err(|status| said(&status))?;
    let (mut updates, mut bar) = (updates.into_inner(), Bar::default());
    while let Some(update) = updates.message().await.map_err(|status| said(&status))? {
        match update.update {
            Some(Update::Progress(progress)) => bar.show(progress.done_bytes, progress.total_bytes),
            Some(Update::Report(report)) => {
                return serde_json::from_str(&report.json).context("the broker sent no report");
            }
            None => {}
        }
    }
    anyhow::bail!("the broker stopped before all was done; what was done stays, and the next start goes on")
}

/// Without one, the log is opened as a start does it, and closed again.
async fn by_ourselves(config: &Config, file: &ConfigFile) -> anyhow::Result<ArchiveReport> {
    let log_config = log_config(config);
    let new_id = (&OsEntropy as &dyn Entropy).bytes();
    let log = tokio::task::spawn_blocking(move || LocalLog::open(&log_config, new_id)).await?;
    let log = Arc::new(log.map_err(|error| with_hint(error.into(), file))?);
    let before_ms = SystemClock.now().minus(config.log.retention()).as_millis();
    let report = steps(&log, before_ms).await;
    log.close().await;
    report
}

async fn steps(log: &LocalLog, before_ms: u64) -> anyhow::Result<ArchiveReport> {
    let (mut steps, mut bar) = (log.archive(before_ms), Bar::default());
    while let Some(step) = steps.next().await {
        match step? {
            ArchiveStep::Progress { done_bytes, total_bytes } => bar.show(done_bytes, total_bytes),
            ArchiveStep::Done(report) => return Ok(report),
        }
    }
    anyhow::bail!("archiving ended before all was done: a mistake in the program")
}

/// How far it has come, where somebody watches.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Bar {
    /// Less than this is done before anybody has read it.
    const SHOWN_FROM_BYTES: u64 = 32 * 1024 * 1024;

    fn show(&mut self, done_bytes: u64, total_bytes: u64) {
        if total_bytes < Self::SHOWN_FROM_BYTES || !io::stderr().is_terminal() {
            return;
        }
        let bar = self.0.get_or_insert_with(|| {
            let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            let bar = ProgressBar::new(total_bytes).with_message("archiving");
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_position(done_bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn print(out: &mut impl Write, report: &ArchiveReport) -> io::Result<()> {
    writeln!(out, "{}", report.folder.display())?;
    for segment in &report.archived {
        let name = segment.file.file_name().unwrap_or(segment.file.as_os_str()).to_string_lossy();
        let (before, after) = (HumanBytes(segment.bytes_before), HumanBytes(segment.bytes_after));
        writeln!(out, "  {name}  positions {} to {}  {before} -> {after}", segment.first, segment.last)?;
    }
    match report.archived.len() {
        0 => writeln!(out, "no segment was compressed")?,
        1 => writeln!(out, "1 segment was compressed")?,
        segments => writeln!(out, "{segments} segments were compressed")?,
    }
    if report.waiting > 0 {
        writeln!(out, "{} more will be, when sled has taken them over", report.waiting)?;
    }
    match report.left_store {
        Some((first, last)) => {
            writeln!(out, "positions {first} to {last} have left sled, and are read from the archive")?;
        }
        None => writeln!(out, "nothing has left sled")?,
    }
    for (what, before, after) in [
        ("journal", report.journal_bytes_before, report.journal_bytes_after),
        ("sled", report.store_bytes_before, report.store_bytes_after),
    ] {
        writeln!(out, "{what}: {} -> {}", HumanBytes(before), HumanBytes(after))?;
    }
    for damage in &report.damaged {
        writeln!(out, "cannot be compressed: {damage}")?;
    }
    Ok(())
}
