//! The second thread: it puts into sled what has become durable, group by group, and keeps a snapshot of the
//! heads. Nobody waits for it. If it falls behind what memory holds, it goes on from the journal; if the
//! store fails, it opens it again, or makes it anew from the journal, and reads go to the journal meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::metrics;

use super::entry::Position;
use super::error::ReadError;
use super::format::{encode, put_behind_length};
use super::journal::disk::OsDisk;
use super::part::{Cause, GROUP_ENTRIES, StoreError, group_last, group_of};
use super::reading::Sources;
use super::recent::Task;
use super::snapshots::{HEADS, Snapshots};
use super::store::{Store, StoreLimits, remove_aside, set_aside};

/// The heads are saved after so many entries, or as many as there are streams if that is more: so that saving
/// them stays a small part of the work, and reading the rest at start a matter of seconds.
const HEADS_EVERY_ENTRIES: u64 = 250_000;

/// How long the store is left alone after it has failed: the first time, and at most.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often the store may be locked by one that has failed and does not end, before it is set aside.
const LOCKED_MAX: u32 = 3;
/// How often the store may fail before it is left alone until the next start: what has failed may never give
/// back its memory and its threads.
const FAILURES_MAX: u32 = 8;

/// How many groups the store is still given from the journal while the log closes: as many as take no time
/// that somebody would notice.
const GROUPS_AT_CLOSE_MAX: u64 = 2_000;

/// What the store's thread works on.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) sources: Arc<Sources>,
    pub(crate) snapshots: Arc<Snapshots<OsDisk>>,
    pub(crate) folder: PathBuf,
    pub(crate) limits: StoreLimits,
    /// The last position that the store has, or does not want.
    pub(crate) stored: Option<Position>,
    /// The last position that the snapshot of the heads is made up to.
    pub(crate) heads_at: Option<Position>,
    /// How often the store has failed.
    pub(crate) failures: u32,
    /// How many groups it was given from the journal since the log closes.
    pub(crate) groups_at_close: u64,
}

impl Keeper {
    /// Works until the log closes, and leaves everything in order then.
    pub(crate) fn run(&mut self) {
        // After a start that has read much, the next one need not.
        self.save_heads_if_due();
        let mut up = self.sources.store.get().is_some() || self.bring_back(None);
        while up {
            let group = Position::after(self.stored);
            if self.sources.recent.wait_for(group_last(group)) == Task::Stop {
                break;
            }
            let put = match self.group_at_hand(group) {
                Some(body) => self.put(group, &body),
                None if self.must_stop() => break,
                None => self.catch_up(group),
            };
            match put {
                Ok(()) => self.save_heads_if_due(),
                Err(error) => {
                    tracing::error!(group = %Position::after(self.stored), error, "the store takes nothing in");
                    up = self.bring_back(Some(Position::after(self.stored)));
                }
            }
        }
        self.end();
    }

    /// The entries of a group from memory, each behind its length; none if they are not there any more.
    fn group_at_hand(&self, group: Position) -> Option<Vec<u8>> {
        let entries = self.sources.recent.range(group, GROUP_ENTRIES);
        let mut body = Vec::new();
        for entry in &entries {
            encode(entry, &mut body);
        }
        (entries.len() == GROUP_ENTRIES).then_some(body)
    }

    /// Puts a group into the store.
    fn put(&mut self, group: Position, body: &[u8]) -> Result<(), String> {
        let store = self.sources.store.get().ok_or("there is no store")?;
        store.put_group(group, body).map_err(|error| error.to_string())?;
        self.set_stored(Some(group_last(group)));
        Ok(())
    }

    /// Puts groups into the store from the journal, until what comes next is in memory, or the log closes.
    fn catch_up(&mut self, mut group: Position) -> Result<(), String> {
        let head = self.sources.head().unwrap_or(group);
        let mut records = self.sources.journal.records(group, head).map_err(|error| error.to_string())?;
        let mut body = Vec::new();
        while records.read().map_err(|error| error.to_string())?.is_some() {
            for (position, entry) in records.entries() {
                put_behind_length(&mut body, entry);
                if position < group_last(group) {
                    continue;
                }
                self.put(group, &body)?;
                group = position.next();
                body.clear();
                if self.sources.recent.get(group).is_some() || self.must_stop() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether the log closes and the store has been given enough since. What it lacks, the next start
    /// brings.
    fn must_stop(&mut self) -> bool {
        let closing = self.sources.recent.wait_for_stop(Duration::ZERO);
        self.groups_at_close += u64::from(closing);
        self.groups_at_close > GROUPS_AT_CLOSE_MAX
    }

    /// The entries of a group, wherever they are, each behind its length.
    fn group_body(&self, group: Position) -> Result<Vec<u8>, ReadError> {
        let (mut body, mut next, last) = (Vec::new(), group, group_last(group));
        while next <= last {
            for entry in self.sources.load_new(next, last)? {
                encode(&entry, &mut body);
                next = entry.position.next();
            }
        }
        Ok(body)
    }

    fn set_stored(&mut self, stored: Option<Position>) {
        self.stored = stored;
        metrics().log.stored.set((), stored.map_or(0, Position::number));
        self.sources.recent.set_stored(stored);
    }

    /// When the log closes; until then the heads go on being saved, store or no store.
    fn end(&mut self) {
        let recent = Arc::clone(&self.sources.recent);
        while !recent.wait_for_stop(PAUSE_MAX) {
            self.save_heads_if_due();
        }
        self.save_heads();
        self.sources.store.set(None);
    }

    /// Opens the store again after it has failed at the group `failed`; tries until it is back. False if the
    /// log closes before that, or the store has failed too often.
    fn bring_back(&mut self, failed: Option<Position>) -> bool {
        self.set_stored(None);
        self.sources.store.set(None);
        self.failures += 1;
        metrics().log.store_failures.count(());
        if self.failures > FAILURES_MAX {
            tracing::error!("the store has failed too often: reading the journal until the next start");
            return false;
        }
        let mut pause = PAUSE_FIRST;
        let mut locked = 0;
        while !self.sources.recent.wait_for_stop(pause) {
            match self.reopen(failed, locked >= LOCKED_MAX) {
                Ok(()) => {
                    tracing::info!(stored = self.stored.map(Position::number), "the store is back");
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, "the store does not come back");
                    locked += u32::from(error.cause == Cause::Locked);
                    // The one that was set aside is only there to be looked at, and may be what takes the
                    // room.
                    if error.cause == Cause::NoRoom {
                        let _ = remove_aside(&self.folder);
                    }
                }
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
        false
    }

    /// Opens the store if it can be trusted, else makes a new one, which is filled from the journal.
    fn reopen(&mut self, failed: Option<Position>, locked_for_ever: bool) -> Result<(), StoreError> {
        let journal = self.sources.journal.id();
        let begin = self.limits.begin(self.sources.head());
        let open = || Store::open(&self.folder, self.limits, journal, begin);
        let opened = open().and_then(|store| {
            let last = store.last()?;
            Ok((store.stored()?, store, last))
        });
        let distrust = match opened {
            Ok((stored, store, last)) if self.agrees(&store, last) && self.takes(&store, failed) => {
                self.sources.store.set(Some(store));
                self.set_stored(stored);
                return Ok(());
            }
            Ok((_, store, _)) => {
                // Before its folder gets another name: sled would make files where another one is then.
                drop(store);
                "it does not agree with the journal, or takes nothing in".to_owned()
            }
            Err(error) if error.cause == Cause::NoRoom => return Err(error),
            Err(error) if error.cause == Cause::Locked && !locked_for_ever => return Err(error),
            Err(error) => error.to_string(),
        };
        tracing::error!(reason = distrust, "the store is set aside and made anew from the journal");
        set_aside(&self.folder)?;
        self.sources.store.set(Some(open()?));
        self.set_stored(begin.before());
        Ok(())
    }

    /// Whether the end of the store is what the journal has there.
    fn agrees(&self, store: &Store, last: Option<Position>) -> bool {
        let Some(last) = last else { return true };
        let group = group_of(last);
        let same =
            || store.group(group).ok()?.map(|body| self.group_body(group).is_ok_and(|own| own == body));
        Some(last) <= self.sources.head() && same() == Some(true)
    }

    /// Whether the store takes in what it has failed at, if that was for another reason than room.
    fn takes(&self, store: &Store, failed: Option<Position>) -> bool {
        let Some(group) = failed else { return true };
        let put = self.group_body(group).map(|body| store.put_group(group, &body));
        !matches!(put, Ok(Err(error)) if error.cause != Cause::NoRoom)
    }

    fn save_heads_if_due(&mut self) {
        let since =
            self.sources.head().map_or(0, Position::number) - self.heads_at.map_or(0, Position::number);
        // How many streams there are is asked last: that takes each of their locks.
        if since >= HEADS_EVERY_ENTRIES && since >= self.sources.heads.len() as u64 {
            self.save_heads();
        }
    }

    /// Saves the heads as they are now: those at the head's position, and some that are newer already.
    fn save_heads(&mut self) {
        let head = self.sources.head();
        let Some(position) = head.filter(|_| head > self.heads_at) else { return };
        match self.snapshots.save(HEADS, position, self.sources.heads.pieces()) {
            Ok(()) => self.heads_at = head,
            Err(error) => tracing::warn!(%error, "the heads could not be saved: the next start takes longer"),
        }
    }
}
