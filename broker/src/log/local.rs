//! The log on one machine: a journal makes entries durable, sled keeps them readable. How an entry gets from
//! the one to the other, the module above tells.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::archiver::Archiver;
use super::committer::{Committer, version_at};
use super::decoy::Decoy;
use super::entry::{Append, Appended, ENTRY_BYTES_MAX, Entry, Position, StreamId, Urgency, Version};
use super::error::{AppendError, DiskError, Fault, ReadError, StartError};
use super::folds::{Behind, Fold, Folds, Writer};
use super::format::ENTRY_LENGTH_BYTES;
use super::journal::disk::{Disk, OsDisk};
use super::journal::format::{RECORD_BYTES_LIMIT, RECORD_HEADER_BYTES};
use super::keeper::Keeper;
use super::limits::check_limits;
use super::lock::Lock;
use super::part::{panic_message, yield_to_others};
use super::queue::{Queue, Taken};
use super::reading::{Sources, StoreSlot, Turns, blocking};
use super::recent::Recent;
use super::snapshots::{MODEL_PREFIX, Snapshots};
use super::start::{Started, start};
use super::store::StoreLimits;
use super::{ArchiveSteps, EntryStream, EventLog, FOLD_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use crate::telemetry::metrics::{labels, metrics};

/// The folder of the journal's segments in the log's folder.
pub(crate) const JOURNAL_FOLDER: &str = "journal";
/// The folder of sled in the log's folder.
pub(crate) const STORE_FOLDER: &str = "store";
/// The folder of the snapshots in the log's folder.
pub(crate) const SNAPSHOT_FOLDER: &str = "snapshots";

/// The folder of the folds in the log's folder.
pub(crate) const FOLD_FOLDER: &str = "folds";

/// How many steps of archiving wait for who has asked for it.
const ARCHIVE_STEPS_WAITING: usize = 16;

/// How long `close` waits for all threads. Only a store that hangs takes longer, and it may.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// Where a log is, and its limits.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The folder that everything is in. It must be on one file system that keeps what it has synced.
    pub folder: PathBuf,
    /// A segment of the journal ends when it has so many bytes; 4 KiB at least.
    pub segment_bytes: u64,
    /// How many appends may wait for the disk. More are refused as busy.
    pub waiting_appends_max: usize,
    /// How many bytes they may have together, which are written as one batch. At least one entry of the
    /// greatest size must fit, and at most 64 MiB.
    pub batch_bytes_max: usize,
    /// How many bytes of the newest entries are kept in memory, about.
    pub recent_bytes_max: usize,
    /// How many bytes of sled's pages are kept in memory, about.
    pub store_cache_bytes: u64,
    /// How many of the newest entries are kept in sled, at least, and at most a quarter more.
    pub store_entries: u64,
    /// How many bytes of the journal's newest segments every start reads and compares with sled. The last
    /// segment is always read.
    pub check_bytes: u64,
}

impl LogConfig {
    /// The usual limits.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            segment_bytes: 64 * 1024 * 1024,
            waiting_appends_max: 16 * 1024,
            batch_bytes_max: 8 * 1024 * 1024,
            recent_bytes_max: 32 * 1024 * 1024,
            store_cache_bytes: 32 * 1024 * 1024,
            store_entries: 4_000_000,
            check_bytes: 64 * 1024 * 1024,
        }
    }

    /// Where the journal's segments are.
    pub fn journal_folder(&self) -> PathBuf {
        self.folder.join(JOURNAL_FOLDER)
    }

    /// Where sled is.
    pub fn store_folder(&self) -> PathBuf {
        self.folder.join(STORE_FOLDER)
    }

    /// Where the snapshots are.
    pub fn snapshot_folder(&self) -> PathBuf {
        self.folder.join(SNAPSHOT_FOLDER)
    }

    /// Where the folds of streams are.
    pub fn fold_folder(&self) -> PathBuf {
        self.folder.join(FOLD_FOLDER)
    }

    pub(crate) fn store_limits(&self) -> StoreLimits {
        StoreLimits { cache_bytes: self.store_cache_bytes, entries: self.store_entries }
    }

    fn check(&self) -> Result<(), StartError> {
        let least_batch = RECORD_HEADER_BYTES + ENTRY_LENGTH_BYTES + ENTRY_BYTES_MAX;
        let batch = least_batch..=RECORD_BYTES_LIMIT as usize;
        if self.segment_bytes < 4096 {
            return Err(StartError::Config("a segment must have 4 KiB at least"));
        }
        if !batch.contains(&self.batch_bytes_max) {
            return Err(StartError::Config(
                "a batch must have room for the largest entry, and at most 64 MiB",
            ));
        }
        if self.waiting_appends_max == 0 {
            return Err(StartError::Config("there must be room for an append to wait"));
        }
        Ok(())
    }
}

/// An [`EventLog`] on the local disk.
#[derive(Debug)]
pub struct LocalLog {
    queue: Arc<Queue>,
    sources: Arc<Sources>,
    snapshots: Arc<Snapshots<OsDisk>>,
    folds: Arc<Folds>,
    /// Until the log closes.
    fold_behind: Mutex<Option<Behind>>,
    /// How many of the log's threads are at work.
    working: watch::Receiver<usize>,
    archiver: Arc<Archiver>,
    /// For threads that begin later.
    at_work: (Weak<Lock>, Weak<watch::Sender<usize>>),
}

impl LocalLog {
    /// Opens the log, or makes one if there is none, with the id `new_id`: 16 random bytes. Blocks: for
    /// seconds if the log is large, for minutes if the store has to be made anew.
    pub fn open(config: &LogConfig, new_id: [u8; 16]) -> Result<Self, StartError> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        Self::open_on(config, new_id, &disk)
    }

    /// The same, with the journal on a disk of its own.
    pub(crate) fn open_on(
        config: &LogConfig,
        new_id: [u8; 16],
        disk: &Arc<dyn Disk>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let Started { lock, journal, snapshots, heads, heads_at, store, stored, newest } =
            start(config, new_id, disk)?;
        let first_recent = newest.first().map_or(Position::after(journal.head), |entry| entry.position);
        let folds = Arc::new(Folds::open(&config.fold_folder(), journal.reader.id(), journal.head)?);
        let recent = Arc::new(Recent::new(config.recent_bytes_max, first_recent, stored));
        recent.push(newest.into_iter());
        metrics().log.head.set((), journal.head.map_or(0, Position::number));
        metrics().log.stored.set((), stored.map_or(0, Position::number));
        let (head, heads) = (watch::Sender::new(journal.head.map_or(0, Position::number)), Arc::new(heads));
        let (fault, (working, still_working)) = (watch::Sender::new(None), watch::channel(3));
        let sources = Arc::new(Sources {
            heads: Arc::clone(&heads),
            recent: Arc::clone(&recent),
            store: StoreSlot::default(),
            journal: Arc::clone(&journal.reader),
            head: head.subscribe(),
            fault: fault.subscribe(),
            turns: Turns::default(),
        });
        sources.store.set(store);
        let snapshots = Arc::new(snapshots);
        let queue = Arc::new(Queue::new(config.waiting_appends_max, config.batch_bytes_max));
        let decoy = Decoy::open(&config.folder)?;
        let (lock, working) = (Arc::new(lock), Arc::new(working));
        let at_work_later = (Arc::downgrade(&lock), Arc::downgrade(&working));
        let archiver = Archiver::new(Arc::clone(&sources), config.store_folder(), config.store_limits());

        let keeper = Keeper {
            sources: Arc::clone(&sources),
            snapshots: Arc::clone(&snapshots),
            folder: config.store_folder(),
            limits: config.store_limits(),
            stored,
            heads_at,
            failures: 0,
            groups_at_close: 0,
        };
        spawn("log-store", config, {
            let at_work = AtWork { lock: Some(Arc::clone(&lock)), working: Arc::clone(&working) };
            move || keep(keeper, at_work)
        })?;
        let (fold_behind, to_keep) = Behind::new();
        spawn("log-folds", config, {
            let at_work = AtWork { lock: Some(Arc::clone(&lock)), working: Arc::clone(&working) };
            let folds = Arc::clone(&folds);
            move || {
                Writer::new(folds).run(&to_keep);
                drop(at_work);
            }
        })?;
        let committer = Committer {
            queue: Arc::clone(&queue),
            journal: journal.journal,
            decoy,
            heads,
            recent: Arc::clone(&recent),
            head,
        };
        let at_work = AtWork { lock: Some(lock), working };
        let spawned = spawn("log-writer", config, move || write(committer, &fault, at_work));
        // Without its writer, the store's thread has no work.
        spawned.inspect_err(|_| recent.stop())?;
        Ok(Self {
            queue,
            sources,
            snapshots,
            folds,
            fold_behind: Mutex::new(Some(fold_behind)),
            working: still_working,
            archiver: Arc::new(archiver),
            at_work: at_work_later,
        })
    }
}

impl LocalLog {
    async fn append_uncounted(&self, append: Append) -> Result<Appended, AppendError> {
        let bytes = check_limits(&append)?;
        let Append { stream, expected, urgency, recorded_at_ms, events } = append;
        // The writer sets what only it can know.
        let (position, previous) = (Position::FIRST, None);
        let version = version_at(position);
        let entry = Arc::new(Entry { position, stream, version, previous, recorded_at_ms, events });
        let (answer, answered) = oneshot::channel();
        self.queue.push(entry, bytes, expected, urgency == Urgency::Now, answer)?;
        match answered.await {
            Ok(answer) => answer,
            // The writer has panicked with the append in its hands.
            Err(_) => Err(AppendError::Stopped(self.stopped().await)),
        }
    }

    /// Whether somebody claims to have come further than the log. At the next start that would be evidence
    /// against the journal.
    fn is_beyond(&self, name: &str, position: Position) -> bool {
        let beyond = Some(position) > self.head();
        if beyond {
            tracing::error!(name, %position, "nobody can have come further than the log: not saved");
        }
        beyond
    }
}

impl LocalLog {
    /// What keeps the log locked while one more thread works on it; none if it is closed.
    fn begin_work(&self) -> Option<AtWork> {
        let (lock, working) = (self.at_work.0.upgrade()?, self.at_work.1.upgrade()?);
        working.send_modify(|working| *working += 1);
        Some(AtWork { lock: Some(lock), working })
    }
}

#[cfg(test)]
impl LocalLog {
    pub(crate) fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }
}

impl Drop for LocalLog {
    /// The threads end by themselves, after what waits is durable.
    fn drop(&mut self) {
        self.queue.stop(Fault::Closed);
    }
}

/// A thread of the log. The log stays locked while there is one.
#[derive(Debug)]
struct AtWork {
    lock: Option<Arc<Lock>>,
    working: Arc<watch::Sender<usize>>,
}

impl Drop for AtWork {
    /// In this order: who is told that the log is closed may open it again.
    fn drop(&mut self) {
        self.lock = None;
        self.working.send_modify(|working| *working -= 1);
    }
}

fn spawn(name: &str, config: &LogConfig, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    let failed = |error| DiskError::new("start a thread for", &config.folder, &error);
    Ok(spawned.map(drop).map_err(failed)?)
}

/// The writer thread, and what everybody is told when it ends.
fn write(mut committer: Committer, fault: &watch::Sender<Option<Fault>>, at_work: AtWork) {
    let ended = catch_unwind(AssertUnwindSafe(|| committer.run()));
    let why = match ended {
        Ok(Ok(())) => Fault::Closed,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::Panicked { message: panic_message(&*panic) },
    };
    if why != Fault::Closed {
        tracing::error!(fault = %why, "the log has stopped: nothing is acknowledged any more");
    }
    committer.queue.stop(why.clone());
    let Taken { appends, decoys, .. } = committer.queue.drain();
    for append in appends {
        append.answer(Err(AppendError::Stopped(why.clone())));
    }
    for decoy in decoys {
        let _ = decoy.send(Err(AppendError::Stopped(why.clone())));
    }
    fault.send_replace(Some(why));
    committer.recent.stop();
    // The journal is closed before the log is unlocked.
    drop(committer);
    drop(at_work);
}

/// The store's thread. If it panics, reads go to the journal.
fn keep(mut keeper: Keeper, at_work: AtWork) {
    yield_to_others();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| keeper.run())) {
        tracing::error!(
            message = panic_message(&*panic),
            "the store's thread has panicked: reading the journal"
        );
        keeper.sources.recent.set_stored(None);
        keeper.sources.store.set(None);
    }
    drop(keeper);
    drop(at_work);
}

fn counted_as(appended: &Result<Appended, AppendError>) -> labels::Appended {
    match appended {
        Ok(_) => labels::Appended::Durable,
        Err(AppendError::Conflict { .. }) => labels::Appended::Conflict,
        Err(AppendError::NoRoom) => labels::Appended::NoRoom,
        Err(AppendError::Busy { .. }) => labels::Appended::Busy,
        Err(AppendError::Stopped(_)) => labels::Appended::Stopped,
        Err(_) => labels::Appended::Refused,
    }
}

#[async_trait]
impl EventLog for LocalLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let appended = self.append_uncounted(append).await;
        metrics().log.appends.count(counted_as(&appended));
        appended
    }

    async fn append_nothing(&self) -> Result<(), AppendError> {
        let (answer, answered) = oneshot::channel();
        self.queue.push_decoy(answer)?;
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(AppendError::Stopped(self.stopped().await)),
        }
    }

    async fn version(&self, stream: StreamId) -> Result<Option<Version>, ReadError> {
        Ok(self.sources.heads.get(stream).map(version_at))
    }

    async fn read(&self, stream: StreamId, after: Option<Version>) -> Result<Vec<Arc<Entry>>, ReadError> {
        let after = after.map(Version::to_token).and_then(Position::new);
        let mut next = self.sources.heads.get(stream);
        let mut entries = Vec::new();
        while let Some(position) = next.filter(|position| Some(*position) > after) {
            let Some(entry) = self.sources.at_hand(position) else {
                let older = move |sources: &Sources| sources.walk(stream, Some(position), after);
                entries.append(&mut blocking(&self.sources, older).await?);
                break;
            };
            next = entry.previous;
            entries.push(entry);
        }
        entries.reverse();
        Ok(entries)
    }

    fn read_back(&self, stream: StreamId) -> EntryStream {
        self.sources.stream_back(stream)
    }

    fn read_all(&self, from: Position) -> EntryStream {
        match self.head() {
            Some(head) => self.sources.stream(from, Some(head)),
            None => Box::pin(futures::stream::empty()),
        }
    }

    fn follow(&self, from: Position) -> EntryStream {
        self.sources.stream(from, None)
    }

    async fn entry(&self, position: Position) -> Result<Option<Arc<Entry>>, ReadError> {
        if Some(position) > self.head() {
            return Ok(None);
        }
        if let Some(entry) = self.sources.at_hand(position) {
            return Ok(Some(entry));
        }
        blocking(&self.sources, move |sources| sources.entry(position)).await.map(Some)
    }

    fn head(&self) -> Option<Position> {
        self.sources.head()
    }

    async fn cursor(&self, name: &str) -> Option<Position> {
        let (store, name) = (self.sources.store.get()?, name.to_owned());
        let cursor = blocking(&self.sources, move |_| store.cursor(&name)).await;
        let cursor = cursor.inspect_err(|error| tracing::warn!(%error, "a cursor cannot be read"));
        cursor.ok().flatten().filter(|cursor| Some(*cursor) <= self.head())
    }

    async fn save_cursor(&self, name: &str, position: Position) {
        let Some(store) = self.sources.store.get() else { return };
        if self.is_beyond(name, position) {
            return;
        }
        let name = name.to_owned();
        if let Err(error) = blocking(&self.sources, move |_| store.save_cursor(&name, position)).await {
            tracing::warn!(%error, "a cursor cannot be saved");
        }
    }

    async fn snapshot(&self, name: &str) -> Option<(Position, Bytes)> {
        let (snapshots, name) = (Arc::clone(&self.snapshots), format!("{MODEL_PREFIX}{name}"));
        let snapshot = blocking(&self.sources, move |_| snapshots.load(&name)).await;
        snapshot.filter(|(position, _)| Some(*position) <= self.head())
    }

    async fn save_snapshot(&self, name: &str, position: Position, bytes: Bytes) {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            tracing::error!(name, bytes = bytes.len(), "a snapshot is too large to be saved");
            return;
        }
        if self.is_beyond(name, position) {
            return;
        }
        let (snapshots, name) = (Arc::clone(&self.snapshots), format!("{MODEL_PREFIX}{name}"));
        let save = move |_: &Sources| snapshots.save(&name, position, [bytes].into_iter());
        if let Err(error) = blocking(&self.sources, save).await {
            tracing::warn!(%error, "a snapshot cannot be saved");
        }
    }

    async fn fold(&self, stream: StreamId) -> Option<(Version, Bytes)> {
        let head = self.sources.heads.get(stream).map(version_at).filter(|_| self.folds.has(stream))?;
        let folds = Arc::clone(&self.folds);
        blocking(&self.sources, move |_| folds.load(stream, head)).await
    }

    fn keep_fold(&self, stream: StreamId, version: Version, bytes: Bytes) {
        let head = self.sources.heads.get(stream).map(version_at);
        let is_there = head.is_some_and(|head| version.to_token() <= head.to_token());
        let behind = self.fold_behind.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(behind) = behind.as_ref().filter(|_| is_there && bytes.len() <= FOLD_BYTES_MAX) {
            behind.keep(Fold { stream, version, bytes });
        }
    }

    fn archive(&self, recorded_before_ms: u64) -> ArchiveSteps {
        let (steps, taken) = mpsc::channel(ARCHIVE_STEPS_WAITING);
        let Some(at_work) = self.begin_work() else {
            return stream::once(async { Err(ReadError::Stopped(Fault::Closed)) }).boxed();
        };
        let archiver = Arc::clone(&self.archiver);
        let archive = move || {
            yield_to_others();
            archiver.run(recorded_before_ms, &steps);
            drop(at_work);
        };
        if let Err(error) = thread::Builder::new().name("log-archive".to_owned()).spawn(archive) {
            let error = DiskError::new("start a thread for", self.sources.journal.folder(), &error);
            return stream::once(async { Err(ReadError::Disk(error)) }).boxed();
        }
        ReceiverStream::new(taken).boxed()
    }

    async fn stopped(&self) -> Fault {
        let mut fault = self.sources.fault.clone();
        let fault = fault.wait_for(Option::is_some).await;
        fault.ok().and_then(|fault| fault.clone()).unwrap_or(Fault::Closed)
    }

    async fn close(&self) {
        self.queue.stop(Fault::Closed);
        // Its thread ends with what waits.
        self.fold_behind.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut working = self.working.clone();
        let ended = working.wait_for(|working| *working == 0);
        if tokio::time::timeout(CLOSE_PATIENCE, ended).await.is_err() {
            tracing::warn!("the store takes too long to close: it is left to itself");
        }
    }
}
