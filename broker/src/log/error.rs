//! What can go wrong, and whether trying again helps.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::entry::{ENTRY_BYTES_MAX, EVENTS_PER_ENTRY_MAX, Position, Version};
use super::local::{SNAPSHOT_FOLDER, STORE_FOLDER};

/// Why an append did not become an entry. Except for [`Stopped`](Self::Stopped), nothing of it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The stream was not as expected. What made it so is durable.
    #[error("the stream is not as expected")]
    Conflict {
        /// Where the stream stands now; none if it is empty.
        current: Option<Version>,
    },
    /// As many appends wait for the disk as may.
    #[error("{waiting} appends wait for the disk: no more are taken")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The file system is full. The log goes on when there is room.
    #[error("the file system of the log is full")]
    NoRoom,
    /// It has no event.
    #[error("an entry needs an event")]
    NoEvents,
    /// It has too many events.
    #[error("an entry has at most {EVENTS_PER_ENTRY_MAX} events, not {events}")]
    TooManyEvents {
        /// How many it has.
        events: usize,
    },
    /// It has too many bytes.
    #[error("an entry has at most {ENTRY_BYTES_MAX} bytes, not {bytes}")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// The log acknowledges nothing any more. The entry may be in the log when it starts the next time: that
    /// nobody was told of it, says nothing.
    #[error("the log has stopped: {0}")]
    Stopped(Fault),
}

impl AppendError {
    /// Whether the same append may succeed later on the same log. A conflict needs a new decision first.
    pub fn retry_helps(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::NoRoom)
    }
}

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// What is on disk is not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The operating system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No segment of the journal has it.
    #[error("the journal does not reach back to position {position}")]
    Missing {
        /// Its position.
        position: Position,
    },
    /// The log has stopped.
    #[error("the log has stopped: {0}")]
    Stopped(Fault),
}

impl ReadError {
    /// Whether the same read may succeed later on the same log.
    pub fn retry_helps(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// Why a file of the log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Corrupt(corruption) => Self::Corrupt(corruption),
            FileError::Disk(error) => Self::Disk(error),
        }
    }
}

impl StartError {
    /// What reading at start can fail with: nothing has stopped yet, and the journal is whole.
    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::Corrupt(corruption) => Self::Corrupt(corruption),
            ReadError::Disk(error) => Self::Disk(error),
            ReadError::Missing { .. } => Self::Config("the journal begins too late"),
            ReadError::Stopped(_) => Self::Config("the log has stopped"),
        }
    }
}

impl From<FileError> for StartError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Corrupt(corruption) => Self::Corrupt(corruption),
            FileError::Disk(error) => Self::Disk(error),
        }
    }
}

/// Why a log acknowledges nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It was closed.
    #[error("it was closed")]
    Closed,
    /// A write or a flush failed. What is on disk is known again after the next start.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A thread of the log panicked: a bug.
    #[error("its writer panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
}

/// Why a log does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Another process has it open.
    #[error("{} is in use by another process", .folder.display())]
    InUse {
        /// The log's folder.
        folder: PathBuf,
    },
    /// A backup is being put here, or was, and not all of it is.
    #[error(
        "a restore has not come to its end: there is {}, and no log yet; run `countersign restore` again (or wait, if it \
         runs), or delete that folder if a new log is meant to begin here", .unfinished.display()
    )]
    Restoring {
        /// What is there of it.
        unfinished: PathBuf,
    },
    /// A limit in its configuration makes no sense.
    #[error("log configuration: {0}")]
    Config(&'static str),
    /// What is on disk is not what was written, in a way that no crash explains. `log repair` may help.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// Something that was made from the journal says otherwise than what is there.
    #[error(transparent)]
    Contradicted(#[from] Contradiction),
    /// The operating system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl StartError {
    /// Whether `log repair` has something to say about it.
    pub fn repair_may_help(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Contradicted(_))
    }
}

/// What the journal is contradicted by. Snapshots and store are made from the journal and after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Contradiction {
    /// There is no journal, and something that was made from one.
    #[error(
        "{} is empty, but {} {}: is the volume mounted, was the backup restored? \
         If a new log is meant to begin here, delete {} and {} first",
        .journal.display(), .witness.display(), knows_of(*.seen),
        beside(.journal, SNAPSHOT_FOLDER).display(), beside(.journal, STORE_FOLDER).display()
    )]
    NoJournal {
        /// Where the journal should be.
        journal: PathBuf,
        /// What was made from it.
        witness: PathBuf,
        /// The last position that it knows of, if that can be read.
        seen: Option<Position>,
    },
    /// Something was made from this journal and knows of more than it has: the journal has lost entries that
    /// may have been acknowledged. `log repair` may bring them back.
    #[error(
        "{} knows of position {seen}, but the journal ends {}: it has lost entries", .witness.display(),
        match .journal { Some(last) => format!("at position {last}"), None => "before the first".to_owned() }
    )]
    JournalBehind {
        /// What knows of more.
        witness: PathBuf,
        /// The last position that it knows of.
        seen: Position,
        /// The last position of the journal; none if it is empty.
        journal: Option<Position>,
    },
    /// Something was made from another journal.
    #[error(
        "{} was made from another journal than the one in {}: two logs are mixed here. Put back the journal \
         that belongs to it; or, to go on with this one, delete {} and {}, which are made from it again",
        .witness.display(), .journal.display(),
        beside(.journal, SNAPSHOT_FOLDER).display(), beside(.journal, STORE_FOLDER).display()
    )]
    AnotherJournal {
        /// Where the journal is.
        journal: PathBuf,
        /// What was made from another one.
        witness: PathBuf,
    },
}

fn knows_of(seen: Option<Position>) -> String {
    match seen.map(Position::number) {
        Some(1) => "knows of 1 entry".to_owned(),
        Some(entries) => format!("knows of {entries} entries"),
        None => "is there, which is made from a journal".to_owned(),
    }
}

fn beside(journal: &Path, name: &str) -> PathBuf {
    journal.with_file_name(name)
}

/// What was found on disk instead of what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}, byte {offset}: {damage}; cannot read on from position {position}", .file.display())]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes from its start.
    pub offset: u64,
    /// The first position that cannot be read because of it.
    pub position: Position,
    /// What is wrong there.
    pub damage: Damage,
}

/// A way of not being what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// A segment's header is not one, or its checksum is wrong.
    #[error("the header of the segment is damaged")]
    SegmentHeader,
    /// A segment was written by a newer program.
    #[error("the segment has format {found}, which this program does not know")]
    SegmentFormat {
        /// The format's number.
        found: u16,
    },
    /// A segment belongs to another journal, or its name tells another position than its header.
    #[error("the segment is not the one that belongs here")]
    ForeignSegment,
    /// A segment is not there, or the one before it ends early.
    #[error("entries are missing: the next ones found begin at position {found}")]
    Gap {
        /// Where what follows begins.
        found: Position,
    },
    /// The last segment is an archived one, behind which there must have been another.
    #[error("the segment is archived, and the one that was written behind it is not there")]
    ArchivedLast,
    /// A record's header is not one, or its checksum is wrong.
    #[error("the header of a record is damaged")]
    RecordHeader,
    /// A record's header is sound and its body is not.
    #[error("the body of a record is damaged")]
    RecordBody,
    /// A record is sound and is not the one that belongs here.
    #[error("a record of position {found} stands here")]
    RecordOrder {
        /// The position that it begins with.
        found: Position,
    },
    /// A record's checksum is right and its entries cannot be read: a bug, or a newer program's.
    #[error("an entry is malformed: {what}")]
    Entry {
        /// What is wrong with it.
        what: String,
    },
    /// There is something behind a record that was the last.
    #[error("there are bytes where the segment has ended")]
    BytesAfterEnd,
}

/// What the operating system refused to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {}: {message}", .file.display())]
pub struct DiskError {
    /// What was to be done.
    pub action: &'static str,
    /// With which file or folder.
    pub file: PathBuf,
    /// What the operating system said.
    pub message: String,
    no_room: bool,
}

impl DiskError {
    pub(crate) fn new(action: &'static str, file: &Path, error: &io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        // Others have all files that may be open: nothing was touched yet, and they close some.
        let files = |code| matches!(Errno::from_raw_os_error(code), Errno::MFILE | Errno::NFILE);
        let no_room = full || error.raw_os_error().is_some_and(files);
        Self { action, file: file.to_owned(), message: error.to_string(), no_room }
    }

    /// Whether there was no room: the file system was full, the quota used up, or too many files open.
    pub fn no_room(&self) -> bool {
        self.no_room
    }
}
