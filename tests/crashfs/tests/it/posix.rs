//! Without a cut it is a file system like any other.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    time::{Duration, UNIX_EPOCH},
};

use crashfs::Options;
use rustix::fs::{CWD, FallocateFlags, FlockOperation, RenameFlags, fallocate, flock, renameat_with};

use crate::common::{Disk, PAGE, errno, wait_until};

#[test]
fn what_is_written_is_read_back_and_holes_are_zeros() {
    let disk = Disk::new();
    let file = disk.create("a", b"start");
    file.write_all_at(b"end", 3 * PAGE as u64 - 1).unwrap();
    let mut expected = vec![0; 3 * PAGE + 2];
    expected[..5].copy_from_slice(b"start");
    expected[3 * PAGE - 1..].copy_from_slice(b"end");
    assert_eq!(disk.read("a"), expected);
    assert_eq!(disk.fs.faults().used_bytes(), 3 * PAGE as u64, "the hole takes no room");
}

#[test]
fn a_write_larger_than_one_request_of_the_kernel_arrives_whole() {
    let disk = Disk::new();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|byte| byte.to_le_bytes()[1]).collect();
    disk.create("large", &bytes);
    assert_eq!(disk.read("large"), bytes);
}

#[test]
fn two_that_append_to_one_file_overwrite_nothing_of_each_other() {
    let disk = Disk::new();
    let append = || File::options().append(true).create(true).open(disk.path("log")).unwrap();
    let (mut one, mut two) = (append(), append());
    one.write_all(b"one").unwrap();
    two.write_all(b"two").unwrap();
    one.write_all(b"three").unwrap();
    assert_eq!(disk.read("log"), b"onetwothree");
}

#[test]
fn opening_with_truncate_empties_a_file_and_create_new_refuses_one() {
    let disk = Disk::new();
    disk.create("a", b"old");
    assert_eq!(errno(File::create_new(disk.path("a"))), libc::EEXIST);
    File::create(disk.path("a")).unwrap();
    assert_eq!(disk.read("a"), b"");
}

#[test]
fn a_file_that_shrinks_and_grows_again_shows_no_old_bytes() {
    let disk = Disk::new();
    let file = disk.create("a", &[7; 2 * PAGE]);
    file.set_len(10).unwrap();
    file.set_len(PAGE as u64).unwrap();
    let mut expected = vec![0; PAGE];
    expected[..10].fill(7);
    assert_eq!(disk.read("a"), expected);
}

#[test]
fn a_file_removed_while_open_is_there_until_it_is_closed() {
    let disk = Disk::new();
    let file = disk.create("a", &[1; PAGE]);
    disk.fs.sync_all();
    fs::remove_file(disk.path("a")).unwrap();
    disk.sync_dir("");
    file.write_all_at(&[2; PAGE], PAGE as u64).unwrap();
    let mut bytes = vec![0; 2 * PAGE];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[0], bytes[PAGE]), (1, 2));
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(disk.fs.faults().used_bytes(), 2 * PAGE as u64);
    drop(file);
    wait_until(|| disk.fs.faults().used_bytes() == 0);
}

#[test]
fn a_rename_replaces_a_file_and_the_old_one_lives_on_while_open() {
    let disk = Disk::new();
    let old = disk.create("to", b"old");
    disk.create("from", b"new");
    fs::rename(disk.path("from"), disk.path("to")).unwrap();
    assert_eq!(disk.read("to"), b"new");
    assert!(!disk.exists("from"));
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
}

#[test]
fn a_rename_that_must_not_replace_refuses_and_an_exchange_swaps() {
    let disk = Disk::new();
    disk.create("a", b"a");
    disk.create("b", b"b");
    let rename = |flags| renameat_with(CWD, disk.path("a"), CWD, disk.path("b"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    assert_eq!(rename(RenameFlags::EXCHANGE), Ok(()));
    assert_eq!((disk.read("a"), disk.read("b")), (b"b".to_vec(), b"a".to_vec()));
    fs::remove_file(disk.path("b")).unwrap();
    assert_eq!(rename(RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(disk.read("b"), b"b");
}

#[test]
fn a_directory_moves_with_what_is_in_it_and_replaces_only_an_empty_one() {
    let disk = Disk::new();
    fs::create_dir_all(disk.path("a/deep")).unwrap();
    disk.create("a/deep/file", b"x");
    fs::create_dir_all(disk.path("full/inside")).unwrap();
    fs::create_dir(disk.path("empty")).unwrap();
    assert_eq!(errno(fs::rename(disk.path("a"), disk.path("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(disk.path("a"), disk.path("a/deep/a"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(disk.path("a/deep/file"), disk.path("empty"))), libc::EISDIR);
    fs::rename(disk.path("a"), disk.path("empty")).unwrap();
    assert_eq!(disk.read("empty/deep/file"), b"x");
}

#[test]
fn a_directory_that_holds_something_cannot_be_removed() {
    let disk = Disk::new();
    fs::create_dir(disk.path("d")).unwrap();
    disk.create("d/f", b"");
    assert_eq!(errno(fs::remove_dir(disk.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(disk.path("d"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(disk.path("d/f"))), libc::ENOTDIR);
    fs::remove_file(disk.path("d/f")).unwrap();
    fs::remove_dir(disk.path("d")).unwrap();
    assert_eq!(errno(fs::remove_dir(disk.path("d"))), libc::ENOENT);
}

#[test]
fn a_directory_lists_each_name_once_while_names_are_removed() {
    let disk = Disk::new();
    fs::create_dir(disk.path("d")).unwrap();
    let names: BTreeSet<_> = (0..2000).map(|number| format!("file-{number}")).collect();
    for name in &names {
        disk.create(&format!("d/{name}"), b"");
    }
    let mut listed = BTreeSet::new();
    for entry in fs::read_dir(disk.path("d")).unwrap() {
        let entry = entry.unwrap();
        assert!(listed.insert(entry.file_name().into_string().unwrap()));
        fs::remove_file(entry.path()).unwrap();
    }
    assert_eq!(listed, names);
    fs::remove_dir(disk.path("d")).unwrap();
}

#[test]
fn hard_links_share_their_bytes_and_count_themselves() {
    let disk = Disk::new();
    let file = disk.create("a", b"one");
    fs::hard_link(disk.path("a"), disk.path("b")).unwrap();
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(disk.read("b"), b"two");
    assert_eq!(file.metadata().unwrap().nlink(), 2);
    fs::remove_file(disk.path("a")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    assert_eq!(disk.read("b"), b"two");
}

#[test]
fn symbolic_links_and_sockets_work() {
    let disk = Disk::new();
    disk.create("a", b"bytes");
    symlink("a", disk.path("link")).unwrap();
    assert_eq!(disk.read("link"), b"bytes");
    let listener = UnixListener::bind(disk.path("socket")).unwrap();
    UnixStream::connect(disk.path("socket")).unwrap().write_all(b"hello").unwrap();
    let mut heard = String::new();
    listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
}

#[test]
fn modes_and_times_can_be_set() {
    let disk = Disk::new();
    let file = disk.create("key", b"");
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_modified(time).unwrap();
    let seen = fs::metadata(disk.path("key")).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.modified().unwrap()), (0o600, time));
}

#[test]
fn each_change_of_a_file_gives_it_a_later_time() {
    let disk = Disk::new();
    let file = disk.create("a", b"");
    let before = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() > before);
}

#[test]
fn fallocate_takes_room_and_punching_a_hole_gives_it_back() {
    let disk = Disk::new();
    let file = disk.create("a", b"kept");
    fallocate(&file, FallocateFlags::empty(), 0, 3 * PAGE as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3 * PAGE as u64);
    assert_eq!(disk.fs.faults().used_bytes(), 3 * PAGE as u64);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 3 * PAGE as u64, PAGE as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3 * PAGE as u64);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, 0, 3 * PAGE as u64).unwrap();
    assert_eq!(disk.fs.faults().used_bytes(), PAGE as u64);
    assert_eq!(disk.read("a"), vec![0; 3 * PAGE]);
}

#[test]
fn the_end_of_a_file_can_be_sought() {
    let disk = Disk::new();
    let mut file = disk.create("a", &[0; 1234]);
    assert_eq!(file.seek(SeekFrom::End(-4)).unwrap(), 1230);
}

#[test]
fn a_lock_keeps_others_out_until_it_is_given_up() {
    let disk = Disk::new();
    let (one, two) = (disk.create("lock", b""), disk.open("lock"));
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::WOULDBLOCK));
    drop(one);
    flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn statfs_tells_what_fits_and_what_is_left() {
    let disk = Disk::with(Options { capacity_bytes: Some(100 * PAGE as u64), ..Options::default() });
    disk.create("a", &vec![1; 10 * PAGE]);
    let seen = rustix::fs::statvfs(disk.path("a")).unwrap();
    assert_eq!((seen.f_frsize, seen.f_blocks, seen.f_bavail), (PAGE as u64, 100, 90));
}

#[test]
fn names_of_up_to_255_bytes_are_taken() {
    let disk = Disk::new();
    disk.create(&"n".repeat(255), b"");
    assert_eq!(errno(File::create(disk.path(&"n".repeat(256)))), libc::ENAMETOOLONG);
}
