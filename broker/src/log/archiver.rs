//! What happens to the log as it ages. Segments of the journal that are whole, and that sled has taken over, are
//! archived: compressed (`journal::archive`), and as much the journal as before. And what is older than the retention,
//! or more than the store is to hold, leaves the store: from then on it is read from the journal.
//!
//! It is done by a thread of its own, at whose end nobody waits but who has asked for it. It holds up neither appends
//! nor reads: it leaves the processor to others, syncs little at a time, and takes nothing that others wait for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::entry::Position;
use super::error::{Corruption, Fault, FileError, ReadError};
use super::format::EntryHeader;
use super::journal::archive::{ArchiveError, Archived};
use super::reading::Sources;
use super::store::{Left, StoreLimits};

/// A step of archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveStep {
    /// So much of it is done.
    Progress {
        /// Bytes of segments that were compressed.
        done_bytes: u64,
        /// Bytes of segments that are to be.
        total_bytes: u64,
    },
    /// All of it is.
    Done(ArchiveReport),
}

/// What archiving has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// The folder of the journal.
    pub folder: PathBuf,
    /// The segments that were compressed, oldest first.
    pub archived: Vec<ArchivedSegment>,
    /// How many whole segments are to be compressed later, since sled has not taken them over yet.
    pub waiting: u64,
    /// The first and the last position that have left the store, if any have.
    pub left_store: Option<(Position, Position)>,
    /// The bytes of the journal before, archived segments and others.
    pub journal_bytes_before: u64,
    /// And after.
    pub journal_bytes_after: u64,
    /// The bytes of the store before, as they take room on the disk.
    pub store_bytes_before: u64,
    /// And after.
    pub store_bytes_after: u64,
    /// Segments that cannot be compressed, since they are not as they were written. `log repair` may help.
    pub damaged: Vec<Corruption>,
}

impl ArchiveReport {
    /// Whether anything is another than before.
    pub fn has_changed_anything(&self) -> bool {
        !self.archived.is_empty() || self.left_store.is_some()
    }
}

/// A segment that was compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedSegment {
    /// Its file now.
    pub file: PathBuf,
    /// The position of its first entry.
    pub first: Position,
    /// And of its last.
    pub last: Position,
    /// Its bytes before.
    pub bytes_before: u64,
    /// And now.
    pub bytes_after: u64,
}

/// Who listens is told of progress every so many bytes.
const TELL_EVERY_BYTES: u64 = 1024 * 1024;

/// Archives one log.
#[derive(Debug)]
pub(crate) struct Archiver {
    sources: Arc<Sources>,
    store_folder: PathBuf,
    limits: StoreLimits,
    /// One at a time.
    at_work: Mutex<()>,
}

/// Where steps are told.
pub(crate) type Steps = mpsc::Sender<Result<ArchiveStep, ReadError>>;

impl Archiver {
    pub(crate) fn new(sources: Arc<Sources>, store_folder: PathBuf, limits: StoreLimits) -> Self {
        Self { sources, store_folder, limits, at_work: Mutex::default() }
    }

    /// Does all that there is to do, and tells its steps; ends early if nobody listens any more, or the log closes.
    pub(crate) fn run(&self, recorded_before_ms: u64, steps: &Steps) {
        let _one_at_a_time = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match self.archive(recorded_before_ms, steps) {
            Ok(report) => Ok(ArchiveStep::Done(report)),
            Err(ArchiveError::ToldToStop) => Err(ReadError::Stopped(Fault::Closed)),
            Err(ArchiveError::File(error)) => Err(error.into()),
        };
        // Who has stopped listening does not want to know.
        let _ = steps.blocking_send(ended);
    }

    fn archive(&self, recorded_before_ms: u64, steps: &Steps) -> Result<ArchiveReport, ArchiveError> {
        let journal = &self.sources.journal;
        let mut report = ArchiveReport {
            folder: journal.folder().to_owned(),
            journal_bytes_before: journal.bytes()?,
            store_bytes_before: room_taken(&self.store_folder),
            ..ArchiveReport::default()
        };
        let due = self.due(&mut report)?;
        let total_bytes = due.iter().map(|(_, bytes)| bytes).sum();
        let mut told = Told { steps, done_bytes: 0, told_bytes: 0, total_bytes };
        for (first, _) in due {
            let go_on = &mut |bytes| told.advance(bytes) && !self.closes();
            match journal.archive(first, go_on) {
                Ok(Archived { file, last, bytes_before, bytes_after }) => {
                    report.archived.push(ArchivedSegment { file, first, last, bytes_before, bytes_after });
                }
                // The others need not wait for it.
                Err(ArchiveError::File(FileError::Corrupt(corruption))) => report.damaged.push(corruption),
                Err(error) => return Err(error),
            }
        }
        report.left_store = self.leave_store(recorded_before_ms).map(|left| (left.first, left.last));
        report.journal_bytes_after = journal.bytes()?;
        report.store_bytes_after = room_taken(&self.store_folder);
        Ok(report)
    }

    /// The segments that are to be compressed, and their bytes.
    fn due(&self, report: &mut ArchiveReport) -> Result<Vec<(Position, u64)>, ArchiveError> {
        let stored = self.sources.recent.stored();
        let mut due = Vec::new();
        for (first, last, bytes) in self.sources.journal.whole_and_plain()? {
            if Some(last) <= stored {
                due.push((first, bytes));
            } else {
                report.waiting += 1;
            }
        }
        Ok(due)
    }

    /// Whether the log closes: the next start goes on with it.
    fn closes(&self) -> bool {
        self.sources.recent.wait_for_stop(Duration::ZERO)
    }

    /// What is old leaves the store. If it cannot, that costs room and no more: it is tried again the next time.
    fn leave_store(&self, recorded_before_ms: u64) -> Option<Left> {
        let store = self.sources.store.get().filter(|store| store.parts_behind() > 0)?;
        let head = self.sources.head();
        let keep_from = self.limits.begin(head).max(self.first_since(recorded_before_ms));
        let left = store.leave_before(keep_from);
        left.inspect_err(|error| tracing::warn!(%error, "a part of the store cannot leave")).ok().flatten()
    }

    /// A position in front of which everything was recorded before this moment: where a segment begins.
    fn first_since(&self, recorded_before_ms: u64) -> Position {
        let segments = self.sources.journal.segments();
        let old = |first: &Position| self.recorded_at_ms(*first).is_some_and(|at| at < recorded_before_ms);
        let old = segments.partition_point(old);
        old.checked_sub(1).map_or(Position::FIRST, |last| segments[last])
    }

    /// When the entry at a position was recorded; none if it cannot be read.
    fn recorded_at_ms(&self, position: Position) -> Option<u64> {
        let mut records = self.sources.journal.records(position, position).ok()?;
        records.read().ok()??;
        let (_, entry) = records.entries().next()?;
        EntryHeader::decode(entry, position).ok().map(|header| header.recorded_at_ms)
    }
}

/// What was told to who listens.
struct Told<'a> {
    steps: &'a Steps,
    done_bytes: u64,
    told_bytes: u64,
    total_bytes: u64,
}

impl Told<'_> {
    /// So many bytes more are done; whether anybody still listens.
    fn advance(&mut self, bytes: u64) -> bool {
        self.done_bytes += bytes;
        if self.done_bytes - self.told_bytes < TELL_EVERY_BYTES {
            return true;
        }
        self.told_bytes = self.done_bytes;
        let (done_bytes, total_bytes) = (self.done_bytes, self.total_bytes);
        self.steps.blocking_send(Ok(ArchiveStep::Progress { done_bytes, total_bytes })).is_ok()
    }
}

/// The room that a folder's files take on the disk; what cannot be looked at takes none.
fn room_taken(folder: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let rooms = files.map(|file| match file.metadata() {
        Ok(about) if about.is_dir() => room_taken(&file.path()),
        Ok(about) => about.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    });
    rooms.sum()
}
