//! Segments: their names, and reading one from its start, record by record, believing nothing.
//!
//! A segment is one file: `.seg` as it was written, or `.arc` once it is archived (`archive`). Where both are, a
//! crash has come between the making of the one and the removal of the other; they say the same, and the plain
//! one stands.

use std::path::{Path, PathBuf};

use super::archive::unpack;
use super::disk::{Disk, DiskFile};
use super::format::{
    Form, JournalId, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::log::entry::Position;
use crate::log::error::{Corruption, Damage, DiskError, FileError};
use crate::log::format::{Malformed, split_entries};

/// How much is read from a file at a time, at least.
const WINDOW_BYTES: usize = 256 * 1024;

const NAME_DIGITS: usize = 20;
/// How often a folder is listed until it is the same twice, while segments are being archived in it.
const LISTINGS_MAX: u32 = 20;

/// The name of the segment whose first entry has this position: 20 digits, so that names sort as positions
/// do.
pub(crate) fn segment_name(first: Position) -> String {
    name_as(first, Form::Plain)
}

/// The same, kept in this form.
pub(crate) fn name_as(first: Position, form: Form) -> String {
    let (first, extension) = (first.number(), extension(form));
    format!("{first:0NAME_DIGITS$}{extension}")
}

fn extension(form: Form) -> &'static str {
    match form {
        Form::Plain => ".seg",
        Form::Archived => ".arc",
    }
}

/// The position that a segment's name tells, and how it is kept; none if it is no segment's name.
pub(crate) fn position_in_name(name: &str) -> Option<(Position, Form)> {
    let named = |form| Some((name.strip_suffix(extension(form))?, form));
    let (digits, form) = named(Form::Plain).or_else(|| named(Form::Archived))?;
    let plain = digits.len() == NAME_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    let first = plain.then(|| digits.parse().ok()).flatten().and_then(Position::new)?;
    Some((first, form))
}

/// The segments in a folder, in the order of their positions; none if there is no folder.
pub(crate) fn list_segments(disk: &dyn Disk, folder: &Path) -> Result<Vec<Position>, DiskError> {
    let mut firsts: Vec<_> = list_files(disk, folder)?.into_iter().map(|(first, _)| first).collect();
    firsts.dedup();
    Ok(firsts)
}

/// The files of segments in a folder, in the order of their positions; none if there is no folder.
pub(crate) fn list_files(disk: &dyn Disk, folder: &Path) -> Result<Vec<(Position, Form)>, DiskError> {
    // One whose name changes while a folder is listed may be missed under either name.
    let mut files = list_once(disk, folder)?;
    for _ in 0..LISTINGS_MAX {
        let again = list_once(disk, folder)?;
        if again == files {
            break;
        }
        files = again;
    }
    Ok(files)
}

fn list_once(disk: &dyn Disk, folder: &Path) -> Result<Vec<(Position, Form)>, DiskError> {
    let names = match disk.names(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|error| DiskError::new("list", folder, &error))?,
    };
    let mut files: Vec<_> = names.iter().filter_map(|name| position_in_name(name)).collect();
    files.sort_unstable();
    Ok(files)
}

/// A segment's file: where it is, and how the segment is kept in it.
type OpenFile = (PathBuf, Box<dyn DiskFile>, Form);

/// Opens the file of a segment, whichever it is; none if there is none.
fn open_file(disk: &dyn Disk, folder: &Path, first: Position) -> Result<Option<OpenFile>, DiskError> {
    // In this order: while a segment is archived, the one is there until the other is.
    for form in [Form::Plain, Form::Archived] {
        let path = folder.join(name_as(first, form));
        match disk.open(&path) {
            Ok(file) => return Ok(Some((path, file, form))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(DiskError::new("read", &path, &error)),
        }
    }
    Ok(None)
}

/// Reads one segment from its start.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    pub(crate) header: SegmentHeader,
    /// The file's length when it was opened.
    pub(crate) length: u64,
    /// Where the next record begins.
    pub(crate) offset: u64,
    /// The position of its first entry.
    pub(crate) next: Position,
    /// The record that was read last.
    record: Record,
    window: Window,
    /// The body of that record, if it was packed.
    unpacked: Vec<u8>,
}

/// A record that is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins in its file.
    pub(crate) offset: u64,
    /// Its length, header included.
    pub(crate) bytes: u64,
    /// The position of its first entry.
    pub(crate) first: Position,
    /// How many entries it has.
    pub(crate) count: u32,
}

impl Record {
    /// The position of its last entry.
    pub(crate) fn last(&self) -> Position {
        let last = self.first.number().saturating_add(u64::from(self.count)).saturating_sub(1);
        Position::new(last).unwrap_or(self.first)
    }
}

/// What stands at the reader's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A record of entries. The reader stands behind it now.
    Record(Record),
    /// No record, and nothing but zeros up to the end of the file.
    End,
    /// The record that closed the log, and nothing but zeros behind it.
    Closed,
    /// Something else. The reader stays where it is.
    Damaged(Damage),
}

impl SegmentReader {
    /// Opens the segment that begins at `first` and checks its header, which must tell the same, and be of
    /// this journal if it is known.
    pub(crate) fn open(
        disk: &dyn Disk,
        folder: &Path,
        first: Position,
        journal: Option<JournalId>,
    ) -> Result<Self, FileError> {
        let Some((path, file, form)) = open_file(disk, folder, first)? else {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DiskError::new("read", &folder.join(segment_name(first)), &missing).into());
        };
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(|error| DiskError::new("read", &path, &error))?;
        let header = SegmentHeader::decode(&bytes[..read]).and_then(|header| {
            let own = journal.is_none_or(|journal| journal == header.journal);
            let belongs = header.first == first && header.form == form && own;
            belongs.then_some(header).ok_or(Damage::ForeignSegment)
        });
        let header =
            header.map_err(|damage| Corruption { file: path.clone(), offset: 0, position: first, damage })?;
        Ok(Self::new(path, file, header)?)
    }

    /// Opens a segment as if its header were this one, whatever its form is; none if it is not there.
    pub(crate) fn open_as(
        disk: &dyn Disk,
        folder: &Path,
        header: SegmentHeader,
    ) -> Result<Option<Self>, DiskError> {
        let Some((path, file, form)) = open_file(disk, folder, header.first)? else { return Ok(None) };
        Self::new(path, file, SegmentHeader { form, ..header }).map(Some)
    }

    /// Opens a segment whose file has another name, and whose header must be this one.
    pub(crate) fn open_file_as(
        path: &Path,
        disk: &dyn Disk,
        header: SegmentHeader,
    ) -> Result<Self, FileError> {
        let failed = |error| DiskError::new("read", path, &error);
        let file = disk.open(path).map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(failed)?;
        let reader = Self::new(path.to_owned(), file, header)?;
        match SegmentHeader::decode(&bytes[..read]) {
            Ok(found) if found == header => Ok(reader),
            Ok(_) => Err(Corruption { offset: 0, ..reader.corruption(Damage::ForeignSegment) }.into()),
            Err(damage) => Err(Corruption { offset: 0, ..reader.corruption(damage) }.into()),
        }
    }

    fn new(path: PathBuf, file: Box<dyn DiskFile>, header: SegmentHeader) -> Result<Self, DiskError> {
        let length = file.length().map_err(|error| DiskError::new("read", &path, &error))?;
        let (offset, next) = (SEGMENT_HEADER_BYTES as u64, header.first);
        let record = Record { offset, bytes: 0, first: next, count: 0 };
        let (window, unpacked) = (Window::default(), Vec::new());
        Ok(Self { path, file, header, length, offset, next, record, window, unpacked })
    }

    /// Where the segment's file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes to a record that is known to begin at `offset` with the entry of this position.
    pub(crate) fn seek(&mut self, offset: u64, next: Position) {
        (self.offset, self.next) = (offset, next);
    }

    /// Forgets what it has read of the file, which may have been written to since: what was read before that, and what
    /// stands behind it now, do not go together.
    pub(crate) fn look_again(&mut self) -> Result<(), DiskError> {
        self.window = Window::default();
        self.length = self.file.length().map_err(|error| DiskError::new("read", &self.path, &error))?;
        Ok(())
    }

    /// Passes over the next record without a look at its body if its last entry is before `position`, and gives
    /// it. Whatever is wrong there, [`read`](Self::read) says.
    pub(crate) fn pass(&mut self, position: Position) -> Result<Option<Record>, DiskError> {
        let (offset, first) = (self.offset, self.next);
        // Of records that are long, the next header is all that is wanted: no need to read ahead.
        let ahead = match self.header.form {
            Form::Plain => self.length.saturating_sub(offset),
            Form::Archived => 0,
        };
        self.load_ahead(offset, RECORD_HEADER_BYTES, ahead)?;
        let bytes = self.window.get(offset, RECORD_HEADER_BYTES);
        let Some(header) = RecordHeader::decode(bytes, self.header.seed()) else { return Ok(None) };
        let record = Record { offset, bytes: header.record_bytes(), first, count: header.count };
        let whole = offset + record.bytes <= self.length && record.count > 0;
        if header.kind != self.kind() || header.first != first || !whole || record.last() >= position {
            return Ok(None);
        }
        self.seek(offset + record.bytes, record.last().next());
        Ok(Some(record))
    }

    /// What its records of entries are.
    fn kind(&self) -> RecordKind {
        match self.header.form {
            Form::Plain => RecordKind::Entries,
            Form::Archived => RecordKind::Packed,
        }
    }

    /// Reads on.
    pub(crate) fn read(&mut self) -> Result<Found, DiskError> {
        let (offset, first) = (self.offset, self.next);
        let Some(header) = self.record_header_at(offset)? else {
            let blank = self.last_byte_from(offset)?.is_none();
            return Ok(if blank { Found::End } else { Found::Damaged(Damage::RecordHeader) });
        };
        let bytes = header.record_bytes();
        if header.first != first {
            return Ok(Found::Damaged(Damage::RecordOrder { found: header.first }));
        }
        if header.kind == RecordKind::Closing {
            let blank = self.last_byte_from(offset + bytes)?.is_none();
            return Ok(if blank { Found::Closed } else { Found::Damaged(Damage::BytesAfterEnd) });
        }
        if header.kind != self.kind() {
            return Ok(Found::Damaged(Damage::from(Malformed(
                "its record is not as those of its segment are",
            ))));
        }
        if bytes > u64::from(self.header.record_bytes_max) {
            return Ok(Found::Damaged(Damage::from(Malformed("its record is too long"))));
        }
        self.record = Record { offset, bytes, first, count: header.count };
        self.load(offset, to_usize(bytes))?;
        let mut unpacked = std::mem::take(&mut self.unpacked);
        let body = self.record().get(RECORD_HEADER_BYTES..).unwrap_or_default();
        if body.len() < header.body_bytes as usize || crc32c::crc32c(body) != header.body_crc {
            return Ok(Found::Damaged(Damage::RecordBody));
        }
        let opened = match header.kind {
            RecordKind::Packed => unpack(body, &mut unpacked),
            _ => Ok(()),
        };
        self.unpacked = unpacked;
        if let Err(malformed) = opened.and_then(|()| check_entries(self.body(), header.count)) {
            return Ok(Found::Damaged(Damage::from(malformed)));
        }
        self.offset = offset + bytes;
        self.next = self.record.last().next();
        Ok(Found::Record(self.record))
    }

    /// The record that was read last, as it stands in the file.
    pub(crate) fn record(&self) -> &[u8] {
        self.window.get(self.record.offset, to_usize(self.record.bytes))
    }

    /// The entries of the record that was read last, each as its bytes.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Position, &[u8])> {
        let positions = std::iter::successors(Some(self.record.first), |position| Some(position.next()));
        positions.zip(split_entries(self.body()).map_while(Result::ok))
    }

    /// The entries of the record that was read last, each behind its length.
    pub(crate) fn body(&self) -> &[u8] {
        match self.header.form {
            Form::Plain => self.record().get(RECORD_HEADER_BYTES..).unwrap_or_default(),
            Form::Archived => &self.unpacked,
        }
    }

    /// What is wrong at the reader's place, for who meets `damage` there.
    pub(crate) fn corruption(&self, damage: Damage) -> Corruption {
        Corruption { file: self.path.clone(), offset: self.offset, position: self.next, damage }
    }

    /// The record header at an offset, if there is a sound one.
    pub(crate) fn record_header_at(&mut self, offset: u64) -> Result<Option<RecordHeader>, DiskError> {
        self.load(offset, RECORD_HEADER_BYTES)?;
        let bytes = self.window.get(offset, RECORD_HEADER_BYTES);
        Ok(RecordHeader::decode(bytes, self.header.seed()))
    }

    /// The offset of the last byte of the file, from `offset` on, that is not zero.
    pub(crate) fn last_byte_from(&mut self, offset: u64) -> Result<Option<u64>, DiskError> {
        let mut end = self.length;
        while end > offset {
            let start = end.saturating_sub(WINDOW_BYTES as u64).max(offset);
            let bytes = to_usize(end - start);
            self.load(start, bytes)?;
            if let Some(at) = self.window.get(start, bytes).iter().rposition(|byte| *byte != 0) {
                return Ok(Some(start + at as u64));
            }
            end = start;
        }
        Ok(None)
    }

    /// The first record header that is `wanted` at an offset of `from` to `last`, and its offset.
    pub(crate) fn find_header(
        &mut self,
        from: u64,
        last: u64,
        wanted: impl Fn(RecordHeader) -> bool,
    ) -> Result<Option<(u64, RecordHeader)>, DiskError> {
        let seed = self.header.seed();
        let mut start = from;
        while start <= last {
            let offsets = to_usize((last - start + 1).min(WINDOW_BYTES as u64));
            let bytes = offsets + RECORD_HEADER_BYTES - 1;
            self.load(start, bytes)?;
            let places = self.window.get(start, bytes).windows(RECORD_HEADER_BYTES);
            let mut headers = (start..).zip(places).filter_map(|(offset, place)| {
                RecordHeader::decode(place, seed)
                    .filter(|header| wanted(*header))
                    .map(|header| (offset, header))
            });
            if let Some(found) = headers.next() {
                return Ok(Some(found));
            }
            start += offsets as u64;
        }
        Ok(None)
    }

    fn load(&mut self, offset: u64, bytes: usize) -> Result<(), DiskError> {
        self.load_ahead(offset, bytes, self.length.saturating_sub(offset))
    }

    fn load_ahead(&mut self, offset: u64, bytes: usize, ahead: u64) -> Result<(), DiskError> {
        let loaded = self.window.load(&*self.file, offset, bytes, ahead);
        loaded.map_err(|error| DiskError::new("read", &self.path, &error))
    }
}

/// The body of a record has as many entries as its header says, and at least one.
fn check_entries(body: &[u8], count: u32) -> Result<(), Malformed> {
    let mut found = 0_u32;
    for entry in split_entries(body) {
        entry?;
        found += 1;
    }
    if found == 0 || found != count {
        return Err(Malformed("its record has another number of entries"));
    }
    Ok(())
}

/// The part of a file that is in memory.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    /// How much of `buffer` is filled.
    length: usize,
    buffer: Vec<u8>,
}

impl Window {
    /// Sees to it that the bytes from `offset` on are in memory, as far as the file has them, and more of
    /// what follows if the file is known to go on for `ahead` bytes.
    fn load(&mut self, file: &dyn DiskFile, offset: u64, bytes: usize, ahead: u64) -> std::io::Result<()> {
        let end = offset + bytes as u64;
        if offset >= self.start && end <= self.start + self.length as u64 {
            return Ok(());
        }
        let wanted = bytes.max(to_usize(ahead).min(WINDOW_BYTES));
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.length = 0;
        self.length = file.read_at(&mut self.buffer[..wanted], offset)?;
        self.start = offset;
        Ok(())
    }

    /// The bytes from `offset` on; fewer than asked for where the file has ended.
    fn get(&self, offset: u64, bytes: usize) -> &[u8] {
        let from = to_usize(offset.saturating_sub(self.start)).min(self.length);
        let to = from.saturating_add(bytes).min(self.length);
        &self.buffer[from..to]
    }
}

/// A length that is bounded by what may be in memory, or is cut to what can be.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
