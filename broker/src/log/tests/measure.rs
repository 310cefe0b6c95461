//! What a log takes as it grows: not tests, but what docs/decisions/0003-log.md has its figures from. In a release build:
//! `LOG_MEASURE_ENTRIES=10000000 cargo test --release -p countersign --lib -- --ignored --nocapture measure`

#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::io::Write as _;
use std::time::Instant;

use futures::future::join_all;

use super::super::journal::sim::Dice;
use super::*;

const EVENT_BYTES: usize = 264;
const WAITING: usize = 1024;
const ACCOUNTS: u64 = 20_000;

fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| match file.metadata() {
            Ok(about) if about.is_dir() => folder_bytes(&file.path()),
            Ok(about) => about.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// What this process takes in memory, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// As many bytes as an approval's events have on average, two thirds of which cannot be compressed, as what is sealed.
fn entry(dice: &mut Dice) -> Append {
    let mut body = vec![7; EVENT_BYTES];
    for byte in &mut body[..EVENT_BYTES * 2 / 3] {
        *byte = u8::try_from(dice.roll(256)).unwrap();
    }
    let event =
        EventRecord { kind: 1, version: 1, may_ignore: false, body: body.into(), sealed: Bytes::new() };
    Append { stream: stream(dice.roll(ACCOUNTS)), events: vec![event], ..append(0) }
}

async fn grow(log: &LocalLog, to: u64, dice: &mut Dice) {
    while log.head().map_or(0, Position::number) < to {
        let appends = (0..WAITING).map(|_| log.append(entry(dice))).collect::<Vec<_>>();
        join_all(appends).await.into_iter().for_each(|appended| assert!(appended.is_ok()));
    }
}

/// Microseconds for one read, on average, of entries between these positions.
async fn read(log: &LocalLog, from: u64, to: u64, dice: &mut Dice) -> u128 {
    let started = Instant::now();
    for _ in 0..500 {
        let position = Position::new(from + dice.roll(to - from)).unwrap();
        log.entry(position).await.unwrap().unwrap();
    }
    started.elapsed().as_micros() / 500
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, of minutes"]
async fn a_log_that_grows() {
    let entries: u64 =
        std::env::var("LOG_MEASURE_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let folder =
        tempfile::tempdir_in(std::env::var("LOG_MEASURE_FOLDER").unwrap_or("/tmp".to_owned())).unwrap();
    let config = LogConfig::new(folder.path());
    let mut log = LocalLog::open(&config, ID).unwrap();
    let (mut dice, mut out) = (Dice(1), std::io::stdout());
    let mut sizes: Vec<u64> = [100_000, 300_000, 1_000_000, 2_000_000, 4_000_000].into();
    sizes.retain(|size| *size < entries);
    sizes.push(entries);
    for size in sizes {
        let (started, before) = (Instant::now(), log.head().map_or(0, Position::number));
        grow(&log, size, &mut dice).await;
        let rate = u128::from(size - before) * 1000 / started.elapsed().as_millis().max(1);
        let raw = folder_bytes(&folder.path().join("journal"));
        stored(&log).await;
        let started = Instant::now();
        let report = archive(&log, 0).await;
        let took = started.elapsed();
        let archived: u64 = report.archived.iter().map(|segment| segment.bytes_before).sum();
        let head = log.head().unwrap().number();
        let recent = read(&log, head - 20_000, head - 10_000, &mut dice).await;
        let middle = read(&log, head - head / 2, head - head / 4, &mut dice).await;
        let old = read(&log, 1, head / 10, &mut dice).await;
        let journal = folder_bytes(&folder.path().join("journal"));
        let store = folder_bytes(&folder.path().join("store"));
        let events = EVENT_BYTES as u64 * head;
        writeln!(
            out,
            "{head} entries, {rate}/s; memory {:.0} MiB; {:.0} MiB of segments archived in {took:.1?}; journal {:.0} \
             -> {:.0} MiB, store {:.0} MiB, snapshots {:.1} MiB: {} % of the events; a read: recent {recent} µs, \
             middle {middle} µs, old {old} µs",
            mebibytes(memory()),
            mebibytes(archived),
            mebibytes(raw),
            mebibytes(journal),
            mebibytes(store),
            mebibytes(folder_bytes(&folder.path().join("snapshots"))),
            (journal + store) * 100 / events,
        )
        .unwrap();
        log.close().await;
        drop(log);
        let started = Instant::now();
        log = LocalLog::open(&config, ID).unwrap();
        writeln!(out, "  opened in {:.1?}; memory {:.0} MiB", started.elapsed(), mebibytes(memory()))
            .unwrap();
    }
    log.close().await;
    drop(log);
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    std::fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
    let started = Instant::now();
    let log = LocalLog::open(&config, ID).unwrap();
    writeln!(out, "store and heads made anew in {:.1?}", started.elapsed()).unwrap();
    log.close().await;
}
