//! One part of the store: sled, with the entries from one position to another. It may lose anything at any time:
//! the journal has it all.
//!
//! - Tree `entries`: 64 entries to a value, at the position of the first of them (8 bytes, big-endian): 1,
//!   65, 129, ... A value is a CRC-32C of key and rest (4 bytes), then each entry behind its length. Only
//!   whole groups are put here, in order, so that every key is known without a search, and one that is not
//!   there is a loss. Few large values, because each key costs sled memory and time to open. The keys come
//!   first, without values, some way ahead of the groups: sled writes a page anew with all its values when
//!   keys are added to it and when it is split, and so wrote every group four times. Of a page whose keys are
//!   all there it writes what is added, and no more.
//! - Tree `cursors`: how far each follower has come, by name.
//! - Tree `about`: the id of the journal that this was made from.
//!
//! Nothing here is flushed before anyone is answered. sled's own thread flushes now and then, so that what a
//! crash takes from it, and a start has to bring back from the journal, stays small.
//!
//! sled panics on some of what a crash can leave, and when its own threads have died. Every call into it is
//! guarded: a panic becomes a [`StoreError`]. And once a write of its own has failed, dropping it waits for
//! ever for that write (seen on a full disk): a part that has failed is dropped by a thread of its own,
//! which may never end, and with which sled's lock on the folder may never go.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use sled::IVec;

use super::entry::Position;
use super::journal::format::JournalId;

/// How many entries are kept in one value.
pub(crate) const GROUP_ENTRIES: usize = 64;

const CRC_BYTES: usize = 4;
const FLUSH_EVERY_MS: u64 = 5_000;
/// sled keeps a page that is longer than a quarter of its segment in a file of its own, whose bytes its cache
/// does not count: with its usual segments of 512 KiB, reading ten million entries brought 3 GB into memory.
/// A page has eight groups or nine.
pub(crate) const SLED_SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// How many keys there are at least, and at most, behind the last group. A page is split in two when it has
/// more than 16; behind that many it does not change any more.
const KEYS_AHEAD_MIN: u64 = 32;
const KEYS_AHEAD_MAX: u64 = 64;

/// How often, and after what pause, a store is tried to be opened that is locked.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// How long a store may take to open: so long, and a second more for so many bytes. sled opens ten million
/// entries from a cold disk in six seconds; one that takes longer than this is made anew sooner.
const OPEN_MAX: Duration = Duration::from_secs(20);
const BYTES_A_SECOND: u64 = 100_000_000;

/// The group that an entry is kept in: the position of the first entry in it.
pub(crate) fn group_of(position: Position) -> Position {
    let before = (position.number() - 1) / GROUP_ENTRIES as u64 * GROUP_ENTRIES as u64;
    Position::new(before + 1).expect("a number and one is not zero")
}

/// The last position of a group.
pub(crate) fn group_last(group: Position) -> Position {
    Position::new(group.number().saturating_add(GROUP_ENTRIES as u64 - 1))
        .expect("a larger number is not zero")
}

/// What sled said, or how it panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StoreError {
    pub(crate) cause: Cause,
    pub(crate) message: String,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file system is full: wait.
    NoRoom,
    /// The store is still open elsewhere in this process: wait, but not for ever.
    Locked,
    /// It cannot be used: start anew.
    Lost,
    /// It was made from another journal, and has something of it.
    Foreign,
}

/// A part of the store, open.
#[derive(Debug)]
pub(crate) struct Part {
    /// The first position that is its own.
    pub(crate) first: Position,
    folder: PathBuf,
    // In an option so that it can be dropped elsewhere.
    sled: Option<Sled>,
    /// Which journal it was made from, if it says so.
    journal: Option<JournalId>,
    /// The last key that there is, with or without a value; 0 if there is none.
    keys_ahead: Mutex<u64>,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Sled {
    entries: sled::Tree,
    cursors: sled::Tree,
    about: sled::Tree,
    db: sled::Db,
}

impl Part {
    /// Opens the part that begins with `first`, or makes one, in a folder of its own. One that does not open in time is
    /// refused: on what a power cut leaves, sled has been seen to wait for itself for ever. Its thread is then
    /// left to wait, in a folder that is set aside.
    pub(crate) fn open(folder: &Path, first: Position, cache_bytes: u64) -> Result<Self, StoreError> {
        let (opened, waiting) = mpsc::channel();
        let folder = folder.to_owned();
        let bytes = fs::metadata(folder.join("db")).map_or(0, |db| db.len());
        let patience = OPEN_MAX + Duration::from_secs(bytes / BYTES_A_SECOND);
        thread::Builder::new().name("log-store-open".to_owned()).spawn(move || {
            // sled's threads inherit it.
            yield_to_others();
            let part = Self::open_at_leisure(&folder, first, cache_bytes);
            // Who has stopped waiting has set the folder aside.
            let _ = opened.send(part.and_then(|part| part.last().map(|_| part)));
        })?;
        match waiting.recv_timeout(patience) {
            Ok(opened) => opened,
            Err(_) => Err(StoreError::lost(&format!("it does not open within {} s", patience.as_secs()))),
        }
    }

    fn open_at_leisure(folder: &Path, first: Position, cache_bytes: u64) -> Result<Self, StoreError> {
        // A snapshot of sled's own page table that a crash has interrupted would be taken for its newest one.
        remove_unfinished(folder).map_err(StoreError::from)?;
        // sled's threads let go of its lock some time after the store that they worked for was dropped.
        for _ in 0..LOCK_TRIES {
            match guarded(|| Self::open_now(folder, first, cache_bytes)) {
                Err(error) if error.cause == Cause::Locked => thread::sleep(LOCK_PAUSE),
                opened => return opened,
            }
        }
        guarded(|| Self::open_now(folder, first, cache_bytes))
    }

    fn open_now(folder: &Path, first: Position, cache_bytes: u64) -> sled::Result<Self> {
        let config = sled::Config::new().path(folder).cache_capacity(cache_bytes);
        let config = config.segment_size(SLED_SEGMENT_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open()?;
        let about = db.open_tree("about")?;
        let journal = about.get("journal")?.and_then(|id| id.as_ref().try_into().ok());
        let (entries, cursors) = (db.open_tree("entries")?, db.open_tree("cursors")?);
        let last_key = entries.last()?.and_then(|(key, _)| group_in_key(&key));
        Ok(Self {
            first,
            folder: folder.to_owned(),
            sled: Some(Sled { entries, cursors, about, db }),
            journal,
            keys_ahead: Mutex::new(last_key.map_or(0, Position::number)),
            failed: AtomicBool::new(false),
        })
    }

    /// The journal that it was made from, if it says so.
    pub(crate) fn journal(&self) -> Option<JournalId> {
        self.journal
    }

    /// From now on it is this journal's.
    pub(crate) fn set_journal(&mut self, journal: JournalId) -> Result<(), StoreError> {
        self.call(|sled| sled.about.insert("journal", &journal[..]).map(drop))?;
        self.journal = Some(journal);
        Ok(())
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How far the follower has come that has come furthest.
    pub(crate) fn furthest_cursor(&self) -> Result<Option<Position>, StoreError> {
        let cursors = self.cursors()?;
        Ok(cursors.into_iter().map(|(_, position)| position).max())
    }

    /// All cursors, by name.
    pub(crate) fn cursors(&self) -> Result<Vec<(IVec, Position)>, StoreError> {
        self.call(|sled| {
            let cursors = sled.cursors.iter().map(|cursor| {
                let (name, position) = cursor?;
                Ok(position_in(&position).map(|position| (name, position)))
            });
            cursors.filter_map(Result::transpose).collect()
        })
    }

    /// The last position that it has.
    pub(crate) fn last(&self) -> Result<Option<Position>, StoreError> {
        let last = self.call(|sled| {
            let there =
                |entry: &sled::Result<(IVec, IVec)>| !matches!(entry, Ok((_, value)) if value.is_empty());
            sled.entries.iter().rev().find(there).transpose()
        })?;
        let Some((key, _)) = last else { return Ok(None) };
        let group = group_in_key(&key).ok_or_else(|| StoreError::lost("its last key is not one of ours"))?;
        Ok(Some(group_last(group)))
    }

    /// The entries of a group, each behind its length; none if they are not there as they were put there.
    pub(crate) fn group(&self, group: Position) -> Result<Option<Vec<u8>>, StoreError> {
        let key = group.number().to_be_bytes();
        let value = self.call(|sled| sled.entries.get(key))?;
        Ok(value.and_then(|value| body_in(key, &value).map(<[u8]>::to_vec)))
    }

    /// Puts the entries of a group there, each behind its length.
    pub(crate) fn put_group(&self, group: Position, body: &[u8]) -> Result<(), StoreError> {
        let key = group.number().to_be_bytes();
        let value = value_of(key, body);
        self.make_keys_ahead(group)?;
        self.call(|sled| sled.entries.insert(key, value).map(drop))
    }

    /// Sees to it that the keys of the groups to come are there, without values.
    fn make_keys_ahead(&self, group: Position) -> Result<(), StoreError> {
        let step = GROUP_ENTRIES as u64;
        let mut ahead = self.keys_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if group.number() + KEYS_AHEAD_MIN * step <= *ahead {
            return Ok(());
        }
        let next = if *ahead == 0 { self.first.number() } else { *ahead + step };
        let last = group.number() + KEYS_AHEAD_MAX * step;
        self.call(|sled| {
            let mut keys = (next..=last).step_by(GROUP_ENTRIES);
            keys.try_for_each(|key| sled.entries.insert(key.to_be_bytes(), &[][..]).map(drop))
        })?;
        *ahead = last;
        Ok(())
    }

    /// Gives to the operating system what it was given.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.call(|sled| sled.db.flush().map(drop))
    }

    /// The cursor of this name.
    pub(crate) fn cursor(&self, name: &[u8]) -> Result<Option<Position>, StoreError> {
        let value: Option<IVec> = self.call(|sled| sled.cursors.get(name))?;
        Ok(value.and_then(|value| position_in(&value)))
    }

    /// Replaces the cursor of this name.
    pub(crate) fn save_cursor(&self, name: &[u8], position: Position) -> Result<(), StoreError> {
        self.call(|sled| sled.cursors.insert(name, &position.number().to_be_bytes()[..]).map(drop))
    }

    fn call<T>(&self, call: impl FnOnce(&Sled) -> sled::Result<T>) -> Result<T, StoreError> {
        let sled = self.sled.as_ref().expect("it is taken out only when the store is dropped");
        guarded(|| call(sled)).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let sled = self.sled.take();
        let dropping = move || {
            let dropped = guarded(|| {
                drop(sled);
                Ok(())
            });
            if let Err(error) = dropped {
                tracing::warn!(%error, "the store was not left in order");
            }
        };
        if !self.failed.load(Ordering::Relaxed) {
            dropping();
        } else if let Err(error) = thread::Builder::new().name("log-store-end".to_owned()).spawn(dropping) {
            tracing::error!(%error, "no thread to drop the store that has failed");
        }
    }
}

/// From now on this thread, and those that it starts, leave the processor to others first: nobody waits for
/// the store, and somebody does for everything else. It is a wish: without it all works, if slower under
/// load.
pub(crate) fn yield_to_others() {
    const NICE: i32 = 10;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the store's thread keeps its priority");
    }
}

fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::info!(file = %file.path().display(), "removing what a crash has left half made");
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn position_in(bytes: &[u8]) -> Option<Position> {
    Position::new(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn group_in_key(key: &[u8]) -> Option<Position> {
    let group = position_in(key)?;
    (group_of(group) == group).then_some(group)
}

/// The value that a group's entries are kept in.
pub(crate) fn value_of(key: [u8; 8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CRC_BYTES + body.len());
    value.extend_from_slice(&checksum(key, body).to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// The entries in a value, each behind its length; none if it is not as it was put there.
pub(crate) fn body_in(key: [u8; 8], value: &[u8]) -> Option<&[u8]> {
    let (crc, body) = value.split_at_checked(CRC_BYTES)?;
    (*crc == checksum(key, body).to_be_bytes()).then_some(body)
}

fn checksum(key: [u8; 8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&key), body)
}

/// Calls sled, and makes its panic an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(StoreError::from),
        Err(panic) => Err(StoreError::lost(&format!("sled panicked: {}", panic_message(&*panic)))),
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

impl StoreError {
    /// It cannot be used, and why.
    pub(crate) fn lost(message: &str) -> Self {
        Self { cause: Cause::Lost, message: message.to_owned() }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::from(error),
            error => Self::lost(&error.to_string()),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        let message = error.to_string();
        let cause = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::NoRoom,
            // sled tells of its lock in no other way.
            _ if message.contains("could not acquire lock") => Cause::Locked,
            _ => Cause::Lost,
        };
        Self { cause, message }
    }
}
