//! Opening the journal: what is readable of it is made durable before anyone is told.
//!
//! After a crash, what can be read need not be on disk: a flush that failed leaves in the page cache what it
//! could not write, and no later flush tells. So the last segment, the only one that can hold something that
//! was never flushed with success, is not believed to be where it is: its records are copied to a new file,
//! which is synced, and renamed over the old one, and the folder is synced. Every segment before it was whole
//! on disk before the next one began.

use std::path::Path;
use std::sync::Arc;

use crate::log::entry::Position;
use crate::log::error::{Corruption, Damage, DiskError, StartError};

use super::disk::{Disk, DiskFile, TEMPORARY, install};
use super::format::{Form, JournalId, RECORD_BYTES_LIMIT, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::reader::JournalReader;
use super::segment::{Found, SegmentReader, list_segments, position_in_name, segment_name};
use super::tail::{Verdict, judge};
use super::writer::{Journal, OpenSegment};

/// How large segments and records may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalLimits {
    /// The next segment begins when this one has so many bytes.
    pub(crate) segment_bytes: u64,
    /// The most bytes of a record, its header included.
    pub(crate) record_bytes_max: u32,
}

/// A journal that is open, and what the start has found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) reader: Arc<JournalReader>,
    /// The position of the last entry.
    pub(crate) head: Option<Position>,
    /// Whether the journal was closed the last time.
    pub(crate) was_closed: bool,
}

/// A journal as it is found, before anything of it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: JournalId,
    /// The last position that can be read.
    pub(crate) head: Option<Position>,
}

/// Opens the journal in a folder, or makes one there with the id `new_id`. Nothing is changed unless `agrees`
/// does: it is told how the journal stands, none if there is none yet, when the room that is needed is taken.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    limits: JournalLimits,
    new_id: JournalId,
    agrees: &mut dyn FnMut(Option<Standing>) -> Result<(), StartError>,
) -> Result<Opened, StartError> {
    remove_unfinished(&*disk, folder)?;
    let mut segments = list_segments(&*disk, folder)?;
    let (header, tail) = if let Some(last) = segments.last().copied() {
        check_beginning(folder, &segments)?;
        let id = check_headers(&*disk, folder, &segments)?;
        let reader = SegmentReader::open(&*disk, folder, last, Some(id))?;
        check_last(&reader)?;
        let record_bytes_max = reader.header.record_bytes_max.max(limits.record_bytes_max);
        let header = SegmentHeader { record_bytes_max, ..reader.header };
        (header, rewrite(&*disk, folder, &header, Some(reader), agrees)?)
    } else {
        segments.push(Position::FIRST);
        let record_bytes_max = limits.record_bytes_max.min(RECORD_BYTES_LIMIT);
        let (form, first) = (Form::Plain, Position::FIRST);
        let header = SegmentHeader { form, journal: new_id, first, record_bytes_max };
        (header, rewrite(&*disk, folder, &header, None, agrees)?)
    };
    let reader = Arc::new(JournalReader::new(Arc::clone(&disk), folder.to_owned(), header.journal, segments));
    let path = folder.join(segment_name(header.first));
    let segment = OpenSegment::new(header, path, tail.file, tail.length);
    let (folder, next) = (folder.to_owned(), tail.next);
    let journal = Journal::new(disk, folder, limits.segment_bytes, segment, next, Arc::clone(&reader));
    Ok(Opened { journal, reader, head: next.before(), was_closed: tail.was_closed })
}

/// Removes files that a crash has interrupted the making of: none has got its name, so nobody counts on them.
fn remove_unfinished(disk: &dyn Disk, folder: &Path) -> Result<(), StartError> {
    let names = disk.names(folder).map_err(|error| DiskError::new("list", folder, &error))?;
    let unfinished =
        |name: &&String| name.strip_suffix(TEMPORARY).is_some_and(|name| position_in_name(name).is_some());
    for name in names.iter().filter(unfinished) {
        let path = folder.join(name);
        disk.remove(&path).map_err(|error| DiskError::new("remove", &path, &error))?;
    }
    Ok(())
}

/// The journal begins with the first position.
fn check_beginning(folder: &Path, segments: &[Position]) -> Result<(), StartError> {
    match segments.first() {
        Some(first) if *first > Position::FIRST => Err(StartError::Corrupt(Corruption {
            file: folder.join(segment_name(Position::FIRST)),
            offset: 0,
            position: Position::FIRST,
            damage: Damage::Gap { found: *first },
        })),
        _ => Ok(()),
    }
}

/// The last segment is one that was written to: only what has another one behind it is archived.
fn check_last(last: &SegmentReader) -> Result<(), StartError> {
    match last.header.form {
        Form::Plain => Ok(()),
        Form::Archived => Err(StartError::Corrupt(last.corruption(Damage::ArchivedLast))),
    }
}

/// Every segment's header is sound and of the same journal. Gives the journal's id.
fn check_headers(disk: &dyn Disk, folder: &Path, segments: &[Position]) -> Result<JournalId, StartError> {
    let mut id = None;
    for first in segments {
        let reader = SegmentReader::open(disk, folder, *first, id)?;
        id = Some(reader.header.journal);
    }
    Ok(id.unwrap_or_default())
}

/// The last segment, as it is on disk now.
struct Tail {
    file: Box<dyn DiskFile>,
    length: u64,
    next: Position,
    was_closed: bool,
}

/// Writes the last segment anew with what is readable of it, and puts it durably in the old one's place.
fn rewrite(
    disk: &dyn Disk,
    folder: &Path,
    header: &SegmentHeader,
    mut old: Option<SegmentReader>,
    agrees: &mut dyn FnMut(Option<Standing>) -> Result<(), StartError>,
) -> Result<Tail, StartError> {
    let name = segment_name(header.first);
    let mut copied = Copied { length: SEGMENT_HEADER_BYTES as u64, end: Ended::Open };
    let file = install(disk, folder, &name, |file| {
        let written = file.write_at(&header.encode(), 0);
        written.map_err(|error| DiskError::new("write", &folder.join(&name), &error))?;
        if let Some(old) = &mut old {
            copied = copy_records(old, file)?;
        }
        agrees(old.as_ref().map(|old| Standing { id: header.journal, head: old.next.before() }))
    })?;
    if let (Some(old), Ended::Torn) = (&old, copied.end) {
        tracing::warn!(
            file = %old.path().display(),
            offset = old.offset,
            bytes = old.length - old.offset,
            position = %old.next,
            "the last write was interrupted and nobody was told of it: cut off"
        );
    }
    disk.sync_folder(folder).map_err(|error| DiskError::new("sync", folder, &error))?;
    let next = old.map_or(header.first, |old| old.next);
    Ok(Tail { file, length: copied.length, next, was_closed: copied.end == Ended::Closed })
}

struct Copied {
    /// The length of the file that they were copied to.
    length: u64,
    /// What was behind them.
    end: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Open,
    Closed,
    Torn,
}

/// Copies what is readable; the closing record is not copied, since something will come behind it.
fn copy_records(old: &mut SegmentReader, to: &dyn DiskFile) -> Result<Copied, StartError> {
    let mut pending = Vec::with_capacity(2 * COPY_BYTES);
    let mut written = old.offset;
    let end = loop {
        match old.read()? {
            Found::Record(_) => pending.extend_from_slice(old.record()),
            Found::End => break Ended::Open,
            Found::Closed => break Ended::Closed,
            Found::Damaged(damage) => match judge(old, damage)? {
                Verdict::Torn => break Ended::Torn,
                Verdict::Corrupt(damage) => return Err(StartError::Corrupt(old.corruption(damage))),
            },
        }
        if pending.len() >= COPY_BYTES {
            write_out(old, to, &mut pending, &mut written)?;
        }
    };
    write_out(old, to, &mut pending, &mut written)?;
    Ok(Copied { length: written, end })
}

/// Records are copied together up to about so many bytes.
const COPY_BYTES: usize = 1024 * 1024;

fn write_out(
    old: &SegmentReader,
    to: &dyn DiskFile,
    pending: &mut Vec<u8>,
    written: &mut u64,
) -> Result<(), DiskError> {
    to.write_at(pending, *written).map_err(|error| DiskError::new("copy", old.path(), &error))?;
    *written += pending.len() as u64;
    pending.clear();
    Ok(())
}
