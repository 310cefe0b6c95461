//! Many threads at once.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crashfs::{CutMode, DirOrder, Kind, Trigger};

use crate::common::{Disk, PATIENCE, sync_dir, wait_until};

const THREADS: usize = 8;
const ROUNDS: usize = 50;

#[test]
fn threads_that_each_do_everything_do_not_disturb_each_other() {
    let disk = Disk::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let disk = &disk;
            scope.spawn(move || {
                let dir = disk.path(&format!("dir-{thread}"));
                fs::create_dir(&dir).unwrap();
                for round in 0..ROUNDS {
                    let bytes = format!("{thread} {round} ").repeat(500);
                    fs::write(dir.join("tmp"), &bytes).unwrap();
                    File::open(dir.join("tmp")).unwrap().sync_all().unwrap();
                    fs::rename(dir.join("tmp"), dir.join("file")).unwrap();
                    sync_dir(&dir).unwrap();
                    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), bytes);
                }
                fs::remove_file(dir.join("file")).unwrap();
            });
        }
    });
    disk.fs.sync_all();
    wait_until(|| disk.fs.faults().used_bytes() == 0);
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), THREADS);
}

#[test]
fn threads_that_append_to_one_file_lose_nothing() {
    let disk = Disk::new();
    let append = || File::options().append(true).create(true).open(disk.path("log")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut file = append();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    file.write_all(&[u8::try_from(thread).unwrap(); 100]).unwrap();
                }
            });
        }
    });
    let bytes = disk.read("log");
    assert_eq!(bytes.len(), THREADS * ROUNDS * 100);
    assert!(bytes.chunks(100).all(|record| record.iter().all(|byte| *byte == record[0])));
}

#[test]
fn one_thread_creates_a_name_and_all_others_are_refused() {
    let disk = Disk::new();
    for round in 0..ROUNDS {
        let winners = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    if File::create_new(disk.path(&format!("{round}"))).is_ok() {
                        winners.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
    }
}

#[test]
fn whoever_looks_while_a_file_is_replaced_sees_the_old_or_the_new_one() {
    let disk = Disk::new();
    disk.create("file", &[0; 100]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200_u8 {
                fs::write(disk.path("tmp"), [round; 100]).unwrap();
                fs::rename(disk.path("tmp"), disk.path("file")).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let bytes = disk.read("file");
            assert!(bytes.len() == 100 && bytes.iter().all(|byte| *byte == bytes[0]));
        }
    });
}

/// Appends 8-byte numbers, each synced before the next, until the disk dies. Returns the last that was
/// acknowledged.
fn append_until_it_dies(path: &std::path::Path) -> u64 {
    let append = || -> io::Result<File> { File::options().write(true).open(path) };
    let Ok(file) = append() else { return 0 };
    let mut acknowledged = 0;
    for number in 1_u64.. {
        let at = (number - 1) * 8;
        if file.write_all_at(&number.to_be_bytes(), at).and_then(|()| file.sync_data()).is_err() {
            break;
        }
        acknowledged = number;
    }
    acknowledged
}

#[test]
fn under_many_writers_a_cut_at_any_moment_keeps_what_was_acknowledged() {
    let modes = [
        CutMode::ForgetAll,
        CutMode::TornWrite,
        CutMode::KeepRandomPages(DirOrder::InOrder),
        CutMode::KeepRandomPages(DirOrder::AnyOrder),
    ];
    for seed in 0..40_u64 {
        let mode = modes[usize::try_from(seed).unwrap() % modes.len()];
        let disk = Disk::new();
        let names: Vec<_> = (0..THREADS).map(|thread| format!("log-{thread}")).collect();
        for name in &names {
            disk.create_durably(name, b"");
        }
        let kind = if seed % 3 == 0 { Kind::Write } else { Kind::Sync };
        let trigger = if seed % 2 == 0 {
            Trigger::before(50 + seed, kind, "*")
        } else {
            Trigger::after(50 + seed, kind, "*")
        };
        disk.fs.freeze_at(trigger);
        let acknowledged: Vec<u64> = std::thread::scope(|scope| {
            let writers: Vec<_> = names
                .iter()
                .map(|name| {
                    let path = disk.path(name);
                    scope.spawn(move || append_until_it_dies(&path))
                })
                .collect();
            disk.fs.wait_frozen(PATIENCE).expect("they write until the disk dies");
            disk.fs.cut(mode, seed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        disk.fs.thaw();
        assert!(acknowledged.iter().sum::<u64>() > 10);
        for (name, acknowledged) in names.iter().zip(acknowledged) {
            let bytes = disk.read(name);
            let kept: Vec<u64> =
                bytes.chunks_exact(8).map(|number| u64::from_be_bytes(number.try_into().unwrap())).collect();
            let count = usize::try_from(acknowledged).unwrap();
            assert!(kept.len() >= count, "{mode:?} {seed}: {} of {acknowledged}", kept.len());
            assert!(kept.iter().take(count).copied().eq(1..=acknowledged), "{mode:?} {seed}");
        }
    }
}
