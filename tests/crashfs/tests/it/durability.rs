//! What makes what durable.

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
};

use crashfs::{CutReport, Entry, Options};
use rustix::fs::{FallocateFlags, fallocate};

use crate::common::{Disk, PAGE, errno};

#[test]
fn what_was_not_synced_is_forgotten() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    disk.create("b", b"new file");
    file.write_all_at(b"new bytes", 0).unwrap();
    assert_eq!(disk.read("a"), b"new bytes");
    let report = disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"old");
    assert!(!disk.exists("b"));
    let forgotten =
        CutReport { pages_forgotten: 2, sizes_forgotten: 2, dir_ops_forgotten: 1, ..CutReport::default() };
    assert_eq!(report, forgotten);
}

#[test]
fn fdatasync_and_fsync_make_bytes_and_size_durable() {
    let disk = Disk::new();
    let (one, two) = (disk.create_durably("one", b""), disk.create_durably("two", b""));
    for file in [&one, &two] {
        file.write_all_at(&[7; PAGE + 1], 0).unwrap();
    }
    one.sync_data().unwrap();
    two.sync_all().unwrap();
    one.write_all_at(b"not synced", 0).unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("one"), [7; PAGE + 1]);
    assert_eq!(disk.read("two"), [7; PAGE + 1]);
}

#[test]
fn an_fsync_of_one_file_makes_nothing_of_another_durable() {
    let disk = Disk::new();
    let (one, two) = (disk.create_durably("one", b"1"), disk.create_durably("two", b"2"));
    one.write_all_at(b"x", 0).unwrap();
    two.write_all_at(b"x", 0).unwrap();
    one.sync_all().unwrap();
    disk.cut_and_forget();
    assert_eq!((disk.read("one"), disk.read("two")), (b"x".to_vec(), b"2".to_vec()));
}

#[test]
fn any_handle_syncs_what_another_handle_wrote() {
    let disk = Disk::new();
    disk.create_durably("a", b"old").write_all_at(b"new", 0).unwrap();
    disk.open("a").sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"new");
}

#[test]
fn a_write_with_o_dsync_is_durable_at_once() {
    let disk = Disk::new();
    disk.create_durably("a", b"");
    let mut options = fs::File::options();
    let mut file = options.write(true).custom_flags(libc::O_DSYNC).open(disk.path("a")).unwrap();
    file.write_all(b"durable").unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"durable");
}

#[test]
fn syncfs_answers_success_and_makes_nothing_durable() {
    // The kernel passes neither it nor sync_file_range on to FUSE; what the latter means for a program, sled
    // shows in `engines`.
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    file.write_all_at(b"new", 0).unwrap();
    rustix::fs::syncfs(&file).unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"old");
}

#[test]
fn closing_a_file_makes_nothing_durable() {
    let disk = Disk::new();
    drop(disk.create_durably("a", b"old"));
    fs::write(disk.path("a"), b"new").unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"old");
}

#[test]
fn a_truncation_is_durable_only_when_synced_and_old_bytes_stay_gone() {
    let disk = Disk::new();
    let file = disk.create_durably("a", &[7; 2 * PAGE]);
    file.set_len(10).unwrap();
    assert_eq!(disk.fs.durable_snapshot().file("a").unwrap(), [7; 2 * PAGE]);
    file.sync_data().unwrap();
    file.set_len(2 * PAGE as u64).unwrap();
    file.sync_data().unwrap();
    disk.cut_and_forget();
    let bytes = disk.read("a");
    assert_eq!(bytes[..10], [7; 10]);
    assert_eq!(bytes[10..], [0; 2 * PAGE - 10]);
}

#[test]
fn a_preallocation_is_durable_when_synced() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"");
    fallocate(&file, FallocateFlags::empty(), 0, 2 * PAGE as u64).unwrap();
    file.sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), [0; 2 * PAGE]);
    assert_eq!(disk.fs.faults().used_bytes(), 2 * PAGE as u64);
}

#[test]
fn a_new_name_is_durable_only_when_its_directory_was_synced() {
    let disk = Disk::new();
    disk.create("kept", b"kept").sync_all().unwrap();
    disk.sync_dir("");
    disk.create("lost", b"lost").sync_all().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("kept"), b"kept");
    assert!(!disk.exists("lost"));
}

#[test]
fn a_name_can_be_durable_and_its_bytes_not() {
    let disk = Disk::new();
    disk.create("a", b"bytes");
    disk.sync_dir("");
    disk.cut_and_forget();
    assert_eq!(disk.read("a"), b"");
}

#[test]
fn with_loose_directories_an_fsync_of_a_file_takes_all_names_along() {
    let disk = Disk::with(Options { strict_dirs: false, ..Options::default() });
    fs::create_dir(disk.path("d")).unwrap();
    disk.create("d/other", b"bytes");
    disk.create("d/a", b"synced").sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("d/a"), b"synced");
    assert_eq!(disk.read("d/other"), b"", "names only");
}

#[test]
fn a_directory_is_durable_only_when_the_one_around_it_was_synced() {
    let disk = Disk::new();
    fs::create_dir_all(disk.path("a/b")).unwrap();
    disk.create("a/b/file", b"x").sync_all().unwrap();
    disk.sync_dir("a/b");
    disk.sync_dir("a");
    assert_eq!(disk.fs.durable_snapshot().iter().count(), 0, "nothing leads to a");
    disk.sync_dir("");
    disk.cut_and_forget();
    assert_eq!(disk.read("a/b/file"), b"x");
}

#[test]
fn a_removal_is_durable_only_when_its_directory_was_synced() {
    let disk = Disk::new();
    disk.create_durably("a", b"a");
    disk.create_durably("b", b"b");
    fs::remove_file(disk.path("a")).unwrap();
    disk.cut_and_forget();
    assert_eq!((disk.read("a"), disk.read("b")), (b"a".to_vec(), b"b".to_vec()));
    fs::remove_file(disk.path("a")).unwrap();
    disk.sync_dir("");
    fs::remove_file(disk.path("b")).unwrap();
    disk.cut_and_forget();
    assert!(!disk.exists("a"));
    assert_eq!(disk.read("b"), b"b");
}

#[test]
fn a_rename_over_a_file_leaves_the_old_or_the_new_one_and_never_neither() {
    let disk = Disk::new();
    disk.create_durably("to", b"old");
    disk.create("from", b"new").sync_all().unwrap();
    fs::rename(disk.path("from"), disk.path("to")).unwrap();
    disk.cut_and_forget();
    assert_eq!(disk.read("to"), b"old");
    assert!(!disk.exists("from"), "its creation was not synced");
    disk.create("from", b"new").sync_all().unwrap();
    fs::rename(disk.path("from"), disk.path("to")).unwrap();
    disk.sync_dir("");
    disk.cut_and_forget();
    assert_eq!(disk.read("to"), b"new");
    assert!(!disk.exists("from"));
}

#[test]
fn a_rename_between_directories_is_durable_as_a_whole_by_either_of_them() {
    for synced in ["a", "b"] {
        let disk = Disk::new();
        fs::create_dir(disk.path("a")).unwrap();
        fs::create_dir(disk.path("b")).unwrap();
        disk.fs.sync_all();
        disk.create("a/x", b"x").sync_all().unwrap();
        fs::rename(disk.path("a/x"), disk.path("b/x")).unwrap();
        disk.sync_dir(synced);
        disk.cut_and_forget();
        assert!(!disk.exists("a/x"), "synced {synced}");
        assert_eq!(disk.read("b/x"), b"x", "synced {synced}");
    }
}

#[test]
fn a_mode_is_durable_by_fsync_and_not_by_fdatasync() {
    let disk = Disk::new();
    let file = disk.create_durably("key", b"");
    let mode = |disk: &Disk| fs::metadata(disk.path("key")).unwrap().mode() & 0o777;
    let original = mode(&disk);
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.sync_data().unwrap();
    disk.cut_and_forget();
    assert_eq!(mode(&disk), original);
    let file = disk.open("key");
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.sync_all().unwrap();
    disk.cut_and_forget();
    assert_eq!(mode(&disk), 0o600);
}

#[test]
fn hard_links_survive_as_one_file() {
    let disk = Disk::new();
    disk.create_durably("a", b"one");
    fs::hard_link(disk.path("a"), disk.path("b")).unwrap();
    disk.sync_dir("");
    disk.cut_and_forget();
    disk.open("a").write_all_at(b"two", 0).unwrap();
    assert_eq!(disk.read("b"), b"two");
    assert_eq!(fs::metadata(disk.path("b")).unwrap().nlink(), 2);
}

#[test]
fn symbolic_links_survive() {
    let disk = Disk::new();
    disk.create_durably("a", b"bytes");
    symlink("a", disk.path("link")).unwrap();
    disk.sync_dir("");
    disk.cut_and_forget();
    assert_eq!(disk.read("link"), b"bytes");
}

#[test]
fn a_handle_from_before_a_cut_is_dead_after_it() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    disk.cut_and_forget();
    let mut byte = [0];
    assert_eq!(errno(file.read_at(&mut byte, 0)), libc::EIO);
    assert_eq!(errno(file.write_at(b"x", 0)), libc::EIO);
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert_eq!(disk.read("a"), b"old");
}

#[test]
fn a_cut_of_a_file_system_where_all_is_synced_changes_nothing() {
    let disk = Disk::new();
    fs::create_dir_all(disk.path("d/e")).unwrap();
    disk.create("d/f", b"bytes");
    disk.fs.sync_all();
    let before = disk.fs.durable_snapshot();
    assert_eq!(before, disk.fs.volatile_snapshot());
    assert_eq!(disk.cut_and_forget(), CutReport::default());
    assert_eq!(disk.fs.volatile_snapshot(), before);
    assert_eq!(before.get("d/e"), Some(&Entry::Directory));
    let paths: Vec<_> = before.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["d", "d/e", "d/f"]);
}
