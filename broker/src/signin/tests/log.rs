//! A log in memory that is slow, or refuses, where a test wants it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::watch;

use crate::log::{
    Append, AppendError, Appended, Entry, EntryStream, EventLog, Fault, MemoryLog, Position, ReadError,
    StreamId, StreamKind, Version,
};

/// See above. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StagedLog {
    pub(crate) inner: MemoryLog,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    deliveries_refused: AtomicBool,
    deliveries_held: watch::Sender<bool>,
    reads_held: watch::Sender<bool>,
    unfollowed: watch::Sender<bool>,
    entries_read: AtomicUsize,
}

impl StagedLog {
    /// This log, with nothing wrong.
    pub(crate) fn on(inner: MemoryLog) -> Self {
        Self { inner, faults: Arc::default() }
    }

    /// Progress finds no room.
    pub(crate) fn refuse_deliveries(&self) {
        self.faults.deliveries_refused.store(true, Ordering::SeqCst);
    }

    /// Progress is not written, or is again.
    pub(crate) fn hold_deliveries(&self, hold: bool) {
        self.faults.deliveries_held.send_replace(hold);
    }

    /// Streams are not read, or are again.
    pub(crate) fn hold_reads(&self, hold: bool) {
        self.faults.reads_held.send_replace(hold);
    }

    /// Who follows is told that it cannot be.
    pub(crate) fn cannot_be_followed(&self) {
        self.faults.unfollowed.send_replace(true);
    }

    /// How many entries of single streams were read so far.
    pub(crate) fn entries_read(&self) -> usize {
        self.faults.entries_read.load(Ordering::SeqCst)
    }
}

async fn released(held: &watch::Sender<bool>) {
    let mut held = held.subscribe();
    let _ = held.wait_for(|held| !*held).await;
}

#[async_trait]
impl EventLog for StagedLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        if append.stream.kind() == StreamKind::Delivery {
            released(&self.faults.deliveries_held).await;
            if self.faults.deliveries_refused.load(Ordering::SeqCst) {
                return Err(AppendError::NoRoom);
            }
        }
        self.inner.append(append).await
    }

    async fn append_nothing(&self) -> Result<(), AppendError> {
        self.inner.append_nothing().await
    }

    async fn version(&self, stream: StreamId) -> Result<Option<Version>, ReadError> {
        released(&self.faults.reads_held).await;
        self.inner.version(stream).await
    }

    async fn read(&self, stream: StreamId, after: Option<Version>) -> Result<Vec<Arc<Entry>>, ReadError> {
        let entries = self.inner.read(stream, after).await?;
        self.faults.entries_read.fetch_add(entries.len(), Ordering::SeqCst);
        Ok(entries)
    }

    fn read_back(&self, stream: StreamId) -> EntryStream {
        let (inner, faults) = (self.inner.clone(), Arc::clone(&self.faults));
        let entries = stream::once(async move {
            released(&faults.reads_held).await;
            inner.read_back(stream).inspect(move |_| {
                faults.entries_read.fetch_add(1, Ordering::SeqCst);
            })
        });
        entries.flatten().boxed()
    }

    fn read_all(&self, from: Position) -> EntryStream {
        self.inner.read_all(from)
    }

    fn follow(&self, from: Position) -> EntryStream {
        let state = (self.inner.follow(from), self.faults.unfollowed.subscribe());
        let entries = stream::unfold(state, |(mut entries, mut unfollowed)| async move {
            let next = tokio::select! {
                biased;
                true = async { unfollowed.wait_for(|unfollowed| *unfollowed).await.is_ok() } => {
                    Some(Err(ReadError::Missing { position: Position::FIRST }))
                }
                next = entries.next() => next,
            };
            Some((next?, (entries, unfollowed)))
        });
        entries.boxed()
    }

    async fn entry(&self, position: Position) -> Result<Option<Arc<Entry>>, ReadError> {
        self.inner.entry(position).await
    }

    fn head(&self) -> Option<Position> {
        self.inner.head()
    }

    async fn cursor(&self, name: &str) -> Option<Position> {
        self.inner.cursor(name).await
    }

    async fn save_cursor(&self, name: &str, position: Position) {
        self.inner.save_cursor(name, position).await;
    }

    async fn snapshot(&self, name: &str) -> Option<(Position, Bytes)> {
        self.inner.snapshot(name).await
    }

    async fn save_snapshot(&self, name: &str, position: Position, bytes: Bytes) {
        self.inner.save_snapshot(name, position, bytes).await;
    }

    async fn stopped(&self) -> Fault {
        self.inner.stopped().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
