//! Snapshots: files that can be made again from the log, and are checked before anyone believes them. One is
//! of the heads, the others of read models.
//!
//! They are files and not values in sled because they are wanted most when sled has to be made again, and
//! because sled would keep what is large in a file of its own anyway, without our checksum.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `csignsnp` |
//! | 8 | 2 | format: 1 |
//! | 10 | 6 | zero |
//! | 16 | 16 | the journal's id |
//! | 32 | 8 | the position that it is made up to |
//! | 40 | | the contents |
//! | end - 4 | 4 | CRC-32C of everything before |

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::entry::Position;
use super::error::DiskError;
use super::heads::Heads;
use super::journal::disk::{Disk, install};
use super::journal::format::JournalId;
use super::witness::Claim;

const MAGIC: [u8; 8] = *b"csignsnp";
const FORMAT: u16 = 1;
/// Whatever they will mean some day, who does not know it must not read on: a snapshot can be made again.
const RESERVED: [u8; 6] = [0; 6];
const HEADER_BYTES: usize = 40;
const CRC_BYTES: usize = 4;
const NAME_BYTES_MAX: usize = 64;

/// The name of the heads' snapshot. No read model can have it: theirs begin with [`MODEL_PREFIX`].
pub(crate) const HEADS: &str = "heads";
/// How the names of read models' snapshots begin.
pub(crate) const MODEL_PREFIX: &str = "model-";

/// The snapshots of one log, in a folder.
#[derive(Debug)]
pub(crate) struct Snapshots<D> {
    disk: D,
    folder: PathBuf,
    journal: JournalId,
}

impl<D: Disk> Snapshots<D> {
    /// The snapshots in a folder that exists.
    pub(crate) fn new(disk: D, folder: PathBuf, journal: JournalId) -> Self {
        Self { disk, folder, journal }
    }

    /// Where the snapshot of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Replaces a snapshot; after a crash there is the old one or the new one.
    pub(crate) fn save<B: AsRef<[u8]>>(
        &self,
        name: &str,
        position: Position,
        pieces: impl Iterator<Item = B>,
    ) -> Result<(), DiskError> {
        let path = self.path(check_name(name, &self.folder)?);
        let header = header(self.journal, position);
        install(&self.disk, &self.folder, name, |file| {
            let failed = |error| DiskError::new("write", &path, &error);
            file.write_at(&header, 0).map_err(failed)?;
            let (mut offset, mut crc) = (header.len() as u64, crc32c::crc32c(&header));
            for piece in pieces {
                let piece = piece.as_ref();
                file.write_at(piece, offset).map_err(failed)?;
                crc = crc32c::crc32c_append(crc, piece);
                offset += piece.len() as u64;
            }
            file.write_at(&crc.to_be_bytes(), offset).map_err(failed)
        })?;
        self.disk.sync_folder(&self.folder).map_err(|error| DiskError::new("sync", &self.folder, &error))
    }

    /// Reads a snapshot: the position that it is made up to, and its contents. None if there is none of this
    /// journal that is intact.
    pub(crate) fn load(&self, name: &str) -> Option<(Position, Bytes)> {
        let path = self.path(check_name(name, &self.folder).ok()?);
        let bytes = read(&self.disk, &path)?;
        let snapshot = Snapshot::parse(&bytes).filter(|snapshot| snapshot.journal == self.journal);
        if snapshot.is_none() {
            tracing::warn!(file = %path.display(), "the snapshot is damaged or not of this log: not used");
        }
        snapshot.map(|snapshot| (snapshot.position, snapshot.contents))
    }
}

fn header(journal: JournalId, position: Position) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&FORMAT.to_be_bytes());
    header.extend_from_slice(&RESERVED);
    header.extend_from_slice(&journal);
    header.extend_from_slice(&position.number().to_be_bytes());
    header
}

/// What is read from these bytes of a file, written again; nothing if they are no snapshot. For the fuzzer, which
/// meets a disk's bytes here.
#[doc(hidden)]
pub fn snapshot_again(bytes: &Bytes) -> Option<Vec<u8>> {
    let snapshot = Snapshot::parse(bytes)?;
    let mut again = header(snapshot.journal, snapshot.position);
    again.extend_from_slice(&snapshot.contents);
    again.extend_from_slice(&crc32c::crc32c(&again).to_be_bytes());
    Some(again)
}

/// The same of the contents of the heads' snapshot, with the highest position among them.
#[doc(hidden)]
pub fn heads_again(bytes: &[u8]) -> Option<(Vec<u8>, Option<Position>)> {
    let (heads, highest) = Heads::from_bytes(bytes)?;
    Some((heads.pieces().collect::<Vec<_>>().concat(), highest))
}

/// What the snapshots in a folder say of the journal that they were made from, whichever that is. No folder
/// is one without snapshots.
pub(crate) fn claims_in<D: Disk>(disk: &D, folder: &Path) -> Result<Vec<Claim>, DiskError> {
    let mut names = match disk.names(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|error| DiskError::new("list", folder, &error))?,
    };
    // What is still being made has another name.
    names.retain(|name| check_name(name, folder).is_ok());
    names.sort_unstable();
    let claims = names.into_iter().map(|name| {
        let witness = folder.join(&name);
        let snapshot = read(disk, &witness).and_then(|bytes| Snapshot::parse(&bytes));
        let journal = snapshot.as_ref().map(|snapshot| snapshot.journal);
        let seen = snapshot.and_then(|snapshot| snapshot.seen(&name));
        Claim { witness, journal, seen }
    });
    Ok(claims.collect())
}

fn read<D: Disk>(disk: &D, path: &Path) -> Option<Bytes> {
    let file = disk.open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(file.length().ok()?).ok()?];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    Some(bytes.into())
}

/// A snapshot that is intact.
struct Snapshot {
    journal: JournalId,
    position: Position,
    contents: Bytes,
}

impl Snapshot {
    fn parse(bytes: &Bytes) -> Option<Self> {
        let contents_bytes = bytes.len().checked_sub(HEADER_BYTES + CRC_BYTES)?;
        let (checked, crc) = bytes.split_at(HEADER_BYTES + contents_bytes);
        let sound = bytes[..8] == MAGIC
            && bytes[8..10] == FORMAT.to_be_bytes()
            && bytes[10..16] == RESERVED
            && crc == crc32c::crc32c(checked).to_be_bytes();
        let journal = bytes[16..32].try_into().ok()?;
        let position = Position::new(u64::from_be_bytes(bytes[32..40].try_into().ok()?))?;
        let contents = bytes.slice(HEADER_BYTES..HEADER_BYTES + contents_bytes);
        sound.then_some(Self { journal, position, contents })
    }

    /// The last position that it knows of. Heads are saved while the log goes on, and may know of more than
    /// they are made up to; what is not heads under their name is not believed.
    fn seen(&self, name: &str) -> Option<Position> {
        if name != HEADS {
            return Some(self.position);
        }
        let (_, highest) = Heads::from_bytes(&self.contents)?;
        highest.max(Some(self.position))
    }
}

/// Names become names of files: lower-case letters, digits and hyphens.
fn check_name<'a>(name: &'a str, folder: &Path) -> Result<&'a str, DiskError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name);
    }
    let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "no name for a snapshot");
    Err(DiskError::new("name a file in", folder, &error))
}

#[cfg(test)]
mod tests {
    use super::super::journal::sim::SimDisk;
    use super::*;

    const JOURNAL: JournalId = [7; 16];

    fn saved() -> (SimDisk, Snapshots<SimDisk>) {
        let disk = SimDisk::new(1);
        let snapshots = Snapshots::new(disk.clone(), PathBuf::from("/snapshots"), JOURNAL);
        snapshots.save("heads", Position::FIRST, [&b"some "[..], b"heads"].into_iter()).unwrap();
        (disk, snapshots)
    }

    #[test]
    fn a_snapshot_reads_back() {
        let (_, snapshots) = saved();
        assert_eq!(snapshots.load("heads"), Some((Position::FIRST, Bytes::from_static(b"some heads"))));
        assert_eq!(snapshots.load("other"), None);
    }

    #[test]
    fn a_snapshot_is_what_it_always_was() {
        let (disk, _) = saved();
        let bytes = disk.contents().into_values().next().unwrap();
        let expected = [
            &b"csignsnp"[..],
            &[0, 1, 0, 0, 0, 0, 0, 0],
            &[7; 16],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            b"some heads",
            &[0x05, 0x98, 0x87, 0x4b],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_damaged_snapshot_is_not_used() {
        let (disk, _) = saved();
        let contents = disk.contents();
        let length = contents.values().next().unwrap().len();
        for at in 0..length {
            let (mut flipped, mut cut) = (contents.clone(), contents.clone());
            flipped.values_mut().next().unwrap()[at] ^= 1;
            cut.values_mut().next().unwrap().truncate(at);
            for damaged in [flipped, cut] {
                let disk = SimDisk::with_contents(&damaged);
                let snapshots = Snapshots::new(disk, PathBuf::from("/snapshots"), JOURNAL);
                assert_eq!(snapshots.load("heads"), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_snapshot_of_another_log_is_not_used() {
        let (disk, _) = saved();
        let snapshots = Snapshots::new(disk, PathBuf::from("/snapshots"), [8; 16]);
        assert_eq!(snapshots.load("heads"), None);
    }

    #[test]
    fn a_name_that_would_lead_elsewhere_is_refused() {
        let (_, snapshots) = saved();
        for name in ["", ".", "../heads", "a/b", "Heads", "heads.new", &"x".repeat(65)] {
            assert!(snapshots.save(name, Position::FIRST, std::iter::empty::<Vec<u8>>()).is_err(), "{name}");
            assert_eq!(snapshots.load(name), None, "{name}");
        }
    }
}
