//! What a bad or full disk does.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
};

use crashfs::{Fault, Kind, Match, Options};
use rustix::fs::{FallocateFlags, fallocate};

use crate::common::{Disk, PAGE, PATIENCE, errno, sync_dir, wait_until};

#[test]
fn a_full_disk_takes_what_fits_and_then_nothing_until_there_is_room() {
    let disk = Disk::with(Options { capacity_bytes: Some(2 * PAGE as u64), ..Options::default() });
    let file = disk.create("a", b"");
    assert_eq!(file.write_at(&[1; 3 * PAGE], 0).unwrap(), 2 * PAGE, "cut short, as Linux does");
    assert_eq!(errno(file.write_at(&[1; PAGE], 2 * PAGE as u64)), libc::ENOSPC);
    assert_eq!(errno(disk.create("b", b"").write_all_at(b"x", 0)), libc::ENOSPC);
    file.write_all_at(&[2; 2 * PAGE], 0).expect("overwriting needs no room");
    disk.fs.faults().set_capacity(Some(3 * PAGE as u64));
    file.write_all_at(&[3; PAGE], 2 * PAGE as u64).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(&[4; PAGE], 0).expect("truncating makes room");
}

#[test]
fn the_limit_can_be_lowered_below_what_is_used() {
    let disk = Disk::new();
    let file = disk.create("a", &[1; 4 * PAGE]);
    disk.fs.faults().set_capacity(Some(PAGE as u64));
    assert_eq!(errno(file.write_at(&[1], 4 * PAGE as u64)), libc::ENOSPC);
    assert_eq!(disk.read("a"), [1; 4 * PAGE]);
    drop(file);
    fs::remove_file(disk.path("a")).unwrap();
    wait_until(|| disk.fs.faults().used_bytes() == 0);
    disk.create("b", &[1; PAGE]);
}

#[test]
fn what_was_preallocated_can_be_written_on_a_full_disk() {
    let disk = Disk::new();
    let file = disk.create("a", b"");
    fallocate(&file, FallocateFlags::empty(), 0, 2 * PAGE as u64).unwrap();
    disk.fs.faults().set_capacity(Some(PAGE as u64));
    file.write_all_at(&[1; 2 * PAGE], 0).unwrap();
    let refused = fallocate(&file, FallocateFlags::empty(), 0, 3 * PAGE as u64);
    assert_eq!(refused, Err(rustix::io::Errno::NOSPC));
}

#[test]
fn a_failed_write_has_no_effect_and_the_next_one_succeeds() {
    let disk = Disk::new();
    let file = disk.create("a", b"old");
    let fault = disk.fs.faults().inject(Fault::once(Match::new(Kind::Write, "a")).starting_at(2));
    file.write_all_at(b"1st", 0).unwrap();
    assert_eq!(errno(file.write_at(b"2nd", 0)), libc::EIO);
    assert_eq!(disk.read("a"), b"1st");
    file.write_all_at(b"3rd", 0).unwrap();
    assert_eq!(disk.fs.faults().strikes(fault), 1);
}

#[test]
fn writes_to_a_path_fail_until_the_fault_is_cleared() {
    let disk = Disk::new();
    fs::create_dir(disk.path("journal")).unwrap();
    let (journal, other) = (disk.create("journal/1", b""), disk.create("other", b""));
    let fault = disk.fs.faults().inject(Fault::until_cleared(Match::new(Kind::Write, "journal/*")));
    for _ in 0..3 {
        assert_eq!(errno(journal.write_at(b"x", 0)), libc::EIO);
        other.write_all_at(b"x", 0).unwrap();
    }
    assert_eq!(disk.fs.faults().strikes(fault), 3);
    disk.fs.faults().clear(fault);
    journal.write_all_at(b"x", 0).unwrap();
}

#[test]
fn any_kind_of_operation_can_fail() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"bytes");
    let fails = |kind| disk.fs.faults().inject(Fault::once(Match::new(kind, "a*")));
    fails(Kind::Create);
    assert_eq!(errno(File::create_new(disk.path("a2"))), libc::EIO);
    fails(Kind::Rename);
    assert_eq!(errno(fs::rename(disk.path("a"), disk.path("b"))), libc::EIO);
    fails(Kind::Unlink);
    assert_eq!(errno(fs::remove_file(disk.path("a"))), libc::EIO);
    fails(Kind::Truncate);
    assert_eq!(errno(file.set_len(0)), libc::EIO);
    fails(Kind::Read);
    assert_eq!(errno(fs::read(disk.path("a"))), libc::EIO);
    assert_eq!(disk.read("a"), b"bytes");
}

#[test]
fn a_failed_fsync_reports_once_and_what_it_dropped_is_lost_at_the_cut() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    file.write_all_at(b"new, longer", 0).unwrap();
    disk.fs.faults().inject(Fault::once(Match::new(Kind::Sync, "a")));
    assert_eq!(errno(file.sync_data()), libc::EIO);
    assert_eq!(disk.read("a"), b"new, longer", "the page cache has it");
    file.sync_data().expect("Linux marks the pages clean: nothing is left to fail");
    file.sync_all().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"old");
}

#[test]
fn what_is_appended_after_a_failed_fsync_stands_behind_a_hole() {
    let disk = Disk::new();
    let file = disk.create_durably("a", &[1; PAGE]);
    file.write_all_at(&[2; PAGE], PAGE as u64).unwrap();
    disk.fs.faults().inject(Fault::once(Match::new(Kind::Sync, "a")));
    assert_eq!(errno(file.sync_data()), libc::EIO);
    file.write_all_at(&[3; PAGE], 2 * PAGE as u64).unwrap();
    file.sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), [[1; PAGE], [0; PAGE], [3; PAGE]].concat());
}

#[test]
fn a_page_written_again_after_a_failed_fsync_is_durable_by_the_next() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"");
    file.write_all_at(b"lost, and ", 0).unwrap();
    disk.fs.faults().inject(Fault::once(Match::new(Kind::Sync, "a")));
    assert_eq!(errno(file.sync_data()), libc::EIO);
    file.write_all_at(b"lost", 0).unwrap();
    file.sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"lost, and ", "the whole page was dirty again, and its size with it");
}

#[test]
fn everyone_who_had_the_file_open_hears_of_a_failed_fsync_once() {
    let disk = Disk::new();
    let (one, two) = (disk.create_durably("a", b""), disk.open("a"));
    one.write_all_at(b"x", 0).unwrap();
    disk.fs.faults().inject(Fault::once(Match::new(Kind::Sync, "a")));
    assert_eq!(errno(one.sync_data()), libc::EIO);
    one.sync_data().unwrap();
    disk.open("a").sync_data().expect("opened afterwards");
    assert_eq!(errno(two.sync_data()), libc::EIO);
    two.sync_data().unwrap();
}

#[test]
fn a_failed_fsync_of_a_directory_loses_its_operations() {
    let disk = Disk::new();
    disk.create("a", b"");
    let fault = disk.fs.faults().inject(Fault::once(Match::new(Kind::SyncDir, "")));
    assert_eq!(errno(sync_dir(&disk.path(""))), libc::EIO);
    disk.sync_dir("");
    disk.create("b", b"");
    disk.sync_dir("");
    assert_eq!(disk.fs.faults().strikes(fault), 1);
    disk.cut_and_forget();
    assert!(!disk.exists("a"));
    assert!(disk.exists("b"));
}

#[test]
fn with_fsync_turned_off_everything_succeeds_and_nothing_is_durable() {
    let disk = Disk::new();
    disk.create_durably("a", b"old");
    disk.fs.faults().ignore_syncs(true);
    let file = disk.open("a");
    file.write_all_at(b"new", 0).unwrap();
    file.sync_all().unwrap();
    disk.create("b", b"").sync_all().unwrap();
    disk.sync_dir("");
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"old");
    assert!(!disk.exists("b"));
    disk.fs.faults().ignore_syncs(false);
    let file = disk.open("a");
    file.write_all_at(b"new", 0).unwrap();
    file.sync_all().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"new");
}

#[test]
fn one_can_wait_until_a_fault_has_struck() {
    let disk = Disk::new();
    let mut file = disk.create("a", b"");
    let fault = disk.fs.faults().inject(Fault::once(Match::new(Kind::Write, "a")));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_all(b"x").unwrap_err().kind() == ErrorKind::Other);
        assert!(disk.fs.faults().wait_strikes(fault, 1, PATIENCE));
        writer.join().unwrap();
    });
    disk.fs.faults().clear_all();
    assert_eq!(disk.fs.faults().strikes(fault), 0);
}
