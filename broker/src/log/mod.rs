//! The event log: what the broker knows, and the only place from which it knows it.
//!
//! [`EventLog`] is the contract; everybody else in the broker programs against it alone. Two logs keep it,
//! and one suite of tests (`contract`) runs against both:
//!
//! - [`MemoryLog`] for tests and simulations: no files, no threads, and a crash that loses what was not
//!   acknowledged.
//! - [`LocalLog`] for one machine: a journal that makes entries durable, and sled, which keeps them readable.
//!
//! The rooms of the local log, in the order in which an entry passes through them:
//!
//! | where | what happens |
//! |---|---|
//! | `local` | the caller's thread checks limits |
//! | `queue` | it encodes the entry behind those that wait for the disk already |
//! | `committer` | the writer thread takes all who wait, checks what they expect (`heads`), and answers them |
//! | `decoy` | who appends nothing waits for the disk, too |
//! | `journal` | their batch becomes one record of a segment file, and durable |
//! | `recent` | from then on it is read from memory, and followers are woken |
//! | `keeper`, `store`, `part` | a second thread puts it into sled, 64 entries to a value |
//! | `reading` | readers and followers take it from memory, else from sled, else from the journal |
//! | `folds` | what was made of a stream is kept beside it, so that its history need not be read again |
//! | `archiver` | as it ages, a segment is compressed, and what is old leaves sled |
//! | `witness` | what was made from the journal says what the journal must have |
//! | `start` | after a stop or a crash: what the journal holds is made durable, what sled lacks is put there |
//! | `backup` | copying what is truth, and putting it back |
//! | `verify`, `repair`, `offline` | looking at a log, and mending it, when no broker runs |

mod archiver;
pub mod backup;
pub mod bench;
mod committer;
mod decoy;
mod entry;
mod error;
mod folds;
mod format;
mod heads;
mod journal;
mod keeper;
mod limits;
mod local;
mod lock;
mod memory;
mod offline;
mod part;
mod progress;
mod queue;
mod reading;
mod recent;
pub mod repair;
mod snapshots;
mod start;
mod store;
mod verify;
mod witness;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

pub use archiver::{ArchiveReport, ArchiveStep, ArchivedSegment};
pub use entry::{
    Append, Appended, ENTRY_BYTES_MAX, EVENTS_PER_ENTRY_MAX, Entry, EventRecord, Expected, NotAStream,
    Position, StreamId, StreamKind, Urgency, Version,
};
pub use error::{AppendError, Contradiction, Corruption, Damage, DiskError, Fault, ReadError, StartError};
#[doc(hidden)]
pub use folds::{KeptFold, folds_in, keep_folds};
#[doc(hidden)]
pub use journal::archive::{packed, unpacked};
pub use local::{LocalLog, LogConfig};
pub use lock::is_in_use;
pub use memory::{Crash, MemoryLog};
pub use offline::{Ending, Entries, OfflineLog};
#[doc(hidden)]
pub use reading::{group_entries, group_value};
#[doc(hidden)]
pub use snapshots::{heads_again, snapshot_again};
pub use verify::{Report, SegmentReport, verify};
pub use witness::log_exists;

/// An append-only log of entries, in streams.
///
/// # The contract
///
/// - **Durable means durable.** When [`append`](Self::append) has answered with success, no crash of the
///   process and no loss of power takes the entry away. Nothing that is read from the log (by any method) can
///   be lost either: what is not durable yet is not shown.
/// - **All or nothing.** The events of one append stand in one entry, in their order.
/// - **Dense.** Positions are 1, 2, 3, ... without a gap, in the order in which entries became durable. An
///   append that has been answered before another one is made has the smaller position.
/// - **One history per stream.** [`Expected`] is compared with the stream as it is with every append before
///   this one, those in flight included. A conflict is answered once what it conflicts with is durable, so
///   that who reads next sees it.
/// - **Read your writes.** What an append has acknowledged, every later read sees, by any task; and so does
///   what a follower has been given.
/// - **Refusals leave nothing behind.** After an error other than [`AppendError::Stopped`] the entry is not
///   in the log and will not be. After `Stopped` it may be there at the next start.
/// - **No undoing.** Dropping the future of an append does not take the append back.
///
/// Cursors, snapshots and folds are conveniences of those who follow the log. They are kept with less care than
/// entries: one that is lost makes its owner repeat work, so each is optional when read, and saving does not
/// fail. One that claims to know more than the log is never handed out.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Adds an entry; answers once it is durable, never before.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// Waits as long as an urgent append would, and adds nothing: for who must not tell, by the time that it
    /// takes, whether there was something to append.
    async fn append_nothing(&self) -> Result<(), AppendError>;

    /// Where the stream stands; none if it has no entry.
    async fn version(&self, stream: StreamId) -> Result<Option<Version>, ReadError>;

    /// The entries of a stream after `after`, oldest first; all of them with `None`. `after` must be a
    /// version that this stream had: what comes for another one is not specified.
    async fn read(&self, stream: StreamId, after: Option<Version>) -> Result<Vec<Arc<Entry>>, ReadError>;

    /// The entries of a stream, newest first, one read after the other as the caller asks for them: for who
    /// looks for one old event and stops there.
    fn read_back(&self, stream: StreamId) -> EntryStream;

    /// All entries from `from` up to the head at the time of this call, in the order of positions.
    fn read_all(&self, from: Position) -> EntryStream;

    /// All entries from `from`, first those that are there, then each that becomes durable, without gap and
    /// without duplicate. A follower that is slow is served from disk; it holds up nobody. Ends when the log
    /// is closed, with an error when it has stopped otherwise.
    fn follow(&self, from: Position) -> EntryStream;

    /// The entry at this position; none beyond the head.
    async fn entry(&self, position: Position) -> Result<Option<Arc<Entry>>, ReadError>;

    /// The position of the last durable entry; none if there is no entry.
    fn head(&self) -> Option<Position>;

    /// How far the follower of this name has come: what it saved last, or something older, or nothing.
    async fn cursor(&self, name: &str) -> Option<Position>;

    /// Remembers how far the follower of this name has come. Names are the program's own: few and short.
    async fn save_cursor(&self, name: &str, position: Position);

    /// The newest snapshot of the read model of this name that is intact: the position that it is made up to,
    /// and its bytes.
    async fn snapshot(&self, name: &str) -> Option<(Position, Bytes)>;

    /// Replaces the snapshot of the read model of this name. At most [`SNAPSHOT_BYTES_MAX`]; a longer one is
    /// not saved, and said so in the program's log.
    async fn save_snapshot(&self, name: &str, position: Position, bytes: Bytes);

    /// The fold of a stream that was kept last and is intact: the version that it is made up to, one that the stream
    /// has, and its bytes.
    async fn fold(&self, _stream: StreamId) -> Option<(Version, Bytes)> {
        None
    }

    /// Keeps what was made of a stream up to this version, which its owner knows from an append or a read, in place of
    /// what was kept of it before; some time later, or not at all. At most [`FOLD_BYTES_MAX`]; more is not kept. A log
    /// that has no place for them keeps none.
    fn keep_fold(&self, _stream: StreamId, _version: Version, _bytes: Bytes) {}

    /// Compresses what is whole of what entries are kept in, and moves out of the way of reading what was recorded
    /// before this moment (in milliseconds since 1970-01-01T00:00Z); entries, positions and what can be read stay the
    /// same. Gives the steps as they are taken, the last one with all that was done. Whoever drops it ends it. A log that
    /// has no archive has no steps.
    fn archive(&self, _recorded_before_ms: u64) -> ArchiveSteps {
        futures::stream::empty().boxed()
    }

    /// Waits until the log can acknowledge nothing any more, and says why. The process should end then: only
    /// a new start finds out what is on disk.
    async fn stopped(&self) -> Fault;

    /// Takes no more appends, makes durable what waits, and leaves the log so that the next start knows that
    /// nothing may be torn. Can be called more than once.
    async fn close(&self);
}

impl std::fmt::Debug for dyn EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("head", &self.head()).finish_non_exhaustive()
    }
}

/// Entries as they come. It owns what it reads from, so that it may outlive the reference to the log.
pub type EntryStream = BoxStream<'static, Result<Arc<Entry>, ReadError>>;

/// The steps of archiving, as they are taken. Behind an error comes nothing.
pub type ArchiveSteps = BoxStream<'static, Result<ArchiveStep, ReadError>>;

/// The most bytes that a snapshot of a read model may have.
pub const SNAPSHOT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most bytes that a fold of a stream may have.
pub const FOLD_BYTES_MAX: usize = 2 * 1024 * 1024;
