//! Real programs on it, killed at counted moments: what the log of the broker will be tested with.

use std::os::unix::process::ExitStatusExt;

use crashfs::{Crash, Crashed, CutMode, DirOrder, Kind, Moment, Trigger};

use crate::{
    child::Role,
    common::{Disk, PATIENCE},
};

/// Starts a program, crashes it at the trigger, and returns the last number that it acknowledged.
fn crash(disk: &Disk, role: Role, trigger: Trigger, crash: Crash) -> u64 {
    disk.fs.freeze_at(trigger);
    let mut program = role.start(disk.fs.dir());
    disk.fs.wait_frozen(PATIENCE).expect("the program gets that far");
    let Crashed { status, report } = disk.fs.crash(&mut program.process, crash).unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(report.is_some(), crash != Crash::Kill);
    program.last_ack()
}

fn power_cut(seed: u64) -> Crash {
    let mode = match seed % 4 {
        0 => CutMode::ForgetAll,
        1 => CutMode::TornWrite,
        2 => CutMode::KeepRandomPages(DirOrder::InOrder),
        _ => CutMode::KeepRandomPages(DirOrder::AnyOrder),
    };
    Crash::PowerCut { mode, seed }
}

/// The numbers of the plain file up to the first that is not there: what its recovery would find.
fn records(disk: &Disk) -> u64 {
    let bytes = disk.fs.volatile_snapshot().file("log").unwrap_or_default().to_vec();
    let numbers = bytes.chunks_exact(8).map(|number| u64::from_be_bytes(number.try_into().unwrap()));
    numbers.zip(1..).take_while(|(found, expected)| found == expected).count() as u64
}

/// Cuts off what comes after the first record that is not there.
fn recover(disk: &Disk) -> u64 {
    let records = records(disk);
    if disk.exists("log") {
        disk.open("log").set_len(records * 8).unwrap();
        disk.fs.sync_all();
    }
    records
}

#[test]
fn a_plain_file_with_fdatasync_loses_nothing_that_it_acknowledged() {
    let disk = Disk::new();
    let mut acknowledged = 0;
    for seed in 0..24 {
        let moment = if seed % 2 == 0 { Moment::Before } else { Moment::After };
        let kind = if seed % 3 == 0 { Kind::Write } else { Kind::Sync };
        let trigger = Trigger { moment, ..Trigger::before(seed % 7 + 1, kind, "log") };
        acknowledged = acknowledged.max(crash(&disk, Role::PlainFile, trigger, power_cut(seed)));
        let found = recover(&disk);
        assert!(found >= acknowledged, "round {seed}: {found} of {acknowledged}");
        acknowledged = found;
    }
    assert!(acknowledged > 24);
}

#[test]
fn with_fsync_turned_off_the_same_plain_file_loses_what_it_acknowledged() {
    let disk = Disk::new();
    disk.fs.faults().ignore_syncs(true);
    let trigger = Trigger::before(20, Kind::Write, "log");
    let cut = Crash::PowerCut { mode: CutMode::ForgetAll, seed: 0 };
    assert_eq!(crash(&disk, Role::PlainFile, trigger, cut), 19);
    assert_eq!(records(&disk), 0);
}

#[test]
fn a_kill_alone_loses_nothing_that_was_written() {
    let disk = Disk::new();
    disk.fs.faults().ignore_syncs(true);
    let trigger = Trigger::after(20, Kind::Write, "log");
    assert_eq!(crash(&disk, Role::PlainFile, trigger, Crash::Kill), 19);
    assert_eq!(records(&disk), 20);
    // And the program goes on where it was.
    assert_eq!(crash(&disk, Role::PlainFile, Trigger::before(2, Kind::Write, "log"), Crash::Kill), 21);
    assert_eq!(records(&disk), 21);
}

#[test]
fn a_program_that_is_not_stopped_at_all_can_be_crashed() {
    let disk = Disk::new();
    let mut program = Role::PlainFile.start(disk.fs.dir());
    assert_eq!(program.next_ack(), Some(1));
    disk.fs.crash(&mut program.process, power_cut(0)).unwrap();
    assert!(records(&disk) >= program.last_ack());
}

/// Up to which number sled holds them all; 0 if it does not open.
fn sled_records(disk: &Disk) -> u64 {
    let mut reader = Role::SledReader.start(disk.fs.dir());
    let records = reader.last_ack();
    reader.process.wait().unwrap();
    records
}

#[test]
fn sled_with_its_files_synced_keeps_what_it_acknowledged_when_the_rest_is_forgotten() {
    let disk = Disk::new();
    let mut acknowledged = 0;
    for round in 1..6 {
        let cut = Crash::PowerCut { mode: CutMode::ForgetAll, seed: round };
        let trigger = Trigger::before(20 * round, Kind::Sync, "sled/**");
        acknowledged = acknowledged.max(crash(&disk, Role::SledSynced, trigger, cut));
        let found = sled_records(&disk);
        assert!(found >= acknowledged, "round {round}: {found} of {acknowledged}");
    }
    assert!(acknowledged > 10);
}

#[test]
fn sled_by_itself_loses_what_it_acknowledged_because_its_flush_is_no_fsync() {
    let disk = Disk::new();
    let trigger = Trigger::before(50, Kind::Write, "sled/db");
    let cut = Crash::PowerCut { mode: CutMode::ForgetAll, seed: 0 };
    let acknowledged = crash(&disk, Role::SledFlushed, trigger, cut);
    assert!(acknowledged > 10);
    assert!(sled_records(&disk) < acknowledged);
}
