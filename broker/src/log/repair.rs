//! Mending a journal that does not start, in two steps: a [`Plan`] that says what would be done and what
//! would be lost, and its [`apply`], which does exactly that or nothing.
//!
//! A segment that is damaged is written anew from all that can be found of it: its records in front of the
//! damage and behind it, and what the store has kept. If every entry is found, nothing is lost. At the first
//! one that is not found the journal has to end, because positions are dense and entries build on each other;
//! what comes after it is set aside. Nothing is deleted: whatever is replaced is kept in the folder
//! `replaced`.
//!
//! A torn write at the end needs no repair; the next start cuts it off.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{ENTRY_BYTES_MAX, Position};
use super::error::{Corruption, DiskError, StartError};
use super::format::{decode_entry, put_behind_length, split_entries};
use super::heads::Heads;
use super::journal::disk::{Disk, DiskFile, OsDisk, install};
use super::journal::format::{
    JournalId, RECORD_BYTES_LIMIT, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::journal::segment::{self, SegmentReader, segment_name};
use super::journal::writer::Batch;
use super::local::LogConfig;
use super::lock::Lock;
use super::snapshots::{HEADS, Snapshots};
use super::store::{Store, group_last, group_of, set_aside};
use super::verify::{Report, verify};

/// Where what is replaced is kept, in the log's folder.
const REPLACED_FOLDER: &str = "replaced";
/// How many bytes of entries a record is given that is written anew, about.
const RECORD_BYTES: usize = 256 * 1024;
/// And at most, with the entry that makes it full.
const RECORD_BYTES_MAX: u32 = 512 * 1024;
const _: () = assert!(RECORD_BYTES + ENTRY_BYTES_MAX + 1024 < RECORD_BYTES_MAX as usize);

/// What would be done, and what would be lost by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The log's folder.
    pub folder: PathBuf,
    /// What is wrong.
    pub findings: Vec<Corruption>,
    /// What would be done, in this order; nothing if nothing needs to be.
    pub steps: Vec<Step>,
    /// The positions that would be lost for good: from the first to the last that is known of.
    pub lost: Option<(Position, Position)>,
    /// What the files were like that the plan was made from.
    pub files: Vec<FileState>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A segment is set aside: what is in front of it cannot be brought back.
    SetSegmentAside {
        /// The position that it begins with.
        first: Position,
    },
    /// A segment is written anew.
    RewriteSegment {
        /// The position that it begins with.
        first: Position,
        /// The last position that it will have; none if it will be empty.
        last: Option<Position>,
        /// How many of its entries come from the store.
        from_store: u64,
    },
    /// The store is set aside, since it knows of more than the journal will have.
    SetStoreAside,
    /// The saved heads are set aside, since they know of more than the journal will have.
    SetHeadsAside,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSegmentAside { first } => write!(f, "set segment {} aside", segment_name(*first)),
            Self::RewriteSegment { first, last: Some(last), from_store } => write!(
                f,
                "write segment {} anew with positions {first} to {last}, {from_store} of them from the store",
                segment_name(*first)
            ),
            Self::RewriteSegment { first, last: None, .. } => {
                write!(f, "write segment {} anew, without entries", segment_name(*first))
            }
            Self::SetStoreAside => f.write_str("set the store aside; the next start makes it anew"),
            Self::SetHeadsAside => f.write_str("set the saved heads aside; the next start makes them anew"),
        }
    }
}

/// What a file was like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Where it is.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32C of all of it.
    pub crc: u32,
}

/// Why a log was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// A broker has it open, or a file cannot be read or written.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Something is not as it was when the plan was made.
    #[error("the log is not as it was when the plan was made: make a new plan")]
    Changed,
    /// No segment tells which journal this is.
    #[error("the id of the journal cannot be found: no segment has a sound header")]
    NoId,
}

impl From<DiskError> for RepairError {
    fn from(error: DiskError) -> Self {
        Self::Start(error.into())
    }
}

/// Makes a plan for the log in this folder. The store is opened for it, to see what it has kept.
pub fn plan(folder: &Path) -> Result<Plan, RepairError> {
    let _lock = Lock::take(folder)?;
    Survey::of(folder).map(|survey| survey.plan)
}

/// Does what a plan says, if a plan that is made now says the same.
pub fn apply(plan: &Plan) -> Result<(), RepairError> {
    let _lock = Lock::take(&plan.folder)?;
    let survey = Survey::of(&plan.folder)?;
    if survey.plan != *plan {
        return Err(RepairError::Changed);
    }
    for step in &plan.steps {
        tracing::info!(%step, "repairing");
        survey.execute(step)?;
    }
    Ok(())
}

/// A part of the journal that one segment has or should have.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: Position,
    /// The position that it has to reach; none if nothing says that there is an entry in it.
    last: Option<Position>,
    /// Whether its segment has all of that.
    whole: bool,
}

/// A plan, and what is needed to carry it out.
struct Survey {
    config: LogConfig,
    plan: Plan,
    journal: JournalId,
    /// The entries of the segments that are to be written anew.
    found: BTreeMap<Position, Found>,
}

/// The entries that were found for a segment, each as its bytes.
type Found = BTreeMap<Position, Bytes>;

impl Survey {
    fn of(folder: &Path) -> Result<Self, RepairError> {
        let config = LogConfig::new(folder);
        let report = verify(folder)?;
        let files =
            report.segments.iter().map(|segment| state_of(&segment.file)).collect::<Result<_, _>>()?;
        let (folder, findings) = (folder.to_owned(), report.findings.clone());
        let plan = Plan { folder, findings, steps: Vec::new(), lost: None, files };
        if report.segments.is_empty() {
            return Ok(Self { config, plan, journal: [0; 16], found: BTreeMap::new() });
        }
        let journal = find_id(&config.journal_folder(), &report)?;
        let mut survey = Self { config, plan, journal, found: BTreeMap::new() };
        survey.make_plan(&report)?;
        Ok(survey)
    }

    fn make_plan(&mut self, report: &Report) -> Result<(), RepairError> {
        let witness = Witness::ask(&self.config, self.journal);
        let known = report.head.max(witness.stored).max(witness.heads);
        let mut cut = None;
        for stretch in stretches(report, known) {
            let first = stretch.first;
            if cut.is_some() {
                // In front of the others: the last one goes first, so that a crash leaves no gap but the
                // damage.
                self.plan.steps.insert(0, Step::SetSegmentAside { first });
            } else if !stretch.whole {
                let mut found = salvage(&self.config.journal_folder(), self.header(first))?;
                let from_store = witness.fill(&mut found, stretch);
                let last = contiguous(&found, first);
                self.plan.steps.push(Step::RewriteSegment { first, last, from_store });
                self.found.insert(first, found);
                cut = (last < stretch.last).then_some(last.map_or(first, Position::next));
            }
        }
        if let (Some(cut), Some(known)) = (cut, known) {
            self.plan.lost = Some((cut, known));
            if witness.stored >= Some(cut) {
                self.plan.steps.push(Step::SetStoreAside);
            }
            if witness.heads >= Some(cut) {
                self.plan.steps.push(Step::SetHeadsAside);
            }
        }
        Ok(())
    }

    fn header(&self, first: Position) -> SegmentHeader {
        SegmentHeader { journal: self.journal, first, record_bytes_max: RECORD_BYTES_MAX }
    }

    fn execute(&self, step: &Step) -> Result<(), RepairError> {
        let journal = self.config.journal_folder();
        match step {
            Step::SetSegmentAside { first } => self.replace(&journal.join(segment_name(*first)), false)?,
            Step::RewriteSegment { first, last, .. } => {
                let (header, name) = (self.header(*first), segment_name(*first));
                let found = self.found.get(first).into_iter().flatten();
                let kept =
                    found.map_while(|(position, entry)| (Some(*position) <= *last).then_some(&entry[..]));
                self.replace(&journal.join(&name), true)?;
                install(&OsDisk, &journal, &name, |file| write_segment(file, &header, kept))?;
            }
            Step::SetStoreAside => {
                let store = self.config.store_folder();
                set_aside(&store).map_err(|error| DiskError::new("set aside", &store, &error))?;
            }
            Step::SetHeadsAside => self.replace(&self.config.snapshot_folder().join(HEADS), false)?,
        }
        Ok(OsDisk.sync_folder(&journal).map_err(|error| DiskError::new("sync", &journal, &error))?)
    }

    /// Keeps a file in the folder of what is replaced: as a second name if it stays until something takes its
    /// place, else it moves there. One that is not there needs no keeping.
    fn replace(&self, file: &Path, stays: bool) -> Result<(), DiskError> {
        let folder = self.config.folder.join(REPLACED_FOLDER);
        let failed = |error: &_| DiskError::new("keep", file, error);
        fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let free =
            (0..u32::MAX).map(|number| folder.join(format!("{name}.{number}"))).find(|path| !path.exists());
        let kept = free.expect("numbers do not run out");
        let result = if stays { fs::hard_link(file, kept) } else { fs::rename(file, kept) };
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        OsDisk.sync_folder(&folder).map_err(|error| failed(&error))
    }
}

/// What else than the journal knows of entries.
struct Witness {
    store: Option<Store>,
    /// The last position that the store has.
    stored: Option<Position>,
    /// The last position that the saved heads know of.
    heads: Option<Position>,
}

impl Witness {
    fn ask(config: &LogConfig, journal: JournalId) -> Self {
        let folder = config.store_folder();
        let store =
            folder.exists().then(|| Store::open(&folder, config.store_cache_bytes, journal).ok()).flatten();
        let stored = store.as_ref().and_then(|store| store.last().ok()).flatten();
        let snapshot = Snapshots::new(OsDisk, config.snapshot_folder(), journal).load(HEADS);
        let heads = snapshot.and_then(|(position, bytes)| {
            let (_, highest) = Heads::from_bytes(&bytes)?;
            highest.max(Some(position))
        });
        Self { store, stored, heads }
    }

    /// Adds entries that are missing in a stretch, and says how many there were here.
    fn fill(&self, found: &mut Found, stretch: Stretch) -> u64 {
        let Some((store, end)) = self.store.as_ref().zip(stretch.last.min(self.stored)) else { return 0 };
        let (mut filled, mut next) = (0, stretch.first);
        while next <= end {
            let group = group_of(next);
            let body = store.group(group).ok().flatten().unwrap_or_default();
            let positions = std::iter::successors(Some(group), |position| Some(position.next()));
            for (position, entry) in positions.zip(split_entries(&body).map_while(Result::ok)) {
                if (stretch.first..=end).contains(&position) && !found.contains_key(&position) {
                    found.insert(position, Bytes::copy_from_slice(entry));
                    filled += 1;
                }
            }
            next = group_last(group).next();
        }
        filled
    }
}

/// The parts of the journal, in order; the last one has to reach what is `known` of.
fn stretches(report: &Report, known: Option<Position>) -> Vec<Stretch> {
    let missing = report.segments.first().filter(|segment| segment.first > Position::FIRST);
    let missing = missing.map(|_| (Position::FIRST, None));
    let there = report.segments.iter().map(|segment| (segment.first, Some(segment)));
    let parts: Vec<_> = missing.into_iter().chain(there).collect();
    let ends = parts.iter().skip(1).map(|(first, _)| first.before()).chain([known]);
    let stretches = parts.iter().zip(ends).map(|(&(first, segment), last)| {
        let last = last.filter(|last| *last >= first);
        let whole = segment.is_some_and(|segment| {
            let reaches = Position::new(first.number() + segment.entries).and_then(Position::before);
            segment.sound && reaches.filter(|reaches| *reaches >= first) == last
        });
        Stretch { first, last, whole }
    });
    stretches.collect()
}

/// The id of the journal: from any segment whose header is sound, else from one whose records are, if the id
/// that stands in its header is taken for right.
fn find_id(folder: &Path, report: &Report) -> Result<JournalId, RepairError> {
    for segment in &report.segments {
        if let Ok(reader) = SegmentReader::open(&OsDisk, folder, segment.first, None) {
            return Ok(reader.header.journal);
        }
    }
    for segment in &report.segments {
        let bytes = fs::read(&segment.file).map_err(|error| DiskError::new("read", &segment.file, &error))?;
        let Some(journal) = bytes.get(16..32).and_then(|id| id.try_into().ok()) else { continue };
        let header = SegmentHeader { journal, first: segment.first, record_bytes_max: RECORD_BYTES_LIMIT };
        if !salvage(folder, header)?.is_empty() {
            return Ok(journal);
        }
    }
    Err(RepairError::NoId)
}

/// All entries of all sound records in a segment, whatever is between them.
fn salvage(folder: &Path, header: SegmentHeader) -> Result<Found, DiskError> {
    let mut found = Found::new();
    let header = SegmentHeader { record_bytes_max: RECORD_BYTES_LIMIT, ..header };
    let Some(mut reader) = SegmentReader::open_as(&OsDisk, folder, header)? else { return Ok(found) };
    loop {
        match reader.read()? {
            segment::Found::Record(_) => {
                let sound = reader.entries().filter_map(|(position, entry)| {
                    let entry = Bytes::copy_from_slice(entry);
                    decode_entry(&entry, position).is_ok().then_some((position, entry))
                });
                found.extend(sound);
            }
            segment::Found::End => return Ok(found),
            segment::Found::Closed | segment::Found::Damaged(_) => {
                let (from, last) = (reader.offset + 1, reader.length);
                let later = reader.find_header(from, last, |header| header.kind == RecordKind::Entries)?;
                let Some((offset, header)) = later else { return Ok(found) };
                reader.seek(offset, header.first);
            }
        }
    }
}

/// The last position that is reached from `first` without a gap.
fn contiguous(found: &Found, first: Position) -> Option<Position> {
    let expected = std::iter::successors(Some(first), |position| Some(position.next()));
    found
        .range(first..)
        .zip(expected)
        .take_while(|((position, _), expected)| *position == expected)
        .last()
        .map(|((position, _), _)| *position)
}

fn write_segment<'a>(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    entries: impl Iterator<Item = &'a [u8]>,
) -> Result<(), DiskError> {
    let failed = |error| DiskError::new("write", Path::new(&segment_name(header.first)), &error);
    file.write_at(&header.encode(), 0).map_err(failed)?;
    let (mut offset, mut next) = (SEGMENT_HEADER_BYTES as u64, header.first);
    let (mut batch, mut count) = (Batch::new(), 0);
    let mut entries = entries.peekable();
    while let Some(entry) = entries.next() {
        batch.push(|bytes| put_behind_length(bytes, entry));
        count += 1;
        if batch.end() >= RECORD_BYTES || entries.peek().is_none() {
            let record = batch.seal(next, count, header.seed());
            file.write_at(record, offset).map_err(failed)?;
            offset += record.len() as u64;
            next = Position::new(next.number() + u64::from(count)).expect("positions do not run out");
            batch.clear();
            count = 0;
        }
    }
    Ok(())
}

fn state_of(file: &Path) -> Result<FileState, DiskError> {
    let bytes = fs::read(file).map_err(|error| DiskError::new("read", file, &error))?;
    Ok(FileState { file: file.to_owned(), bytes: bytes.len() as u64, crc: crc32c::crc32c(&bytes) })
}
