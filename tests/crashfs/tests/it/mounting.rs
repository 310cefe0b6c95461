//! Coming and going.

use std::{fs::File, os::unix::fs::FileExt};

use crashfs::{CrashFs, Error, Kind, Options, Trigger};

use crate::{
    child::Role,
    common::{Disk, PATIENCE, errno},
};

fn is_mounted(dir: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

#[test]
fn it_says_that_it_is_available_where_these_tests_run() {
    CrashFs::available().unwrap();
}

#[test]
fn dropping_it_unmounts_it() {
    let disk = Disk::new();
    let dir = disk.fs.dir().to_owned();
    assert!(is_mounted(&dir));
    drop(disk);
    assert!(!is_mounted(&dir));
}

#[test]
fn dropping_it_unmounts_it_while_files_are_open_and_operations_are_held() {
    let disk = Disk::new();
    let (file, other) = (disk.create("a", b""), disk.create("b", b""));
    disk.fs.freeze_at(Trigger::before(1, Kind::Write, "a"));
    let dir = disk.fs.dir().to_owned();
    let writing = std::thread::spawn(move || file.write_all_at(b"x", 0));
    disk.fs.wait_frozen(PATIENCE).unwrap();
    drop(disk);
    assert!(!is_mounted(&dir));
    assert!(writing.join().unwrap().is_err());
    assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::EIO].contains(&errno(other.write_at(b"x", 0))));
}

#[test]
fn the_same_directory_cannot_be_mounted_twice() {
    let disk = Disk::new();
    let again = CrashFs::mount(disk.fs.dir(), Options::default());
    assert!(matches!(again, Err(Error::InUse(dir)) if dir == disk.fs.dir()));
    disk.create("still", b"there");
}

#[test]
fn a_mount_that_a_killed_harness_left_is_replaced() {
    let parent = tempfile::tempdir().unwrap();
    // The name makes /proc/self/mountinfo escape it.
    let dir = parent.path().join("left over");
    let mut harness = Role::Harness.start(&dir);
    assert_eq!(harness.next_ack(), Some(1));
    harness.process.kill().unwrap();
    harness.process.wait().unwrap();
    let fs = CrashFs::mount(&dir, Options::default()).unwrap();
    File::create(dir.join("works")).unwrap();
    drop(fs);
    std::fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_mount_that_a_killed_harness_left_elsewhere_goes_with_the_next_mount() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("elsewhere");
    let mut harness = Role::Harness.start(&dir);
    assert_eq!(harness.next_ack(), Some(1));
    let _alive = Disk::new();
    assert!(is_mounted(&dir), "its harness is alive");
    harness.process.kill().unwrap();
    harness.process.wait().unwrap();
    let _next = Disk::new();
    assert!(!is_mounted(&dir));
}

#[test]
fn a_directory_that_cannot_be_made_is_reported() {
    let refused = CrashFs::mount("/proc/no/such/place", Options::default());
    assert!(matches!(refused, Err(Error::Directory { .. })), "{refused:?}");
}
