//! Torn or corrupt: what an unreadable record means.
//!
//! A record that a crash interrupted was told to nobody and may be cut off. One that was durable and cannot
//! be read any more must never be: then the log does not start. From the damaged bytes alone the two cannot
//! be told apart; they are by what stands around them, because of three rules that the writer keeps:
//!
//! 1. A record is written only after the one before it is on disk. So at most one record is not on disk when
//!    the machine stops, it is the last one, and no byte behind its end was ever written but zeros.
//! 2. A segment is begun only after the one before it is whole on disk and has its final length; and it gets
//!    its name only after its header is on disk. So only the last segment can have a torn record, and no
//!    segment has a torn header.
//! 3. The closing record is the last that is ever written to its file: before the next one, a start copies
//!    what is readable to a new file. So nothing in front of a closing record is torn.
//!
//! What one interrupted write can leave: the file has any length from that before the write to that after it,
//! and each sector of what was written is there or reads as zeros, in any combination. The record's header
//! may be there and its body not, or only the middle of its body, or all of it but one sector. (A writer that
//! was refused room cuts what it had written and syncs before it writes again, so that nothing of that is
//! left to be found either.) In every such case
//!
//! - it is the last segment,
//! - from where the unreadable record begins, whatever is not zero lies within the longest record that the
//!   segment allows; if the record's header is sound, within the length that it tells,
//! - and no header of a later record stands behind it.
//!
//! If all three hold, the record is torn. If one does not, what cannot be read was durable, and lies in front
//! of something that was written after it: corruption. The search for headers goes through every offset,
//! since the length that would lead to the next record may be what is damaged. Nobody can make it find one by
//! having chosen bytes logged: the checksum of a header begins with a seed that only the segment knows.
//!
//! One case is left open by the journal alone: damage to the very last record of a log that was not closed
//! looks like a torn write. It is cut, with a warning; and if the store had the entry already, the log does
//! not start, because then the store is ahead.

use crate::log::error::{Damage, DiskError};

use super::segment::SegmentReader;

/// What the damage at a reader's place means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A write that a crash interrupted; nobody was told of it.
    Torn,
    /// Something that was durable is damaged.
    Corrupt(Damage),
}

/// Judges the damage that the reader of the **last** segment has found at its place. In any other segment,
/// damage is corruption.
pub(crate) fn judge(reader: &mut SegmentReader, damage: Damage) -> Result<Verdict, DiskError> {
    // These are said of a record that is sound in itself: it was written whole, and not like this.
    let (Damage::RecordHeader | Damage::RecordBody) = damage else {
        return Ok(Verdict::Corrupt(damage));
    };
    let start = reader.offset;
    let header = reader.record_header_at(start)?;
    let longest = u64::from(reader.header.record_bytes_max);
    let end = start + header.map_or(longest, |header| header.record_bytes());
    let last_byte = reader.last_byte_from(start)?.unwrap_or(start);
    if last_byte >= end {
        return Ok(Verdict::Corrupt(damage));
    }
    // What is searched is no longer than the longest record: last_byte is before end.
    let expected = reader.next;
    let later = reader.find_header(start + 1, last_byte, |header| header.first > expected)?;
    Ok(if later.is_some() { Verdict::Corrupt(damage) } else { Verdict::Torn })
}
