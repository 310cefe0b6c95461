//! The newest entries, in memory: what nearly every read is served from (an approval that waits is young),
//! and from which the store's thread takes what it puts into sled.
//!
//! It is bounded by bytes; entries leave at the old end. Nobody waits for the store here: if that falls
//! behind by more than there is room, it goes on from the journal, which has everything, until it has caught
//! up. The writer thus never waits for sled, and what sled does not have yet costs its readers a look into
//! the journal.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::entry::{Entry, Position, entry_bytes};

/// What an entry takes in memory beside its bytes, about.
const ENTRY_OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Recent {
    ring: Mutex<Ring>,
    /// Wakes the store's thread: what it waits for is here, or the log closes.
    arrived: Condvar,
    bytes_max: usize,
}

#[derive(Debug)]
struct Ring {
    /// The position after the newest entry.
    next: Position,
    entries: VecDeque<Arc<Entry>>,
    /// About what they take in memory.
    bytes: usize,
    /// The last position that the store has; none while it is not to be used.
    stored: Option<Position>,
    /// The position that the store's thread waits for.
    wanted: Position,
    closing: bool,
}

/// What the store's thread is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// There is an entry at this position or behind it.
    Store,
    /// The log closes.
    Stop,
}

impl Recent {
    /// Holds about `bytes_max` bytes of entries; the next one will have the position `next`.
    pub(crate) fn new(bytes_max: usize, next: Position, stored: Option<Position>) -> Self {
        let entries = VecDeque::new();
        let ring = Ring { next, entries, bytes: 0, stored, wanted: next, closing: false };
        Self { ring: Mutex::new(ring), arrived: Condvar::new(), bytes_max }
    }

    /// Takes in entries that have become durable, the next ones in order.
    pub(crate) fn push(&self, entries: impl Iterator<Item = Arc<Entry>>) {
        let mut ring = self.lock();
        for entry in entries {
            debug_assert_eq!(entry.position, ring.next);
            ring.next = entry.position.next();
            ring.bytes += memory_bytes(&entry);
            ring.entries.push_back(entry);
        }
        // The store's thread makes room as it goes, having the time; the writer only where it has to.
        let must_evict = ring.bytes > self.bytes_max + self.bytes_max / 4;
        let evicted = if must_evict { ring.evict(self.bytes_max) } else { Vec::new() };
        // Only then: a wake-up for every batch would cost the writer more than all else that it does here.
        let arrived = ring.next > ring.wanted;
        drop(ring);
        drop(evicted);
        if arrived {
            self.arrived.notify_one();
        }
    }

    /// The entry at this position, if it is here.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<Entry>> {
        let ring = self.lock();
        ring.index(position).and_then(|index| ring.entries.get(index)).cloned()
    }

    /// The entries from this position on, at most so many; none if that one is not here.
    pub(crate) fn range(&self, from: Position, count_max: usize) -> Vec<Arc<Entry>> {
        let ring = self.lock();
        let Some(index) = ring.index(from) else { return Vec::new() };
        let end = index.saturating_add(count_max).min(ring.entries.len());
        ring.entries.range(index..end).cloned().collect()
    }

    /// The last position that the store has; none while it is not to be used.
    pub(crate) fn stored(&self) -> Option<Position> {
        self.lock().stored
    }

    /// From now on the store has everything up to this position, or is not to be used.
    pub(crate) fn set_stored(&self, stored: Option<Position>) {
        let mut ring = self.lock();
        ring.stored = stored;
        let evicted = ring.evict(self.bytes_max);
        drop(ring);
        drop(evicted);
    }

    /// Waits until there is an entry at `position`, or the log closes.
    pub(crate) fn wait_for(&self, position: Position) -> Task {
        let mut ring = self.lock();
        ring.wanted = position;
        let ring = self.arrived.wait_while(ring, |ring| !ring.closing && ring.next <= position);
        let ring = ring.unwrap_or_else(PoisonError::into_inner);
        if ring.next > position { Task::Store } else { Task::Stop }
    }

    /// Waits for so long, or until the log closes; says whether it does.
    pub(crate) fn wait_for_stop(&self, pause: Duration) -> bool {
        let waited = self.arrived.wait_timeout_while(self.lock(), pause, |ring| !ring.closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    /// The log closes: nobody waits any more.
    pub(crate) fn stop(&self) {
        self.lock().closing = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Whoever panicked here left the ring as it was before or after a step, never within one.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn index(&self, position: Position) -> Option<usize> {
        let from_end = self.next.number().checked_sub(position.number())?;
        self.entries.len().checked_sub(usize::try_from(from_end).ok()?)
    }

    /// Takes out the oldest entries, to be dropped when the ring is not locked.
    fn evict(&mut self, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut evicted = Vec::new();
        while self.bytes > bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= memory_bytes(&oldest);
            evicted.push(oldest);
        }
        evicted
    }
}

fn memory_bytes(entry: &Entry) -> usize {
    entry_bytes(&entry.events) + ENTRY_OVERHEAD_BYTES
}
