//! `countersign log`: what happened, as the log has it. A running broker is asked over its socket; without one, the
//! files are read themselves.

mod archive;
mod describe;
mod mend;
mod text;

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign::{
    keys::{self, Keys},
    log::{
        Ending, Entry, EventRecord, OfflineLog, Position, StartError, StreamId, backup::unfinished_restore,
        log_exists,
    },
};
use countersign_domain::ApprovalId;
use countersign_proto::v1;
use serde_json::{Value, json};

use super::admin_client::{self, said};
use crate::ConfigFile;

/// `countersign log`
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show the newest entries
    Tail(Tail),
    /// Show entries from a position on, of a stream, or of one approval
    Show(Show),
    /// Compress what is old, and take it out of sled; a running broker does it by itself
    Archive(archive::Archive),
    /// Read all of it and say what is not as it was written (status 1 if anything is)
    Verify(mend::Verify),
    /// Mend a log that does not start: says what it would do, and asks first
    Repair(mend::Repair),
}

/// How entries are shown.
#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    config: ConfigFile,
    /// One JSON object a line, with everything
    #[arg(long)]
    json: bool,
    /// Every field of every event, not one line for each
    #[arg(short, long, conflicts_with = "json")]
    long: bool,
    /// Open what is sealed, with the keys of the configuration: names, addresses, numbers
    #[arg(long)]
    open: bool,
}

/// `countersign log tail`
#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    shown: Shown,
    /// How many entries
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: u64,
    /// Stay, and show what comes (needs a running broker)
    #[arg(short, long)]
    follow: bool,
}

/// `countersign log show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    shown: Shown,
    /// The first position
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// At most so many entries
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u64,
    /// Only this stream, such as account/0123...
    #[arg(long)]
    stream: Option<StreamId>,
    /// Only what concerns this approval
    #[arg(long)]
    approval: Option<ApprovalId>,
}

pub(crate) async fn run(command: LogCommand) -> anyhow::Result<()> {
    match command {
        LogCommand::Tail(tail) => {
            let request = v1::ReadLogRequest {
                follow: tail.follow,
                last: if tail.lines == 0 { 1 } else { tail.lines },
                ..Default::default()
            };
            as_far_as_it_is_read(Printer::new(&tail.shown, None)?.print(request).await)
        }
        LogCommand::Show(show) => {
            let request = v1::ReadLogRequest {
                from: show.from,
                limit: show.limit,
                stream: show.stream.map(|stream| stream.to_string()).unwrap_or_default(),
                ..Default::default()
            };
            as_far_as_it_is_read(Printer::new(&show.shown, show.approval)?.print(request).await)
        }
        LogCommand::Archive(archive) => archive::run(&archive).await,
        LogCommand::Verify(verify) => mend::verify(&verify),
        LogCommand::Repair(repair) => mend::repair(&repair),
    }
}

/// What a start has refused, with what can be done about it.
pub(crate) fn with_hint(error: anyhow::Error, config: &ConfigFile) -> anyhow::Error {
    match error.downcast_ref::<StartError>() {
        Some(refused) if refused.repair_may_help() => anyhow::anyhow!("{error:#}; {}", hint(config)),
        _ => error,
    }
}

fn hint(config: &ConfigFile) -> String {
    format!("`countersign log repair --config {}` says what can be done", config.file.display())
}

/// Whoever has read enough, such as `head`, has closed the pipe: no reason to complain.
fn as_far_as_it_is_read(done: anyhow::Result<()>) -> anyhow::Result<()> {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    match done {
        Err(error) if error.chain().any(closed) => Ok(()),
        done => done,
    }
}

fn must_exist(folder: &Path) -> anyhow::Result<()> {
    if let Some(unfinished) = unfinished_restore(folder)? {
        return Err(StartError::Restoring { unfinished }.into());
    }
    let there = log_exists(folder)?;
    anyhow::ensure!(there, "there is no log yet in {}: `countersign serve` makes it", folder.display());
    Ok(())
}

struct Printer {
    config: countersign::config::Config,
    json: bool,
    long: bool,
    keys: Option<Keys>,
    approval: Option<String>,
}

impl Printer {
    fn new(shown: &Shown, approval: Option<ApprovalId>) -> anyhow::Result<Self> {
        let config = shown.config.load()?;
        let keys = if shown.open { Some(keys::folder::load(&config.keys.folder)?) } else { None };
        let approval = approval.map(|id| id.to_string());
        Ok(Self { config, json: shown.json, long: shown.long, keys, approval })
    }

    /// Of a running broker, or of its files when none runs.
    async fn print(self, request: v1::ReadLogRequest) -> anyhow::Result<()> {
        if !admin_client::is_running(&self.config).await {
            return self.print_offline(&request);
        }
        let mut broker = admin_client::connect(&self.config).await?;
        let (from, mut any) = (request.from, false);
        let mut entries = broker.read_log(request).await.map_err(|status| said(&status))?.into_inner();
        while let Some(entry) = entries.message().await.map_err(|status| said(&status))? {
            self.entry(&Shaped::from_message(&entry)?)?;
            any = true;
        }
        if !any && from > 1 {
            let newest = v1::ReadLogRequest { last: 1, ..Default::default() };
            let mut newest = broker.read_log(newest).await.map_err(|status| said(&status))?.into_inner();
            let head = newest.message().await.map_err(|status| said(&status))?;
            say_where_it_ends(from, head.map_or(0, |head| head.position));
        }
        Ok(())
    }

    fn print_offline(&self, request: &v1::ReadLogRequest) -> anyhow::Result<()> {
        let folder = &self.config.log.folder;
        must_exist(folder)?;
        anyhow::ensure!(
            !request.follow,
            "no broker runs with this configuration: there is nothing to follow"
        );
        let log = OfflineLog::open(folder)?;
        anyhow::ensure!(
            *log.ending() != Ending::Nothing,
            "the journal in {} is missing; `countersign log verify` says more",
            folder.display()
        );
        let head = log.head().map_or(0, Position::number);
        let newest = head.saturating_sub(request.last.saturating_sub(1));
        let from = if request.last > 0 { newest } else { request.from };
        let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
        for entry in log.entries(Position::new(from).unwrap_or(Position::FIRST)) {
            let entry = entry?;
            if !request.stream.is_empty() && entry.stream.to_string() != request.stream {
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            self.entry(&Shaped::from(&entry))?;
        }
        say_where_it_ends(request.from, head);
        Ok(())
    }

    fn entry(&self, entry: &Shaped) -> anyhow::Result<()> {
        let events =
            entry.events.iter().map(|record| describe::event(entry.stream, record, self.keys.as_ref()));
        let events: Vec<Value> = events.filter(|event| self.concerns(event)).collect();
        if events.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if self.json {
            let line = json!({
                "position": entry.position,
                "stream": entry.stream,
                "recorded_at": entry.recorded_at,
                "previous": entry.previous,
                "events": events,
            });
            writeln!(out, "{line}")?;
        } else if self.long {
            text::long(&mut out, entry, &events)?;
        } else {
            text::short(&mut out, entry, &events)?;
        }
        out.flush()?;
        Ok(())
    }

    fn concerns(&self, event: &Value) -> bool {
        self.approval.as_deref().is_none_or(|id| event["approval"] == id || event["subject"] == id)
    }
}

/// For who asks for what is not there yet.
fn say_where_it_ends(from: u64, head: u64) {
    match head {
        _ if from <= head || from <= 1 => {}
        0 => eprintln!("the log has no entry yet"),
        head => eprintln!("the log ends at position {head}"),
    }
}

/// An entry, whether a broker sent it or a file held it.
struct Shaped {
    position: u64,
    stream: StreamId,
    recorded_at: String,
    previous: Option<u64>,
    events: Vec<EventRecord>,
}

impl Shaped {
    fn from_message(entry: &v1::LogEntry) -> anyhow::Result<Self> {
        let events = entry.events.iter().map(|event| EventRecord {
            kind: event.kind,
            version: event.version,
            may_ignore: event.may_ignore,
            body: event.body.clone(),
            sealed: event.sealed.clone(),
        });
        Ok(Self {
            position: entry.position,
            stream: entry.stream.parse().context("the broker sent a stream without a name")?,
            recorded_at: entry.recorded_at.map(|at| at.to_string()).unwrap_or_default(),
            previous: (entry.previous > 0).then_some(entry.previous),
            events: events.collect(),
        })
    }
}

impl From<&Entry> for Shaped {
    fn from(entry: &Entry) -> Self {
        let at = countersign_domain::Timestamp::from_millis(entry.recorded_at_ms);
        Self {
            position: entry.position.number(),
            stream: entry.stream,
            recorded_at: countersign_domain::challenge::timestamp(at).to_string(),
            previous: entry.previous.map(Position::number),
            events: entry.events.clone(),
        }
    }
}
