//! Reading the whole journal, and saying what is wrong with it. Nothing is changed. A broker may be running:
//! what it is writing at the moment looks like a torn write, which is not a fault.
//!
//! Every checksum is compared, every entry is decoded, positions must be dense across all segments, and every
//! entry must name the entry before it in its stream. What the journal has lost at its very end it cannot
//! know itself: the start compares it with what was made from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Position};
use super::error::{Corruption, Damage, DiskError, FileError};
use super::format::{Malformed, decode_entry};
use super::heads::ByStream;
use super::journal::disk::{Disk, OsDisk};
use super::journal::format::JournalId;
use super::journal::segment::{Found, Record, SegmentReader, list_segments, segment_name};
use super::local::JOURNAL_FOLDER;
use super::offline::{Ending, ending};
use super::progress::Progress;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The folder of the journal.
    pub folder: PathBuf,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// How many entries can be read.
    pub entries: u64,
    /// How many streams they are of.
    pub streams: u64,
    /// The position of the last one that can be read.
    pub head: Option<Position>,
    /// How the journal ends.
    pub ending: Ending,
    /// All that is not as it was written, in the order of positions.
    pub findings: Vec<Corruption>,
}

impl Report {
    /// Whether the log is as it was written. A torn write at its end is no fault.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What was found in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its file.
    pub file: PathBuf,
    /// The length of the file.
    pub bytes: u64,
    /// The position of its first entry.
    pub first: Position,
    /// How many records can be read from its start on.
    pub records: u64,
    /// How many entries they hold.
    pub entries: u64,
    /// Whether all of it can be read.
    pub sound: bool,
}

/// Verifies the log in this folder.
pub fn verify(folder: &Path) -> Result<Report, DiskError> {
    verify_on(Arc::new(OsDisk), &folder.join(JOURNAL_FOLDER))
}

pub(crate) fn verify_on(disk: Arc<dyn Disk>, folder: &Path) -> Result<Report, DiskError> {
    let segments = list_segments(&*disk, folder)?;
    let mut total = 0;
    for first in &segments {
        let path = folder.join(segment_name(*first));
        let length = disk.open(&path).and_then(|file| file.length());
        total += length.map_err(|error| DiskError::new("read", &path, &error))?;
    }
    let mut verifier = Verifier {
        disk,
        folder: folder.to_owned(),
        journal: None,
        next: Position::FIRST,
        heads: Some(ByStream::default()),
        streams: 0,
        sound: true,
        ending: Ending::Nothing,
        findings: Vec::new(),
        progress: Progress::new("verifying the journal", total),
    };
    let mut reports = Vec::new();
    for (index, first) in segments.iter().enumerate() {
        reports.push(verifier.segment(*first, index + 1 == segments.len())?);
    }
    Ok(Report {
        folder: folder.to_owned(),
        entries: reports.iter().map(|report| report.entries).sum(),
        streams: verifier.streams,
        head: verifier.next.before(),
        segments: reports,
        ending: verifier.ending,
        findings: verifier.findings,
    })
}

struct Verifier {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    journal: Option<JournalId>,
    /// The position that comes next.
    next: Position,
    /// Where each stream stands; none once entries are missing, since then nobody knows.
    heads: Option<ByStream<Position>>,
    streams: u64,
    /// Whether the segment before was.
    sound: bool,
    ending: Ending,
    findings: Vec<Corruption>,
    progress: Progress,
}

impl Verifier {
    fn segment(&mut self, first: Position, is_last: bool) -> Result<SegmentReport, DiskError> {
        let file = self.folder.join(segment_name(first));
        // Behind damage, nobody knows what should come.
        if first != self.next && self.sound {
            self.find(Corruption {
                file: self.folder.join(segment_name(self.next)),
                offset: 0,
                position: self.next,
                damage: Damage::Gap { found: first },
            });
        }
        self.next = first;
        let mut report = SegmentReport { file, bytes: 0, first, records: 0, entries: 0, sound: true };
        let before = self.findings.len();
        match SegmentReader::open(&*self.disk, &self.folder, first, self.journal) {
            Ok(mut reader) => {
                report.bytes = reader.length;
                self.journal = Some(reader.header.journal);
                self.records(&mut reader, &mut report, is_last)?;
                self.next = reader.next;
            }
            Err(FileError::Corrupt(corruption)) => self.find(corruption),
            Err(FileError::Disk(error)) => return Err(error),
        }
        report.sound = self.findings.len() == before;
        self.sound = report.sound;
        Ok(report)
    }

    fn records(
        &mut self,
        reader: &mut SegmentReader,
        report: &mut SegmentReport,
        is_last: bool,
    ) -> Result<(), DiskError> {
        loop {
            let ended = match reader.read()? {
                Found::Record(record) => {
                    self.entries(reader, record);
                    report.records += 1;
                    report.entries += u64::from(record.count);
                    self.progress.advance(record.bytes);
                    continue;
                }
                Found::End => Ending::Open,
                Found::Closed if is_last => Ending::Closed,
                Found::Closed => Ending::Corrupt(reader.corruption(Damage::BytesAfterEnd)),
                Found::Damaged(damage) if is_last => ending(reader, damage)?,
                Found::Damaged(damage) => Ending::Corrupt(reader.corruption(damage)),
            };
            if let Ending::Corrupt(corruption) = &ended {
                self.find(corruption.clone());
            }
            self.ending = ended;
            return Ok(());
        }
    }

    fn entries(&mut self, reader: &SegmentReader, record: Record) {
        for (position, bytes) in reader.entries() {
            let entry = decode_entry(&Bytes::copy_from_slice(bytes), position);
            let what = match entry {
                Ok(entry) => self.place(&entry).err(),
                Err(malformed) => Some(malformed),
            };
            if let Some(what) = what {
                let file = reader.path().to_owned();
                self.find(Corruption { file, offset: record.offset, position, damage: what.into() });
            }
        }
    }

    /// Checks an entry's place in its stream.
    fn place(&mut self, entry: &Entry) -> Result<(), Malformed> {
        let Some(heads) = &mut self.heads else { return Ok(()) };
        let before = heads.insert(entry.stream, entry.position);
        self.streams += u64::from(before.is_none());
        if before == entry.previous {
            return Ok(());
        }
        Err(Malformed("it does not name the entry before it in its stream"))
    }

    fn find(&mut self, corruption: Corruption) {
        self.findings.push(corruption);
        self.heads = None;
    }
}
