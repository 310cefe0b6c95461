//! Reading the journal across its segments, while it is written to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::log::entry::Position;
use crate::log::error::{Corruption, Damage, FileError, ReadError};

use super::disk::Disk;
use super::format::JournalId;
use super::segment::{Found, Record, SegmentReader, segment_name};

/// A waymark is set about every so many bytes: where to begin to look for a position.
const WAYMARK_EVERY_BYTES: u64 = 1024 * 1024;

/// Knows the journal's segments and finds entries in them. What it is asked for must be durable already: what
/// stands behind may be half written.
#[derive(Debug)]
pub(crate) struct JournalReader {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    id: JournalId,
    /// The first position of each segment.
    segments: RwLock<Vec<Position>>,
    /// Where in its segment the record begins that begins with this position. Set where reading has passed.
    waymarks: Mutex<BTreeMap<Position, u64>>,
}

impl JournalReader {
    /// The reader of a journal with these segments, in their order.
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf, id: JournalId, segments: Vec<Position>) -> Self {
        Self { disk, folder, id, segments: RwLock::new(segments), waymarks: Mutex::default() }
    }

    /// The journal's id.
    pub(crate) fn id(&self) -> JournalId {
        self.id
    }

    /// The folder that the segments are in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on there is a segment that begins with this position, the last one.
    pub(crate) fn add_segment(&self, first: Position) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(first);
    }

    /// The first positions of all segments.
    pub(crate) fn segments(&self) -> Vec<Position> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads records from the one that holds `from` to the one that holds `to`, which must be durable.
    pub(crate) fn records(self: &Arc<Self>, from: Position, to: Position) -> Result<Records, ReadError> {
        let first = self.segment_of(from).ok_or(ReadError::Archived { position: from })?;
        let mut segment = self.open(first)?;
        if let Some((at, offset)) = self.waymark(first, from) {
            segment.seek(offset, at);
        }
        Ok(Records { journal: Arc::clone(self), from, to, segment, bytes_since_mark: 0 })
    }

    /// The first position of the oldest segment that lies, with all after it, within the newest `bytes`; of
    /// the newest if that is larger.
    pub(crate) fn first_within(&self, bytes: u64) -> Result<Position, FileError> {
        let mut total = 0;
        let mut first = Position::FIRST;
        for segment in self.segments().into_iter().rev() {
            total += self.open(segment)?.length;
            if total > bytes && first > Position::FIRST {
                break;
            }
            first = segment;
        }
        Ok(first)
    }

    /// How many bytes the segments have from the one that holds `position` on.
    pub(crate) fn bytes_from(&self, position: Position) -> Result<u64, FileError> {
        let from = self.segment_of(position);
        let segments = self.segments().into_iter().filter(|first| Some(*first) >= from);
        segments.map(|first| Ok(self.open(first)?.length)).sum()
    }

    fn open(&self, first: Position) -> Result<SegmentReader, FileError> {
        SegmentReader::open(&*self.disk, &self.folder, first, Some(self.id))
    }

    /// The last segment that begins at `position` or before it.
    fn segment_of(&self, position: Position) -> Option<Position> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let behind = segments.partition_point(|first| *first <= position);
        behind.checked_sub(1).map(|index| segments[index])
    }

    /// The nearest waymark at or before `position` that is not before `first`.
    fn waymark(&self, first: Position, position: Position) -> Option<(Position, u64)> {
        let waymarks = self.waymarks.lock().unwrap_or_else(PoisonError::into_inner);
        waymarks.range(first..=position).next_back().map(|(at, offset)| (*at, *offset))
    }

    fn set_waymark(&self, at: Position, offset: u64) {
        self.waymarks.lock().unwrap_or_else(PoisonError::into_inner).insert(at, offset);
    }
}

/// Records one after the other, across segments.
#[derive(Debug)]
pub(crate) struct Records {
    journal: Arc<JournalReader>,
    from: Position,
    to: Position,
    segment: SegmentReader,
    bytes_since_mark: u64,
}

impl Records {
    /// Reads the next record; none behind the one that holds `to`.
    pub(crate) fn read(&mut self) -> Result<Option<Record>, FileError> {
        while self.segment.next <= self.to {
            match self.segment.read()? {
                Found::Record(record) => {
                    self.set_waymark(record);
                    if record.last() >= self.from {
                        return Ok(Some(record));
                    }
                }
                Found::End => self.segment = self.open_behind()?,
                Found::Closed => return Err(self.segment.corruption(Damage::BytesAfterEnd).into()),
                Found::Damaged(damage) => return Err(self.segment.corruption(damage).into()),
            }
        }
        Ok(None)
    }

    /// The entries of the record that was read last which are between `from` and `to`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Position, &[u8])> {
        let wanted = self.from..=self.to;
        self.segment.entries().filter(move |(position, _)| wanted.contains(position))
    }

    /// What to say of an entry at a position that has been read.
    pub(crate) fn last_corruption(&self, position: Position, damage: Damage) -> Corruption {
        Corruption { file: self.segment.path().to_owned(), offset: self.segment.offset, position, damage }
    }

    /// What to say of an entry of the record that was read last, if something is wrong with it.
    pub(crate) fn corruption(&self, record: Record, position: Position, damage: Damage) -> Corruption {
        Corruption { file: self.segment.path().to_owned(), offset: record.offset, position, damage }
    }

    fn set_waymark(&mut self, record: Record) {
        self.bytes_since_mark += record.bytes;
        if self.bytes_since_mark >= WAYMARK_EVERY_BYTES {
            self.journal.set_waymark(record.first, record.offset);
            self.bytes_since_mark = 0;
        }
    }

    /// Opens the segment after this one, which must begin where this one has ended.
    fn open_behind(&self) -> Result<SegmentReader, FileError> {
        let (this, next) = (self.segment.header.first, self.segment.next);
        let segments = self.journal.segments();
        match segments.iter().find(|first| **first > this) {
            Some(first) if *first == next => self.journal.open(next),
            behind => {
                let file = self.journal.folder.join(segment_name(next));
                let damage = Damage::Gap { found: behind.copied().unwrap_or(self.to) };
                Err(Corruption { file, offset: 0, position: next, damage }.into())
            }
        }
    }
}
