//! The store: what keeps entries readable that memory does not hold any more, as far back as they are read often. It
//! may lose anything at any time: the journal has it all.
//!
//! It is made of **parts**, each a sled of its own (`part`) in a folder that is named by the first position in it.
//! Entries go into the newest; when that is full the next begins. The oldest leave, when the journal's archive is
//! enough for what is in them: a folder that is removed gives its room back, which sled by itself does not, and
//! that costs nothing, however much stays.
//!
//! Only the newest part is open. sled's cache is bounded by nothing that one could set (it looks at what to evict only
//! after 64 accesses to each of its 256 shards, and keeps a page of each in any case), so that each sled that is open
//! takes as much memory as it has entries, up to 150 MB. What is in the other parts is read from the journal; they are
//! there for `log repair`. So parts are small: the open one is full after 65,536 entries, and takes no more however many
//! come after it. What a closed one leaves behind is memory that the allocator has not given back, and gives to the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::entry::Position;
use super::journal::format::JournalId;
use super::part::{Cause, GROUP_ENTRIES, Part, StoreError, group_of};

/// What is kept has so many parts at least, and one more, which is being filled.
const PARTS_MIN: u64 = 4;
/// A part has so many entries at most.
const PART_ENTRIES_MAX: u64 = 64 * 1024;
/// How many parts are open.
const OPEN: usize = 1;
const NAME_DIGITS: usize = 20;
/// How the names of parts end that are being removed.
const LEAVING: &str = ".leaving";
/// How long a part that leaves is still read, at most.
const LEAVING_READ_MAX: Duration = Duration::from_secs(10);
const LEAVING_PAUSE: Duration = Duration::from_millis(5);

/// How large a store is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreLimits {
    /// Bytes of pages that are kept in memory, about.
    pub(crate) cache_bytes: u64,
    /// How many of the newest entries stay at least, and at most a quarter more.
    pub(crate) entries: u64,
}

impl StoreLimits {
    fn part_entries(self) -> u64 {
        let group = GROUP_ENTRIES as u64;
        (self.entries / PARTS_MIN).next_multiple_of(group).clamp(group, PART_ENTRIES_MAX)
    }

    /// Where a store that is made anew begins, for a journal that ends with `head`.
    pub(crate) fn begin(self, head: Option<Position>) -> Position {
        let before = head.map_or(0, Position::number).saturating_sub(self.entries);
        group_of(Position::new(before).unwrap_or(Position::FIRST))
    }
}

/// The store, open.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    limits: StoreLimits,
    journal: Option<JournalId>,
    /// Oldest first; the newest is always there, and open.
    parts: RwLock<Vec<Slot>>,
}

/// A part, open or not.
#[derive(Debug, Clone)]
struct Slot {
    first: Position,
    part: Option<Arc<Part>>,
}

/// What has left the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) first: Position,
    pub(crate) last: Position,
}

impl Store {
    /// Opens the store in a folder, or makes one there that begins with `begin`. One that has something of another
    /// journal is refused.
    pub(crate) fn open(
        folder: &Path,
        limits: StoreLimits,
        journal: JournalId,
        begin: Position,
    ) -> Result<Self, StoreError> {
        fs::create_dir_all(folder)?;
        let anything = fs::read_dir(folder)?.next().is_some();
        let (closed, mut open) = open_parts(folder, limits)?;
        if open.is_empty() {
            if anything {
                return Err(StoreError::lost("it is not made of parts"));
            }
            open.push(Part::open(&folder.join(name(begin)), begin, part_cache(limits))?);
        }
        let alone = closed.len() + open.len() == 1;
        for part in &mut open {
            be_of(part, journal, alone)?;
        }
        Ok(Self::of(folder, limits, Some(journal), closed, open))
    }

    /// Opens the store in a folder, whichever journal it was made from.
    pub(crate) fn open_of_any(folder: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let (closed, open) = open_parts(folder, limits)?;
        let newest = open.last().ok_or_else(|| StoreError::lost("it has no part"))?;
        let journal = newest.journal();
        Ok(Self::of(folder, limits, journal, closed, open))
    }

    fn of(
        folder: &Path,
        limits: StoreLimits,
        journal: Option<JournalId>,
        closed: Vec<Position>,
        open: Vec<Part>,
    ) -> Self {
        let closed = closed.into_iter().map(|first| Slot { first, part: None });
        let open = open.into_iter().map(|part| Slot { first: part.first, part: Some(Arc::new(part)) });
        let parts = RwLock::new(closed.chain(open).collect());
        Self { folder: folder.to_owned(), limits, journal, parts }
    }

    /// Opens all parts that can be opened, for who needs whatever there is.
    pub(crate) fn open_all(&self) {
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        for slot in parts.iter_mut().filter(|slot| slot.part.is_none()) {
            let opened = Part::open(&self.folder.join(name(slot.first)), slot.first, part_cache(self.limits));
            match opened {
                Ok(part) => slot.part = (part.journal() == self.journal).then(|| Arc::new(part)),
                Err(error) => {
                    tracing::warn!(part = %slot.first, %error, "a part of the store cannot be read");
                }
            }
        }
    }

    /// The journal that it was made from, if it says so.
    pub(crate) fn journal(&self) -> Option<JournalId> {
        self.journal
    }

    /// The first position that it has, or is to get.
    pub(crate) fn first(&self) -> Position {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.first().expect("there is always a part").first
    }

    /// The first position that can be read.
    pub(crate) fn open_from(&self) -> Position {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let open = parts.iter().find(|slot| slot.part.is_some());
        open.expect("the newest part is open").first
    }

    /// The last position that it knows of: of an entry that it has, or of a follower that has come so far.
    pub(crate) fn seen(&self) -> Result<Option<Position>, StoreError> {
        Ok(self.last()?.max(self.newest().furthest_cursor()?))
    }

    /// The last position that it has.
    pub(crate) fn last(&self) -> Result<Option<Position>, StoreError> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut behind = None;
        for Slot { first, part } in parts.iter().rev() {
            match part {
                Some(part) => {
                    if let Some(last) = part.last()? {
                        return Ok(Some(last));
                    }
                }
                // What is closed is full.
                None => return Ok(behind.and_then(Position::before)),
            }
            behind = Some(*first);
        }
        Ok(None)
    }

    /// The last position that it need not be given any more: that it has, or does not want.
    pub(crate) fn stored(&self) -> Result<Option<Position>, StoreError> {
        Ok(self.last()?.or(self.first().before()))
    }

    /// The entries of a group, each behind its length; none if they are not there as they were put there, or in a part
    /// that is not open.
    pub(crate) fn group(&self, group: Position) -> Result<Option<Vec<u8>>, StoreError> {
        self.part_of(group).map_or(Ok(None), |part| part.group(group))
    }

    /// Puts the entries of a group there, each behind its length. What is older than what is open is not kept.
    pub(crate) fn put_group(&self, group: Position, body: &[u8]) -> Result<(), StoreError> {
        let newest = self.newest();
        if group.number() >= newest.first.number() + self.limits.part_entries() {
            return self.begin_part(&newest, group)?.put_group(group, body);
        }
        self.part_of(group).map_or(Ok(()), |part| part.put_group(group, body))
    }

    /// The cursor of this name.
    pub(crate) fn cursor(&self, name: &str) -> Result<Option<Position>, StoreError> {
        self.newest().cursor(name.as_bytes())
    }

    /// Replaces the cursor of this name.
    pub(crate) fn save_cursor(&self, name: &str, position: Position) -> Result<(), StoreError> {
        self.newest().save_cursor(name.as_bytes(), position)
    }

    /// Removes the parts that have nothing from `position` on; the newest one stays. Gives what has left.
    pub(crate) fn leave_before(&self, position: Position) -> Result<Option<Left>, StoreError> {
        let first = self.first();
        loop {
            let leaving = {
                let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
                let leaves = parts.get(1).is_some_and(|second| second.first <= position);
                leaves.then(|| parts.remove(0))
            };
            let Some(Slot { first, part }) = leaving else { break };
            if let Some(part) = part {
                close(part);
            }
            remove_part(&self.folder.join(name(first)))?;
        }
        let last = self.first().before().filter(|last| *last >= first);
        Ok(last.map(|last| Left { first, last }))
    }

    /// How many parts could leave: all but the newest.
    pub(crate) fn parts_behind(&self) -> usize {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).len() - 1
    }

    /// The part that a group belongs to; none if it is not open, or has left.
    fn part_of(&self, group: Position) -> Option<Arc<Part>> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.iter().rev().find(|slot| slot.first <= group)?.part.clone()
    }

    /// Begins the next part, and closes what is older than the newest ones.
    fn begin_part(&self, newest: &Part, first: Position) -> Result<Arc<Part>, StoreError> {
        newest.flush()?;
        let mut part = Part::open(&self.folder.join(name(first)), first, part_cache(self.limits))?;
        if let Some(journal) = self.journal {
            part.set_journal(journal)?;
        }
        for (name, position) in newest.cursors()? {
            part.save_cursor(&name, position)?;
        }
        let part = Arc::new(part);
        let closing: Vec<_> = {
            let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            parts.push(Slot { first, part: Some(Arc::clone(&part)) });
            let older = parts.len().saturating_sub(OPEN);
            parts[..older].iter_mut().filter_map(|slot| slot.part.take()).collect()
        };
        // Not while others are locked out: sled takes its time.
        drop(closing);
        Ok(part)
    }

    fn newest(&self) -> Arc<Part> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let newest = parts.last().and_then(|slot| slot.part.clone());
        newest.expect("the newest part is open")
    }
}

/// The name of the part that begins with this position: 20 digits, so that names sort as positions do.
pub(crate) fn name(first: Position) -> String {
    format!("{:0NAME_DIGITS$}", first.number())
}

fn position_in_name(name: &str) -> Option<Position> {
    let digits = name.len() == NAME_DIGITS && name.bytes().all(|digit| digit.is_ascii_digit());
    let first = digits.then(|| name.parse().ok()).flatten().and_then(Position::new)?;
    (group_of(first) == first).then_some(first)
}

fn part_cache(limits: StoreLimits) -> u64 {
    limits.cache_bytes / OPEN as u64
}

/// Opens the newest parts in a folder, and says which others there are; removes what has not quite left.
fn open_parts(folder: &Path, limits: StoreLimits) -> Result<(Vec<Position>, Vec<Part>), StoreError> {
    let (mut firsts, mut leaving) = (Vec::new(), Vec::new());
    for file in fs::read_dir(folder)? {
        let name = file?.file_name();
        let name = name.to_string_lossy();
        firsts.extend(position_in_name(&name));
        leaving.extend(name.ends_with(LEAVING).then(|| folder.join(&*name)));
    }
    for part in leaving {
        fs::remove_dir_all(part)?;
    }
    firsts.sort_unstable();
    let open = |first: Position| Part::open(&folder.join(name(first)), first, part_cache(limits));
    let newest = firsts.split_off(firsts.len().saturating_sub(OPEN));
    Ok((firsts, newest.into_iter().map(open).collect::<Result<_, _>>()?))
}

/// Makes a part this journal's, if it is not another's. Where there is nothing in it, and it is `alone`, it is nobody's.
fn be_of(part: &mut Part, journal: JournalId, alone: bool) -> Result<(), StoreError> {
    if part.journal() == Some(journal) {
        return Ok(());
    }
    if !alone || part.last()?.max(part.furthest_cursor()?).is_some() {
        return Err(match part.journal() {
            Some(_) => {
                let message = "it was made from another journal".to_owned();
                StoreError { cause: Cause::Foreign, message }
            }
            None => StoreError::lost("it does not say from which journal it was made"),
        });
    }
    part.set_journal(journal)
}

/// Removes the folder of a part: first its name, durably, so that a crash leaves all of it or nothing that is taken for a
/// part.
fn remove_part(folder: &Path) -> Result<(), StoreError> {
    let leaving = folder.with_extension(&LEAVING[1..]);
    fs::rename(folder, &leaving)?;
    if let Some(parent) = folder.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(fs::remove_dir_all(leaving)?)
}

/// Waits until nobody reads a part any more: sled must not make files where it has left.
fn close(mut part: Arc<Part>) {
    for _ in 0..LEAVING_READ_MAX.as_millis() / LEAVING_PAUSE.as_millis() {
        match Arc::try_unwrap(part) {
            Ok(part) => return drop(part),
            Err(read) => part = read,
        }
        thread::sleep(LEAVING_PAUSE);
    }
    tracing::warn!(folder = %part.folder().display(), "a part of the store leaves while it is read");
}

/// Sets a store aside, to be looked at; only the newest is kept. A store that is not there is none to keep.
pub(crate) fn set_aside(folder: &Path) -> io::Result<()> {
    let aside = aside(folder);
    remove_aside(folder)?;
    match fs::rename(folder, aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// Removes the store that was set aside.
pub(crate) fn remove_aside(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(aside(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn aside(folder: &Path) -> PathBuf {
    folder.with_extension("set-aside")
}
