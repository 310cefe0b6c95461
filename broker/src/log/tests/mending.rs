//! Looking at a log that no broker has open, and mending it.

use std::fs;
use std::path::PathBuf;

use super::super::repair::{self, Plan, RepairError, Step};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_offline_as_it_is_read_online() {
    let folder = closed_log(300).await;
    let offline = OfflineLog::open(folder.path()).unwrap();
    assert_eq!((offline.head(), offline.ending()), (Position::new(300), &Ending::Closed));
    let entries: Vec<_> = offline.entries(Position::FIRST).map(Result::unwrap).collect();
    let log = open(folder.path()).unwrap();
    let online: Vec<_> = log.read_all(Position::FIRST).map(|entry| (*entry.unwrap()).clone()).collect().await;
    assert_eq!(entries, online);
    assert_eq!(offline.entry(Position::new(123).unwrap()).unwrap().as_ref(), online.get(122));
    assert_eq!(offline.entry(Position::new(301).unwrap()).unwrap(), None);
    // While it is open too; it is not closed then.
    assert_eq!(OfflineLog::open(folder.path()).unwrap().ending(), &Ending::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_offline_changes_nothing_and_ends_at_the_damage_with_an_error() {
    let folder = closed_log(300).await;
    let path = &segments(folder.path())[1];
    let mut bytes = fs::read(path).unwrap();
    bytes[3000] ^= 1;
    fs::write(path, &bytes).unwrap();
    let before: Vec<_> = segments(folder.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    let offline = OfflineLog::open(folder.path()).unwrap();
    let mut entries: Vec<_> = offline.entries(Position::FIRST).collect();
    match entries.pop().unwrap() {
        Err(ReadError::Corrupt(corruption)) => {
            assert_eq!(corruption.file, *path);
            assert_eq!(corruption.position.number(), entries.len() as u64 + 1);
        }
        other => panic!("{other:?}"),
    }
    assert!(entries.iter().all(Result::is_ok));
    let report = verify(folder.path()).unwrap();
    assert_eq!((report.findings.len(), report.is_sound()), (1, false));
    let after: Vec<_> = segments(folder.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_log_is_verified_and_needs_no_repair() {
    let folder = closed_log(300).await;
    let report = verify(folder.path()).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.entries, report.streams, report.head), (300, 10, Position::new(300)));
    assert_eq!(report.ending, Ending::Closed);
    assert!(report.segments.len() > 2 && report.segments.iter().all(|segment| segment.sound));
    let plan = repair::plan(folder.path()).unwrap();
    assert_eq!((plan.steps.len(), plan.lost.clone()), (0, None));
    // Reports are read by programs too.
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

/// Does something to the files of a closed log of 400 entries.
async fn damaged(damage: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = closed_log(400).await;
    damage(folder.path());
    folder
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// Makes a plan, has it read back from JSON as a tool would, and carries it out.
fn mend(folder: &Path) -> Plan {
    assert!(open(folder).is_err());
    let plan = repair::plan(folder).unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    repair::apply(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(repair::plan(folder).unwrap().steps, []);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_kept_comes_back() {
    let damages: [fn(&Path); 6] = [
        |folder| flip(&segments(folder)[1], 3000),
        // The header of a segment, its checksum and its magic number.
        |folder| flip(&segments(folder)[1], 46),
        |folder| flip(&segments(folder)[0], 3),
        |folder| fs::remove_file(&segments(folder)[2]).unwrap(),
        |folder| fs::remove_file(&segments(folder)[0]).unwrap(),
        |folder| {
            flip(&segments(folder)[1], 1000);
            flip(&segments(folder)[1], 6000);
            flip(&segments(folder)[2], 100);
        },
    ];
    for damage in damages {
        let folder = damaged(damage).await;
        let plan = mend(folder.path());
        assert_eq!(plan.lost, None, "{plan:?}");
        let log = open(folder.path()).unwrap();
        check(&log, 400).await;
        fill(&log, 500).await;
        log.close().await;
        assert!(verify(folder.path()).unwrap().is_sound());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_the_log_ends_in_front_of_the_damage_and_the_plan_says_what_is_lost() {
    let folder = damaged(|folder| {
        flip(&segments(folder)[1], 3000);
        fs::remove_dir_all(folder.join("store")).unwrap();
    })
    .await;
    let count = segments(folder.path()).len();
    let plan = mend(folder.path());
    let position = plan.findings[0].position;
    let lost = plan.lost.clone().unwrap();
    assert_eq!((lost.first, lost.last, &lost.unread), (position, Position::new(400), &None));
    assert_eq!(lost.readable.last().unwrap().1.number(), 400);
    let asides = plan.steps.iter().filter(|step| matches!(step, Step::SetSegmentAside { .. })).count();
    assert_eq!(asides, count - 2);
    assert!(plan.steps.contains(&Step::SetSnapshotAside { name: "heads".to_owned() }));
    let log = open(folder.path()).unwrap();
    check(&log, position.number() - 1).await;
    // Nothing was deleted: every segment from the damage on, and the heads.
    assert_eq!(fs::read_dir(folder.path().join("replaced")).unwrap().count(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_has_lost_its_end_gets_it_back_from_the_store() {
    let folder = damaged(|folder| {
        for path in &segments(folder)[2..] {
            fs::remove_file(path).unwrap();
        }
    })
    .await;
    let plan = mend(folder.path());
    // The store has whole groups only; the heads knew of the rest.
    let last = 400 / 64 * 64;
    let lost = plan.lost.unwrap();
    assert_eq!((lost.first.number(), lost.last), (last + 1, Position::new(400)));
    assert_eq!((lost.readable, lost.unread), (Vec::new(), None));
    check(&open(folder.path()).unwrap(), last).await;
}

/// The log of a young broker that was killed: seven entries in one segment, each its own record, no snapshot,
/// no group in the store. Gives its folder, its segment and where its records begin.
async fn young_and_killed() -> (tempfile::TempDir, PathBuf, Vec<usize>) {
    let folder = closed_log(7).await;
    fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let closing = bytes.windows(4).rposition(|four| four == b"DONE").unwrap();
    bytes[closing..].fill(0);
    let records = (0..bytes.len() - 4).filter(|at| &bytes[*at..*at + 4] == b"ENTR").collect::<Vec<_>>();
    assert_eq!(records.len(), 7);
    fs::write(&path, bytes).unwrap();
    (folder, path, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn intact_records_behind_the_damage_are_counted_as_lost_and_saved() {
    // In the body of record 3, in its header, and in the headers of two.
    for damage in [&[30][..], &[12], &[12, 12 + 99]] {
        let (folder, path, records) = young_and_killed().await;
        let length = records[3] - records[2];
        for at in damage {
            flip(&path, records[2] + if *at > length { at - 99 + length } else { *at });
        }
        let damaged = fs::read(&path).unwrap();
        let plan = mend(folder.path());
        let lost = plan.lost.unwrap();
        let readable = if damage.len() == 1 { 4 } else { 5 };
        let at = |number| Position::new(number).unwrap();
        assert_eq!((lost.first, lost.last, &lost.unread), (at(3), Some(at(7)), &None));
        assert_eq!(lost.readable, [(at(readable), at(7))]);
        assert_eq!(
            lost.to_string(),
            format!(
                "positions 3 to 7; positions {readable} to 7 can be read but not kept, since nothing may follow \
                 a gap"
            )
        );
        check(&open(folder.path()).unwrap(), 2).await;
        let kept = folder.path().join("replaced/00000000000000000001.seg.0");
        assert_eq!(fs::read(kept).unwrap(), damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_at_the_end_may_be_any_number_of_entries() {
    let (folder, path, records) = young_and_killed().await;
    let mut bytes = fs::read(&path).unwrap();
    // The headers of the last two, so that nothing tells of them; and more behind than one write can leave.
    bytes[records[5] + 12] ^= 1;
    bytes[records[6] + 12] ^= 1;
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let far = 9 * 1024 * 1024;
    bytes.resize(far + 1, 0);
    bytes[far] = 1;
    fs::write(&path, &bytes).unwrap();
    assert!(end < far);
    let plan = mend(folder.path());
    let lost = plan.lost.unwrap();
    assert_eq!((lost.first.number(), lost.last, lost.readable.len()), (6, None, 0));
    let unread = lost.unread.clone().unwrap();
    assert_eq!((unread.offset, unread.bytes), (records[5] as u64, (far + 1 - records[5]) as u64));
    assert!(lost.to_string().starts_with("an unknown number of entries from position 6 on"), "{lost}");
    check(&open(folder.path()).unwrap(), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_seen_lost_positions_is_set_aside() {
    let folder = closed_log(7).await;
    let log = open(folder.path()).unwrap();
    let at = |number| Position::new(number).unwrap();
    log.save_snapshot("early", at(2), Bytes::from_static(b"a model")).await;
    log.save_snapshot("late", at(6), Bytes::from_static(b"a model")).await;
    log.save_cursor("dispatch", at(6)).await;
    log.close().await;
    drop(log);
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let records: Vec<_> = (0..bytes.len() - 4).filter(|at| &bytes[*at..*at + 4] == b"ENTR").collect();
    flip(&path, records[2] + 30);
    let plan = mend(folder.path());
    let aside = |name: &str| Step::SetSnapshotAside { name: name.to_owned() };
    assert_eq!(plan.steps[1..], [aside("heads"), aside("model-late"), Step::SetStoreAside]);
    let log = open(folder.path()).unwrap();
    fill(&log, 7).await;
    assert_eq!((log.cursor("dispatch").await, log.snapshot("late").await), (None, None));
    assert_eq!(log.snapshot("early").await.unwrap().0, at(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_says_whether_a_broker_runs() {
    let folder = closed_log(10).await;
    assert!(!verify(folder.path()).unwrap().in_use);
    let log = open(folder.path()).unwrap();
    let report = verify(folder.path()).unwrap();
    assert!(report.in_use && report.is_sound());
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_not_carried_out_on_other_files_than_it_was_made_for() {
    let folder = damaged(|folder| flip(&segments(folder)[1], 3000)).await;
    let plan = repair::plan(folder.path()).unwrap();
    flip(&segments(folder.path())[2], 500);
    assert!(matches!(repair::apply(&plan), Err(RepairError::Changed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_open_is_not_repaired() {
    let folder = closed_log(10).await;
    let _log = open(folder.path()).unwrap();
    let refused = repair::plan(folder.path());
    assert!(matches!(refused, Err(RepairError::Start(StartError::InUse { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_said_in_words() {
    let folder = damaged(|folder| flip(&segments(folder)[1], 3000)).await;
    let plan = repair::plan(folder.path()).unwrap();
    let said: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("write segment 000000000000000000"), "{said:?}");
}
