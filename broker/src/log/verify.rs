//! Reading the whole journal, and saying what is wrong with it. Nothing of it is changed. A broker may be
//! running: what it is writing at the moment looks like a torn write, which is not a fault.
//!
//! Every checksum is compared, every entry is decoded, positions must be dense across all segments, and every
//! entry must name the entry before it in its stream. What the journal has lost at its very end, or altogether,
//! it cannot know itself: what was made from it is asked (`witness`), before the journal is read, so that
//! whatever is known then is there to be read. The store is asked only by the user whose it is, while no broker
//! has it open: opening it lets sled tidy its files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Position};
use super::error::{Contradiction, Corruption, Damage, DiskError, FileError};
use super::format::{Malformed, decode_entry};
use super::heads::ByStream;
use super::journal::disk::{Disk, OsDisk};
use super::journal::format::{Form, JournalId};
use super::journal::segment::{Found, Record, SegmentReader, list_files, name_as, segment_name};
use super::journal::start::Standing;
use super::local::LogConfig;
use super::lock::Lock;
use super::offline::{Ending, ending};
use super::progress::Progress;
use super::witness::{Claim, Witnesses, contradictions};

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
    /// What the journal should have, by what was made from it.
    pub contradictions: Vec<Contradiction>,
    /// Whether a broker, or another process, had the log open.
    pub in_use: bool,
}

impl Report {
    /// Whether the log is as it was written. A torn write at its end is no fault.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.contradictions.is_empty()
    }
}

/// What was found in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its file.
    pub file: PathBuf,
    /// Whether it is archived: compressed, and removed from sled when it is old enough.
    pub archived: bool,
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
    let config = LogConfig::new(folder);
    let lock = if is_ours(folder) { Lock::take(folder).ok() } else { None };
    let in_use = lock.is_none() && Lock::is_taken(folder);
    let Witnesses { claims, store } = Witnesses::ask(&config, lock.is_some())?;
    drop(store);
    drop(lock);
    Ok(Report { in_use, ..verify_against(&config, &claims)? })
}

/// Who is not the log's owner must not leave files in it that the owner cannot open.
fn is_ours(folder: &Path) -> bool {
    let owner = folder.metadata().map(|folder| MetadataExt::uid(&folder));
    owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

/// Verifies the journal, and compares it with what was claimed before.
pub(crate) fn verify_against(config: &LogConfig, claims: &[Claim]) -> Result<Report, DiskError> {
    let folder = config.journal_folder();
    let (mut report, id) = verify_on(Arc::new(OsDisk), &folder)?;
    report.contradictions = match id {
        None if report.segments.is_empty() => contradictions(&folder, None, claims),
        // No segment says which journal it is, which is a finding.
        None => Vec::new(),
        Some(id) => contradictions(&folder, Some(Standing { id, head: report.head }), claims),
    };
    // What cannot be read is what the witnesses miss.
    if !report.findings.is_empty() {
        report.contradictions.retain(|against| !matches!(against, Contradiction::JournalBehind { .. }));
    }
    Ok(report)
}

/// The report, and the journal's id if a segment tells it.
pub(crate) fn verify_on(
    disk: Arc<dyn Disk>,
    folder: &Path,
) -> Result<(Report, Option<JournalId>), DiskError> {
    let files = list_files(&*disk, folder)?;
    let mut total = 0;
    for (first, form) in &files {
        // One that is archived meanwhile has another name by now.
        total += disk.open(&folder.join(name_as(*first, *form))).and_then(|file| file.length()).unwrap_or(0);
    }
    let mut segments: Vec<_> = files.into_iter().map(|(first, _)| first).collect();
    segments.dedup();
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
    let report = Report {
        folder: folder.to_owned(),
        entries: reports.iter().map(|report| report.entries).sum(),
        streams: verifier.streams,
        head: verifier.next.before(),
        segments: reports,
        ending: verifier.ending,
        findings: verifier.findings,
        contradictions: Vec::new(),
        in_use: false,
    };
    Ok((report, verifier.journal))
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
        let mut report =
            SegmentReport { file, archived: false, bytes: 0, first, records: 0, entries: 0, sound: true };
        let before = self.findings.len();
        match SegmentReader::open(&*self.disk, &self.folder, first, self.journal) {
            Ok(mut reader) => {
                report.file = reader.path().to_owned();
                report.archived = reader.header.form == Form::Archived;
                report.bytes = reader.length;
                self.journal = Some(reader.header.journal);
                self.records(&mut reader, &mut report, is_last)?;
                self.next = reader.next;
            }
            Err(FileError::Corrupt(corruption)) => {
                report.file.clone_from(&corruption.file);
                report.archived = corruption.file == self.folder.join(name_as(first, Form::Archived));
                self.find(corruption);
            }
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
                Found::End if is_last && reader.header.form == Form::Archived => {
                    Ending::Corrupt(reader.corruption(Damage::ArchivedLast))
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
