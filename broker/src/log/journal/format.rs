//! What is in the journal's files, byte by byte. Numbers are big-endian.
//!
//! A **segment** is a file of the journal. It begins with a header:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `csignlog` |
//! | 8 | 2 | format of the segment: 1; of an archived one: 2 |
//! | 10 | 2 | zero |
//! | 12 | 4 | the most bytes that a record of this segment may have, its header included |
//! | 16 | 16 | the journal's id, drawn at random when the journal was made |
//! | 32 | 8 | position of the segment's first entry |
//! | 40 | 4 | zero |
//! | 44 | 4 | CRC-32C of the 44 bytes before |
//!
//! Records follow it, one behind the other. A **record** is what one flush made durable:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `ENTR`; in an archived segment `PACK`; `DONE` for a closing record |
//! | 4 | 4 | length of the body |
//! | 8 | 8 | position of the first entry; in a closing record, of the entry that would be next |
//! | 16 | 4 | number of entries; in a closing record 0 |
//! | 20 | 4 | CRC-32C of the body |
//! | 24 | 4 | CRC-32C of the 24 bytes before, begun with the segment's seed |
//! | 28 | | the body: each entry (`log::format`) behind its length (4 bytes) |
//!
//! The seed is the CRC-32C of the segment header's bytes 16 to 40 (journal id, first position). With it, no
//! bytes that someone sends to be logged, and none of another file, are a record header of this segment; that
//! is what the search for records behind a damaged one relies on (`tail`).
//!
//! Behind the last record there may be zeros, as room for the next ones (`writer`).
//!
//! An **archived segment** is a segment that is whole, written anew with the same entries in other records
//! (`archive`). The body of a `PACK` record is the length of what it was made from (4 bytes), then that as one
//! block of LZ4: the body of an `ENTR` record. All else is the same, so that whatever reads segments, and
//! whatever mends them, does not care which it has.

use crate::log::entry::Position;
use crate::log::error::Damage;
use crate::log::format::Reader;

/// The bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 48;
/// The bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 28;
/// No segment may allow longer records than this, whatever its header says: they are read into memory.
pub(crate) const RECORD_BYTES_LIMIT: u32 = 64 * 1024 * 1024;

const SEGMENT_MAGIC: [u8; 8] = *b"csignlog";
const PLAIN_FORMAT: u16 = 1;
const ARCHIVED_FORMAT: u16 = 2;
const ENTRIES_MAGIC: [u8; 4] = *b"ENTR";
const PACKED_MAGIC: [u8; 4] = *b"PACK";
const CLOSING_MAGIC: [u8; 4] = *b"DONE";

/// Which journal a file belongs to.
pub(crate) type JournalId = [u8; 16];

/// How a segment is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// As it was written.
    Plain,
    /// Compressed.
    Archived,
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) form: Form,
    pub(crate) journal: JournalId,
    pub(crate) first: Position,
    /// The most bytes that a record may have, its header included.
    pub(crate) record_bytes_max: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        let format = match self.form {
            Form::Plain => PLAIN_FORMAT,
            Form::Archived => ARCHIVED_FORMAT,
        };
        bytes[8..10].copy_from_slice(&format.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.record_bytes_max.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.journal);
        bytes[32..40].copy_from_slice(&self.first.number().to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut read = Reader(bytes);
        let sound = bytes.len() >= SEGMENT_HEADER_BYTES
            && bytes[0..8] == SEGMENT_MAGIC
            && bytes[44..48] == crc32c::crc32c(&bytes[..44]).to_be_bytes();
        if !sound {
            return Err(Damage::SegmentHeader);
        }
        let fields = (|| {
            read.skip(8)?;
            Some((read.u16()?, read.u16()?, read.u32()?, read.array::<16>()?, read.u64()?))
        })();
        let (format, _, record_bytes_max, journal, first) = fields.ok_or(Damage::SegmentHeader)?;
        let form = match format {
            PLAIN_FORMAT => Form::Plain,
            ARCHIVED_FORMAT => Form::Archived,
            found => return Err(Damage::SegmentFormat { found }),
        };
        let first = Position::new(first).ok_or(Damage::SegmentHeader)?;
        if record_bytes_max > RECORD_BYTES_LIMIT {
            return Err(Damage::SegmentHeader);
        }
        Ok(Self { form, journal, first, record_bytes_max })
    }

    /// What the checksums of this segment's record headers begin with.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.journal), &self.first.number().to_be_bytes())
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A batch of entries.
    Entries,
    /// Entries, compressed: only in an archived segment.
    Packed,
    /// The log was closed: nothing behind it, and nothing before it that may be torn.
    Closing,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) body_bytes: u32,
    pub(crate) first: Position,
    pub(crate) count: u32,
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self, seed: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(match self.kind {
            RecordKind::Entries => &ENTRIES_MAGIC,
            RecordKind::Packed => &PACKED_MAGIC,
            RecordKind::Closing => &CLOSING_MAGIC,
        });
        bytes[4..8].copy_from_slice(&self.body_bytes.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.first.number().to_be_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.body_crc.to_be_bytes());
        let crc = crc32c::crc32c_append(seed, &bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// The header that these bytes are in a segment of this seed, if they are one.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let mut read = Reader(bytes);
        let kind = match read.array::<4>()? {
            ENTRIES_MAGIC => RecordKind::Entries,
            PACKED_MAGIC => RecordKind::Packed,
            CLOSING_MAGIC => RecordKind::Closing,
            _ => return None,
        };
        let header = Self {
            kind,
            body_bytes: read.u32()?,
            first: Position::new(read.u64()?)?,
            count: read.u32()?,
            body_crc: read.u32()?,
        };
        let crc = read.u32()?;
        (crc == crc32c::crc32c_append(seed, &bytes[..24])).then_some(header)
    }

    /// The position of the record's last entry; of a closing record, of the last one before it.
    pub(crate) fn last(&self) -> Option<Position> {
        Position::new(self.first.number().saturating_add(u64::from(self.count)) - 1)
    }

    /// The bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.body_bytes)
    }
}
