//! What appending costs beyond what cannot be avoided: the same bytes through the log, and to a plain file.
//!
//! Two plain files are measured. In the one, a thread writes batches of as many records as there are waiting
//! appends and flushes each: what the disk can do, handed over to nobody. In the other, as many tasks wait,
//! each for its record, and a thread commits them in groups: the least that a log for many tasks can be.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::entry::{Append, Entry, EventRecord, Expected, Position, StreamId, StreamKind, Urgency, Version};
use super::error::StartError;
use super::format::encode;
use super::{EventLog, LocalLog, LogConfig};

/// The bytes of an entry's event, about what an approval's events have.
const BODY_BYTES: usize = 247;

/// Appends per second with so many waiting, each way.
#[derive(Debug, Clone, Serialize)]
pub struct AppendRates {
    /// How many appends wait at a time.
    pub waiting: usize,
    /// Bytes of an entry.
    pub entry_bytes: usize,
    /// To a plain file by a thread that hands over to nobody.
    pub bare_per_second: f64,
    /// To a plain file by a thread that commits in groups what tasks wait for.
    pub plain_per_second: f64,
    /// Through [`EventLog`].
    pub log_per_second: f64,
    /// The log's rate divided by the plain file's.
    pub ratio: f64,
}

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The plain file or the runtime failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The log did not open.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The log refused an append, or a task panicked.
    #[error("an append failed: {0}")]
    Append(String),
}

/// Measures appends with so many waiting, in an empty folder, in rounds that take turns, for `round` each.
/// `now` is a clock that only goes forward. Blocks, with threads of its own.
pub fn appends(
    folder: &Path,
    waiting: usize,
    rounds: u32,
    round: Duration,
    now: &dyn Fn() -> Duration,
) -> Result<AppendRates, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let log = Arc::new(LocalLog::open(&LogConfig::new(folder.join("log")), [1; 16])?);
    let plain = PlainFile::create(&folder.join("plain"))?;
    let mut bare = File::create(folder.join("bare"))?;
    let record = sample_record();
    let (mut bare_rate, mut plain_rate, mut log_rate) = (0.0, 0.0, 0.0);
    for _ in 0..rounds {
        bare_rate += bare_appends(&mut bare, &record, waiting, round, now)?;
        plain_rate += in_tasks(&runtime, waiting, round, now, |task| plain_appends(&plain, task, &record))?;
        log_rate += in_tasks(&runtime, waiting, round, now, |task| log_appends(&log, task))?;
    }
    runtime.block_on(log.close());
    let rounds = f64::from(rounds);
    Ok(AppendRates {
        waiting,
        entry_bytes: record.len(),
        bare_per_second: bare_rate / rounds,
        plain_per_second: plain_rate / rounds,
        log_per_second: log_rate / rounds,
        ratio: log_rate / plain_rate,
    })
}

fn sample_events() -> Vec<EventRecord> {
    let body = Bytes::from_static(&[7; BODY_BYTES]);
    vec![EventRecord { kind: 1, version: 1, may_ignore: false, body, sealed: Bytes::new() }]
}

fn sample_record() -> Vec<u8> {
    let (stream, position) = (StreamId::new(StreamKind::Account, [1; 16]), Position::FIRST);
    let (version, events) = (Version::from_token(1), sample_events());
    let mut record = Vec::new();
    encode(&Entry { position, stream, version, previous: None, recorded_at_ms: 1, events }, &mut record);
    record
}

fn bare_appends(
    file: &mut File,
    record: &[u8],
    waiting: usize,
    round: Duration,
    now: &dyn Fn() -> Duration,
) -> Result<f64, io::Error> {
    let (started, mut written) = (now(), 0_u32);
    let mut batch = Vec::new();
    while now().saturating_sub(started) < round {
        batch.clear();
        (0..waiting).for_each(|_| batch.extend_from_slice(record));
        file.write_all(&batch)?;
        file.sync_data()?;
        written += u32::try_from(waiting).unwrap_or(u32::MAX);
    }
    Ok(f64::from(written) / now().saturating_sub(started).as_secs_f64())
}

/// Runs as many tasks as appends wait, each of which appends until it is told to stop, and counts.
fn in_tasks<F>(
    runtime: &tokio::runtime::Runtime,
    waiting: usize,
    round: Duration,
    now: &dyn Fn() -> Duration,
    append_until_told: impl Fn(Task) -> F,
) -> Result<f64, BenchError>
where
    F: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..waiting {
        let task = Task { number, stop: Arc::clone(&stop), count: Arc::clone(&count) };
        tasks.spawn_on(append_until_told(task), runtime.handle());
    }
    let started = now();
    std::thread::sleep(round);
    let (counted, took) = (count.load(Ordering::Relaxed), now().saturating_sub(started));
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| BenchError::Append(error.to_string()))??;
        }
        Ok::<_, BenchError>(())
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    Ok(counted as f64 / took.as_secs_f64())
}

struct Task {
    number: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Task {
    /// Counts one append; whether to go on.
    fn counted(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Each task has a stream of its own, and expects what it has made of it.
fn log_appends(
    log: &Arc<LocalLog>,
    task: Task,
) -> impl Future<Output = Result<(), BenchError>> + Send + 'static {
    let log = Arc::clone(log);
    async move {
        let stream = StreamId::new(StreamKind::Account, (task.number as u128).to_be_bytes());
        let failed = |error: &dyn std::error::Error| BenchError::Append(error.to_string());
        let mut version = log.version(stream).await.map_err(|error| failed(&error))?;
        loop {
            let append = Append {
                stream,
                expected: version.map_or(Expected::Empty, Expected::At),
                urgency: Urgency::Now,
                recorded_at_ms: 1,
                events: sample_events(),
            };
            version = Some(log.append(append).await.map_err(|error| failed(&error))?.version);
            if !task.counted() {
                return Ok(());
            }
        }
    }
}

fn plain_appends(
    file: &PlainFile,
    task: Task,
    record: &[u8],
) -> impl Future<Output = Result<(), BenchError>> + Send + 'static {
    let (waiting, record) = (file.waiting.clone(), record.to_vec());
    async move {
        loop {
            let (answer, answered) = oneshot::channel();
            let ended = || BenchError::Append("the plain file's thread has ended".to_owned());
            waiting.send((record.clone(), answer)).map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?;
            if !task.counted() {
                return Ok(());
            }
        }
    }
}

/// A file to which a thread appends what waits, in groups.
struct PlainFile {
    waiting: mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>,
}

impl PlainFile {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let (waiting, arriving) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        std::thread::Builder::new().name("plain-writer".to_owned()).spawn(move || -> io::Result<()> {
            let (mut batch, mut answers) = (Vec::new(), Vec::new());
            while let Ok(first) = arriving.recv() {
                for (record, answer) in std::iter::once(first).chain(arriving.try_iter()) {
                    batch.extend_from_slice(&record);
                    answers.push(answer);
                }
                file.write_all(&batch)?;
                file.sync_data()?;
                batch.clear();
                for answer in answers.drain(..) {
                    let _ = answer.send(());
                }
            }
            Ok(())
        })?;
        Ok(Self { waiting })
    }
}
