//! The newest entries, in memory: all that sled does not have yet, and some that it has.
//!
//! It is what nearly every read is served from (an approval that waits is young), and what carries entries from
//! the writer thread to the store's thread. It is bounded by bytes: entries leave at the old end when sled has
//! them. If sled does not keep up, the writer waits; if sled fails, entries leave all the same, since the
//! journal has them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::entry::{Entry, Position, entry_bytes};

/// How long the writer waits for a store that takes nothing in, before it goes on without it.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What an entry takes in memory beside its bytes, about.
const ENTRY_OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Recent {
    ring: Mutex<Ring>,
    /// Wakes the store's thread: what it waits for is here, or the log closes.
    arrived: Condvar,
    /// Wakes the writer: the store has taken entries in, or has failed, or the log closes.
    taken: Condvar,
    bytes_max: usize,
}

#[derive(Debug)]
struct Ring {
    /// The position after the newest entry.
    next: Position,
    entries: VecDeque<Arc<Entry>>,
    /// About what they take in memory.
    bytes: usize,
    /// The last position that the store has.
    stored: Option<Position>,
    /// Whether the store takes entries in.
    store_up: bool,
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
    /// Holds up to about `bytes_max` bytes of entries; the next one will have the position `next`.
    pub(crate) fn new(bytes_max: usize, next: Position, stored: Option<Position>) -> Self {
        let ring = Ring {
            next,
            entries: VecDeque::new(),
            bytes: 0,
            stored,
            store_up: true,
            wanted: next,
            closing: false,
        };
        Self { ring: Mutex::new(ring), arrived: Condvar::new(), taken: Condvar::new(), bytes_max }
    }

    /// Waits until there is room for more, or the store gives no hope that there will be.
    pub(crate) fn wait_for_room(&self) {
        let mut ring = self.lock();
        while ring.is_full_of_unstored(self.bytes_max) {
            let stored = ring.stored;
            let (after, waited) = self
                .taken
                .wait_timeout_while(ring, STORE_PATIENCE, |ring| {
                    ring.stored == stored && ring.is_full_of_unstored(self.bytes_max)
                })
                .unwrap_or_else(PoisonError::into_inner);
            ring = after;
            if waited.timed_out() {
                tracing::error!(stored = stored.map(Position::number), "the store takes no entries in");
                ring.store_up = false;
            }
        }
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
        // While the store's thread works, it is that one which makes room: it has the time.
        let evicted = if ring.store_up { Vec::new() } else { ring.evict(self.bytes_max) };
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
        let ring = self.lock();
        ring.stored.filter(|_| ring.store_up)
    }

    /// From now on the store has everything up to this position.
    pub(crate) fn set_stored(&self, stored: Option<Position>) {
        let mut ring = self.lock();
        (ring.stored, ring.store_up) = (stored, true);
        let evicted = ring.evict(self.bytes_max);
        drop(ring);
        self.taken.notify_one();
        drop(evicted);
    }

    /// From now on nobody waits for the store.
    pub(crate) fn set_store_down(&self) {
        let mut ring = self.lock();
        (ring.stored, ring.store_up) = (None, false);
        let evicted = ring.evict(self.bytes_max);
        drop(ring);
        self.taken.notify_one();
        drop(evicted);
    }

    /// Waits until there is an entry at `position`, or the log closes.
    pub(crate) fn wait_for(&self, position: Position) -> Task {
        let mut ring = self.lock();
        ring.wanted = position;
        self.taken.notify_one();
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
        self.taken.notify_one();
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

    fn is_full_of_unstored(&self, bytes_max: usize) -> bool {
        let oldest = self.entries.front().map(|entry| entry.position);
        // A store that waits for more entries must get them, however large a group is.
        let store_has_work = self.store_up && self.next > self.wanted;
        store_has_work && !self.closing && self.bytes > bytes_max && oldest > self.stored
    }

    /// Takes out the oldest entries, as far as it must and may. To be dropped when the ring is not locked.
    fn evict(&mut self, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut evicted = Vec::new();
        while self.bytes > bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            if self.store_up && Some(oldest.position) > self.stored {
                self.entries.push_front(oldest);
                break;
            }
            self.bytes -= memory_bytes(&oldest);
            evicted.push(oldest);
        }
        evicted
    }
}

fn memory_bytes(entry: &Entry) -> usize {
    entry_bytes(&entry.events) + ENTRY_OVERHEAD_BYTES
}
