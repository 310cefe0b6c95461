//! The journal on a disk that forgets, tears, fills up and fails.

#![expect(clippy::cast_possible_truncation, reason = "tests run where a usize has 64 bits")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::archive::{ArchiveError, archive};
use super::disk::Disk;
use super::format::Form;
use super::segment::{list_files, position_in_name};
use super::sim::{Dice, PowerCut, SimDisk, Trouble};
use super::start::{JournalLimits, Opened, open};
use super::writer::{Batch, CommitError};
use crate::log::entry::{Entry, EventRecord, Position, StreamId, StreamKind, Version};
use crate::log::error::{Corruption, Damage, FileError, ReadError, StartError};
use crate::log::format::encode;

const LIMITS: JournalLimits = JournalLimits { segment_bytes: 3000, record_bytes_max: 4096 };
const ID: [u8; 16] = *b"a journal's id..";

fn folder() -> PathBuf {
    PathBuf::from("/journal")
}

fn start(disk: &SimDisk) -> Result<Opened, StartError> {
    open(Arc::new(disk.clone()), &folder(), LIMITS, ID, &mut |_| Ok(()))
}

/// An entry that tells its number, of some length.
fn entry(number: u64, body_bytes: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(body.len() + body_bytes, number as u8);
    let event =
        EventRecord { kind: 7, version: 1, may_ignore: false, body: body.into(), sealed: Bytes::new() };
    encoded(number, event)
}

fn encoded(recorded_at_ms: u64, event: EventRecord) -> Vec<u8> {
    let (stream, position) = (StreamId::new(StreamKind::Broker, [1; 16]), Position::FIRST);
    let version = Version::from_token(1);
    let entry = Entry { position, stream, version, previous: None, recorded_at_ms, events: vec![event] };
    let mut encoded = Vec::new();
    encode(&entry, &mut encoded);
    encoded
}

fn commit(opened: &mut Opened, entries: &[Vec<u8>]) -> Result<(), CommitError> {
    let mut batch = Batch::new();
    for entry in entries {
        batch.push(|bytes| bytes.extend_from_slice(entry));
    }
    opened.journal.commit(&mut batch, entries.len() as u32)
}

fn head_of(opened: &Opened) -> u64 {
    opened.journal.next().number() - 1
}

/// Everything that the journal holds, each entry behind its length.
fn everything(opened: &Opened) -> Result<Vec<Vec<u8>>, ReadError> {
    let Some(head) = opened.journal.next().before() else { return Ok(Vec::new()) };
    let mut records = opened.reader.records(Position::FIRST, head)?;
    let mut entries = Vec::new();
    while records.read()?.is_some() {
        for (position, entry) in records.entries() {
            assert_eq!(position.number(), entries.len() as u64 + 1);
            entries.push([&(entry.len() as u32).to_be_bytes(), entry].concat());
        }
    }
    assert_eq!(entries.len() as u64, head.number());
    Ok(entries)
}

/// What a client of the journal knows of it.
#[derive(Debug, Default)]
struct Client {
    acknowledged: Vec<Vec<u8>>,
    /// Committed without an answer.
    in_flight: Vec<Vec<u8>>,
    numbers: u64,
}

impl Client {
    /// Compares what is there with what must and may be, and takes it as read.
    fn check(&mut self, found: Vec<Vec<u8>>) -> Result<(), String> {
        let acknowledged = self.acknowledged.len();
        if found.len() < acknowledged || found[..acknowledged] != self.acknowledged {
            return Err(format!("{acknowledged} acknowledged, {} found or others", found.len()));
        }
        let more = &found[acknowledged..];
        if !more.is_empty() && more != self.in_flight {
            return Err(format!("{} entries that nobody has written", more.len()));
        }
        self.acknowledged = found;
        self.in_flight.clear();
        Ok(())
    }

    /// Compares what is read while it is written to.
    fn check_read(&self, found: &[Vec<u8>]) -> Result<(), String> {
        let same = found == self.acknowledged;
        same.then_some(()).ok_or_else(|| format!("{} entries read, or others", found.len()))
    }

    /// Commits batches until one is not acknowledged.
    fn work(&mut self, opened: &mut Opened, dice: &mut Dice, batches: u64) -> Option<CommitError> {
        for _ in 0..batches {
            let count = 1 + dice.roll(4);
            let entries: Vec<_> = (0..count)
                .map(|_| {
                    self.numbers += 1;
                    entry(self.numbers, dice.roll(900) as usize)
                })
                .collect();
            self.in_flight.clone_from(&entries);
            if let Err(error) = commit(opened, &entries) {
                return Some(error);
            }
            self.acknowledged.append(&mut self.in_flight);
        }
        None
    }
}

/// Archives segments that are whole and not archived yet: those that the dice choose. What goes wrong with the disk
/// is no matter; a segment that is not what was written is one.
fn archive_some(opened: &Opened, disk: &SimDisk, dice: &mut Dice) -> Result<(), String> {
    let segments = opened.reader.segments();
    for first in &segments[..segments.len() - 1] {
        if dice.roll(2) == 0 || !is_plain(disk, *first) {
            continue;
        }
        match opened.reader.archive(*first, &mut |_| true) {
            Ok(_) => {}
            Err(ArchiveError::File(FileError::Disk(_))) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn is_plain(disk: &SimDisk, first: Position) -> bool {
    disk.contents().contains_key(&folder().join(super::segment::segment_name(first)))
}

const CUTS: [PowerCut; 3] = [PowerCut::Forgets, PowerCut::Keeps, PowerCut::KeepsSome];

/// Some lives of a journal, each ended by a power cut or a kill, some while it starts.
fn lives(seed: u64, trouble: impl Fn(&mut Dice) -> Trouble) -> Result<(), String> {
    let (mut dice, disk, mut client) = (Dice(seed), SimDisk::new(seed), Client::default());
    for _ in 0..8 {
        disk.trouble(Some(trouble(&mut dice)));
        if let Ok(mut opened) = start(&disk) {
            // Reading may be what the power cut meets.
            if let Ok(found) = everything(&opened) {
                client.check(found)?;
            }
            let mut failed = None;
            for _ in 0..dice.roll(4) {
                let batches = dice.roll(5);
                failed = failed.or_else(|| client.work(&mut opened, &mut dice, batches));
                archive_some(&opened, &disk, &mut dice)?;
            }
            if let Ok(found) = everything(&opened) {
                client.check_read(&found)?;
            }
            if failed.is_none() && dice.roll(3) == 0 {
                let _ = opened.journal.close();
            }
        }
        match dice.roll(4) {
            0 => disk.kill(),
            _ => disk.power_cut(CUTS[dice.roll(3) as usize]),
        }
        let opened = start(&disk).map_err(|error| format!("does not start: {error}"))?;
        client.check(everything(&opened).map_err(|error| error.to_string())?)?;
        disk.power_cut(PowerCut::Forgets);
    }
    Ok(())
}

#[test]
fn no_power_cut_at_any_moment_loses_what_was_acknowledged() {
    for seed in 0..rounds(1000) {
        let result = lives(seed, |dice| Trouble::PowerCutAt(dice.roll(250)));
        result.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn no_failed_write_or_sync_loses_what_was_acknowledged_or_shows_what_is_not_durable() {
    for seed in 0..rounds(1000) {
        let result = lives(seed, |dice| Trouble::FailsAt(dice.roll(160)));
        result.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let lost = (0..100).filter(|seed| lives(*seed, |_| Trouble::SyncsLie).is_err()).count();
    assert!(lost > 50, "only {lost} of 100 control runs lost something");
}

fn rounds(default: u64) -> u64 {
    std::env::var("LOG_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    for seed in 0..200 {
        let (mut dice, disk, mut client) = (Dice(seed), SimDisk::new(seed), Client::default());
        let mut opened = start(&disk).unwrap();
        for _ in 0..6 {
            disk.set_room(Some(disk.bytes_used() + dice.roll(4000) as usize));
            let failed = client.work(&mut opened, &mut dice, 20);
            assert_eq!(failed, Some(CommitError::NoRoom), "seed {seed}");
            disk.set_room(None);
            let batches = dice.roll(4);
            assert_eq!(client.work(&mut opened, &mut dice, batches), None, "seed {seed}");
        }
        if dice.roll(2) == 0 {
            opened.journal.close().unwrap();
        }
        // A refusal has left nothing behind, whatever the power does.
        client.in_flight.clear();
        disk.power_cut(CUTS[dice.roll(3) as usize]);
        client.check(everything(&start(&disk).unwrap()).unwrap()).unwrap();
    }
}

#[test]
fn a_segment_that_cannot_be_made_for_want_of_files_is_made_later() {
    for seed in 0..20 {
        let (mut dice, disk, mut client) = (Dice(seed), SimDisk::new(seed), Client::default());
        let mut opened = start(&disk).unwrap();
        disk.trouble(Some(Trouble::NoFiles));
        assert_eq!(client.work(&mut opened, &mut dice, 50), Some(CommitError::NoRoom), "seed {seed}");
        disk.trouble(None);
        assert_eq!(client.work(&mut opened, &mut dice, 5), None, "seed {seed}");
        client.in_flight.clear();
        disk.power_cut(PowerCut::Forgets);
        client.check(everything(&start(&disk).unwrap()).unwrap()).unwrap();
    }
}

#[test]
fn a_failed_sync_ends_the_journal_and_is_never_tried_again() {
    let disk = SimDisk::new(1);
    let mut opened = start(&disk).unwrap();
    commit(&mut opened, &[entry(1, 10)]).unwrap();
    // A write, one of zeros if the segment grows, a sync.
    disk.trouble(Some(Trouble::FailsAt(1)));
    let failed = commit(&mut opened, &[entry(2, 10)]);
    assert!(matches!(failed, Err(CommitError::Fault(_))), "{failed:?}");
    assert_eq!(disk.operations(), 2);
}

/// A journal of several segments, and what it holds.
fn sample(closed: bool) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Vec<u8>>) {
    sample_of(closed, false)
}

/// The same, with all but the last segment archived, or none.
fn sample_of(closed: bool, archived: bool) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Vec<u8>>) {
    let (disk, mut client, mut dice) = (SimDisk::new(9), Client::default(), Dice(5));
    let mut opened = start(&disk).unwrap();
    assert_eq!(client.work(&mut opened, &mut dice, 9), None);
    if closed {
        opened.journal.close().unwrap();
    }
    let segments = opened.reader.segments();
    assert!(segments.len() > 2);
    for first in segments[..segments.len() - 1].iter().filter(|_| archived) {
        archive(&disk, &folder(), *first, ID, &mut |_| true).unwrap();
    }
    (disk.contents(), client.acknowledged)
}

/// What opening a journal and reading all of it says: how many entries there are, or which file is damaged.
fn read_damaged(
    contents: &BTreeMap<PathBuf, Vec<u8>>,
    written: &[Vec<u8>],
) -> Result<usize, (PathBuf, u64, Position)> {
    let place = |Corruption { file, offset, position, .. }| (file, offset, position);
    let opened = start(&SimDisk::with_contents(contents)).map_err(|error| match error {
        StartError::Corrupt(corruption) => place(corruption),
        error => panic!("{error}"),
    })?;
    let found = everything(&opened).map_err(|error| match error {
        ReadError::Corrupt(corruption) => place(corruption),
        error => panic!("{error}"),
    })?;
    assert_eq!(found, written[..found.len()], "something else than what was written");
    Ok(found.len())
}

/// The last segment's path, and where each of its records begins, with the end of the last.
fn last_segment(contents: &BTreeMap<PathBuf, Vec<u8>>) -> (PathBuf, Vec<u64>, u64) {
    let disk = SimDisk::with_contents(contents);
    let path = contents.keys().last().unwrap().clone();
    let (first, _) = position_in_name(path.file_name().unwrap().to_str().unwrap()).unwrap();
    let mut reader = super::segment::SegmentReader::open(&disk, &folder(), first, None).unwrap();
    let mut starts = Vec::new();
    while let super::segment::Found::Record(record) = reader.read().unwrap() {
        starts.push(record.offset);
    }
    (path, starts, reader.offset)
}

#[test]
fn a_flipped_bit_is_refused_except_in_the_last_record_of_a_log_that_was_not_closed() {
    for (closed, archived) in [(false, false), (true, false), (false, true)] {
        let (contents, written) = sample_of(closed, archived);
        let (last, starts, end) = last_segment(&contents);
        for (path, bytes) in &contents {
            for at in (0..bytes.len()).step_by(if archived { 3 } else { 1 }) {
                let mut damaged = contents.clone();
                damaged.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
                let result = read_damaged(&damaged, &written);
                let in_last_record = *path == last && at as u64 >= *starts.last().unwrap();
                match result {
                    Ok(found) if found == written.len() => {
                        // Nothing was durable there but zeros, or the closing record.
                        assert!(*path == last && at as u64 >= end, "{} {at}: not noticed", path.display());
                    }
                    Ok(_) => assert!(in_last_record && !closed, "{} {at}: lost in silence", path.display()),
                    Err((file, offset, _)) => {
                        assert_eq!(file, *path, "byte {at}");
                        assert!(offset <= at as u64, "byte {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_journal_cut_short_anywhere_opens_with_whole_records_or_says_what_is_missing() {
    for (archived, step) in [(false, 1), (true, 5)] {
        let (contents, written) = sample_of(false, archived);
        cut_short_anywhere(&contents, &written, step);
    }
}

fn cut_short_anywhere(contents: &BTreeMap<PathBuf, Vec<u8>>, written: &[Vec<u8>], step: usize) {
    let (last, starts, end) = last_segment(contents);
    for (path, bytes) in contents {
        for length in (0..bytes.len()).step_by(step) {
            let mut damaged = contents.clone();
            damaged.get_mut(path).unwrap().truncate(length);
            match read_damaged(&damaged, written) {
                Ok(found) => {
                    assert_eq!(*path, last, "{length}");
                    let whole = starts.iter().chain([&end]).filter(|end| **end <= length as u64).count();
                    let expected_all = whole == starts.len() + 1;
                    assert_eq!(found == written.len(), expected_all, "{length}");
                }
                Err((file, ..)) => {
                    let missing_file = file.file_name() > path.file_name();
                    assert!(file == *path || missing_file, "{length}: {}", file.display());
                    assert!(*path != last || length < 48, "{length}: a torn record was refused");
                }
            }
        }
    }
}

#[test]
fn what_no_interrupted_write_can_leave_is_refused() {
    let (contents, written) = sample(false);
    let (path, starts, end) = last_segment(&contents);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = contents.clone();
        let segment = damaged.get_mut(&path).unwrap();
        segment.truncate(end as usize);
        change(segment);
        read_damaged(&damaged, &written)
    };
    let longest = LIMITS.record_bytes_max as usize;
    // As much as one record can be may be torn, and zeros may be behind it; more may not.
    assert_eq!(with(&|segment| segment.extend(vec![7; longest])), Ok(written.len()));
    assert_eq!(
        with(&|segment| segment.extend([vec![7; longest], vec![0; 9000]].concat())),
        Ok(written.len())
    );
    let refused = with(&|segment| segment.extend(vec![7; longest + 1]));
    assert_eq!(refused.unwrap_err().1, end);
    // A record whose header tells its length may be torn up to that, and not beyond.
    let last = *starts.last().unwrap() as usize;
    assert!(with(&|segment| segment[last + 40] ^= 1).unwrap() < written.len());
    let refused = with(&|segment| {
        segment[last + 40] ^= 1;
        segment.push(7);
    });
    assert_eq!(refused.unwrap_err().1, last as u64);
}

#[test]
fn a_segment_that_is_missing_is_said_to_be() {
    for archived in [false, true] {
        let (contents, written) = sample_of(false, archived);
        let paths: Vec<_> = contents.keys().cloned().collect();
        for path in &paths[..paths.len() - 1] {
            let mut damaged = contents.clone();
            damaged.remove(path);
            let (file, offset, position) = read_damaged(&damaged, &written).unwrap_err();
            assert_eq!((file.as_path(), offset), (path.with_extension("seg").as_path(), 0));
            assert_eq!(path.file_stem(), Path::new(&super::segment::segment_name(position)).file_stem());
        }
    }
}

#[test]
fn a_segment_of_another_journal_is_refused() {
    let (contents, written) = sample(false);
    let (path, _, _) = last_segment(&contents);
    let mut damaged = contents.clone();
    let header = &mut damaged.get_mut(&path).unwrap()[..48];
    header[16..32].copy_from_slice(b"another journal.");
    let crc = crc32c::crc32c(&header[..44]).to_be_bytes();
    header[44..].copy_from_slice(&crc);
    assert_eq!(read_damaged(&damaged, &written).unwrap_err().0, path);
}

#[test]
fn a_segment_of_a_newer_format_is_refused_by_name() {
    let (mut contents, _) = sample(false);
    let (path, _, _) = last_segment(&contents);
    let header = &mut contents.get_mut(&path).unwrap()[..48];
    header[9] = 3;
    let crc = crc32c::crc32c(&header[..44]).to_be_bytes();
    header[44..].copy_from_slice(&crc);
    match start(&SimDisk::with_contents(&contents)) {
        Err(StartError::Corrupt(corruption)) => {
            assert_eq!(corruption.damage, Damage::SegmentFormat { found: 3 });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_that_holds_a_copy_of_the_journal_does_not_make_a_torn_write_look_like_corruption() {
    let disk = SimDisk::new(3);
    let mut opened = start(&disk).unwrap();
    // Records of the same positions as will follow, in a segment that begins with the same position, but of
    // another journal: the best that somebody without the seed can do.
    let other = SimDisk::new(3);
    let mut forger =
        open(Arc::new(other.clone()), &folder(), LIMITS, *b"a guess at an id", &mut |_| Ok(())).unwrap();
    for number in 1..4 {
        commit(&mut forger, &[entry(number, 10)]).unwrap();
    }
    let forged = other.contents().into_values().next().unwrap()[48..500].to_vec();
    let event =
        EventRecord { kind: 1, version: 1, may_ignore: false, body: forged.into(), sealed: Bytes::new() };
    commit(&mut opened, &[encoded(1, event)]).unwrap();
    let mut contents = disk.contents();
    // The record's header is what the write did not get to.
    contents.values_mut().next().unwrap()[48..76].fill(0);
    let opened = start(&SimDisk::with_contents(&contents)).unwrap();
    assert_eq!(head_of(&opened), 0);
}

#[test]
fn closing_is_known_at_the_next_start_and_only_then() {
    let disk = SimDisk::new(1);
    let mut opened = start(&disk).unwrap();
    assert!(!opened.was_closed);
    commit(&mut opened, &[entry(1, 10)]).unwrap();
    opened.journal.close().unwrap();
    disk.power_cut(PowerCut::Forgets);
    assert!(start(&disk).unwrap().was_closed);
    disk.power_cut(PowerCut::Forgets);
    assert!(!start(&disk).unwrap().was_closed);
}

#[test]
fn a_start_removes_what_a_crash_has_left_half_made() {
    let (mut contents, written) = sample(false);
    let left = Path::new("/journal/00000000000000000099.seg.new").to_owned();
    contents.insert(left.clone(), vec![1, 2, 3]);
    let disk = SimDisk::with_contents(&contents);
    assert_eq!(everything(&start(&disk).unwrap()).unwrap(), written);
    assert!(!disk.contents().contains_key(&left));
}

#[test]
fn a_segments_bytes_are_what_they_always_were() {
    let disk = SimDisk::new(1);
    let mut opened = start(&disk).unwrap();
    commit(&mut opened, &[b"\0\0\0\x05first".to_vec(), b"\0\0\0\x06second".to_vec()]).unwrap();
    opened.journal.close().unwrap();
    let bytes = disk.contents().into_values().next().unwrap();
    let expected = [
        // The header: record_bytes_max, id, first position.
        &b"csignlog\0\x01\0\0\0\0\x10\0a journal's id..\0\0\0\0\0\0\0\x01\0\0\0\0"[..],
        &HEADER_CRC,
        // A record: length, position, count.
        b"ENTR\0\0\0\x13\0\0\0\0\0\0\0\x01\0\0\0\x02",
        &RECORD_CRCS,
        b"\0\0\0\x05first\0\0\0\x06second",
        b"DONE\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0",
        &CLOSING_CRCS,
    ];
    assert_eq!(bytes, expected.concat());
}

// Worked out by another program than this.
const HEADER_CRC: [u8; 4] = [0xbd, 0x1e, 0x44, 0x6d];
const RECORD_CRCS: [u8; 8] = [0x72, 0xef, 0xb3, 0xa0, 0x1b, 0x3e, 0xf7, 0x38];
const CLOSING_CRCS: [u8; 8] = [0x00, 0x00, 0x00, 0x00, 0xd0, 0xe5, 0x1a, 0x28];

/// A journal with a segment that can be archived, and more.
fn with_a_whole_segment() -> (SimDisk, Vec<Vec<u8>>) {
    let (contents, written) = sample(false);
    (SimDisk::with_contents(&contents), written)
}

#[test]
fn archiving_can_be_cut_short_at_any_moment() {
    let operations = {
        let (disk, _) = with_a_whole_segment();
        disk.trouble(None);
        archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true).unwrap();
        disk.operations()
    };
    assert!(operations > 10);
    for at in 0..=operations {
        for trouble in [Trouble::PowerCutAt(at), Trouble::FailsAt(at)] {
            for cut in [PowerCut::Forgets, PowerCut::Keeps, PowerCut::KeepsSome] {
                let (disk, written) = with_a_whole_segment();
                disk.trouble(Some(trouble));
                let archived = archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true);
                assert_eq!(archived.is_ok(), at == operations, "{trouble:?}");
                disk.power_cut(cut);
                let opened = start(&disk).unwrap();
                assert_eq!(everything(&opened).unwrap(), written, "{trouble:?} {cut:?}");
                if list_files(&disk, &folder()).unwrap()[0].1 == Form::Plain {
                    archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true).unwrap();
                }
                let opened = start(&disk).unwrap();
                assert_eq!(everything(&opened).unwrap(), written);
                let files = list_files(&disk, &folder()).unwrap();
                assert_eq!(files.len(), opened.reader.segments().len(), "{trouble:?}: one file each");
            }
        }
    }
}

#[test]
fn the_file_that_a_segment_was_goes_only_when_the_archive_has_its_name_for_good() {
    for seed in 0..64 {
        let (disk, written) = with_a_whole_segment();
        archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true).unwrap();
        disk.chance(seed);
        disk.power_cut(PowerCut::KeepsSomeInNoOrder);
        let opened = start(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(everything(&opened).unwrap(), written, "seed {seed}");
    }
}

#[test]
fn every_entry_of_an_archived_segment_is_found_at_its_position() {
    let (contents, written) = sample_of(false, true);
    let opened = start(&SimDisk::with_contents(&contents)).unwrap();
    // Twice: the second time there may be waymarks.
    for _ in 0..2 {
        for (number, entry) in (1..).zip(&written) {
            let position = Position::new(number).unwrap();
            let mut records = opened.reader.records(position, position).unwrap();
            records.read().unwrap().unwrap();
            let found: Vec<_> = records.entries().map(|(at, entry)| (at, entry.to_vec())).collect();
            assert_eq!(found, [(position, entry[4..].to_vec())]);
            assert_eq!(records.read().unwrap(), None);
        }
    }
}

#[test]
fn who_reads_a_segment_while_it_is_archived_reads_on() {
    let (disk, written) = with_a_whole_segment();
    let opened = start(&disk).unwrap();
    let head = opened.head.unwrap();
    let mut records = opened.reader.records(Position::FIRST, head).unwrap();
    records.read().unwrap().unwrap();
    let mut read = records.entries().count();
    let segments = opened.reader.segments();
    for first in &segments[..segments.len() - 1] {
        archive(&disk, &folder(), *first, ID, &mut |_| true).unwrap();
    }
    while records.read().unwrap().is_some() {
        read += records.entries().count();
    }
    assert_eq!(read, written.len());
}

#[test]
fn whoever_stops_archiving_leaves_nothing_behind() {
    let (disk, _) = with_a_whole_segment();
    let before = disk.contents();
    let stopped = archive(&disk, &folder(), Position::FIRST, ID, &mut |_| false);
    assert_eq!(stopped, Err(ArchiveError::ToldToStop));
    assert_eq!(disk.contents(), before);
    disk.set_room(Some(disk.bytes_used() + 10));
    archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true).unwrap_err();
    assert_eq!(disk.contents(), before);
}

#[test]
fn a_damaged_segment_is_not_archived() {
    let (mut contents, _) = sample(false);
    let (path, bytes) = contents.iter_mut().next().unwrap();
    bytes[80] ^= 1;
    let path = path.clone();
    let disk = SimDisk::with_contents(&contents);
    match archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true) {
        Err(ArchiveError::File(FileError::Corrupt(corruption))) => {
            assert_eq!((corruption.file, corruption.offset), (path, 48));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.contents(), contents);
}

#[test]
fn a_journal_whose_last_segment_is_archived_has_lost_one() {
    let (mut contents, written) = sample_of(false, true);
    let last = contents.keys().last().unwrap().clone();
    contents.remove(&last);
    let (file, ..) = read_damaged(&contents, &written).unwrap_err();
    assert_eq!(&file, contents.keys().last().unwrap());
}

#[test]
fn an_archived_segments_bytes_are_what_they_always_were() {
    let disk = SimDisk::new(1);
    let mut opened = start(&disk).unwrap();
    let entries = [b"\0\0\0\x05first".to_vec(), b"\0\0\0\x06second".to_vec()];
    commit(&mut opened, &entries).unwrap();
    // The room ahead would make it no segment that others follow.
    let path = opened.reader.folder().join(super::segment::segment_name(Position::FIRST));
    let archived = archive(&disk, &folder(), Position::FIRST, ID, &mut |_| true).unwrap();
    assert!(disk.open(&path).is_err());
    let bytes = disk.contents().into_values().next().unwrap();
    assert_eq!(bytes.len() as u64, archived.bytes_after);
    let expected = [
        &b"csignlog\0\x02\0\0\x00\x02\x40\x60a journal's id..\0\0\0\0\0\0\0\x01\0\0\0\0"[..],
        &ARCHIVED_HEADER_CRC,
        // Length, position, count.
        b"PACK\0\0\0\x19\0\0\0\0\0\0\0\x01\0\0\0\x02",
        &PACKED_CRCS,
        // Unpacked length; a token of 19 literals and no match.
        b"\0\0\0\x13\xf0\x04\0\0\0\x05first\0\0\0\x06second",
    ];
    assert_eq!(bytes, expected.concat());
}

// Worked out by another program than this.
const ARCHIVED_HEADER_CRC: [u8; 4] = [0xb2, 0xff, 0x5e, 0xd5];
const PACKED_CRCS: [u8; 8] = [0x91, 0x07, 0xfd, 0x54, 0x70, 0x60, 0xbd, 0x21];

mod any_bytes {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::log::journal::archive::unpack;
    use crate::log::journal::segment::{Found, SegmentReader, name_as, segment_name};
    use crate::log::journal::tail::judge;

    /// Reads a segment to where it can be read, and judges what is there.
    fn read_segment(bytes: Vec<u8>) {
        read_segment_at(folder().join(segment_name(Position::FIRST)), bytes);
    }

    fn read_segment_at(path: PathBuf, bytes: Vec<u8>) {
        let disk = SimDisk::with_contents(&BTreeMap::from([(path, bytes)]));
        let Ok(mut reader) = SegmentReader::open(&disk, &folder(), Position::FIRST, None) else { return };
        let ended = loop {
            match reader.read().unwrap() {
                Found::Record(record) => assert_eq!(reader.entries().count(), record.count as usize),
                ended => break ended,
            }
        };
        if let Found::Damaged(damage) = ended {
            judge(&mut reader, damage).unwrap();
        }
    }

    proptest! {
        #[test]
        fn as_a_segment_make_nothing_panic(bytes in vec(any::<u8>(), 0..2000)) {
            read_segment(bytes);
        }

        #[test]
        fn behind_a_sound_header_make_nothing_panic(bytes in vec(any::<u8>(), 0..2000)) {
            let contents = sample(false).0;
            let header = &contents.values().next().unwrap()[..48];
            read_segment([header, &bytes].concat());
        }

        #[test]
        fn behind_the_header_of_an_archived_segment_make_nothing_panic(bytes in vec(any::<u8>(), 0..2000)) {
            let contents = sample_of(false, true).0;
            let header = &contents.values().next().unwrap()[..48];
            let path = folder().join(name_as(Position::FIRST, Form::Archived));
            read_segment_at(path, [header, &bytes].concat());
        }

        #[test]
        fn as_a_packed_body_make_nothing_panic(bytes in vec(any::<u8>(), 0..2000)) {
            let _ = unpack(&bytes, &mut Vec::new());
        }

        #[test]
        fn in_place_of_some_make_nothing_panic(
            bytes in vec(any::<u8>(), 0..60), at in 0..3000_usize, repeat in any::<bool>(),
        ) {
            let mut segment = sample(false).0.into_values().next().unwrap();
            let at = at.min(segment.len());
            let end = if repeat { at } else { (at + bytes.len()).min(segment.len()) };
            segment.splice(at..end, bytes);
            read_segment(segment);
        }
    }
}
