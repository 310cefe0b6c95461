//! A backup of the log: a copy of all that is truth in it, with a list that says what it must be.
//!
//! ```text
//! manifest.json    what there is, with SHA-256 of each file, and of itself; written last, in one step
//! journal/         the journal's segments, record by record as they were read; plain, whatever is archived in the log
//! lock             one backup at a time
//! ```
//!
//! - **Online.** The journal is only ever appended to, so that what can be read of it at any moment is a whole log,
//!   shorter than the one that goes on. Nothing is asked of the broker, and nothing of it waits.
//! - **Checked while it is copied.** Each record's checksums are compared, positions must be dense: damage ends the
//!   backup, and does not get into it.
//! - **Only what is new.** A segment that was whole the last time is not copied again. Of the two that touch what is
//!   new, the old part must be what it was: another log, or one that was restored and went on, is not mixed in.
//! - **Crash safe.** What the last manifest lists stays as it is until the next one takes its place: segments only
//!   become longer, and what is behind the length that a manifest names is not part of the backup.
//!
//! sled and snapshots are not copied: they come back from the journal.

mod copy;
pub mod manifest;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::copy::{Copied, Known, copy, copy_archived};
use self::manifest::{Listed, Manifest, Of, Sum, sync_folder};
use super::entry::Position;
use super::error::{Corruption, DiskError, FileError, StartError};
use super::journal::disk::{Disk, DiskFile, OsDisk, TEMPORARY, install};
use super::journal::format::{Form, JournalId};
use super::journal::segment::{SegmentReader, list_segments, segment_name};
use super::local::JOURNAL_FOLDER;
use super::lock::Lock;
use super::progress::Progress;
use super::verify::verify_on;
use super::witness::log_exists;

/// Where a journal is put together before it gets its name.
const RESTORING_FOLDER: &str = "journal.restoring";
/// What a backup's folder may have in it before the first one.
const LOCK_NAME: &str = "lock";

/// Why there is no backup, or it is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What was to be copied is not what was written.
    #[error("the log is damaged, and damage is not copied: {0}; `countersign log verify` says more")]
    Damaged(Corruption),
    /// There is nothing to copy.
    #[error("{}: there is no log here", folder.display())]
    NoLog {
        /// Where.
        folder: PathBuf,
    },
    /// Something else is there.
    #[error("{}: is not empty and holds no backup: take another folder", folder.display())]
    NotEmpty {
        /// Where.
        folder: PathBuf,
    },
    /// Two at once.
    #[error("{}: another backup is being made here: wait for its end", folder.display())]
    Busy {
        /// Where.
        folder: PathBuf,
    },
    /// The backup there is of another log, or of what this one was before it was restored and went on.
    #[error(
        "{}: holds the backup of another log, or of this one before it was restored and went on: take another folder, and \
         keep this one until you know which is right", folder.display()
    )]
    AnotherLog {
        /// Where.
        folder: PathBuf,
    },
    /// The log knows less than its backup.
    #[error(
        "{}: knows the log up to position {backup}, and the log ends at {log}: it has lost entries, or an older backup was \
         restored; take another folder, and keep this one until you know which is right", folder.display()
    )]
    LogBehind {
        /// Where.
        folder: PathBuf,
        /// The backup's last position.
        backup: u64,
        /// The log's last position.
        log: u64,
    },
    /// There is no backup.
    #[error("{}: there is no whole backup here", folder.display())]
    NoBackup {
        /// Where.
        folder: PathBuf,
    },
    /// What is there is not what was written.
    #[error("{}: {problem}: this backup cannot be relied on", file.display())]
    NotAsWritten {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer release has made it.
    #[error("{}: was made by a newer release (format {format})", file.display())]
    Newer {
        /// Which file.
        file: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Something is where it should be put.
    #[error("{}: there is something already, and nothing is overwritten: move it away, or restore elsewhere", there.display())]
    Exists {
        /// What.
        there: PathBuf,
    },
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Corrupt(corruption) => Self::Damaged(corruption),
            FileError::Disk(error) => Self::Disk(error),
        }
    }
}

/// What was done.
#[derive(Debug)]
pub struct Made {
    /// What there is now.
    pub manifest: Manifest,
    /// How many files were written, and how many bytes.
    pub written: (usize, u64),
}

/// Copies what is new in the log of this broker to a backup, which is made if there is none.
pub fn create(log: &Path, to: &Path, broker_id: &str, now_ms: u64) -> Result<Made, Error> {
    let segments = truth(log)?;
    let Some(newest) = segments.last() else { return Err(Error::NoLog { folder: log.to_owned() }) };
    let (_lock, before) = open(to, broker_id)?;
    let (disk, journal) = (OsDisk, log.join(JOURNAL_FOLDER));
    let id = SegmentReader::open(&disk, &journal, segments[0].first, None)?.header.journal;
    if before.of.journal.as_deref().is_some_and(|own| own != hex(id)) {
        return Err(Error::AnotherLog { folder: to.to_owned() });
    }
    let mut progress = Progress::new("copying the journal", segments.iter().map(|one| one.bytes).sum());
    let (mut files, mut written, mut next) = (Vec::new(), (0, 0), Position::FIRST);
    let mut last_recorded_ms = before.of.last_recorded_ms;
    for segment in &segments {
        let name = segment_name(segment.first);
        let known = before.file(&format!("{JOURNAL_FOLDER}/{name}"));
        // All but the last two that were known are whole, and what comes behind them proves it.
        let behind = before.files.iter().rev().take(2).all(|two| Some(two) != known);
        if let Some(known) = known.filter(|known| behind && is_there(to, known)) {
            next = known.next();
            files.push(known.clone());
            progress.advance(segment.bytes);
            continue;
        }
        let mut source = SegmentReader::open(&disk, &journal, segment.first, Some(id))?;
        let is_last = segment.first == newest.first;
        let mut copied = None;
        install(&disk, &to.join(JOURNAL_FOLDER), &name, |file| {
            let done = match source.header.form {
                Form::Plain => copy(&mut source, file, is_last, known.map(|known| known.bytes))?,
                Form::Archived => {
                    let own = known.map(|known| own_segment(to, segment.first, id, known)).transpose()?;
                    copy_archived(&mut source, file, own)?
                }
            };
            if known.is_some_and(|known| done.prefix.as_ref() != Some(&known.sha256)) {
                return Err(match known {
                    Some(known) if done.bytes < known.bytes && is_last => {
                        behind_error(to, &before, done.next)
                    }
                    _ => Error::AnotherLog { folder: to.to_owned() },
                });
            }
            copied = Some(done);
            Ok::<_, Error>(())
        })?;
        let Some(Copied { sum, next: behind, last_recorded_ms: at, bytes, .. }) = copied else { continue };
        if segment.first != next {
            return Err(Error::NotAsWritten {
                file: journal.join(&name),
                problem: format!("position {next} is missing"),
            });
        }
        next = behind;
        last_recorded_ms = at.or(last_recorded_ms);
        files.push(Listed::new(format!("{JOURNAL_FOLDER}/{name}"), bytes, sum, segment.first, next));
        written = (written.0 + 1, written.1 + bytes);
        progress.advance(segment.bytes);
    }
    let head = next.before().map(Position::number);
    if head < before.of.head {
        return Err(behind_error(to, &before, next));
    }
    sync_folder(&to.join(JOURNAL_FOLDER))?;
    let of = Of { broker_id: broker_id.to_owned(), journal: Some(hex(id)), head, last_recorded_ms };
    let manifest = Manifest::new(now_ms, of, files);
    manifest.write(to)?;
    Ok(Made { manifest, written })
}

/// Reads all of a backup, and says the first thing that is not as it was written.
pub fn check(from: &Path) -> Result<Manifest, Error> {
    // The first one may have been interrupted.
    let manifest = Manifest::read(from)?.filter(|manifest| !manifest.files.is_empty());
    let manifest = manifest.ok_or_else(|| Error::NoBackup { folder: from.to_owned() })?;
    let bytes = manifest.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    let mut progress = Progress::new("reading the backup", bytes);
    for file in &manifest.files {
        let path = from.join(&file.path);
        let mut sum = Sum::default();
        read_listed(&path, file, &mut |bytes| {
            sum.add(bytes);
            Ok(())
        })?;
        file.must_be(&path, &sum.finish())?;
        progress.advance(file.bytes);
    }
    // The sums say that it is what was copied; this, that it is a log.
    let (report, id) = verify_on(Arc::new(OsDisk), &from.join(JOURNAL_FOLDER))?;
    let broken = |file: PathBuf, problem: String| Error::NotAsWritten { file, problem };
    if let Some(found) = report.findings.into_iter().next() {
        return Err(broken(found.file.clone(), found.to_string()));
    }
    if id.map(hex) != manifest.of.journal || report.head.map(Position::number) < manifest.of.head {
        return Err(broken(
            from.join(JOURNAL_FOLDER),
            "is not the journal that the manifest tells of".to_owned(),
        ));
    }
    Ok(manifest)
}

/// Marks the place of a log that is not there as one that a backup is being put into: until [`restore`] is done, no log
/// begins there.
pub fn begin_restore(log: &Path) -> Result<(), Error> {
    must_be_free(log)?;
    let making = log.join(RESTORING_FOLDER);
    make_folder(&making)?;
    sync_folder(log)?;
    if let Some(above) = log.parent().filter(|above| !above.as_os_str().is_empty()) {
        sync_folder(above)?;
    }
    // What an interrupted one has left; the mark itself stays all the time.
    for name in OsDisk.names(&making).map_err(failed("list", &making))? {
        fs::remove_file(making.join(&name)).map_err(failed("remove", &making))?;
    }
    Ok(())
}

/// What a restore that was interrupted, or goes on, has left where there is no log; none if there is nothing of it.
pub fn unfinished_restore(log: &Path) -> Result<Option<PathBuf>, DiskError> {
    let making = log.join(RESTORING_FOLDER);
    let begun = making.try_exists().map_err(failed("look at", &making))?;
    let none = list_segments(&OsDisk, &log.join(JOURNAL_FOLDER))?.is_empty();
    Ok(Some(making).filter(|_| begun && none))
}

/// Puts a backup that was checked in the place of a log that is not there. It is read once more while it is copied; the
/// journal gets its name when all of it is on disk.
pub fn restore(from: &Path, checked: &Manifest, log: &Path) -> Result<(), Error> {
    begin_restore(log)?;
    let making = log.join(RESTORING_FOLDER);
    for file in &checked.files {
        let path = from.join(&file.path);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut sum = Sum::default();
        install(&OsDisk as &dyn Disk, &making, name, |to: &dyn DiskFile| {
            let mut at = 0;
            read_listed(&path, file, &mut |bytes| {
                sum.add(bytes);
                let written = to.write_at(bytes, at).map_err(failed("write", &making.join(name)));
                at += bytes.len() as u64;
                written
            })
        })?;
        file.must_be(&path, &sum.finish())?;
    }
    sync_folder(&making)?;
    must_be_free(log)?;
    let journal = log.join(JOURNAL_FOLDER);
    fs::rename(&making, &journal).map_err(failed("rename to", &journal))?;
    Ok(sync_folder(log)?)
}

/// Whether a log can be put there: nothing of another one is.
pub fn must_be_free(log: &Path) -> Result<(), Error> {
    let journal = log.join(JOURNAL_FOLDER);
    // An empty folder is nobody's.
    let taken = journal.read_dir().is_ok_and(|mut files| files.next().is_some());
    if taken || log_exists(log)? { Err(Error::Exists { there: log.to_owned() }) } else { Ok(()) }
}

/// A segment of the journal.
struct Segment {
    first: Position,
    bytes: u64,
}

/// All that is truth in a log: whatever else there is comes back from it. In the order of positions; what is open at
/// the end comes last.
fn truth(log: &Path) -> Result<Vec<Segment>, Error> {
    let folder = log.join(JOURNAL_FOLDER);
    let read = |first| {
        let bytes = SegmentReader::open(&OsDisk, &folder, first, None)?.length;
        Ok(Segment { first, bytes })
    };
    list_segments(&OsDisk, &folder)?.into_iter().map(read).collect()
}

/// The backup in a folder, which is this process's alone from now on; an empty one where there is none.
fn open(to: &Path, broker_id: &str) -> Result<(Lock, Manifest), Error> {
    make_folder(to)?;
    let known = Manifest::read(to)?;
    let names = fs::read_dir(to).map_err(failed("list", to))?;
    let others = |name: &std::ffi::OsStr| name != LOCK_NAME;
    if known.is_none() && names.flatten().any(|file| others(&file.file_name())) {
        return Err(Error::NotEmpty { folder: to.to_owned() });
    }
    let lock = Lock::take(to).map_err(|error| match error {
        StartError::Disk(error) => Error::Disk(error),
        _ => Error::Busy { folder: to.to_owned() },
    })?;
    // Of the one that has held the lock before.
    let manifest = match Manifest::read(to)? {
        Some(known) if known.of.broker_id != broker_id => {
            return Err(Error::AnotherLog { folder: to.to_owned() });
        }
        Some(known) => known,
        None => {
            // It says whose the folder is, before anything else is in it.
            let of =
                Of { broker_id: broker_id.to_owned(), journal: None, head: None, last_recorded_ms: None };
            let none = Manifest::new(0, of, Vec::new());
            none.write(to)?;
            none
        }
    };
    let journal = to.join(JOURNAL_FOLDER);
    make_folder(&journal)?;
    for name in OsDisk.names(&journal).map_err(failed("list", &journal))? {
        if name.ends_with(TEMPORARY) {
            fs::remove_file(journal.join(&name)).map_err(failed("remove", &journal))?;
        }
    }
    Ok((lock, manifest))
}

/// A segment as the backup has it.
fn own_segment(to: &Path, first: Position, id: JournalId, known: &Listed) -> Result<Known, Error> {
    let own = SegmentReader::open(&OsDisk, &to.join(JOURNAL_FOLDER), first, Some(id));
    let own = own.map_err(|error| match error {
        FileError::Corrupt(corruption) => {
            let problem = format!("is not what was written ({})", corruption.damage);
            Error::NotAsWritten { file: corruption.file, problem }
        }
        FileError::Disk(error) => Error::Disk(error),
    })?;
    Ok((own, known.bytes))
}

/// Whether a file has at least the bytes that are listed of it.
fn is_there(to: &Path, listed: &Listed) -> bool {
    to.join(&listed.path).metadata().is_ok_and(|there| there.len() >= listed.bytes)
}

/// Gives the bytes of a file that are part of the backup, piece by piece.
fn read_listed(
    path: &Path,
    listed: &Listed,
    take: &mut dyn FnMut(&[u8]) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let mut file = File::open(path).map_err(failed("read", path))?.take(listed.bytes);
    let mut piece = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&piece[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", path)(error)),
        }
    }
}

/// A folder for the broker's user alone; those above it are made, too.
fn make_folder(folder: &Path) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder).map_err(failed("make", folder))
}

fn behind_error(to: &Path, before: &Manifest, next: Position) -> Error {
    Error::LogBehind {
        folder: to.to_owned(),
        backup: before.of.head.unwrap_or_default(),
        log: next.before().map_or(0, Position::number),
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> DiskError {
    let path = path.to_owned();
    move |error| DiskError::new(action, &path, &error)
}

fn hex(id: JournalId) -> String {
    data_encoding::HEXLOWER.encode(&id)
}
