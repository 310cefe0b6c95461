//! A log in memory, for tests and simulations. It has no files and no threads, waits only by tokio's clock,
//! and has a model of a crash: what was not acknowledged is forgotten, or not, as the test wants it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::{Notify, oneshot, watch};

use super::entry::{Append, Appended, Entry, Expected, Position, StreamId, Urgency, Version};
use super::error::{AppendError, DiskError, Fault, ReadError};
use super::limits::{RIDE_ALONG_MAX, check_limits};
use super::{EntryStream, EventLog, FOLD_BYTES_MAX, SNAPSHOT_BYTES_MAX};

/// What a crash does to the appends that were being written and had not been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// They are gone.
    Forgets,
    /// Those that were being written are there, though nobody was told. Those that waited are gone.
    Keeps,
}

/// An [`EventLog`] in memory. Clones share it.
///
/// Appends become durable in batches, by a task on the runtime of who appends: after a flush of
/// [`flush_time`](Self::with_flush_time), which is a turn of the scheduler unless set. If that runtime goes
/// away, what was in flight stays so until [`crash`](Self::crash) decides about it.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    flush_time: Duration,
    /// Told when an append arrives that does not want to wait for company.
    urgent: Notify,
    /// Told when nothing is in flight any more.
    idle: Notify,
    head: watch::Sender<u64>,
    fault: watch::Sender<Option<Fault>>,
}

#[derive(Debug, Default)]
struct State {
    disk: Disk,
    /// Being written.
    writing: Batch,
    /// Waiting for the batch after that.
    waiting: Batch,
    /// Whether a task is at work that will see to both.
    flushing: bool,
    closing: bool,
    full: bool,
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
struct Disk {
    entries: Vec<Arc<Entry>>,
    /// The positions of each stream's entries, oldest first.
    streams: HashMap<StreamId, Vec<Position>>,
    cursors: HashMap<String, Position>,
    snapshots: HashMap<String, (Position, Bytes)>,
    folds: HashMap<StreamId, (Version, Bytes)>,
}

#[derive(Debug, Default)]
struct Batch {
    appends: Vec<(Append, oneshot::Sender<Result<Appended, AppendError>>)>,
    /// Those who conflict with an append of this batch: they are told when it is durable.
    losers: Vec<(StreamId, oneshot::Sender<Result<Appended, AppendError>>)>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::on(Disk::default(), Duration::ZERO)
    }

    /// An empty log whose flushes take this long, by tokio's clock.
    pub fn with_flush_time(flush_time: Duration) -> Self {
        Self::on(Disk::default(), flush_time)
    }

    fn on(disk: Disk, flush_time: Duration) -> Self {
        let head = watch::Sender::new(disk.entries.len() as u64);
        let state = Mutex::new(State { disk, ..State::default() });
        let (urgent, idle) = (Notify::new(), Notify::new());
        let shared = Shared { state, flush_time, urgent, idle, head, fault: watch::Sender::new(None) };
        Self { shared: Arc::new(shared) }
    }

    /// Crashes, and gives the log as the next start finds it. Everybody who still uses this one is told that
    /// it has stopped.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let disk = {
            let mut state = self.shared.lock();
            let writing = std::mem::take(&mut state.writing);
            state.waiting = Batch::default();
            let mut disk = state.disk.clone();
            if crash == Crash::Keeps {
                for (append, _) in writing.appends {
                    let _ = disk.commit(append);
                }
            }
            disk
        };
        self.stop(Fault::Disk(DiskError::new(
            "write",
            &PathBuf::from("memory"),
            &io::Error::other("the machine has crashed"),
        )));
        Self::on(disk, self.shared.flush_time)
    }

    /// From now on there is no room on its disk, or there is again.
    pub fn set_full(&self, full: bool) {
        self.shared.lock().full = full;
    }

    /// Stops the log, as a failed flush does. What is in flight is never acknowledged; whether it survives,
    /// [`crash`](Self::crash) decides.
    pub fn stop(&self, fault: Fault) {
        self.shared.fault.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert(fault);
            first
        });
        self.shared.idle.notify_waiters();
        let mut state = self.shared.lock();
        let fault = self.shared.stopped().unwrap_or(Fault::Closed);
        let State { writing, waiting, .. } = &mut *state;
        for batch in [writing, waiting] {
            batch.losers.drain(..).for_each(|(_, answer)| tell(answer, Err(stopped(&fault))));
            for (_, answer) in &mut batch.appends {
                // The append itself stays, for `crash` to decide about.
                let answer = std::mem::replace(answer, oneshot::channel().0);
                tell(answer, Err(stopped(&fault)));
            }
        }
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no method of the memory log panics while it holds the lock")
    }

    fn stopped(&self) -> Option<Fault> {
        self.fault.borrow().clone()
    }

    /// Takes an append in, or refuses it, or makes it wait for what it conflicts with.
    fn take(
        self: &Arc<Self>,
        append: Append,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        let mut state = self.lock();
        if let Some(fault) = self.stopped().or(state.closing.then_some(Fault::Closed)) {
            return Err(AppendError::Stopped(fault));
        }
        let (answer, answered) = oneshot::channel();
        let State { disk, writing, waiting, .. } = &mut *state;
        if append.expected != Expected::Any {
            // Nobody has been told the version of an append in flight, so nobody can expect it.
            if let Some(batch) = [waiting, writing].into_iter().find(|batch| batch.touches(append.stream)) {
                batch.losers.push((append.stream, answer));
                return Ok(answered);
            }
            let current = disk.version(append.stream);
            if append.expected != current.map_or(Expected::Empty, Expected::At) {
                return Err(AppendError::Conflict { current });
            }
        }
        let urgent = append.urgency == Urgency::Now;
        state.waiting.appends.push((append, answer));
        if !std::mem::replace(&mut state.flushing, true) {
            tokio::spawn(Arc::clone(self).flush());
        } else if urgent {
            self.urgent.notify_one();
        }
        Ok(answered)
    }

    /// Writes batch after batch until nothing waits.
    async fn flush(self: Arc<Self>) {
        while self.begin_batch().await {
            if self.flush_time.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(self.flush_time).await;
            }
            self.end_batch();
        }
    }

    /// Waits for company if nobody is in a hurry, and begins to write what waits.
    async fn begin_batch(&self) -> bool {
        let urgent = self.lock().waiting.is_urgent();
        if !urgent {
            let _ = tokio::time::timeout(RIDE_ALONG_MAX, self.urgent.notified()).await;
        }
        let mut state = self.lock();
        state.flushing = !state.waiting.appends.is_empty() && self.stopped().is_none();
        if state.flushing {
            state.writing = std::mem::take(&mut state.waiting);
        } else {
            self.idle.notify_waiters();
        }
        state.flushing
    }

    fn end_batch(&self) {
        let mut state = self.lock();
        if self.stopped().is_some() {
            return;
        }
        let batch = std::mem::take(&mut state.writing);
        if state.full {
            // What waits may count on what is now refused: it is refused with it.
            let waiting = std::mem::take(&mut state.waiting);
            [batch, waiting].into_iter().for_each(Batch::refuse);
            return;
        }
        let appended: Vec<_> =
            batch.appends.into_iter().map(|(append, answer)| (state.disk.commit(append), answer)).collect();
        self.head.send_replace(state.disk.entries.len() as u64);
        for (appended, answer) in appended {
            tell(answer, Ok(appended));
        }
        for (stream, answer) in batch.losers {
            tell(answer, Err(AppendError::Conflict { current: state.disk.version(stream) }));
        }
    }
}

impl Batch {
    fn touches(&self, stream: StreamId) -> bool {
        self.appends.iter().any(|(append, _)| append.stream == stream)
    }

    fn is_urgent(&self) -> bool {
        self.appends.iter().any(|(append, _)| append.urgency == Urgency::Now)
    }

    fn refuse(self) {
        let appends = self.appends.into_iter().map(|(_, answer)| answer);
        let losers = self.losers.into_iter().map(|(_, answer)| answer);
        appends.chain(losers).for_each(|answer| tell(answer, Err(AppendError::NoRoom)));
    }
}

impl Disk {
    fn commit(&mut self, append: Append) -> Appended {
        let position = Position::new(self.entries.len() as u64 + 1).expect("a length and one is not zero");
        let stream = self.streams.entry(append.stream).or_default();
        let previous = stream.last().copied();
        stream.push(position);
        // Counted within the stream, unlike the local log's: whoever takes one for a position finds out.
        let version = Version::from_token(stream.len() as u64);
        let Append { stream, recorded_at_ms, events, .. } = append;
        self.entries.push(Arc::new(Entry { position, stream, version, previous, recorded_at_ms, events }));
        Appended { position, version }
    }

    fn version(&self, stream: StreamId) -> Option<Version> {
        let positions = self.streams.get(&stream)?;
        Some(Version::from_token(positions.len() as u64))
    }

    fn entry(&self, position: Position) -> Option<Arc<Entry>> {
        let index = usize::try_from(position.number() - 1).ok()?;
        self.entries.get(index).cloned()
    }

    fn head(&self) -> Option<Position> {
        Position::new(self.entries.len() as u64)
    }
}

fn tell(answer: oneshot::Sender<Result<Appended, AppendError>>, what: Result<Appended, AppendError>) {
    // Whoever dropped the future does not want to know.
    let _ = answer.send(what);
}

fn stopped(fault: &Fault) -> AppendError {
    AppendError::Stopped(fault.clone())
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        check_limits(&append)?;
        let answered = self.shared.take(append)?;
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(AppendError::Stopped(self.shared.stopped().unwrap_or(Fault::Closed))),
        }
    }

    async fn append_nothing(&self) -> Result<(), AppendError> {
        if let Some(fault) = self.shared.stopped() {
            return Err(AppendError::Stopped(fault));
        }
        tokio::time::sleep(self.shared.flush_time).await;
        Ok(())
    }

    async fn version(&self, stream: StreamId) -> Result<Option<Version>, ReadError> {
        Ok(self.shared.lock().disk.version(stream))
    }

    async fn read(&self, stream: StreamId, after: Option<Version>) -> Result<Vec<Arc<Entry>>, ReadError> {
        let state = self.shared.lock();
        let positions = state.disk.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let entries = positions.iter().filter_map(|position| state.disk.entry(*position));
        let after = after.map_or(0, Version::to_token);
        Ok(entries.filter(|entry| entry.version.to_token() > after).collect())
    }

    fn read_back(&self, stream: StreamId) -> EntryStream {
        let positions = self.shared.lock().disk.streams.get(&stream).cloned().unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let entries = positions.into_iter().rev().filter_map(move |at| shared.lock().disk.entry(at));
        stream::iter(entries.map(Ok)).boxed()
    }

    fn read_all(&self, from: Position) -> EntryStream {
        let head = self.head();
        let shared = Arc::clone(&self.shared);
        let positions = std::iter::successors(Some(from), |position| Some(position.next()));
        let positions = positions.take_while(move |position| Some(*position) <= head);
        stream::iter(positions.filter_map(move |at| shared.lock().disk.entry(at)).map(Ok)).boxed()
    }

    fn follow(&self, from: Position) -> EntryStream {
        let follower = Follower {
            head: self.shared.head.subscribe(),
            fault: self.shared.fault.subscribe(),
            shared: Arc::clone(&self.shared),
            next: from,
            ended: false,
        };
        stream::unfold(follower, Follower::next).boxed()
    }

    async fn entry(&self, position: Position) -> Result<Option<Arc<Entry>>, ReadError> {
        Ok(self.shared.lock().disk.entry(position))
    }

    fn head(&self) -> Option<Position> {
        self.shared.lock().disk.head()
    }

    async fn cursor(&self, name: &str) -> Option<Position> {
        self.shared.lock().disk.cursors.get(name).copied()
    }

    async fn save_cursor(&self, name: &str, position: Position) {
        let mut state = self.shared.lock();
        if Some(position) <= state.disk.head() {
            state.disk.cursors.insert(name.to_owned(), position);
        }
    }

    async fn snapshot(&self, name: &str) -> Option<(Position, Bytes)> {
        self.shared.lock().disk.snapshots.get(name).cloned()
    }

    async fn save_snapshot(&self, name: &str, position: Position, bytes: Bytes) {
        let mut state = self.shared.lock();
        if bytes.len() <= SNAPSHOT_BYTES_MAX && Some(position) <= state.disk.head() {
            state.disk.snapshots.insert(name.to_owned(), (position, bytes));
        }
    }

    async fn fold(&self, stream: StreamId) -> Option<(Version, Bytes)> {
        self.shared.lock().disk.folds.get(&stream).cloned()
    }

    fn keep_fold(&self, stream: StreamId, version: Version, bytes: Bytes) {
        let mut state = self.shared.lock();
        let is_there = state.disk.version(stream).is_some_and(|head| version.to_token() <= head.to_token());
        if bytes.len() <= FOLD_BYTES_MAX && is_there {
            state.disk.folds.insert(stream, (version, bytes));
        }
    }

    async fn stopped(&self) -> Fault {
        let mut fault = self.shared.fault.subscribe();
        let fault = fault.wait_for(Option::is_some).await;
        fault.ok().and_then(|fault| fault.clone()).unwrap_or(Fault::Closed)
    }

    async fn close(&self) {
        let idle = self.shared.idle.notified();
        let in_flight = {
            let mut state = self.shared.lock();
            state.closing = true;
            self.shared.urgent.notify_one();
            state.flushing && self.shared.stopped().is_none()
        };
        if in_flight {
            idle.await;
        }
        self.stop(Fault::Closed);
    }
}

struct Follower {
    shared: Arc<Shared>,
    head: watch::Receiver<u64>,
    fault: watch::Receiver<Option<Fault>>,
    next: Position,
    ended: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Arc<Entry>, ReadError>, Self)> {
        loop {
            let entry = self.shared.lock().disk.entry(self.next);
            if let Some(entry) = entry {
                self.next = self.next.next();
                return Some((Ok(entry), self));
            }
            let fault = self.fault.borrow_and_update().clone();
            match fault {
                Some(Fault::Closed) => return None,
                Some(_) if self.ended => return None,
                Some(fault) => {
                    self.ended = true;
                    return Some((Err(ReadError::Stopped(fault)), self));
                }
                None => {}
            }
            tokio::select! {
                _ = self.head.changed() => {}
                _ = self.fault.changed() => {}
            }
        }
    }
}
