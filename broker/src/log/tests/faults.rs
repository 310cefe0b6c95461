//! What a running log does when the disk fails, fills up or loses power, and when the store is lost.

use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Mutex;

use super::super::journal::disk::Disk;
use super::super::journal::sim::{Dice, PowerCut, SimDisk, Trouble};
use super::*;

fn open_on(folder: &Path, disk: &SimDisk) -> Result<LocalLog, StartError> {
    LocalLog::open_on(&config(folder), ID, &(Arc::new(disk.clone()) as Arc<dyn Disk>))
}

async fn within_a_while<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it comes to an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_or_flush_stops_the_log_and_tells_everyone() {
    // The write of a record, the write of room behind it, the flush.
    for operation in 0..3 {
        let (folder, disk) = (tempfile::tempdir().unwrap(), SimDisk::new(1));
        let log = Arc::new(open_on(folder.path(), &disk).unwrap());
        let follower = log.follow(Position::FIRST);
        if operation != 1 {
            fill(&log, 3).await;
        }
        // After the first record there is room, and a commit is a write and a flush.
        let operation = if operation == 2 { 1 } else { operation };
        disk.trouble(Some(Trouble::FailsAt(operation)));
        let appends = join_all((4..20).map(|number| log.append(append(number)))).await;
        let fault = within_a_while(log.stopped()).await;
        assert!(matches!(fault, Fault::Disk(_)), "{fault:?}");
        // The first batch has failed, whatever was in it; what came later was never tried.
        for answer in appends {
            assert_eq!(answer, Err(AppendError::Stopped(fault.clone())));
        }
        assert_eq!(log.append(append(1)).await, Err(AppendError::Stopped(fault.clone())));
        let followed: Vec<_> = within_a_while(follower.collect()).await;
        assert_eq!(followed.last().unwrap(), &Err(ReadError::Stopped(fault)));
        assert_eq!(followed.len() as u64 - 1, log.head().map_or(0, Position::number));
        assert_eq!(log.read_all(Position::FIRST).count().await, followed.len() - 1);
        within_a_while(log.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_stopped_by_a_fault_starts_again_with_all_that_was_acknowledged() {
    let (folder, disk) = (tempfile::tempdir().unwrap(), SimDisk::new(2));
    let log = open_on(folder.path(), &disk).unwrap();
    fill(&log, 100).await;
    disk.trouble(Some(Trouble::FailsAt(1)));
    log.append(append(101)).await.unwrap_err();
    log.close().await;
    disk.kill();
    let log = open_on(folder.path(), &disk).unwrap();
    // What was not acknowledged may be there; the disk was not cut from power.
    let head = log.head().unwrap().number();
    assert!((100..=101).contains(&head));
    check(&log, head).await;
    log.close().await;
    // What was shown once stays, though its first flush had failed.
    disk.power_cut(PowerCut::Forgets);
    check(&open_on(folder.path(), &disk).unwrap(), head).await;
}

/// Many tasks append; the power is cut at some moment; the log starts again. Whatever was acknowledged is
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn no_power_cut_under_load_takes_what_was_acknowledged() {
    let rounds = std::env::var("LOG_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let (folder, disk, mut dice) = (tempfile::tempdir().unwrap(), SimDisk::new(3), Dice(3));
    for round in 0..rounds {
        let log = Arc::new(open_on(folder.path(), &disk).unwrap());
        disk.trouble(Some(Trouble::PowerCutAt(dice.roll(600))));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let tasks = (0..16).map(|task| {
            let (log, acknowledged) = (Arc::clone(&log), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let mut expected = log.version(stream(task)).await.unwrap();
                loop {
                    let append = Append {
                        stream: stream(task),
                        expected: expected.map_or(Expected::Empty, Expected::At),
                        ..append(task)
                    };
                    match log.append(append).await {
                        Ok(appended) => {
                            acknowledged.lock().await.push((task, appended));
                            expected = Some(appended.version);
                        }
                        Err(AppendError::Stopped(_)) => return,
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        });
        let tasks = tasks.collect::<Vec<_>>();
        // Whether a segment is archived before the cut is the machine's mood; the journal's own tests cut at each step of it.
        let archiving = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                loop {
                    for step in log.archive(u64::MAX).collect::<Vec<_>>().await {
                        match step {
                            Ok(ArchiveStep::Done(report)) => assert_eq!(report.damaged, []),
                            Ok(_) => {}
                            Err(_) => return,
                        }
                    }
                }
            }
        });
        within_a_while(join_all(tasks)).await.into_iter().for_each(Result::unwrap);
        within_a_while(archiving).await.unwrap();
        log.close().await;
        drop(log);
        disk.power_cut(match dice.roll(3) {
            0 => PowerCut::Forgets,
            1 => PowerCut::Keeps,
            _ => PowerCut::KeepsSome,
        });
        let log = open_on(folder.path(), &disk).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for (task, appended) in acknowledged.lock().await.iter() {
            let entry = log.entry(appended.position).await.unwrap();
            assert_eq!(entry.map(|entry| entry.stream), Some(stream(*task)), "round {round}");
        }
        let read = log.read_all(Position::FIRST).map(Result::unwrap).count().await;
        assert_eq!(read as u64, log.head().map_or(0, Position::number));
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_an_append_is_refused_and_the_log_goes_on_when_there_is_room() {
    let (folder, disk) = (tempfile::tempdir().unwrap(), SimDisk::new(1));
    let log = open_on(folder.path(), &disk).unwrap();
    fill(&log, 70).await;
    disk.set_room(Some(disk.bytes_used()));
    let refused = loop {
        let head = log.head().unwrap();
        match log.append(append(head.number() + 1)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::NoRoom);
    assert!(refused.retry_helps());
    let head = log.head().unwrap().number();
    check(&log, head).await;
    disk.set_room(None);
    fill(&log, head + 200).await;
    log.close().await;
    check(&open_on(folder.path(), &disk).unwrap(), head + 200).await;
}

/// A file system of 24 mebibytes, if we may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=24m", "log-test"];
        let mounted = Command::new("mount").args(arguments).arg(folder.path()).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_under_journal_and_sled_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: no right to mount a file system");
        return;
    };
    let folder = disk.0.path().join("log");
    let ballast = [1, 2].map(|number| disk.0.path().join(format!("ballast-{number}")));
    for file in &ballast {
        std::fs::write(file, vec![1; 1024 * 1024]).unwrap();
    }
    let log = open(&folder).unwrap();
    let large = |number| Append {
        events: vec![EventRecord { body: vec![7; 3000].into(), ..append(number).events[0].clone() }],
        ..append(number)
    };
    let mut number = 0;
    let refused = loop {
        match log.append(large(number + 1)).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::NoRoom);
    assert_eq!(log.read_all(Position::FIRST).map(Result::unwrap).count().await as u64, number);
    std::fs::remove_file(&ballast[0]).unwrap();
    log.append(large(number + 1)).await.unwrap();
    within_a_while(log.close()).await;
    drop(log);
    // A start writes the last segment anew, and needs room for that.
    std::fs::remove_file(&ballast[1]).unwrap();
    let log = open(&folder).unwrap();
    assert_eq!(log.head(), Position::new(number + 1));
    assert_eq!(log.read_all(Position::FIRST).map(Result::unwrap).count().await as u64, number + 1);
    within_a_while(log.close()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_store_reads_from_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 300).await;
    log.sources().store.set(None);
    log.sources().recent.set_stored(None);
    check(&log, 300).await;
    fill(&log, 600).await;
    check(&log, 600).await;
    log.close().await;
    check(&open(folder.path()).unwrap(), 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_while_the_log_runs_is_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 300).await;
    // As if sled had ended: the keeper finds no store when it wants to put the next group there.
    log.sources().store.set(None);
    fill(&log, 500).await;
    let sources = Arc::clone(log.sources());
    let back = async {
        while sources.recent.stored() < Position::new(448) {
            tokio::task::yield_now().await;
        }
    };
    within_a_while(back).await;
    check(&log, 500).await;
    assert!(log.sources().store.get().is_some());
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_the_store_loses_while_the_log_runs_is_put_there_again() {
    let folder = closed_log(300).await;
    entries_in_sled(folder.path()).insert(65_u64.to_be_bytes(), &b"a damaged value"[..]).unwrap();
    // A start that does not look that far back.
    let config = LogConfig { check_bytes: 0, ..config(folder.path()) };
    let log = LocalLog::open(&config, ID).unwrap();
    check(&log, 300).await;
    log.close().await;
    drop(log);
    let store = open_store(folder.path()).unwrap();
    assert!(store.group(Position::new(65).unwrap()).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_appends_than_may_wait_are_refused_as_busy() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { waiting_appends_max: 8, ..config(folder.path()) };
    let log = LocalLog::open(&config, ID).unwrap();
    let answers = join_all((0..2000).map(|number| log.append(append(number)))).await;
    let appended = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    let busy =
        |answer: &&Result<Appended, AppendError>| matches!(answer, Err(AppendError::Busy { waiting: 8 }));
    assert_eq!(answers.iter().filter(busy).count() as u64, 2000 - appended);
    assert!((8..2000).contains(&appended), "{appended}");
    assert_eq!(log.head(), Position::new(appended));
}
