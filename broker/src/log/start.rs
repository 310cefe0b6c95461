//! Starting: the journal says what there is, and everything else is made to agree with it.
//!
//! 1. The journal is read (`journal::start`): anything unreadable that is not a torn tail ends the start with
//!    an error. What is readable of its last segment is copied.
//! 2. Before the copy takes its place, and with it a torn tail is cut off, snapshots and store are asked what
//!    they know (`witness`). If one of them knows of a position that the journal does not reach, or of another
//!    journal, or if there is no journal where they are, something is lost or was put back wrongly: no start,
//!    and nothing was changed. A store that cannot be opened is set aside, and rebuilt. (The copy comes first
//!    because it must not find that the store has taken the last room.)
//! 3. One pass over the journal brings the heads and the store up to its end, from where the older of the two
//!    stands. It goes back further, to check what is cheap to check: the newest [`LogConfig::check_bytes`] of
//!    the journal are read, and compared with the store. A store that has gaps there, or something else, is
//!    set aside, and rebuilt by another pass from the beginning.
//!
//! What is older than that is not read at every start, so that a start does not grow with the log: `log
//! verify` reads all of it, and whoever reads an entry there has its checksum compared.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::backup::unfinished_restore;
use super::entry::{Entry, Position};
use super::error::{Contradiction, Damage, DiskError, StartError};
use super::format::{EntryHeader, decode_entry, put_behind_length, split_entries};
use super::heads::Heads;
use super::journal::disk::{Disk, OsDisk};
use super::journal::format::JournalId;
use super::journal::reader::{JournalReader, Records};
use super::journal::segment::Record;
use super::journal::start::{JournalLimits, Opened, Standing, open as open_journal};
use super::local::LogConfig;
use super::lock::Lock;
use super::part::{Cause, StoreError, group_last, group_of};
use super::progress::Progress;
use super::snapshots::{HEADS, Snapshots};
use super::store::{Store, remove_aside, set_aside};
use super::witness::{Witnesses, contradictions};

/// A log that is ready to work.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) lock: Lock,
    pub(crate) journal: Opened,
    pub(crate) snapshots: Snapshots<OsDisk>,
    pub(crate) heads: Heads,
    /// The position that the saved heads were made up to.
    pub(crate) heads_at: Option<Position>,
    /// None if it cannot be used now, for a reason that may pass.
    pub(crate) store: Option<Store>,
    pub(crate) stored: Option<Position>,
    /// The entries behind those that the store has, if there is a store.
    pub(crate) newest: Vec<Arc<Entry>>,
}

/// Opens the log in the configured folder, or makes one there. The journal is on `disk`.
pub(crate) fn start(
    config: &LogConfig,
    new_id: JournalId,
    disk: &Arc<dyn Disk>,
) -> Result<Started, StartError> {
    // A new log would stand in the way of the one that is being restored, and nobody would know of it.
    if let Some(unfinished) = unfinished_restore(&config.folder)? {
        return Err(StartError::Restoring { unfinished });
    }
    for folder in [&config.folder, &config.journal_folder(), &config.snapshot_folder()] {
        make_folder(folder)?;
    }
    keep_private(&config.folder)?;
    let lock = Lock::take(&config.folder)?;
    let limits = JournalLimits {
        segment_bytes: config.segment_bytes,
        record_bytes_max: u32::try_from(config.batch_bytes_max).unwrap_or(u32::MAX),
    };
    let mut kept = None;
    let mut open = || {
        open_journal(Arc::clone(disk), &config.journal_folder(), limits, new_id, &mut |standing| {
            hear_witnesses(config, standing)?;
            if let (Some(standing), None) = (standing, &kept) {
                kept = Some(Kept::ask(config, standing)?);
            }
            Ok(())
        })
    };
    let journal = match open() {
        // A store that was set aside is only there to be looked at, and may be what takes the room.
        Err(StartError::Disk(error)) if error.no_room() && remove_aside(&config.store_folder()).is_ok() => {
            open()?
        }
        opened => opened?,
    };
    let standing = Standing { id: journal.reader.id(), head: journal.head };
    // The store of a new journal is made when that is durable: where there is a store, there was a journal.
    let kept = kept.map_or_else(|| Kept::ask(config, standing), Ok)?;
    let snapshots = Snapshots::new(OsDisk, config.snapshot_folder(), standing.id);
    let (heads, heads_at) = load_heads(&snapshots);
    let (store, stored) = (None, None);
    let checked_from = journal.reader.first_within(config.check_bytes)?;
    let mut pass = Pass { journal: &journal, config, heads, heads_at, store, stored, checked_from };
    match kept {
        Kept::Open(store, stored) => (pass.store, pass.stored) = (Some(store), stored),
        Kept::Lost(reason) => pass.rebuild_store(&reason)?,
        Kept::Unusable => {}
    }
    let newest = match pass.run()? {
        Outcome::Agrees(newest) => newest,
        Outcome::Distrusts(reason) => {
            pass.rebuild_store(&reason)?;
            match pass.run()? {
                Outcome::Agrees(newest) => newest,
                // What has just been put there is not there.
                Outcome::Distrusts(reason) => {
                    tracing::error!(reason, "the store does not keep what it is given: starting without it");
                    (pass.store, pass.stored) = (None, None);
                    Vec::new()
                }
            }
        }
    };
    let Pass { heads, store, stored, .. } = pass;
    let newest = if store.is_some() { newest } else { Vec::new() };
    let (head, streams) = (journal.head.map(Position::number), heads.len());
    match (head, journal.was_closed) {
        (None, false) => tracing::info!("a new log"),
        (_, true) => tracing::info!(head, streams, "the log, as it was closed"),
        (_, false) => {
            tracing::info!(head, streams, "the log was not closed: all that was readable is durable again");
        }
    }
    Ok(Started { lock, journal, snapshots, heads, heads_at, store, stored, newest })
}

/// Shuts the log's folder to others: who made it for us may have left it open, and sled's files are for everybody to
/// read.
fn keep_private(folder: &Path) -> Result<(), StartError> {
    let failed = |error| DiskError::new("shut to others", folder, &error);
    let permissions = std::fs::metadata(folder).map_err(failed)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
        tracing::info!(folder = %folder.display(), "the log's folder was open to others: it is not any more");
    }
    Ok(())
}

/// Makes a folder where there is none, and its name durable in any case: one that is there may have been made
/// by a start that was cut short before this.
fn make_folder(folder: &Path) -> Result<(), StartError> {
    let failed = |action, folder: &Path, error: &std::io::Error| DiskError::new(action, folder, error);
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        make_folder(parent)?;
    }
    let made = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(folder);
    if let Err(error) = made
        && !folder.is_dir()
    {
        return Err(failed("make", folder, &error).into());
    }
    let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
    Ok(synced.map_err(|error| failed("sync", parent, &error))?)
}

/// Asks all but a store that can be asked when it is opened to work with.
fn hear_witnesses(config: &LogConfig, standing: Option<Standing>) -> Result<(), StartError> {
    let witnesses = Witnesses::ask(config, standing.is_none())?;
    let against = contradictions(&config.journal_folder(), standing, &witnesses.claims);
    against.into_iter().next().map_or(Ok(()), |contradiction| Err(contradiction.into()))
}

/// What is left of the store.
enum Kept {
    /// It can be used, and this is the last position that it need not be given.
    Open(Store, Option<Position>),
    /// It has to be made anew, and why.
    Lost(String),
    /// It cannot be used now, for a reason that may pass.
    Unusable,
}

impl Kept {
    /// Opens the store. One that contradicts the journal ends the start.
    fn ask(config: &LogConfig, standing: Standing) -> Result<Self, StartError> {
        let folder = config.store_folder();
        let open = || {
            let limits = config.store_limits();
            let store = Store::open(&folder, limits, standing.id, limits.begin(standing.head))?;
            Ok((store.seen()?, store.stored()?, store))
        };
        let opened = match open() {
            // Only there to be looked at, and may be what takes the room.
            Err(StoreError { cause: Cause::NoRoom, .. }) if remove_aside(&folder).is_ok() => open(),
            opened => opened,
        };
        match opened {
            Ok((Some(seen), _, _)) if Some(seen) > standing.head => {
                Err(Contradiction::JournalBehind { witness: folder, seen, journal: standing.head }.into())
            }
            Ok((_, stored, store)) => Ok(Self::Open(store, stored)),
            Err(StoreError { cause: Cause::Foreign, .. }) => {
                let journal = config.journal_folder();
                Err(Contradiction::AnotherJournal { journal, witness: folder }.into())
            }
            Err(error) if error.cause != Cause::Lost => {
                tracing::error!(%error, "the store cannot be opened now: starting without it");
                Ok(Self::Unusable)
            }
            Err(error) => Ok(Self::Lost(error.to_string())),
        }
    }
}

/// The heads as they were saved last; none if that is not there or cannot be believed.
fn load_heads(snapshots: &Snapshots<OsDisk>) -> (Heads, Option<Position>) {
    let Some((position, bytes)) = snapshots.load(HEADS) else { return (Heads::new(), None) };
    let Some((heads, _)) = Heads::from_bytes(&bytes) else {
        tracing::warn!(file = %snapshots.path(HEADS).display(), "not the heads of a log: reading them anew");
        return (Heads::new(), None);
    };
    (heads, Some(position))
}

/// The pass over the journal.
struct Pass<'a> {
    journal: &'a Opened,
    config: &'a LogConfig,
    heads: Heads,
    heads_at: Option<Position>,
    store: Option<Store>,
    stored: Option<Position>,
    /// From here on, what the store has is compared.
    checked_from: Position,
}

enum Outcome {
    /// Heads and store are up to date. The entries that fill no group yet come with it.
    Agrees(Vec<Arc<Entry>>),
    /// The store is not what the journal says, and why.
    Distrusts(String),
}

impl Pass<'_> {
    /// Sets the store aside and makes an empty one.
    fn rebuild_store(&mut self, reason: &str) -> Result<(), StartError> {
        let folder = self.config.store_folder();
        (self.store, self.stored) = (None, None);
        tracing::warn!(reason, folder = %folder.display(), "the store is set aside and made anew from the journal");
        set_aside(&folder).map_err(|error| DiskError::new("set aside", &folder, &error))?;
        let limits = self.config.store_limits();
        let begin = limits.begin(self.journal.head);
        match Store::open(&folder, limits, self.journal.reader.id(), begin) {
            Ok(store) => (self.store, self.stored) = (Some(store), begin.before()),
            Err(error) => tracing::error!(%error, "no store can be made now: starting without it"),
        }
        Ok(())
    }

    /// Where the pass has to begin: at the start of a group, so that it sees whole ones.
    fn begin(&self) -> Position {
        let behind = if self.store.is_some() { self.heads_at.min(self.stored) } else { self.heads_at };
        group_of(Position::after(behind).min(self.checked_from))
    }

    fn run(&mut self) -> Result<Outcome, StartError> {
        let Some(head) = self.journal.head else { return Ok(Outcome::Agrees(Vec::new())) };
        let begin = self.begin();
        let reader: &Arc<JournalReader> = &self.journal.reader;
        let mut progress = Progress::new("reading the journal", reader.bytes_from(begin)?);
        let mut records = reader.records(begin, head).map_err(StartError::from_read)?;
        let (mut group, mut body) = (begin, Vec::new());
        while let Some(record) = records.read()? {
            for (position, entry) in records.entries() {
                self.follow_heads(&records, record, position, entry)?;
                put_behind_length(&mut body, entry);
                if position == group_last(group) {
                    if let Err(reason) = self.bring_to_store(group, &body) {
                        return Ok(Outcome::Distrusts(reason));
                    }
                    group = position.next();
                    body.clear();
                }
            }
            progress.advance(record.bytes);
        }
        Ok(Outcome::Agrees(decode_newest(&body, group, &records)?))
    }

    /// Checks an entry's place in its stream, and moves the stream's head to it.
    fn follow_heads(
        &self,
        records: &Records,
        record: Record,
        position: Position,
        entry: &[u8],
    ) -> Result<(), StartError> {
        let corrupt = |damage| StartError::Corrupt(records.corruption(record, position, damage));
        let header = EntryHeader::decode(entry, position).map_err(|malformed| corrupt(malformed.into()))?;
        let head = self.heads.get(header.stream);
        // Saved heads may know of it already, or of a later one.
        if head >= Some(position) || Some(position) <= self.heads_at {
            return Ok(());
        }
        if head != header.previous {
            let what = format!(
                "it names {} as the one before it in its stream, which is {}",
                Named(header.previous),
                Named(head)
            );
            return Err(corrupt(Damage::Entry { what }));
        }
        self.heads.advance(header.stream, position);
        Ok(())
    }

    /// Puts a group into the store, or compares it with what is there. An error is why not to trust the
    /// store.
    fn bring_to_store(&mut self, group: Position, body: &[u8]) -> Result<(), String> {
        let Some(store) = self.store.as_ref().filter(|store| store.open_from() <= group) else {
            return Ok(());
        };
        if Some(group_last(group)) <= self.stored {
            if group_last(group) < self.checked_from {
                return Ok(());
            }
            return match store.group(group) {
                Ok(Some(own)) if own == body => Ok(()),
                Ok(Some(_)) => Err(format!("it does not agree with the journal at position {group}")),
                Ok(None) => Err(format!("it lacks position {group}")),
                Err(error) => Err(error.to_string()),
            };
        }
        match store.put_group(group, body) {
            Ok(()) => self.stored = Some(group_last(group)),
            Err(error) if error.cause == Cause::NoRoom => {
                tracing::error!(%error, "the store takes nothing in now: starting without it");
                (self.store, self.stored) = (None, None);
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }
}

/// The entries of a group that is not whole yet.
fn decode_newest(body: &[u8], group: Position, records: &Records) -> Result<Vec<Arc<Entry>>, StartError> {
    let body = Bytes::copy_from_slice(body);
    let positions = std::iter::successors(Some(group), |position| Some(position.next()));
    let entries = positions.zip(split_entries(&body)).map(|(position, entry)| {
        let entry = entry.and_then(|entry| decode_entry(&Bytes::copy_from_slice(entry), position));
        entry.map(Arc::new).map_err(|malformed| records.last_corruption(position, malformed.into()))
    });
    Ok(entries.collect::<Result<_, _>>()?)
}

/// A position, or that there is none.
struct Named(Option<Position>);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(position) => write!(f, "position {position}"),
            None => f.write_str("none"),
        }
    }
}
