//! Folds: what somebody has made of a stream up to a version, kept so that he need not read all of its history again.
//! They can be made again from the log, may be lost at any time, and are checked before anyone is handed one.
//!
//! They stand in files to which is only added, each of a fold's place in which memory has (29 bytes, and what a hash table
//! needs beside them), and nothing else of it. What was kept before of the same stream is waste; when there is more waste
//! than use, the oldest file's folds that are still good are added once more, and it goes. So the files have at most twice
//! the folds, and a little more, and no read and no write is one of sled's.
//!
//! They are written behind those who keep them, by a thread of their own, and never synced: what a crash takes, a fold from
//! the events brings back. But nothing is kept of what is not durable (who keeps a fold has been told that its last entry
//! is), and a start that finds one of a position that the journal does not reach believes none of them: other entries may
//! get that position.
//!
//! A file:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `csignfld` |
//! | 8 | 2 | format: 1 |
//! | 10 | 6 | zero |
//! | 16 | 16 | the journal's id |
//! | 32 | | folds, each: CRC-32C of the rest (4), length of the bytes (4), kind (1) and id (16) of the stream, version (8), the bytes |
//! | | 33 each | once the file is added to no more: of each fold kind and id, version, offset (4), length of the bytes (4) |
//! | | 16 | how many those are (4), CRC-32C of them and their number (4), `csignfix` |
//!
//! That list spares a start the folds themselves; where it is not, or not whole, they are read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};

use bytes::Bytes;

use super::FOLD_BYTES_MAX;
use super::committer::version_at;
use super::entry::{Position, StreamId, StreamKind, Version};
use super::error::DiskError;
use super::heads::ByStream;
use super::journal::format::JournalId;
use super::part::yield_to_others;

const MAGIC: [u8; 8] = *b"csignfld";
const LIST_MAGIC: [u8; 8] = *b"csignfix";
const FORMAT: u16 = 1;
const FILE_HEADER_BYTES: usize = 32;
/// Where a file's first fold is.
const FIRST_AT: u64 = FILE_HEADER_BYTES as u64;
const FOLD_HEADER_BYTES: usize = 4 + 4 + 17 + 8;
const LISTED_BYTES: usize = 17 + 8 + 4 + 4;
const LIST_END_BYTES: usize = 4 + 4 + 8;
const NAME_DIGITS: usize = 10;
const SUFFIX: &str = ".folds";

/// A file ends when it has so many bytes.
const FILE_BYTES: u64 = 32 * 1024 * 1024;
/// So many files of waste are let be, however little is in use.
const WASTE_FILES_MIN: u64 = 2;
/// So many folds wait to be written; more are let go.
const WAITING_MAX: usize = 1_024;

/// Where a fold stands: file (4 bytes), offset (4), length of its bytes (4), packed.
type Packed = [u8; 12];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: u32,
    offset: u32,
    length: u32,
}

/// The folds of one log.
#[derive(Debug)]
pub(crate) struct Folds {
    folder: PathBuf,
    journal: JournalId,
    file_bytes: u64,
    places: RwLock<ByStream<Packed>>,
    files: RwLock<BTreeMap<u32, Arc<File>>>,
}

/// A fold to be kept.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) stream: StreamId,
    pub(crate) version: Version,
    pub(crate) bytes: Bytes,
}

/// Whose folds are written behind him. They are when it is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Behind(mpsc::SyncSender<Fold>);

impl Behind {
    /// Where folds wait for their thread.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Fold>) {
        let (waiting, taken) = mpsc::sync_channel(WAITING_MAX);
        (Self(waiting), taken)
    }

    /// Keeps it some time later, or not at all if too many wait.
    pub(crate) fn keep(&self, fold: Fold) {
        let _ = self.0.try_send(fold);
    }
}

impl Folds {
    /// The folds in a folder that were made from this journal, which ends with `head`; others are removed.
    pub(crate) fn open(folder: &Path, journal: JournalId, head: Option<Position>) -> Result<Self, DiskError> {
        Self::open_with(folder, journal, head, FILE_BYTES)
    }

    fn open_with(
        folder: &Path,
        journal: JournalId,
        head: Option<Position>,
        file_bytes: u64,
    ) -> Result<Self, DiskError> {
        let failed = |action, error| DiskError::new(action, folder, &error);
        // It is made for the first fold: a start needs no room.
        let numbers = numbers_in(folder).map_err(|error| failed("list", error))?;
        let (places, files) = (RwLock::default(), RwLock::default());
        let folds = Self { folder: folder.to_owned(), journal, file_bytes, places, files };
        for number in numbers {
            match folds.take_in(number, head) {
                Ok(Taken::All) => {}
                Ok(Taken::Ahead) => {
                    tracing::warn!(folder = %folder.display(), "folds know of more than the journal has: removed");
                    return folds.begin_anew().map_err(|error| failed("empty", error));
                }
                Err(error) => {
                    let file = folds.path(number);
                    tracing::warn!(file = %file.display(), %error, "folds that cannot be read: removed");
                    fs::remove_file(&file).map_err(|error| DiskError::new("remove", &file, &error))?;
                }
            }
        }
        Ok(folds)
    }

    /// Removes all of them.
    fn begin_anew(self) -> io::Result<Self> {
        for number in numbers_in(&self.folder)? {
            fs::remove_file(self.path(number))?;
        }
        // What is removed must not come back with a power cut, when the journal has other entries there.
        File::open(&self.folder)?.sync_all()?;
        let Self { folder, journal, file_bytes, .. } = self;
        let (places, files) = (RwLock::default(), RwLock::default());
        Ok(Self { folder, journal, file_bytes, places, files })
    }

    /// The fold of a stream that was kept last. None if it is not there as it was kept, or of a version after `head`, the
    /// stream's last. Blocks.
    pub(crate) fn load(&self, stream: StreamId, head: Version) -> Option<(Version, Bytes)> {
        // It may move while it is looked for.
        let read = || self.read_at(self.place(stream)?);
        let (of, version, bytes) = read().or_else(read)?;
        (of == stream && version.to_token() <= head.to_token()).then_some((version, bytes))
    }

    /// Takes in what a file has.
    fn take_in(&self, number: u32, head: Option<Position>) -> io::Result<Taken> {
        let file = File::open(self.path(number))?;
        let mut header = [0; FILE_HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        if header != self.file_header() {
            return Err(io::Error::other("they are of another journal, or of another format"));
        }
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for listed in listed_in(&file, number)? {
            if listed.version.to_token() > head.map_or(0, Position::number) {
                return Ok(Taken::Ahead);
            }
            places.insert(listed.stream, listed.place.pack());
        }
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(file));
        Ok(Taken::All)
    }

    /// Whether one of this stream was kept.
    pub(crate) fn has(&self, stream: StreamId) -> bool {
        self.place(stream).is_some()
    }

    fn place(&self, stream: StreamId) -> Option<Place> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.get(&stream).copied().map(Place::unpack)
    }

    fn read_at(&self, place: Place) -> Option<(StreamId, Version, Bytes)> {
        let file = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&place.file).cloned()?;
        let mut bytes = vec![0; FOLD_HEADER_BYTES + place.length as usize];
        file.read_exact_at(&mut bytes, place.offset.into()).ok()?;
        parse(&bytes)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number:0NAME_DIGITS$}{SUFFIX}"))
    }

    fn file_header(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut header = [0; FILE_HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&FORMAT.to_be_bytes());
        header[16..].copy_from_slice(&self.journal);
        header
    }
}

enum Taken {
    All,
    /// It has one of a position that the journal does not reach.
    Ahead,
}

/// The thread that writes them.
#[derive(Debug)]
pub(crate) struct Writer {
    folds: Arc<Folds>,
    /// The file that is added to, once there is one: never one of an earlier start, whose end may be torn.
    file: Option<Current>,
    /// What all files have, and what is in use of that.
    bytes: u64,
    used: u64,
    failing: bool,
}

/// The file that is added to.
#[derive(Debug)]
struct Current {
    number: u32,
    file: Arc<File>,
    /// Where it ends.
    end: u64,
    /// What is in it, as its list has it.
    list: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(folds: Arc<Folds>) -> Self {
        let bytes = {
            let files = folds.files.read().unwrap_or_else(PoisonError::into_inner);
            files.values().map(|file| file.metadata().map_or(0, |about| about.len())).sum()
        };
        let used = {
            let places = folds.places.read().unwrap_or_else(PoisonError::into_inner);
            places.values().map(|place| Place::unpack(*place).bytes()).sum()
        };
        Self { folds, file: None, bytes, used, failing: false }
    }

    /// Writes what comes until nothing more can.
    pub(crate) fn run(&mut self, waiting: &mpsc::Receiver<Fold>) {
        yield_to_others();
        while let Ok(fold) = waiting.recv() {
            let written = self.write(&fold).and_then(|()| self.tidy());
            if let Err(error) = &written
                && !self.failing
            {
                // Nothing is lost but time.
                tracing::warn!(folder = %self.folds.folder.display(), %error, "folds of streams cannot be kept now");
            }
            self.failing = written.is_err();
        }
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the list of folds cannot be written: the next start reads them");
        }
    }

    fn write(&mut self, fold: &Fold) -> io::Result<()> {
        let bytes = encode(fold);
        let mut current = self.file_for(bytes.len() as u64)?;
        let placed = Place::new(current.number, current.end, fold.bytes.len());
        let place = placed.ok_or_else(|| io::Error::other("a fold that is larger than a file"))?;
        let written = current.file.write_all_at(&bytes, current.end);
        if written.is_ok() {
            current.end += place.bytes();
            Listed { stream: fold.stream, version: fold.version, place }.put(&mut current.list);
        }
        self.file = Some(current);
        written?;
        self.bytes += place.bytes();
        self.used += place.bytes();
        let mut places = self.folds.places.write().unwrap_or_else(PoisonError::into_inner);
        let before = places.insert(fold.stream, place.pack());
        self.used -= before.map_or(0, |before| Place::unpack(before).bytes());
        Ok(())
    }

    /// The file that has room for so many bytes more, or a new one.
    fn file_for(&mut self, bytes: u64) -> io::Result<Current> {
        if let Some(current) = self.file.take_if(|current| current.end + bytes <= self.folds.file_bytes) {
            return Ok(current);
        }
        self.finish()?;
        let mut files = self.folds.files.write().unwrap_or_else(PoisonError::into_inner);
        let number = files.last_key_value().map_or(1, |(last, _)| last + 1);
        fs::create_dir_all(&self.folds.folder)?;
        let mut open = File::options();
        let file = open.read(true).write(true).create(true).truncate(true).open(self.folds.path(number))?;
        file.write_all_at(&self.folds.file_header(), 0)?;
        let file = Arc::new(file);
        files.insert(number, Arc::clone(&file));
        self.bytes += FIRST_AT;
        Ok(Current { number, file, end: FIRST_AT, list: Vec::new() })
    }

    /// Ends the file that was added to with its list.
    fn finish(&mut self) -> io::Result<()> {
        let Some(Current { file, end, mut list, .. }) = self.file.take() else { return Ok(()) };
        let count = u32::try_from(list.len() / LISTED_BYTES).unwrap_or(u32::MAX);
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&crc32c::crc32c(&list).to_be_bytes());
        list.extend_from_slice(&LIST_MAGIC);
        self.bytes += list.len() as u64;
        file.write_all_at(&list, end)
    }

    /// Where there is more waste than use, what is good in the oldest file is added once more, and it goes.
    fn tidy(&mut self) -> io::Result<()> {
        let waste = self.bytes.saturating_sub(self.used);
        if waste <= self.used.max(WASTE_FILES_MIN * self.folds.file_bytes) {
            return Ok(());
        }
        let oldest = {
            let files = self.folds.files.read().unwrap_or_else(PoisonError::into_inner);
            files.first_key_value().map(|(number, file)| (*number, Arc::clone(file)))
        };
        let Some((number, file)) = oldest else { return Ok(()) };
        if self.file.as_ref().is_some_and(|current| current.number == number) {
            return Ok(());
        }
        for Listed { stream, place, .. } in listed_in(&file, number)? {
            if self.folds.place(stream) != Some(place) {
                continue;
            }
            match self.folds.read_at(place) {
                Some((of, version, bytes)) if of == stream => self.write(&Fold { stream, version, bytes })?,
                _ => {
                    self.folds.places.write().unwrap_or_else(PoisonError::into_inner).remove(&stream);
                    self.used -= place.bytes();
                }
            }
        }
        self.folds.files.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.bytes = self.bytes.saturating_sub(file.metadata()?.len());
        fs::remove_file(self.folds.path(number))
    }
}

/// A fold as the list of its file has it.
struct Listed {
    stream: StreamId,
    version: Version,
    place: Place,
}

impl Listed {
    fn put(&self, list: &mut Vec<u8>) {
        list.push(self.stream.kind() as u8);
        list.extend_from_slice(&self.stream.id());
        list.extend_from_slice(&self.version.to_token().to_be_bytes());
        list.extend_from_slice(&self.place.pack()[4..]);
    }

    fn parse(bytes: &[u8; LISTED_BYTES], file: u32) -> Option<Self> {
        let stream = StreamId::new(StreamKind::from_number(bytes[0])?, bytes[1..17].try_into().ok()?);
        let version = version_at(Position::new(u64::from_be_bytes(bytes[17..25].try_into().ok()?))?);
        let mut place = [0; 12];
        place[..4].copy_from_slice(&file.to_be_bytes());
        place[4..].copy_from_slice(&bytes[25..]);
        let place = Place::unpack(place);
        // Room is made for so many, before anything is read: nobody keeps more.
        (place.length as usize <= FOLD_BYTES_MAX).then_some(Self { stream, version, place })
    }
}

/// What a file has, in the order in which it was added.
fn listed_in(file: &File, number: u32) -> io::Result<Vec<Listed>> {
    let length = file.metadata()?.len();
    if let Some(list) = list_of(file, length)
        && let Some(listed) = list.iter().map(|one| Listed::parse(one, number)).collect()
    {
        return Ok(listed);
    }
    let mut reading = io::BufReader::with_capacity(1024 * 1024, file);
    io::Seek::seek(&mut reading, io::SeekFrom::Start(FIRST_AT))?;
    let (mut listed, mut offset) = (Vec::new(), FIRST_AT);
    // What is behind the first that is not whole was being written when a crash came.
    while let Some((stream, version, bytes)) = read_next(&mut reading)? {
        let Some(place) = Place::new(number, offset, bytes.len()) else { break };
        listed.push(Listed { stream, version, place });
        offset += place.bytes();
    }
    Ok(listed)
}

/// The list at the end of a file, if it has one that is whole.
fn list_of(file: &File, length: u64) -> Option<Vec<[u8; LISTED_BYTES]>> {
    let mut end = [0; LIST_END_BYTES];
    let end_at = length.checked_sub(LIST_END_BYTES as u64)?;
    file.read_exact_at(&mut end, end_at).ok()?;
    let count = u32::from_be_bytes(end[..4].try_into().ok()?);
    let bytes = u64::from(count) * LISTED_BYTES as u64;
    if end[8..] != LIST_MAGIC || bytes > end_at.saturating_sub(FIRST_AT) {
        return None;
    }
    let mut list = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut list, end_at - bytes).ok()?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&list), &end[..4]);
    (end[4..8] == crc.to_be_bytes()).then(|| list.as_chunks().0.to_vec())
}

impl Place {
    fn new(file: u32, offset: u64, length: usize) -> Option<Self> {
        Some(Self { file, offset: offset.try_into().ok()?, length: length.try_into().ok()? })
    }

    /// What it takes in its file.
    fn bytes(self) -> u64 {
        FOLD_HEADER_BYTES as u64 + u64::from(self.length)
    }

    fn pack(self) -> Packed {
        let mut packed = [0; 12];
        packed[..4].copy_from_slice(&self.file.to_be_bytes());
        packed[4..8].copy_from_slice(&self.offset.to_be_bytes());
        packed[8..].copy_from_slice(&self.length.to_be_bytes());
        packed
    }

    fn unpack(packed: Packed) -> Self {
        let [a, b, c] = *packed.as_chunks::<4>().0 else { unreachable!("twelve bytes are three times four") };
        Self { file: u32::from_be_bytes(a), offset: u32::from_be_bytes(b), length: u32::from_be_bytes(c) }
    }
}

fn encode(fold: &Fold) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FOLD_HEADER_BYTES + fold.bytes.len());
    bytes.extend_from_slice(&[0; 4]);
    // As long as it is, it has found its way through memory.
    bytes.extend_from_slice(&u32::try_from(fold.bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push(fold.stream.kind() as u8);
    bytes.extend_from_slice(&fold.stream.id());
    bytes.extend_from_slice(&fold.version.to_token().to_be_bytes());
    bytes.extend_from_slice(&fold.bytes);
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The fold of these bytes, all of them, if they are as they were written.
fn parse(bytes: &[u8]) -> Option<(StreamId, Version, Bytes)> {
    let (header, body) = bytes.split_first_chunk::<FOLD_HEADER_BYTES>()?;
    if header[..4] != crc32c::crc32c(&bytes[4..]).to_be_bytes() {
        return None;
    }
    let kind = StreamKind::from_number(header[8])?;
    let stream = StreamId::new(kind, header[9..25].try_into().ok()?);
    let position = Position::new(u64::from_be_bytes(header[25..].try_into().ok()?))?;
    Some((stream, version_at(position), Bytes::copy_from_slice(body)))
}

/// The next fold; none at the end, or where what is there is none.
fn read_next(reading: &mut impl io::Read) -> io::Result<Option<(StreamId, Version, Bytes)>> {
    let mut bytes = vec![0; FOLD_HEADER_BYTES];
    match reading.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes"));
    let whole = reading.take(length.into()).read_to_end(&mut bytes)? == length as usize;
    Ok(whole.then(|| parse(&bytes)).flatten())
}

fn numbers_in(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
        files => files?,
    };
    for file in files {
        let name = file?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        numbers.extend(
            digits.filter(|digits| digits.len() == NAME_DIGITS).and_then(|digits| digits.parse::<u32>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A fold: of which stream, up to which version, and its bytes.
#[doc(hidden)]
pub type KeptFold = (StreamId, Version, Bytes);

/// Keeps folds in a new folder, as a log of this journal does. For the fuzzer.
#[doc(hidden)]
pub fn keep_folds(folder: &Path, journal: [u8; 16], kept: Vec<KeptFold>) -> Result<(), DiskError> {
    let (behind, waiting) = Behind::new();
    for (stream, version, bytes) in kept {
        behind.keep(Fold { stream, version, bytes });
    }
    drop(behind);
    Writer::new(Arc::new(Folds::open(folder, journal, None)?)).run(&waiting);
    Ok(())
}

/// The folds that a log of this journal, which ends with `head`, finds in a folder. For the fuzzer, which meets a disk's
/// bytes here.
#[doc(hidden)]
pub fn folds_in(folder: &Path, journal: [u8; 16], head: Position) -> Result<Vec<KeptFold>, DiskError> {
    let folds = Folds::open(folder, journal, Some(head))?;
    let streams: Vec<_> = {
        let places = folds.places.read().unwrap_or_else(PoisonError::into_inner);
        places.keys().copied().collect()
    };
    let loaded = streams.into_iter().filter_map(|stream| {
        let (version, bytes) = folds.load(stream, version_at(head))?;
        Some((stream, version, bytes))
    });
    Ok(loaded.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL: JournalId = [7; 16];
    const FILE_BYTES: u64 = 4_096;

    fn stream(number: u8) -> StreamId {
        StreamId::new(StreamKind::Account, [number; 16])
    }

    fn at(position: u64) -> Position {
        Position::new(position).unwrap()
    }

    fn open(folder: &Path, journal: JournalId, head: u64) -> Folds {
        Folds::open_with(folder, journal, Position::new(head), FILE_BYTES).unwrap()
    }

    /// Keeps folds, and gives what is there then.
    fn keep(folds: Folds, kept: impl IntoIterator<Item = (u8, u64, Vec<u8>)>) -> Arc<Folds> {
        let folds = Arc::new(folds);
        let (behind, waiting) = mpsc::sync_channel(1);
        let mut writer = Writer::new(Arc::clone(&folds));
        let writing = std::thread::spawn(move || writer.run(&waiting));
        for (number, position, bytes) in kept {
            let version = version_at(at(position));
            behind.send(Fold { stream: stream(number), version, bytes: bytes.into() }).unwrap();
        }
        drop(behind);
        writing.join().unwrap();
        folds
    }

    fn load(folds: &Folds, number: u8) -> Option<(u64, Vec<u8>)> {
        let (version, bytes) = folds.load(stream(number), version_at(at(1_000_000)))?;
        Some((version.to_token(), bytes.to_vec()))
    }

    fn bytes_in(folder: &Path) -> u64 {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_file_of_folds_is_what_it_always_was() {
        let folder = tempfile::tempdir().unwrap();
        keep(open(folder.path(), JOURNAL, 0), [(1, 2, b"fold".to_vec())]);
        let bytes = fs::read(folder.path().join("0000000001.folds")).unwrap();
        let (stream, version) = ([&[1][..], &[1; 16]].concat(), 2_u64.to_be_bytes());
        let fold = [&4_u32.to_be_bytes()[..], &stream, &version, b"fold"].concat();
        let list = [&stream[..], &version, &32_u32.to_be_bytes(), &4_u32.to_be_bytes(), &1_u32.to_be_bytes()]
            .concat();
        let expected = [
            b"csignfld",
            &[0, 1, 0, 0, 0, 0, 0, 0][..],
            &JOURNAL,
            &crc32c::crc32c(&fold).to_be_bytes(),
            &fold,
            &list,
            &crc32c::crc32c(&list).to_be_bytes(),
            b"csignfix",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_damaged_file_gives_what_was_kept_or_nothing() {
        let kept = [(1, 2, b"of the first".to_vec()), (2, 3, b"of the second".to_vec())];
        let folder = tempfile::tempdir().unwrap();
        keep(open(folder.path(), JOURNAL, 0), kept.clone());
        let path = folder.path().join("0000000001.folds");
        let whole = fs::read(&path).unwrap();
        let flipped = (0..whole.len()).map(|at| {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            flipped
        });
        let cut = (0..whole.len()).map(|at| whole[..at].to_vec());
        for (number, damaged) in flipped.chain(cut).enumerate() {
            fs::write(&path, damaged).unwrap();
            let folds = open(folder.path(), JOURNAL, 1_000);
            let found: Vec<_> = kept.iter().filter_map(|(number, ..)| load(&folds, *number)).collect();
            let all: Vec<_> = kept.iter().map(|(_, position, bytes)| (*position, bytes.clone())).collect();
            assert!(found.iter().all(|one| all.contains(one)), "damage {number}: {found:?}");
            assert!(found.len() < 2 || number < whole.len() || number >= whole.len() + 32, "cut {number}");
        }
    }

    #[test]
    fn a_journal_that_does_not_reach_a_fold_makes_all_of_them_unbelievable() {
        let folder = tempfile::tempdir().unwrap();
        let kept = (0..100).map(|number| (number, u64::from(number) + 1, vec![number; 90]));
        keep(open(folder.path(), JOURNAL, 0), kept);
        // The journal has lost its last entry, and has others now where that was.
        for head in [99, 1_000] {
            let folds = open(folder.path(), JOURNAL, head);
            assert!((0..100).all(|number| load(&folds, number).is_none()), "with {head}");
        }
    }

    #[test]
    fn folds_of_another_journal_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        keep(open(folder.path(), JOURNAL, 0), [(1, 2, vec![1])]);
        assert_eq!(load(&open(folder.path(), [8; 16], 1_000), 1), None);
        assert_eq!(load(&open(folder.path(), JOURNAL, 1_000), 1), None, "it was removed");
    }

    #[test]
    fn files_do_not_grow_with_what_was_kept_before() {
        let folder = tempfile::tempdir().unwrap();
        let last = |folds: &Folds| (0..20).map(|number| load(folds, number)).collect::<Vec<_>>();
        let expected: Vec<_> =
            (0..20).map(|number| Some((9_980 + u64::from(number) + 1, vec![number; 100]))).collect();
        let kept = (0..10_000_u64).map(|n| {
            let number = u8::try_from(n % 20).unwrap();
            (number, n + 1, vec![number; 100])
        });
        let folds = keep(open(folder.path(), JOURNAL, 0), kept);
        assert_eq!(last(&folds), expected);
        let most = 2 * 20 * 133 + 4 * FILE_BYTES;
        assert!(bytes_in(folder.path()) < most, "{} bytes", bytes_in(folder.path()));
        // One that nobody keeps anew stays, whatever is kept of the others.
        let folds =
            keep(open(folder.path(), JOURNAL, 10_000), (0..10_000).map(|n| (21, 10_001 + n, vec![0; 100])));
        assert_eq!(last(&folds), expected);
        assert_eq!(last(&open(folder.path(), JOURNAL, 100_000)), expected);
        assert!(bytes_in(folder.path()) < most, "{} bytes", bytes_in(folder.path()));
    }

    #[test]
    fn a_fold_of_a_version_after_the_streams_last_is_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let folds = keep(open(folder.path(), JOURNAL, 0), [(1, 7, vec![1])]);
        assert_eq!(folds.load(stream(1), version_at(at(6))), None);
        assert!(folds.load(stream(1), version_at(at(7))).is_some());
    }
}
