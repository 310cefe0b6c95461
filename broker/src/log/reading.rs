//! Reading: from memory, else from sled, else from the journal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::{Semaphore, watch};

use super::EntryStream;
use super::entry::{Entry, Position, StreamId};
use super::error::{Corruption, Damage, Fault, ReadError};
use super::format::{decode_entry, encode, split_entries};
use super::heads::Heads;
use super::journal::reader::JournalReader;
use super::part::{GROUP_ENTRIES, body_in, group_last, group_of, value_of};
use super::recent::Recent;
use super::store::Store;

/// How many entries are brought at a time to who reads many.
const CHUNK_ENTRIES: usize = 512;

/// So many threads read the disk at a time; who comes then waits for a turn. More are not faster, and each that was ever
/// at work keeps memory of its own: a burst of reads after a start would cost some hundred MiB.
pub(crate) const READERS_MAX: usize = 16;

/// All places that entries are read from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) heads: Arc<Heads>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) store: StoreSlot,
    pub(crate) journal: Arc<JournalReader>,
    /// The number of the last durable position.
    pub(crate) head: watch::Receiver<u64>,
    pub(crate) fault: watch::Receiver<Option<Fault>>,
    pub(crate) turns: Turns,
}

/// Whose turn it is to read the disk.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

/// Where the store is while it can be used. Its thread takes it away when it has failed.
#[derive(Debug, Default)]
pub(crate) struct StoreSlot(Mutex<Option<Arc<Store>>>);

impl StoreSlot {
    pub(crate) fn get(&self) -> Option<Arc<Store>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, store: Option<Store>) {
        let store = store.map(Arc::new);
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), store);
        // Not while the slot is locked: sled takes its time.
        drop(before);
    }

    /// Takes away a store that has failed, unless another one is there by now. Its thread misses it when it
    /// has the next group for it.
    fn take_away(&self, failed: &Arc<Store>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|store| Arc::ptr_eq(store, failed));
    }
}

impl Sources {
    /// The position of the last durable entry.
    pub(crate) fn head(&self) -> Option<Position> {
        Position::new(*self.head.borrow())
    }

    /// The entry at this position, if it needs no disk.
    pub(crate) fn at_hand(&self, position: Position) -> Option<Arc<Entry>> {
        self.recent.get(position)
    }

    /// The entry at a position that is durable. Blocks.
    pub(crate) fn entry(&self, position: Position) -> Result<Arc<Entry>, ReadError> {
        let entries = self.load(position, position)?;
        entries.into_iter().next().ok_or(ReadError::Missing { position })
    }

    /// Entries from `from` on, at least that one, not beyond `to`; both durable. Blocks.
    pub(crate) fn load(&self, from: Position, to: Position) -> Result<Vec<Arc<Entry>>, ReadError> {
        let wanted = usize::try_from(to.number() - from.number()).unwrap_or(usize::MAX).saturating_add(1);
        let recent = self.recent.range(from, wanted.min(CHUNK_ENTRIES));
        if !recent.is_empty() {
            return Ok(recent);
        }
        if let Some(entries) = self.load_from_store(from, to) {
            return Ok(entries);
        }
        self.load_from_journal(from, to)
    }

    /// Entries that the store need not have yet, from `from` on, at least that one, not beyond `to`. Blocks.
    pub(crate) fn load_new(&self, from: Position, to: Position) -> Result<Vec<Arc<Entry>>, ReadError> {
        let wanted = usize::try_from(to.number() - from.number()).unwrap_or(usize::MAX).saturating_add(1);
        let recent = self.recent.range(from, wanted.min(CHUNK_ENTRIES));
        if recent.is_empty() { self.load_from_journal(from, to) } else { Ok(recent) }
    }

    /// What the store has of a group, if it has it; whatever is wrong there, the journal has it too.
    fn load_from_store(&self, from: Position, to: Position) -> Option<Vec<Arc<Entry>>> {
        let group = group_of(from);
        if Some(group_last(group)) > self.recent.stored() {
            return None;
        }
        let store = self.store.get().filter(|store| store.open_from() <= group)?;
        let body = match store.group(group) {
            Ok(Some(body)) => body,
            // It was closed meanwhile.
            Ok(None) if group < store.open_from() => return None,
            Ok(None) => return self.mend(&store, group, from, to),
            Err(error) => {
                tracing::error!(%group, %error, "the store cannot be read: reading the journal");
                self.store.take_away(&store);
                return None;
            }
        };
        entries_in(group, &body, from, to)
    }

    /// Puts a group that the store has lost there again, from the journal.
    fn mend(&self, store: &Store, group: Position, from: Position, to: Position) -> Option<Vec<Arc<Entry>>> {
        tracing::warn!(%group, "the store has lost entries: they are put there again from the journal");
        let mut body = Vec::new();
        let entries = self.load_from_journal(group, group_last(group)).ok()?;
        for entry in &entries {
            encode(entry, &mut body);
        }
        if let Err(error) = store.put_group(group, &body) {
            tracing::error!(%group, %error, "the store takes nothing in");
        }
        Some(entries.into_iter().filter(|entry| (from..=to).contains(&entry.position)).collect())
    }

    fn load_from_journal(&self, from: Position, to: Position) -> Result<Vec<Arc<Entry>>, ReadError> {
        let to = to.min(Position::new(from.number() + CHUNK_ENTRIES as u64 - 1).unwrap_or(to));
        let mut records = self.journal.records(from, to)?;
        let mut entries = Vec::new();
        loop {
            let record = match records.read() {
                Ok(Some(record)) => record,
                // What is in front of the damage is there to be read.
                Err(_) if !entries.is_empty() => break,
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            };
            for (position, entry) in records.entries() {
                let entry = decode_entry(&Bytes::copy_from_slice(entry), position)
                    .map_err(|malformed| records.corruption(record, position, malformed.into()))?;
                entries.push(Arc::new(entry));
            }
        }
        Ok(entries)
    }

    /// The entries of a stream from the one at `from` back to the one after `after`, newest first. Blocks.
    pub(crate) fn walk(
        &self,
        stream: StreamId,
        from: Option<Position>,
        after: Option<Position>,
    ) -> Result<Vec<Arc<Entry>>, ReadError> {
        let mut entries = Vec::new();
        let mut next = from;
        while let Some(position) = next.filter(|position| Some(*position) > after) {
            let entry = self.entry_of(stream, position)?;
            next = entry.previous;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry at a position that is known to be of this stream. Blocks.
    pub(crate) fn entry_of(&self, stream: StreamId, position: Position) -> Result<Arc<Entry>, ReadError> {
        self.is_of(stream, self.entry(position)?)
    }

    fn is_of(&self, stream: StreamId, entry: Arc<Entry>) -> Result<Arc<Entry>, ReadError> {
        if entry.stream == stream {
            return Ok(entry);
        }
        let (file, position) = (self.journal.folder().to_owned(), entry.position);
        let what = format!("it is of {}, where one of {stream} was expected", entry.stream);
        Err(Corruption { file, offset: 0, position, damage: Damage::Entry { what } }.into())
    }

    /// All entries from `from` on: up to `to`, or for ever.
    pub(crate) fn stream(self: &Arc<Self>, from: Position, to: Option<Position>) -> EntryStream {
        let follower = Follower {
            head: self.head.clone(),
            fault: self.fault.clone(),
            sources: Arc::clone(self),
            next: from,
            to,
            loaded: VecDeque::new(),
            ended: false,
        };
        stream::unfold(follower, Follower::next).boxed()
    }

    /// The entries of a stream, newest first.
    pub(crate) fn stream_back(self: &Arc<Self>, stream: StreamId) -> EntryStream {
        let start = (Arc::clone(self), self.heads.get(stream));
        let entries = stream::unfold(start, move |(sources, at)| async move {
            let position = at?;
            let entry = match sources.at_hand(position) {
                Some(entry) => sources.is_of(stream, entry),
                None => blocking(&sources, move |sources| sources.entry_of(stream, position)).await,
            };
            let next = entry.as_ref().ok().and_then(|entry| entry.previous);
            Some((entry, (sources, next)))
        });
        entries.boxed()
    }
}

/// Calls what blocks where that is allowed, when it is its turn.
pub(crate) async fn blocking<T: Send + 'static>(
    sources: &Arc<Sources>,
    call: impl FnOnce(&Sources) -> T + Send + 'static,
) -> T {
    let turn = Arc::clone(&sources.turns.0).acquire_owned().await;
    let sources = Arc::clone(sources);
    let called = tokio::task::spawn_blocking(move || {
        // Until it is done, though nobody waits for it any more.
        let _turn = turn;
        call(&sources)
    });
    match called.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Reads on where it has come to, in its own time.
#[derive(Debug)]
struct Follower {
    sources: Arc<Sources>,
    head: watch::Receiver<u64>,
    fault: watch::Receiver<Option<Fault>>,
    next: Position,
    /// Where it ends, if it does.
    to: Option<Position>,
    loaded: VecDeque<Arc<Entry>>,
    ended: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Arc<Entry>, ReadError>, Self)> {
        loop {
            if self.ended || self.to.is_some_and(|to| self.next > to) {
                return None;
            }
            if let Some(entry) = self.loaded.pop_front() {
                self.next = entry.position.next();
                return Some((Ok(entry), self));
            }
            // In this order: nothing becomes durable after the fault is there.
            let fault = self.fault.borrow_and_update().clone();
            let head = Position::new(*self.head.borrow_and_update());
            let result = match head.map(|head| self.to.map_or(head, |to| to.min(head))) {
                Some(last) if self.next <= last => self.load(last).await,
                _ => self.wait(fault).await,
            };
            if let Err(end) = result {
                self.ended = true;
                return end.map(|error| (Err(error), self));
            }
        }
    }

    /// Brings the next entries.
    async fn load(&mut self, last: Position) -> Result<(), Option<ReadError>> {
        let from = self.next;
        // Not beyond the head: whoever is told of an entry must find its stream's version with it, and
        // entries are at hand a moment before that is so.
        let up_to_head = usize::try_from(last.number() - from.number() + 1).unwrap_or(usize::MAX);
        let recent = self.sources.recent.range(from, CHUNK_ENTRIES.min(up_to_head));
        self.loaded = if recent.is_empty() {
            blocking(&self.sources, move |sources| sources.load(from, last)).await.map_err(Some)?.into()
        } else {
            recent.into()
        };
        Ok(())
    }

    /// Waits until there is more. That there will be no more is an error only if the log was not closed.
    async fn wait(&mut self, fault: Option<Fault>) -> Result<(), Option<ReadError>> {
        match fault {
            Some(Fault::Closed) => return Err(None),
            Some(fault) => return Err(Some(ReadError::Stopped(fault))),
            None => {}
        }
        tokio::select! {
            changed = self.head.changed() => drop(changed),
            changed = self.fault.changed() => drop(changed),
        }
        Ok(())
    }
}

const _: () = assert!(CHUNK_ENTRIES >= GROUP_ENTRIES, "a group is mended in one piece");

/// The entries of a group from `from` to `to`, of which each stands behind its length; none if one of them cannot be
/// read, or there are none.
fn entries_in(group: Position, body: &[u8], from: Position, to: Position) -> Option<Vec<Arc<Entry>>> {
    let positions = std::iter::successors(Some(group), |position| Some(position.next()));
    let wanted = positions.zip(split_entries(body)).filter(|(position, _)| (from..=to).contains(position));
    let entries = wanted.map(|(position, entry)| {
        decode_entry(&Bytes::copy_from_slice(entry.ok()?), position).ok().map(Arc::new)
    });
    entries.collect::<Option<Vec<_>>>().filter(|entries| !entries.is_empty())
}

/// The store's value for the group that begins with this position, of these entries. For the fuzzer.
#[doc(hidden)]
pub fn group_value(group: Position, entries: &[Arc<Entry>]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        encode(entry, &mut body);
    }
    value_of(group.number().to_be_bytes(), &body)
}

/// What is read of such a value; none if it is not as it was put there. For the fuzzer, which meets a disk's bytes here.
#[doc(hidden)]
pub fn group_entries(group: Position, value: &[u8]) -> Option<Vec<Arc<Entry>>> {
    let body = body_in(group.number().to_be_bytes(), value)?;
    entries_in(group, body, group, group_last(group))
}
