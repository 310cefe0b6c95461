//! Reading a log that no broker has open, from its journal alone. Nothing is changed, not even what a start
//! would mend, and no right to write is needed: for `log show` and `log tail`, and to look at a copy.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Position};
use super::error::{Corruption, Damage, DiskError, ReadError};
use super::format::decode_entry;
use super::journal::disk::{Disk, OsDisk};
use super::journal::reader::{JournalReader, Records};
use super::journal::segment::{Found, SegmentReader, list_segments};
use super::journal::tail::{Verdict, judge};
use super::local::JOURNAL_FOLDER;

/// How a journal ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// There is no journal.
    Nothing,
    /// The log was closed.
    Closed,
    /// The log was not closed, or is being written to.
    Open,
    /// The last write was interrupted, or is going on. Nobody was told of it; the next start cuts it off.
    Torn {
        /// Where it begins, in bytes from the start of the last segment.
        offset: u64,
        /// How many bytes there are from there on.
        bytes: u64,
    },
    /// The last segment cannot be read to its end.
    Corrupt(Corruption),
}

/// A log that is only read.
#[derive(Debug)]
pub struct OfflineLog {
    journal: Arc<JournalReader>,
    head: Option<Position>,
    ending: Ending,
}

impl OfflineLog {
    /// Opens the log in this folder. A broker may be writing to it; what it writes later is not seen.
    pub fn open(folder: &Path) -> Result<Self, ReadError> {
        Self::open_on(Arc::new(OsDisk), &folder.join(JOURNAL_FOLDER))
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, ReadError> {
        let segments = list_segments(&*disk, folder)?;
        let (journal, head, ending) = match segments.last() {
            None => ([0; 16], None, Ending::Nothing),
            Some(last) => {
                let mut reader = SegmentReader::open(&*disk, folder, *last, None)?;
                let ending = read_to_end(&mut reader)?;
                (reader.header.journal, reader.next.before(), ending)
            }
        };
        let journal = Arc::new(JournalReader::new(disk, folder.to_owned(), journal, segments));
        Ok(Self { journal, head, ending })
    }

    /// The position of the last entry that can be read.
    pub fn head(&self) -> Option<Position> {
        self.head
    }

    /// How the journal ends.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The entries from `from` on. What cannot be read ends them, with an error.
    pub fn entries(&self, from: Position) -> Entries {
        let corruption = match &self.ending {
            Ending::Corrupt(corruption) => Some(Err(ReadError::Corrupt(corruption.clone()))),
            _ => None,
        };
        let Some(head) = self.head.filter(|head| *head >= from) else {
            return Entries { records: None, pending: Vec::new(), last: corruption };
        };
        match self.journal.records(from, head) {
            Ok(records) => Entries { records: Some(records), pending: Vec::new(), last: corruption },
            Err(error) => Entries { records: None, pending: Vec::new(), last: Some(Err(error)) },
        }
    }

    /// The entry at this position, if there is one.
    pub fn entry(&self, position: Position) -> Result<Option<Entry>, ReadError> {
        if Some(position) > self.head {
            return Ok(None);
        }
        self.entries(position).next().transpose()
    }
}

/// Reads the last segment to where it can be read.
fn read_to_end(reader: &mut SegmentReader) -> Result<Ending, DiskError> {
    loop {
        match reader.read()? {
            Found::Record(_) => {}
            Found::End => return Ok(Ending::Open),
            Found::Closed => return Ok(Ending::Closed),
            Found::Damaged(damage) => return ending(reader, damage),
        }
    }
}

/// What the damage that the reader of the last segment has met says about the journal's end.
pub(crate) fn ending(reader: &mut SegmentReader, damage: Damage) -> Result<Ending, DiskError> {
    let damage = match judge(reader, damage)? {
        Verdict::Torn => {
            return Ok(Ending::Torn { offset: reader.offset, bytes: reader.length - reader.offset });
        }
        Verdict::Corrupt(damage) => damage,
    };
    // A broker that was writing meanwhile has put there what was not when it was read, and more behind it.
    let (offset, next) = (reader.offset, reader.next);
    reader.look_again()?;
    let whole = !matches!(reader.read()?, Found::Damaged(_));
    reader.seek(offset, next);
    Ok(if whole { Ending::Open } else { Ending::Corrupt(reader.corruption(damage)) })
}

/// Entries in the order of positions. Behind an error comes nothing.
#[derive(Debug)]
pub struct Entries {
    records: Option<Records>,
    /// Of the record that was read last, newest first.
    pending: Vec<Result<Entry, ReadError>>,
    /// What to say when all is read.
    last: Option<Result<Entry, ReadError>>,
}

impl Iterator for Entries {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pending.is_empty() {
            self.read_record();
        }
        let next = self.pending.pop().or_else(|| self.last.take());
        if matches!(next, Some(Err(_))) {
            (self.records, self.pending, self.last) = (None, Vec::new(), None);
        }
        next
    }
}

impl Entries {
    fn read_record(&mut self) {
        let Some(records) = &mut self.records else { return };
        match records.read() {
            Ok(Some(record)) => {
                let entries = records.entries().map(|(position, entry)| {
                    let entry = decode_entry(&Bytes::copy_from_slice(entry), position);
                    entry.map_err(|what| records.corruption(record, position, what.into()).into())
                });
                self.pending = entries.collect();
                self.pending.reverse();
            }
            Ok(None) => self.records = None,
            Err(error) => (self.records, self.last) = (None, Some(Err(error.into()))),
        }
    }
}
