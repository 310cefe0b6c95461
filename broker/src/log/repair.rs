//! Mending a journal that does not start, in two steps: a [`Plan`] that says what would be done and what
//! would be lost, and its [`apply`], which does exactly that or nothing.
//!
//! A segment that is damaged is written anew from all that can be found of it: its records in front of the
//! damage and behind it, and what the store has kept. If every entry is found, nothing is lost. At the first
//! one that is not found the journal has to end, because positions are dense and entries build on each other;
//! what comes after it is set aside. Nothing is deleted: whatever is replaced is kept in the folder
//! `replaced`.
//!
//! That nothing would be lost is said only if it is known. What there was is told by the records in front of
//! the damage and behind it (a sound header is enough), by the segments that follow, by snapshots and store,
//! and by the closing record, behind which there is nothing. Where none of them speaks of bytes that are not
//! zero, nobody knows what they were, and the plan says that.
//!
//! A torn write at the end needs no repair; the next start cuts it off.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{ENTRY_BYTES_MAX, Position};
use super::error::{Contradiction, Corruption, DiskError, StartError};
use super::format::{decode_entry, put_behind_length, split_entries};
use super::journal::disk::{Disk, DiskFile, OsDisk, install};
use super::journal::format::{Form, JournalId, RECORD_BYTES_LIMIT, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::journal::segment::{self, SegmentReader, name_as, segment_name};
use super::journal::writer::Batch;
use super::local::LogConfig;
use super::lock::Lock;
use super::part::{group_last, group_of};
use super::store::set_aside;
use super::verify::{Report, verify_against};
use super::witness::Witnesses;

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
    /// What the journal should have, by what was made from it.
    pub contradictions: Vec<Contradiction>,
    /// What would be done, in this order; nothing if nothing needs to be, or can be.
    pub steps: Vec<Step>,
    /// What would be lost for good; none only if it is known that nothing would be.
    pub lost: Option<Loss>,
    /// What the files were like that the plan was made from.
    pub files: Vec<FileState>,
}

impl Plan {
    /// Whether anything is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.contradictions.is_empty()
    }
}

/// What a repair would lose for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The first position that the log would not have any more.
    pub first: Position,
    /// The last one that is known of; none if it is only possible that there was anything.
    pub last: Option<Position>,
    /// Those that can be read, from the first to the last of each stretch, and cannot be kept: nothing may
    /// follow a gap. They stay in the files that are replaced.
    pub readable: Vec<(Position, Position)>,
    /// Bytes at the end that nothing explains: an unknown number of entries, or a write that was interrupted.
    pub unread: Option<Unread>,
}

/// Bytes that are not zero, and not known to be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The file.
    pub file: PathBuf,
    /// Where they begin, in bytes from its start.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(last) = self.last {
            write!(f, "{}", Span(self.first, last))?;
            if !self.readable.is_empty() {
                let spans: Vec<_> =
                    self.readable.iter().map(|(first, last)| Span(*first, *last).to_string()).collect();
                write!(
                    f,
                    "; {} can be read but not kept, since nothing may follow a gap",
                    spans.join(" and ")
                )?;
            }
        }
        if let Some(Unread { file, offset, bytes }) = &self.unread {
            let and = if self.last.is_some() { "; and " } else { "" };
            write!(
                f,
                "{and}an unknown number of entries from position {} on: {}, byte {offset}, has {bytes} bytes that \
                 cannot be read",
                Position::after(self.last).max(self.first),
                file.display()
            )?;
        }
        Ok(())
    }
}

/// A stretch of positions.
struct Span(Position, Position);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 {
            write!(f, "position {}", self.0)
        } else {
            write!(f, "positions {} to {}", self.0, self.1)
        }
    }
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
    /// A snapshot is set aside, since it knows of more than the journal will have.
    SetSnapshotAside {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSegmentAside { first } => write!(f, "set segment {} aside", segment_name(*first)),
            Self::RewriteSegment { first, last: Some(last), from_store } => write!(
                f,
                "write segment {} anew with {}, {from_store} of them from the store",
                segment_name(*first),
                Span(*first, *last)
            ),
            Self::RewriteSegment { first, last: None, .. } => {
                write!(f, "write segment {} anew, without entries", segment_name(*first))
            }
            Self::SetStoreAside => f.write_str("set the store aside; the next start makes it anew"),
            Self::SetSnapshotAside { name } => {
                write!(f, "set the snapshot {name} aside; the next start makes it anew")
            }
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

/// Does what a plan says, if a plan that is made now says the same. Gives the files that were replaced, where
/// they are now.
pub fn apply(plan: &Plan) -> Result<Vec<PathBuf>, RepairError> {
    let _lock = Lock::take(&plan.folder)?;
    let mut survey = Survey::of(&plan.folder)?;
    if survey.plan != *plan {
        return Err(RepairError::Changed);
    }
    // sled would make files where another store is to be.
    survey.witnesses.store = None;
    let mut kept = Vec::new();
    for step in &plan.steps {
        tracing::info!(%step, "repairing");
        kept.extend(survey.execute(step)?);
    }
    Ok(kept)
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
    witnesses: Witnesses,
    journal: JournalId,
    /// The entries of the segments that are to be written anew.
    found: BTreeMap<Position, Found>,
}

/// The entries that were found for a segment, each as its bytes.
type Found = BTreeMap<Position, Bytes>;

impl Survey {
    fn of(folder: &Path) -> Result<Self, RepairError> {
        let config = LogConfig::new(folder);
        let witnesses = Witnesses::ask(&config, true)?;
        let report = verify_against(&config, &witnesses.claims)?;
        if let Some(store) = witnesses.store.as_ref().filter(|_| !report.is_sound()) {
            store.open_all();
        }
        let files =
            report.segments.iter().map(|segment| state_of(&segment.file)).collect::<Result<_, _>>()?;
        let plan = Plan {
            folder: folder.to_owned(),
            findings: report.findings.clone(),
            contradictions: report.contradictions.clone(),
            steps: Vec::new(),
            lost: None,
            files,
        };
        let mut survey = Self { config, plan, witnesses, journal: [0; 16], found: BTreeMap::new() };
        if !report.segments.is_empty() {
            survey.journal = find_id(&survey.config.journal_folder(), &report)?;
            survey.make_plan(&report)?;
        }
        Ok(survey)
    }

    fn make_plan(&mut self, report: &Report) -> Result<(), RepairError> {
        let claimed = self.witnesses.of(self.journal).filter_map(|claim| claim.seen).max();
        let mut known = report.head.max(claimed);
        let stretches = stretches(report, known);
        let end = stretches.len();
        let (mut cut, mut readable, mut unread) = (None, Vec::new(), None);
        for (number, mut stretch) in (1..).zip(stretches) {
            if stretch.whole && cut.is_none() {
                continue;
            }
            let first = stretch.first;
            let mut salvaged = salvage(&self.config.journal_folder(), self.header(first))?;
            // How far the others go, the ones behind them tell.
            if number == end {
                known = known.max(salvaged.told);
                stretch.last = known.filter(|last| *last >= first);
                unread = salvaged.unread.take();
            }
            if cut.is_some() {
                // In front of the others: the last one goes first, so that a crash leaves no gap but the
                // damage.
                self.plan.steps.insert(0, Step::SetSegmentAside { first });
                readable.extend(salvaged.entries.into_keys());
                continue;
            }
            let mut found = salvaged.entries;
            let filled = self.fill(&mut found, stretch);
            let last = contiguous(&found, first);
            let from_store = filled.iter().filter(|position| Some(**position) <= last).count() as u64;
            self.plan.steps.push(Step::RewriteSegment { first, last, from_store });
            if last < stretch.last {
                let lost = last.map_or(first, Position::next);
                readable.extend(found.range(lost..).map(|(position, _)| *position));
                cut = Some(lost);
            }
            self.found.insert(first, found);
        }
        if let Some(first) = cut {
            self.set_aside_what_knows_of(first);
        }
        let first = cut.or_else(|| unread.is_some().then(|| Position::after(known)));
        self.plan.lost = first.map(|first| Loss {
            first,
            last: known.filter(|last| *last >= first),
            readable: spans(&readable),
            unread,
        });
        Ok(())
    }

    /// What has seen lost positions must not be taken for something that was made from what gets them next.
    fn set_aside_what_knows_of(&mut self, lost: Position) {
        let store = self.config.store_folder();
        let steps = self.witnesses.of(self.journal).filter(|claim| claim.seen >= Some(lost)).map(|claim| {
            if claim.witness == store {
                return Step::SetStoreAside;
            }
            let name = claim.witness.file_name().unwrap_or_default().to_string_lossy();
            Step::SetSnapshotAside { name: name.into_owned() }
        });
        self.plan.steps.extend(steps);
    }

    /// Adds entries that are missing in a stretch from the store, and says which.
    fn fill(&self, found: &mut Found, stretch: Stretch) -> Vec<Position> {
        let store = self.witnesses.store.as_ref().filter(|store| store.journal() == Some(self.journal));
        let stored = store.and_then(|store| store.last().ok()).flatten();
        let Some((store, end)) = store.zip(stretch.last.min(stored)) else { return Vec::new() };
        let (mut filled, mut next) = (Vec::new(), stretch.first);
        while next <= end {
            let group = group_of(next);
            let body = store.group(group).ok().flatten().unwrap_or_default();
            let positions = std::iter::successors(Some(group), |position| Some(position.next()));
            for (position, entry) in positions.zip(split_entries(&body).map_while(Result::ok)) {
                if (stretch.first..=end).contains(&position) && !found.contains_key(&position) {
                    found.insert(position, Bytes::copy_from_slice(entry));
                    filled.push(position);
                }
            }
            next = group_last(group).next();
        }
        filled
    }

    fn header(&self, first: Position) -> SegmentHeader {
        let (form, journal) = (Form::Plain, self.journal);
        SegmentHeader { form, journal, first, record_bytes_max: RECORD_BYTES_MAX }
    }

    /// Takes one step, and gives the file that was replaced, where it is now.
    fn execute(&self, step: &Step) -> Result<Option<PathBuf>, RepairError> {
        let journal = self.config.journal_folder();
        let kept = match step {
            Step::SetSegmentAside { first } => {
                let archived = self.replace(&journal.join(name_as(*first, Form::Archived)), false)?;
                self.replace(&journal.join(segment_name(*first)), false)?.or(archived)
            }
            Step::RewriteSegment { first, last, .. } => {
                let (header, name) = (self.header(*first), segment_name(*first));
                let found = self.found.get(first).into_iter().flatten();
                let entries =
                    found.map_while(|(position, entry)| (Some(*position) <= *last).then_some(&entry[..]));
                let kept = self.replace(&journal.join(&name), true)?;
                install(&OsDisk, &journal, &name, |file| write_segment(file, &header, entries))?;
                // Where both are, the plain one stands: it may take its time to go.
                OsDisk.sync_folder(&journal).map_err(|error| DiskError::new("sync", &journal, &error))?;
                self.replace(&journal.join(name_as(*first, Form::Archived)), false)?.or(kept)
            }
            Step::SetStoreAside => {
                let store = self.config.store_folder();
                set_aside(&store).map_err(|error| DiskError::new("set aside", &store, &error))?;
                None
            }
            Step::SetSnapshotAside { name } => {
                self.replace(&self.config.snapshot_folder().join(name), false)?
            }
        };
        OsDisk.sync_folder(&journal).map_err(|error| DiskError::new("sync", &journal, &error))?;
        Ok(kept)
    }

    /// Keeps a file in the folder of what is replaced: as a second name if it stays until something takes its
    /// place, else it moves there. One that is not there needs no keeping.
    fn replace(&self, file: &Path, stays: bool) -> Result<Option<PathBuf>, DiskError> {
        let folder = self.config.folder.join(REPLACED_FOLDER);
        let failed = |error: &_| DiskError::new("keep", file, error);
        fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let free =
            (0..u32::MAX).map(|number| folder.join(format!("{name}.{number}"))).find(|path| !path.exists());
        let kept = free.expect("numbers do not run out");
        let result = if stays { fs::hard_link(file, &kept) } else { fs::rename(file, &kept) };
        let kept = match result {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&error)),
            Ok(()) => Some(kept),
        };
        OsDisk.sync_folder(&folder).map_err(|error| failed(&error))?;
        Ok(kept)
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
        let (form, first) = (Form::Plain, segment.first);
        let header = SegmentHeader { form, journal, first, record_bytes_max: RECORD_BYTES_LIMIT };
        if !salvage(folder, header)?.entries.is_empty() {
            return Ok(journal);
        }
    }
    Err(RepairError::NoId)
}

/// What can be found of a segment, whatever is between.
#[derive(Default)]
struct Salvaged {
    /// All entries of all sound records.
    entries: Found,
    /// The last position that a record's sound header tells of.
    told: Option<Position>,
    /// What is at the end and tells of nothing.
    unread: Option<Unread>,
}

fn salvage(folder: &Path, header: SegmentHeader) -> Result<Salvaged, DiskError> {
    let mut salvaged = Salvaged::default();
    let header = SegmentHeader { record_bytes_max: RECORD_BYTES_LIMIT, ..header };
    let Some(mut reader) = SegmentReader::open_as(&OsDisk, folder, header)? else { return Ok(salvaged) };
    loop {
        match reader.read()? {
            segment::Found::Record(record) => {
                let sound = reader.entries().filter_map(|(position, entry)| {
                    let entry = Bytes::copy_from_slice(entry);
                    decode_entry(&entry, position).is_ok().then_some((position, entry))
                });
                salvaged.entries.extend(sound);
                salvaged.told = salvaged.told.max(Some(record.last()));
            }
            segment::Found::End | segment::Found::Closed => return Ok(salvaged),
            segment::Found::Damaged(_) => {
                // Of a record whose body is damaged, or that does not belong here, the header still tells.
                let (at, expected) = (reader.offset, reader.next);
                let told = reader.record_header_at(at)?.filter(|header| header.first >= expected);
                let end = told.map_or(at, |header| at + header.record_bytes());
                salvaged.told = salvaged.told.max(told.and_then(|header| header.last()));
                let later = reader.find_header(at + 1, reader.length, |header| header.first >= expected)?;
                if let Some((offset, header)) = later {
                    reader.seek(offset, header.first);
                    // Behind a gap, the next header tells where it ends.
                    salvaged.told = salvaged.told.max(header.first.before());
                    continue;
                }
                salvaged.unread = reader.last_byte_from(end)?.map(|last| Unread {
                    file: reader.path().to_owned(),
                    offset: end,
                    bytes: last + 1 - end,
                });
                return Ok(salvaged);
            }
        }
    }
}

/// The stretches that positions make, which come in their order, some of them twice.
fn spans(positions: &[Position]) -> Vec<(Position, Position)> {
    let mut spans: Vec<(Position, Position)> = Vec::new();
    for position in positions {
        match spans.last_mut() {
            Some((_, last)) if *position <= last.next() => *last = *position.max(last),
            _ => spans.push((*position, *position)),
        }
    }
    spans
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
