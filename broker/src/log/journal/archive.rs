//! Archiving: a segment that is whole, and that sled has taken over, is written anew with its entries compressed,
//! and the file that it was is removed. Positions, entries and all that is checked stay the same, and whoever
//! reads it does not notice; it is as much a part of the journal as before.
//!
//! In this order, so that a crash at any moment leaves one sound file or two:
//!
//! 1. The entries are read, every checksum compared, and written under a temporary name, compressed.
//! 2. That is synced, and read back: it must have the same entries. Then it gets its name, and the folder is
//!    synced.
//! 3. Only then the file that the segment was is removed. If a crash comes between, both are there: whoever reads
//!    takes that one, and archiving is done again.
//!
//! It is written and synced in small pieces: the journal's own flushes wait for the same disk.

use std::path::{Path, PathBuf};

use crate::log::entry::{ENTRY_BYTES_MAX, Position};
use crate::log::error::{Corruption, Damage, DiskError, FileError};
use crate::log::format::{ENTRY_LENGTH_BYTES, Malformed, put_behind_length};

use super::disk::{Disk, DiskFile, TEMPORARY, install};
use super::format::{
    Form, JournalId, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::segment::{Found, SegmentReader, name_as};

/// So many bytes of entries become one record, with the entry that makes it full. An entry that is looked for
/// costs the reading of all of them; and LZ4 finds what is repeated within 64 KiB.
const PACK_BYTES: usize = 64 * 1024;
const UNPACKED_BYTES_MAX: usize = PACK_BYTES + ENTRY_LENGTH_BYTES + ENTRY_BYTES_MAX;
const UNPACKED_LENGTH_BYTES: usize = 4;
/// The library wants room for a tenth more than what it compresses.
const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + UNPACKED_BYTES_MAX + UNPACKED_BYTES_MAX / 8 + 64;

/// It is synced every so many bytes: one sync of all of it would hold up the journal's.
const SYNC_EVERY_BYTES: u64 = 2 * 1024 * 1024;

/// A segment that was archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archived {
    pub(crate) file: PathBuf,
    pub(crate) last: Position,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Why a segment was not archived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It is not what was written, or cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Whoever wanted it does not any more.
    #[error("it was told to stop")]
    ToldToStop,
}

impl From<DiskError> for ArchiveError {
    fn from(error: DiskError) -> Self {
        Self::File(error.into())
    }
}

/// Archives the segment that begins with `first`, which must not be the last one. `go_on` is told of so many bytes
/// more that have been read, and says whether to.
pub(crate) fn archive(
    disk: &dyn Disk,
    folder: &Path,
    first: Position,
    journal: JournalId,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Archived, ArchiveError> {
    let mut old = SegmentReader::open(disk, folder, first, Some(journal))?;
    let name = name_as(first, Form::Archived);
    let (file, temporary) = (folder.join(&name), folder.join(format!("{name}{TEMPORARY}")));
    let record_bytes_max = u32::try_from(RECORD_BYTES_MAX).expect("it is some kilobytes");
    let header = SegmentHeader { form: Form::Archived, record_bytes_max, ..old.header };
    let mut bytes_after = 0;
    install(disk, folder, &name, |to| {
        let mut packer = Packer::new(to, &temporary, header)?;
        let contents = read_all(&mut old, &mut |reader| {
            let read = reader.entries().try_for_each(|(_, entry)| packer.push(entry));
            read.map_err(ArchiveError::from)?;
            go_on(reader.record().len() as u64).then_some(()).ok_or(ArchiveError::ToldToStop)
        })?;
        bytes_after = packer.end()?;
        let mut new = SegmentReader::open_file_as(&temporary, disk, header)?;
        let same = read_all(&mut new, &mut |_| Ok(()))? == contents;
        if !same {
            let what = "what was archived does not read back as it was".to_owned();
            return Err(FileError::from(old.corruption(Damage::Entry { what })).into());
        }
        Ok::<_, ArchiveError>(())
    })?;
    disk.sync_folder(folder).map_err(|error| DiskError::new("sync", folder, &error))?;
    disk.remove(old.path()).map_err(|error| DiskError::new("remove", old.path(), &error))?;
    let last = old.next.before().unwrap_or(first);
    Ok(Archived { file, last, bytes_before: old.length, bytes_after })
}

/// What is in a segment, in short.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    next: Position,
    crc: u32,
}

/// Reads a whole segment that others follow, record by record.
fn read_all(
    reader: &mut SegmentReader,
    each: &mut dyn FnMut(&SegmentReader) -> Result<(), ArchiveError>,
) -> Result<Contents, ArchiveError> {
    let mut crc = 0;
    let damage = loop {
        match reader.read()? {
            Found::Record(_) => {
                crc = crc32c::crc32c_append(crc, reader.body());
                each(reader)?;
            }
            Found::End => return Ok(Contents { next: reader.next, crc }),
            Found::Closed => break Damage::BytesAfterEnd,
            Found::Damaged(damage) => break damage,
        }
    };
    let corruption: Corruption = reader.corruption(damage);
    Err(FileError::from(corruption).into())
}

/// Writes entries, compressed.
struct Packer<'a> {
    to: &'a dyn DiskFile,
    path: &'a Path,
    header: SegmentHeader,
    /// Where the next record will begin.
    offset: u64,
    synced: u64,
    /// The position of its first entry.
    first: Position,
    count: u32,
    /// Its entries, each behind its length.
    entries: Vec<u8>,
    record: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(to: &'a dyn DiskFile, path: &'a Path, header: SegmentHeader) -> Result<Self, DiskError> {
        let mut packer = Self {
            to,
            path,
            header,
            offset: 0,
            synced: 0,
            first: header.first,
            count: 0,
            entries: Vec::with_capacity(UNPACKED_BYTES_MAX),
            record: vec![0; RECORD_BYTES_MAX],
        };
        packer.write(&header.encode())?;
        debug_assert_eq!(packer.offset, SEGMENT_HEADER_BYTES as u64);
        Ok(packer)
    }

    fn push(&mut self, entry: &[u8]) -> Result<(), DiskError> {
        put_behind_length(&mut self.entries, entry);
        self.count += 1;
        if self.entries.len() >= PACK_BYTES { self.pack() } else { Ok(()) }
    }

    /// Writes the record of what was given since the last one.
    fn pack(&mut self) -> Result<(), DiskError> {
        let (room, body) = self.record.split_at_mut(RECORD_HEADER_BYTES);
        let body_bytes = pack(&self.entries, body);
        let body = &body[..body_bytes];
        let header = RecordHeader {
            kind: RecordKind::Packed,
            body_bytes: u32::try_from(body.len()).expect("a record is within its limit"),
            first: self.first,
            count: self.count,
            body_crc: crc32c::crc32c(body),
        };
        room.copy_from_slice(&header.encode(self.header.seed()));
        let record = std::mem::take(&mut self.record);
        let written = self.write(&record[..RECORD_HEADER_BYTES + body_bytes]);
        self.record = record;
        self.first = header.last().unwrap_or(self.first).next();
        self.count = 0;
        self.entries.clear();
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let path = self.path;
        let failed = |action| move |error| DiskError::new(action, path, &error);
        self.to.write_at(bytes, self.offset).map_err(failed("write"))?;
        self.offset += bytes.len() as u64;
        if self.offset - self.synced >= SYNC_EVERY_BYTES {
            self.to.sync_data().map_err(failed("sync"))?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Writes what is left. Gives the length of the file.
    fn end(mut self) -> Result<u64, DiskError> {
        if self.count > 0 {
            self.pack()?;
        }
        Ok(self.offset)
    }
}

/// Packs entries, each behind its length, into the body of a record; gives the length of that.
fn pack(entries: &[u8], body: &mut [u8]) -> usize {
    let length = u32::try_from(entries.len()).expect("a record is within its limit");
    body[..UNPACKED_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    let packed = lz4_flex::block::compress_into(entries, &mut body[UNPACKED_LENGTH_BYTES..])
        .expect("there is room for what cannot be compressed");
    UNPACKED_LENGTH_BYTES + packed
}

/// Unpacks the body of a packed record.
pub(crate) fn unpack(body: &[u8], entries: &mut Vec<u8>) -> Result<(), Malformed> {
    const NOT_PACKED: Malformed = Malformed("its record cannot be unpacked");
    let (length, packed) = body.split_first_chunk::<UNPACKED_LENGTH_BYTES>().ok_or(NOT_PACKED)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > UNPACKED_BYTES_MAX {
        return Err(NOT_PACKED);
    }
    entries.resize(length, 0);
    match lz4_flex::block::decompress_into(packed, entries) {
        Ok(unpacked) if unpacked == length => Ok(()),
        _ => Err(NOT_PACKED),
    }
}

/// The body of a packed record that is made of these bytes, as whoever archives makes it. For the fuzzer.
#[doc(hidden)]
pub fn packed(entries: &[u8]) -> Vec<u8> {
    let mut body = vec![0; RECORD_BYTES_MAX];
    let length = pack(entries, &mut body);
    body.truncate(length);
    body
}

/// What is unpacked from the body of a packed record; none if it is none. For the fuzzer, which meets a disk's bytes
/// here.
#[doc(hidden)]
pub fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    unpack(body, &mut entries).ok().map(|()| entries)
}
