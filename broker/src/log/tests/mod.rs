//! The local log when something is wrong.

mod aging;
mod faults;
mod measure;
mod mending;
mod reading;
mod starting;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::local::JOURNAL_FOLDER;
use super::part::{SLED_SEGMENT_BYTES, StoreError};
use super::store::{self, Store, StoreLimits};
use super::*;

const ID: [u8; 16] = *b"the journal's id";

/// Small enough that a few hundred entries fill several segments, and are not all in memory.
fn config(folder: &Path) -> LogConfig {
    LogConfig { segment_bytes: 8 * 1024, recent_bytes_max: 8 * 1024, ..LogConfig::new(folder) }
}

fn open(folder: &Path) -> Result<LocalLog, StartError> {
    LocalLog::open(&config(folder), ID)
}

fn stream(number: u64) -> StreamId {
    StreamId::new(StreamKind::Account, u128::from(number).to_be_bytes())
}

/// An entry that tells its number; of one of ten streams.
fn append(number: u64) -> Append {
    let body = Bytes::copy_from_slice(&number.to_be_bytes());
    let event = EventRecord { kind: 1, version: 1, may_ignore: false, body, sealed: Bytes::new() };
    Append {
        stream: stream(number % 10),
        expected: Expected::Any,
        urgency: Urgency::Now,
        recorded_at_ms: number,
        events: vec![event],
    }
}

/// Appends entries that tell their positions, up to this one.
async fn fill(log: &LocalLog, up_to: u64) {
    let from = log.head().map_or(1, |head| head.number() + 1);
    for number in from..=up_to {
        log.append(append(number)).await.unwrap();
    }
}

/// The log has exactly the entries that `fill` makes, whichever way they are read.
async fn check(log: &LocalLog, up_to: u64) {
    assert_eq!(log.head(), Position::new(up_to));
    let entries: Vec<_> = log.read_all(Position::FIRST).map(Result::unwrap).collect().await;
    let numbers: Vec<_> = entries.iter().map(|entry| entry.recorded_at_ms).collect();
    assert_eq!(numbers, (1..=up_to).collect::<Vec<_>>());
    for number in 0..10 {
        let entries = log.read(stream(number), None).await.unwrap();
        let expected: Vec<_> = (1..=up_to).filter(|other| other % 10 == number).collect();
        assert_eq!(entries.iter().map(|entry| entry.recorded_at_ms).collect::<Vec<_>>(), expected);
    }
}

/// Archives what there is to archive, as of this moment. Entries that `fill` makes tell their position as the time.
async fn archive(log: &LocalLog, recorded_before_ms: u64) -> ArchiveReport {
    let mut steps = log.archive(recorded_before_ms);
    let mut last = None;
    while let Some(step) = steps.next().await {
        last = Some(step.unwrap());
    }
    match last {
        Some(ArchiveStep::Done(report)) => report,
        other => panic!("{other:?}"),
    }
}

/// Waits until the store has all whole groups.
async fn stored(log: &LocalLog) {
    let group = store_group_entries();
    let whole = log.head().map_or(0, Position::number) / group * group;
    let all = async {
        while log.sources().recent.stored() < Position::new(whole) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), all).await.unwrap();
}

fn store_group_entries() -> u64 {
    super::part::GROUP_ENTRIES as u64
}

/// A closed log with so many entries.
async fn closed_log(up_to: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, up_to).await;
    log.close().await;
    folder
}

/// The folder of the store's only part.
fn part_folder(folder: &Path) -> std::path::PathBuf {
    folder.join("store").join(store::name(Position::FIRST))
}

fn open_store(folder: &Path) -> Result<Store, StoreError> {
    let limits = StoreLimits { cache_bytes: 1024 * 1024, entries: 1_000_000 };
    Store::open(&folder.join("store"), limits, ID, Position::FIRST)
}

/// The store's tree of entries, to do it harm.
fn entries_in_sled(folder: &Path) -> sled::Tree {
    let config = sled::Config::new().path(part_folder(folder)).segment_size(SLED_SEGMENT_BYTES);
    // sled's threads let go of its lock some time after the log has closed.
    let opened = (0..400).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        config.open().ok()
    });
    opened.unwrap().open_tree("entries").unwrap()
}

/// The journal's files, oldest first.
fn segments(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder.join(JOURNAL_FOLDER)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}
