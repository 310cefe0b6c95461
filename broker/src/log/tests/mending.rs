//! Looking at a log that no broker has open, and mending it.

use std::fs;

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
    assert_eq!((plan.steps.len(), plan.lost), (0, None));
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
    assert_eq!(plan.lost, Some((position, Position::new(400).unwrap())));
    let asides = plan.steps.iter().filter(|step| matches!(step, Step::SetSegmentAside { .. })).count();
    assert_eq!(asides, count - 2);
    assert!(plan.steps.contains(&Step::SetHeadsAside));
    let log = open(folder.path()).unwrap();
    check(&log, position.number() - 1).await;
    // Nothing was deleted.
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
    assert_eq!(plan.lost, Some((Position::new(last + 1).unwrap(), Position::new(400).unwrap())));
    check(&open(folder.path()).unwrap(), last).await;
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
