//! A log that ages: what is archived, and has left the store, is as much there as before.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;

use super::super::heads::Heads;
use super::super::journal::disk::OsDisk;
use super::super::repair::{self, Step};
use super::super::snapshots::{HEADS, Snapshots};
use super::*;

const ENTRIES: u64 = 1500;
/// The store keeps four parts of 128 entries, and the one that is being filled.
const STORE_ENTRIES: u64 = 512;

fn aging(folder: &Path) -> LogConfig {
    LogConfig { store_entries: STORE_ENTRIES, check_bytes: 16 * 1024, ..config(folder) }
}

fn open_aging(folder: &Path) -> LocalLog {
    LocalLog::open(&aging(folder), ID).unwrap()
}

/// A closed log of which all is archived that can be, and what that said.
async fn aged_log() -> (tempfile::TempDir, ArchiveReport) {
    let folder = tempfile::tempdir().unwrap();
    let log = open_aging(folder.path());
    fill_fast(&log, ENTRIES).await;
    stored(&log).await;
    let report = archive(&log, 0).await;
    log.close().await;
    (folder, report)
}

/// The same as `fill`, some at a time.
async fn fill_fast(log: &LocalLog, up_to: u64) {
    let mut from = log.head().map_or(1, |head| head.number() + 1);
    while from <= up_to {
        let to = up_to.min(from + 9);
        for appended in join_all((from..=to).map(|number| log.append(append(number)))).await {
            assert_eq!(appended.unwrap().position.number(), from);
            from += 1;
        }
    }
}

fn archived(folder: &Path) -> Vec<std::path::PathBuf> {
    segments(folder).into_iter().filter(|path| path.extension().unwrap() == "arc").collect()
}

fn parts(folder: &Path) -> Vec<String> {
    let parts = fs::read_dir(folder.join("store")).unwrap();
    let mut parts: Vec<_> = parts.map(|part| part.unwrap().file_name().into_string().unwrap()).collect();
    parts.sort();
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_log_reads_as_before_however_it_is_read() {
    let (folder, report) = aged_log().await;
    let files = segments(folder.path());
    assert!(report.archived.len() > 5 && report.damaged.is_empty());
    assert_eq!(archived(folder.path()).len(), report.archived.len());
    assert_eq!(files.len() as u64 - report.archived.len() as u64, report.waiting + 1);
    assert!(report.journal_bytes_after < report.journal_bytes_before / 2, "{report:?}");
    let (first, last) = report.left_store.unwrap();
    assert_eq!((first.number(), last.number()), (1, 896));
    let names: Vec<_> = [897, 1025, 1153, 1281, 1409].map(|first| format!("{first:020}")).into();
    assert_eq!(parts(folder.path()), names);

    let log = open_aging(folder.path());
    check(&log, ENTRIES).await;
    fill_fast(&log, ENTRIES + 100).await;
    let last = Position::new(7).unwrap();
    let back: Vec<_> = log.read_back(stream(7)).map(|entry| entry.unwrap().position).collect().await;
    assert_eq!(back.last(), Some(&last));
    log.close().await;

    let offline = OfflineLog::open(folder.path()).unwrap();
    let numbers = offline.entries(Position::FIRST).map(|entry| entry.unwrap().recorded_at_ms);
    assert!(numbers.eq(1..=ENTRIES + 100));
    assert_eq!(offline.entry(last).unwrap().unwrap().position, last);
    let report = verify(folder.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.entries, report.streams), (ENTRIES + 100, 10));
    assert_eq!(
        report.segments.iter().filter(|segment| segment.archived).count(),
        archived(folder.path()).len()
    );
    assert_eq!(repair::plan(folder.path()).unwrap().steps, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_before_the_retention_leaves_the_store_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { store_entries: 4 * 1024, ..config(folder.path()) };
    let log = LocalLog::open(&LogConfig { store_entries: STORE_ENTRIES, ..config.clone() }, ID).unwrap();
    fill_fast(&log, 700).await;
    stored(&log).await;
    log.close().await;
    drop(log);
    // Room for all of it: only time makes it leave.
    let log = LocalLog::open(&config, ID).unwrap();
    stored(&log).await;
    assert_eq!(archive(&log, 0).await.left_store, None);
    let before = room(folder.path());
    let report = archive(&log, 400).await;
    let (first, last) = report.left_store.unwrap();
    assert!((first.number(), last.number() % 128) == (1, 0) && (128..400).contains(&last.number()), "{last}");
    assert!(report.store_bytes_after < report.store_bytes_before);
    assert!(room(folder.path()) < before);
    check(&log, 700).await;
    // The newest part stays, however old it is.
    let report = archive(&log, u64::MAX).await;
    // By whole segments: the last one began behind position 512.
    assert!([512, 640].contains(&report.left_store.unwrap().1.number()), "{report:?}");
    assert!(!archive(&log, u64::MAX).await.has_changed_anything());
    check(&log, 700).await;
    log.save_cursor("dispatch", Position::new(3).unwrap()).await;
    fill_fast(&log, 900).await;
    log.close().await;
    drop(log);
    let log = open_aging(folder.path());
    assert_eq!(log.cursor("dispatch").await, Position::new(3));
    check(&log, 900).await;
}

fn room(folder: &Path) -> u64 {
    let parts = fs::read_dir(folder.join("store")).unwrap().map(|part| part.unwrap().path());
    let files = parts.flat_map(|part| fs::read_dir(part).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_go_on_from_part_to_part() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_aging(folder.path());
    fill_fast(&log, 10).await;
    log.save_cursor("dispatch", Position::new(9).unwrap()).await;
    fill_fast(&log, 1000).await;
    stored(&log).await;
    archive(&log, u64::MAX).await;
    assert_eq!(log.cursor("dispatch").await, Position::new(9));
    log.close().await;
    assert!(parts(folder.path())[0].as_str() > "00000000000000000128");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_the_journal_can_be_deleted_of_an_aged_log() {
    for name in ["store", "snapshots", "both"] {
        let (folder, _) = aged_log().await;
        for other in ["store", "snapshots"] {
            if name == other || name == "both" {
                fs::remove_dir_all(folder.path().join(other)).unwrap();
            }
        }
        let log = open_aging(folder.path());
        check(&log, ENTRIES).await;
        log.close().await;
        // What has left does not come back.
        let oldest: u64 = parts(folder.path())[0].parse().unwrap();
        assert!(oldest > 800, "{name}: {oldest}");
        assert!(verify(folder.path()).unwrap().is_sound());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_an_aged_log_are_read_anew_from_its_archive() {
    let (folder, _) = aged_log().await;
    fs::write(folder.path().join("snapshots").join(HEADS), b"garbage").unwrap();
    let log = open_aging(folder.path());
    check(&log, ENTRIES).await;
    log.close().await;
    let (_, bytes) = Snapshots::new(OsDisk, folder.path().join("snapshots"), ID).load(HEADS).unwrap();
    assert_eq!(Heads::from_bytes(&bytes).unwrap().0.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_reads_go_on_while_the_log_is_archived() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(open_aging(folder.path()));
    let done = Arc::new(AtomicBool::new(false));
    let archiving = {
        let (log, done) = (Arc::clone(&log), Arc::clone(&done));
        tokio::spawn(async move {
            let mut archived = 0;
            while !done.load(Ordering::SeqCst) {
                archived += archive(&log, u64::MAX).await.archived.len();
            }
            archived
        })
    };
    for up_to in (200..=2400).step_by(200) {
        fill_fast(&log, up_to).await;
        check(&log, up_to).await;
    }
    done.store(true, Ordering::SeqCst);
    assert!(archiving.await.unwrap() > 5);
    check(&log, 2400).await;
    log.close().await;
    assert!(verify(folder.path()).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_closes_does_not_wait_for_its_archive_and_a_closed_one_is_not_archived() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_aging(folder.path());
    fill_fast(&log, ENTRIES).await;
    let steps = log.archive(0);
    log.close().await;
    assert!(matches!(steps.collect::<Vec<_>>().await.pop().unwrap(), Ok(ArchiveStep::Done(_)) | Err(_)));
    let refused: Vec<_> = log.archive(0).collect().await;
    assert_eq!(refused, [Err(ReadError::Stopped(Fault::Closed))]);
    // Nobody holds it any more.
    let log = open_aging(folder.path());
    check(&log, ENTRIES).await;
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_archive_is_said_with_file_place_and_position() {
    let (folder, report) = aged_log().await;
    let second = &report.archived[1];
    flip(&second.file, 100);
    let report = verify(folder.path()).unwrap();
    let [found] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((&found.file, found.offset, found.position), (&second.file, 48, second.first));
    // It is old enough not to be read at a start; who asks for it is told.
    let log = open_aging(folder.path());
    let entries: Vec<_> = log.read_all(Position::FIRST).collect().await;
    assert_eq!(entries.last(), Some(&Err(ReadError::Corrupt(found.clone()))));
    assert_eq!(entries.len() as u64, second.first.number());
    assert_eq!(log.read(stream(1), None).await, Err(ReadError::Corrupt(found.clone())));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_left_alone_and_the_others_are_archived() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_aging(folder.path());
    fill_fast(&log, ENTRIES).await;
    stored(&log).await;
    let damaged = segments(folder.path())[1].clone();
    flip(&damaged, 3000);
    let report = archive(&log, 0).await;
    assert_eq!(report.damaged.iter().map(|found| &found.file).collect::<Vec<_>>(), [&damaged]);
    assert!(report.archived.len() > 5 && damaged.exists());
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_kept_of_an_archived_segment_comes_back() {
    let (folder, report) = aged_log().await;
    let kept = report.archived.iter().find(|segment| segment.first.number() > 900).unwrap();
    for at in [3, 20, 46, 100, 500] {
        flip(&kept.file, at);
        let damaged = fs::read(&kept.file).unwrap();
        let plan = repair::plan(folder.path()).unwrap();
        assert_eq!((plan.lost.clone(), plan.steps.len()), (None, 1), "{at}: {plan:?}");
        let replaced = repair::apply(&plan).unwrap();
        assert_eq!(fs::read(&replaced[0]).unwrap(), damaged);
        assert!(!kept.file.exists());
        let log = open_aging(folder.path());
        check(&log, ENTRIES).await;
        assert!(archive(&log, 0).await.archived.iter().any(|segment| segment.file == kept.file));
        log.close().await;
        assert!(verify(folder.path()).unwrap().is_sound());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_store_and_is_damaged_is_lost_and_said_to_be() {
    let (folder, report) = aged_log().await;
    flip(&report.archived[1].file, 100);
    let plan = repair::plan(folder.path()).unwrap();
    let lost = plan.lost.clone().unwrap();
    assert_eq!((lost.first, lost.last), (report.archived[1].first, Position::new(ENTRIES)));
    assert_eq!(lost.readable.last().unwrap().1.number(), ENTRIES);
    assert!(plan.steps.contains(&Step::SetStoreAside));
    repair::apply(&plan).unwrap();
    let left = report.archived[1].first.number() - 1;
    let log = open_aging(folder.path());
    check(&log, left).await;
    fill_fast(&log, left + 300).await;
    log.close().await;
    assert!(verify(folder.path()).unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_last_segment_does_not_go_on_behind_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_aging(folder.path());
    fill_fast(&log, ENTRIES).await;
    stored(&log).await;
    archive(&log, 0).await;
    log.close().await;
    drop(log);
    for path in segments(folder.path()).into_iter().filter(|path| path.extension().unwrap() == "seg") {
        fs::remove_file(path).unwrap();
    }
    let last = archived(folder.path()).pop().unwrap();
    match LocalLog::open(&aging(folder.path()), ID) {
        Err(StartError::Corrupt(Corruption { file, damage: Damage::ArchivedLast, .. })) => {
            assert_eq!(file, last);
        }
        other => panic!("{other:?}"),
    }
    let report = verify(folder.path()).unwrap();
    assert_eq!(report.findings.len(), 1);
    // The store has its whole groups.
    let plan = repair::plan(folder.path()).unwrap();
    let lost = plan.lost.clone().unwrap();
    assert_eq!((lost.first.number(), lost.last), (ENTRIES / 64 * 64 + 1, Position::new(ENTRIES)));
    repair::apply(&plan).unwrap();
    check(&open_aging(folder.path()), ENTRIES / 64 * 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_a_crash_has_kept_from_leaving_is_gone_after_the_next_start() {
    let (folder, _) = aged_log().await;
    let store = folder.path().join("store");
    copy_folder(&store.join(&parts(folder.path())[0]), &store.join("00000000000000000001.leaving"));
    let log = open_aging(folder.path());
    check(&log, ENTRIES).await;
    log.close().await;
    assert_eq!(parts(folder.path()).len(), 5);
}
