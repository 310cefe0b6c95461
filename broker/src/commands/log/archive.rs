//! `countersign log archive`: what the broker does by itself as the log ages, now.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use countersign::{
    api::grpc::archive_report,
    clock::{Clock as _, SystemClock},
    config::Config,
    entropy::{Entropy, OsEntropy},
    log::{ArchiveStep, EventLog as _, LocalLog},
};
use countersign_proto::v1::{
    self,
    archive_log_update::{Positions, Report, Update},
};
use futures::StreamExt as _;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

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
        writeln!(out, "{}", serde_json::to_string_pretty(&json(&report))?)
    } else {
        print(&mut out, &report)
    };
    if report.damaged.is_empty() {
        return as_far_as_it_is_read(printed.map_err(Into::into));
    }
    anyhow::bail!("the log is not as it was written; {}", hint(&options.config))
}

/// A running broker archives its own log.
async fn by_the_broker(config: &Config) -> anyhow::Result<Report> {
    let mut broker = admin_client::connect(config).await?;
    let updates = broker.archive_log(v1::ArchiveLogRequest {}).await.map_err(|status| said(&status))?;
    let (mut updates, mut bar) = (updates.into_inner(), Bar::default());
    while let Some(update) = updates.message().await.map_err(|status| said(&status))? {
        match update.update {
            Some(Update::Progress(progress)) => bar.show(progress.done_bytes, progress.total_bytes),
            Some(Update::Report(report)) => return Ok(report),
            None => {}
        }
    }
    anyhow::bail!("the broker stopped before all was done; what was done stays, and the next start goes on")
}

/// Without one, the log is opened as a start does it, and closed again.
async fn by_ourselves(config: &Config, file: &ConfigFile) -> anyhow::Result<Report> {
    let log_config = log_config(config);
    let new_id = (&OsEntropy as &dyn Entropy).bytes();
    let log = tokio::task::spawn_blocking(move || LocalLog::open(&log_config, new_id)).await?;
    let log = Arc::new(log.map_err(|error| with_hint(error.into(), file))?);
    let before_ms = SystemClock.now().minus(config.log.retention()).as_millis();
    let report = steps(&log, before_ms).await;
    log.close().await;
    report
}

async fn steps(log: &LocalLog, before_ms: u64) -> anyhow::Result<Report> {
    let (mut steps, mut bar) = (log.archive(before_ms), Bar::default());
    while let Some(step) = steps.next().await {
        match step? {
            ArchiveStep::Progress { done_bytes, total_bytes } => bar.show(done_bytes, total_bytes),
            ArchiveStep::Done(report) => return Ok(archive_report(&report)),
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

/// For programs: fields are only added to.
fn json(report: &Report) -> Value {
    let archived = report.archived.iter().map(|one| {
        json!({
            "file": one.file, "first": one.first, "last": one.last,
            "bytes_before": one.bytes_before, "bytes_after": one.bytes_after,
        })
    });
    let damaged = report.damaged.iter().map(|one| {
        json!({ "file": one.file, "offset": one.offset, "position": one.position, "problem": one.problem })
    });
    json!({
        "folder": report.folder,
        "archived": archived.collect::<Vec<_>>(),
        "waiting": report.waiting,
        "left_store": report.left_store.map(|Positions { first, last }| [first, last]),
        "journal_bytes_before": report.journal_bytes_before,
        "journal_bytes_after": report.journal_bytes_after,
        "store_bytes_before": report.store_bytes_before,
        "store_bytes_after": report.store_bytes_after,
        "damaged": damaged.collect::<Vec<_>>(),
    })
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "{}", report.folder)?;
    for segment in &report.archived {
        let name = segment.file.rsplit('/').next().unwrap_or_default();
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
        Some(Positions { first, last }) => {
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
        writeln!(out, "cannot be compressed: {}", damage.problem)?;
    }
    Ok(())
}
