//! Reading the journal across its segments, while it is written to and its older segments are archived.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::log::entry::Position;
use crate::log::error::{Corruption, Damage, DiskError, FileError, ReadError};

use super::archive::{ArchiveError, Archived, archive};
use super::disk::Disk;
use super::format::{Form, JournalId};
use super::segment::{Found, Record, SegmentReader, list_files, name_as, segment_name};

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
    /// Where in its segment, kept in this form, the record begins that begins with this position. Set where
    /// reading has passed.
    waymarks: Mutex<BTreeMap<Position, (Form, u64)>>,
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
        let first = self.segment_of(from).ok_or(ReadError::Missing { position: from })?;
        let mut segment = self.open(first)?;
        if let Some((at, offset)) = self.waymark(first, from, segment.header.form) {
            segment.seek(offset, at);
        }
        let mut records = Records { journal: Arc::clone(self), from, to, segment, bytes_since_mark: 0 };
        records.pass_to_from().map_err(FileError::from)?;
        Ok(records)
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

    /// Opens the segment that begins with this position.
    pub(crate) fn open(&self, first: Position) -> Result<SegmentReader, FileError> {
        SegmentReader::open(&*self.disk, &self.folder, first, Some(self.id))
    }

    /// The last segment that begins at `position` or before it.
    fn segment_of(&self, position: Position) -> Option<Position> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let behind = segments.partition_point(|first| *first <= position);
        behind.checked_sub(1).map(|index| segments[index])
    }

    /// The nearest waymark at or before `position` that is not before `first`, in a segment of this form.
    fn waymark(&self, first: Position, position: Position, form: Form) -> Option<(Position, u64)> {
        let waymarks = self.waymarks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nearest = waymarks.range(first..=position).rev();
        nearest.find(|(_, (of, _))| *of == form).map(|(at, (_, offset))| (*at, *offset))
    }

    fn set_waymark(&self, at: Position, form: Form, offset: u64) {
        self.waymarks.lock().unwrap_or_else(PoisonError::into_inner).insert(at, (form, offset));
    }

    /// The segments that others follow and that are not archived: the first and the last position of each, and its
    /// bytes.
    pub(crate) fn whole_and_plain(&self) -> Result<Vec<(Position, Position, u64)>, DiskError> {
        let files: BTreeSet<_> = list_files(&*self.disk, &self.folder)?.into_iter().collect();
        let segments = self.segments();
        let mut whole = Vec::new();
        for pair in segments.windows(2).filter(|pair| files.contains(&(pair[0], Form::Plain))) {
            let bytes = self.length(pair[0], Form::Plain)?;
            whole.extend(pair[1].before().map(|last| (pair[0], last, bytes)));
        }
        Ok(whole)
    }

    /// Archives one of those. `go_on` is told of so many bytes more that have been read, and says whether to.
    pub(crate) fn archive(
        &self,
        first: Position,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Archived, ArchiveError> {
        let archived = archive(&*self.disk, &self.folder, first, self.id, go_on)?;
        self.was_archived(first);
        Ok(archived)
    }

    /// The bytes of all segments.
    pub(crate) fn bytes(&self) -> Result<u64, DiskError> {
        let files = list_files(&*self.disk, &self.folder)?;
        files.into_iter().map(|(first, form)| self.length(first, form)).sum()
    }

    fn length(&self, first: Position, form: Form) -> Result<u64, DiskError> {
        let path = self.folder.join(name_as(first, form));
        let length = self.disk.open(&path).and_then(|file| file.length());
        length.map_err(|error| DiskError::new("read", &path, &error))
    }

    /// The segment that begins with `first` is archived now: what was known of the file it was, is of no use.
    fn was_archived(&self, first: Position) {
        let behind = self.segments().into_iter().find(|other| *other > first);
        let mut waymarks = self.waymarks.lock().unwrap_or_else(PoisonError::into_inner);
        waymarks.retain(|at, (form, _)| {
            *form == Form::Archived || *at < first || behind.is_some_and(|behind| *at >= behind)
        });
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
    /// Goes to the record that holds `from`, or to where something is in the way.
    fn pass_to_from(&mut self) -> Result<(), DiskError> {
        while let Some(record) = self.segment.pass(self.from)? {
            self.set_waymark(record);
        }
        Ok(())
    }

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
            self.journal.set_waymark(record.first, self.segment.header.form, record.offset);
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
