//! Copying one segment, record by record. What is archived in the log is plain in the backup: a segment is then the same
//! whenever it is copied, however old it has become meanwhile.

use bytes::Bytes;

use super::Error;
use super::manifest::Sum;
use crate::log::entry::Position;
use crate::log::error::{Damage, DiskError};
use crate::log::format::{Malformed, decode_entry, split_entries};
use crate::log::journal::disk::DiskFile;
use crate::log::journal::format::{Form, RecordHeader, RecordKind, SegmentHeader};
use crate::log::journal::segment::{Found, SegmentReader};
use crate::log::journal::tail::{Verdict, judge};

/// What was copied.
#[derive(Debug)]
pub(super) struct Copied {
    /// How many bytes.
    pub(super) bytes: u64,
    /// SHA-256 of them.
    pub(super) sum: String,
    /// SHA-256 of the first so many as were there before; none if there are fewer, or other entries.
    pub(super) prefix: Option<String>,
    /// The position behind the last entry.
    pub(super) next: Position,
    /// When the last entry was recorded.
    pub(super) last_recorded_ms: Option<u64>,
}

/// Copies the header and all whole records. Behind those of the journal's last segment may stand what is being written
/// at the moment, or a write that was interrupted: nobody was told of it.
pub(super) fn copy(
    from: &mut SegmentReader,
    to: &dyn DiskFile,
    is_last: bool,
    prefix_bytes: Option<u64>,
) -> Result<Copied, Error> {
    let mut out = Out::new(to, from, prefix_bytes);
    out.write(&from.header.encode())?;
    let (mut last, mut looked_again) = (Vec::new(), false);
    loop {
        match from.read().map_err(Error::Disk)? {
            Found::Record(_) => {
                out.write(from.record())?;
                looked_again = false;
                if let Some((_, entry)) = from.entries().last() {
                    last.clear();
                    last.extend_from_slice(entry);
                }
            }
            Found::End => break,
            Found::Closed if is_last => break,
            Found::Closed => return Err(Error::Damaged(from.corruption(Damage::BytesAfterEnd))),
            Found::Damaged(damage) if is_last => match judge(from, damage)? {
                Verdict::Torn => break,
                // What was not there when it was read may be now, and more behind it.
                Verdict::Corrupt(_) if !looked_again => {
                    from.look_again()?;
                    looked_again = true;
                }
                Verdict::Corrupt(damage) => return Err(Error::Damaged(from.corruption(damage))),
            },
            Found::Damaged(damage) => return Err(Error::Damaged(from.corruption(damage))),
        }
    }
    out.end(from, last)
}

/// The part of a segment that is in the backup already: that file, and how many of its bytes.
pub(super) type Known = (SegmentReader, u64);

/// Copies a segment that was archived since, or before its first backup. What is known of it stays as it is, byte by
/// byte; what comes behind, or all of it, is written as records of the entries that were compressed together.
pub(super) fn copy_archived(
    from: &mut SegmentReader,
    to: &dyn DiskFile,
    known: Option<Known>,
) -> Result<Copied, Error> {
    let mut out = Out::new(to, from, known.as_ref().map(|(_, bytes)| *bytes));
    let header = known.as_ref().map(|(own, _)| own.header);
    let header = header.unwrap_or(SegmentHeader { form: Form::Plain, ..from.header });
    out.write(&header.encode())?;
    let (mut own_entries, mut left) = (Sum::default(), 0);
    if let Some((mut own, bytes)) = known {
        while own.offset < bytes {
            match own.read().map_err(Error::Disk)? {
                Found::Record(_) => out.write(own.record())?,
                found => return Err(not_as_written(&own, &found)),
            }
            own_entries.add(own.body());
            left += own.body().len();
        }
    }
    let (own_entries, mut entries) = (own_entries.finish(), Sum::default());
    let (mut is_other, mut last) = (false, Vec::new());
    loop {
        match from.read().map_err(Error::Disk)? {
            Found::Record(record) => {
                let (known, new) = from.body().split_at(left.min(from.body().len()));
                entries.add(known);
                left -= known.len();
                is_other |= left == 0 && !known.is_empty() && entries.clone().finish() != own_entries;
                if !is_other && !new.is_empty() {
                    out.write_record(header, new, record.last().next())?;
                }
                if let Some((_, entry)) = from.entries().last() {
                    last.clear();
                    last.extend_from_slice(entry);
                }
            }
            Found::End => break,
            Found::Closed => return Err(Error::Damaged(from.corruption(Damage::BytesAfterEnd))),
            Found::Damaged(damage) => return Err(Error::Damaged(from.corruption(damage))),
        }
    }
    if is_other || left > 0 {
        out.prefix = None;
    }
    out.end(from, last)
}

fn not_as_written(own: &SegmentReader, found: &Found) -> Error {
    let problem = match found {
        Found::Damaged(damage) => format!("is not what was written (byte {}: {damage})", own.offset),
        _ => "is shorter than it was written".to_owned(),
    };
    Error::NotAsWritten { file: own.path().to_owned(), problem }
}

/// Where it is copied to, and what was so far.
struct Out<'a> {
    to: &'a dyn DiskFile,
    path: std::path::PathBuf,
    bytes: u64,
    sum: Sum,
    prefix_bytes: Option<u64>,
    prefix: Option<String>,
}

impl<'a> Out<'a> {
    fn new(to: &'a dyn DiskFile, from: &SegmentReader, prefix_bytes: Option<u64>) -> Self {
        let path = from.path().to_owned();
        Self { to, path, bytes: 0, sum: Sum::default(), prefix_bytes, prefix: None }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let failed = |error| DiskError::new("copy", &self.path, &error);
        self.to.write_at(bytes, self.bytes).map_err(failed)?;
        self.sum.add(bytes);
        self.bytes += bytes.len() as u64;
        // What was copied the last time ends where a record ends.
        if self.prefix_bytes == Some(self.bytes) {
            self.prefix = Some(self.sum.clone().finish());
        }
        Ok(())
    }

    /// Writes entries, the last of which stands before `next`, as one record.
    fn write_record(&mut self, segment: SegmentHeader, body: &[u8], next: Position) -> Result<(), DiskError> {
        let count = split_entries(body).count() as u64;
        let header = RecordHeader {
            kind: RecordKind::Entries,
            body_bytes: u32::try_from(body.len()).expect("a record is within its limit"),
            first: Position::new(next.number() - count).expect("its entries stand before the next"),
            count: u32::try_from(count).expect("a record is within its limit"),
            body_crc: crc32c::crc32c(body),
        };
        self.write(&header.encode(segment.seed()))?;
        self.write(body)
    }

    /// All is copied; `last` is the last entry, if there is one.
    fn end(self, from: &SegmentReader, last: Vec<u8>) -> Result<Copied, Error> {
        let last_recorded_ms = match from.next.before() {
            Some(position) if !last.is_empty() => {
                let entry = decode_entry(&Bytes::from(last), position);
                let malformed = |malformed: Malformed| Error::Damaged(from.corruption(malformed.into()));
                Some(entry.map_err(malformed)?.recorded_at_ms)
            }
            _ => None,
        };
        let Self { bytes, sum, prefix, .. } = self;
        Ok(Copied { bytes, sum: sum.finish(), prefix, next: from.next, last_recorded_ms })
    }
}
