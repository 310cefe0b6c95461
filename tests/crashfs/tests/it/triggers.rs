//! Stopping at the n-th operation.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    time::Duration,
};

use crashfs::{CutMode, Frozen, Kind, Match, Moment, Trigger};

use crate::common::{Disk, PATIENCE, errno};

/// Runs `act` beside the harness until the trigger fires, and cuts. Returns where it stopped and what `act`
/// was answered.
fn cut_at<T: Send>(
    disk: &Disk,
    trigger: Trigger,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> (Frozen, io::Result<T>) {
    disk.fs.freeze_at(trigger);
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        let frozen = disk.fs.wait_frozen(PATIENCE).expect("the trigger fires");
        disk.fs.cut(CutMode::ForgetAll, 0);
        let answer = acting.join().unwrap();
        disk.fs.thaw();
        (frozen, answer)
    })
}

#[test]
fn a_sync_stopped_before_it_takes_effect_makes_nothing_durable() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    let (frozen, answer) = cut_at(&disk, Trigger::before(1, Kind::Sync, "a"), || {
        file.write_all_at(b"new", 0)?;
        file.sync_data()
    });
    assert_eq!(frozen.path, "a");
    assert_eq!(errno(answer), libc::EIO);
    assert_eq!(disk.read("a"), b"old");
}

#[test]
fn a_sync_stopped_after_it_took_effect_is_durable_though_nobody_was_told() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    let (_, answer) = cut_at(&disk, Trigger::after(1, Kind::Sync, "a"), || {
        file.write_all_at(b"new", 0)?;
        file.sync_data()
    });
    assert_eq!(errno(answer), libc::EIO);
    assert_eq!(disk.read("a"), b"new");
}

#[test]
fn a_trigger_counts_only_its_kind_and_path_from_when_it_was_set() {
    let disk = Disk::new();
    fs::create_dir(disk.path("journal")).unwrap();
    let (journal, other) = (disk.create("journal/1", b""), disk.create("other", b""));
    journal.sync_data().unwrap();
    disk.fs.sync_all();
    let (_, answer) = cut_at(&disk, Trigger::before(3, Kind::Sync, "journal/*"), || {
        for number in 1_u8..10 {
            other.sync_data()?;
            journal.write_all_at(&[number], 0)?;
            journal.sync_data()?;
        }
        Ok(())
    });
    assert_eq!(errno(answer), libc::EIO);
    assert_eq!(disk.read("journal/1"), [2]);
}

#[test]
fn every_kind_of_operation_can_be_stopped_at() {
    type Step = (Kind, fn(&Disk) -> io::Result<()>);
    let steps: [Step; 8] = [
        (Kind::Create, |disk| File::create_new(disk.path("d/new")).map(drop)),
        (Kind::Create, |disk| fs::create_dir(disk.path("d/dir"))),
        (Kind::Write, |disk| fs::write(disk.path("d/x"), b"y")),
        (Kind::Truncate, |disk| disk.open("d/x").set_len(0)),
        (Kind::Rename, |disk| fs::rename(disk.path("d/x"), disk.path("d/y"))),
        (Kind::Unlink, |disk| fs::remove_file(disk.path("d/x"))),
        (Kind::Read, |disk| fs::read(disk.path("d/x")).map(drop)),
        (Kind::Any, |disk| fs::remove_file(disk.path("d/x"))),
    ];
    for (kind, step) in steps {
        for moment in [Moment::Before, Moment::After] {
            let disk = Disk::new();
            fs::create_dir(disk.path("d")).unwrap();
            disk.create_durably("d/x", b"x");
            let before = disk.fs.volatile_snapshot();
            let trigger = Trigger { on: Match::new(kind, "d/*"), nth: 1, moment };
            disk.fs.freeze_at(trigger.clone());
            std::thread::scope(|scope| {
                let acting = scope.spawn(|| step(&disk));
                let frozen = disk.fs.wait_frozen(PATIENCE).expect("the trigger fires");
                assert_eq!(frozen.trigger, Some(trigger));
                let changed = disk.fs.volatile_snapshot() != before;
                // The write comes after the truncation that std::fs::write begins with.
                let expected = kind == Kind::Write || moment == Moment::After && kind != Kind::Read;
                assert_eq!(changed, expected, "{kind:?} {moment:?}");
                disk.fs.release();
                assert_eq!(errno(acting.join().unwrap()), libc::EIO, "{kind:?} {moment:?}");
            });
        }
    }
}

#[test]
fn a_rename_is_found_by_its_old_and_by_its_new_path() {
    for pattern in ["old", "new"] {
        let disk = Disk::new();
        disk.create_durably("old", b"");
        let trigger = Trigger::before(1, Kind::Rename, pattern);
        let (frozen, _) = cut_at(&disk, trigger, || fs::rename(disk.path("old"), disk.path("new")));
        assert_eq!(frozen.path, "old");
    }
}

#[test]
fn while_frozen_every_operation_is_held_and_after_release_answered_with_eio() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"old");
    disk.fs.freeze();
    std::thread::scope(|scope| {
        // More than there are threads to serve them.
        let acts: Vec<_> = (0..20)
            .map(|number| {
                let (disk, file) = (&disk, &file);
                scope.spawn(move || match number % 4 {
                    0 => file.write_all_at(b"new", 0),
                    1 => fs::read(disk.path("a")).map(drop),
                    2 => File::create(disk.path("b")).map(drop),
                    _ => file.sync_all(),
                })
            })
            .collect();
        assert_eq!(disk.fs.volatile_snapshot().file("a").unwrap(), b"old");
        disk.fs.release();
        for act in acts {
            assert_eq!(errno(act.join().unwrap()), libc::EIO);
        }
        assert_eq!(errno(fs::read(disk.path("a"))), libc::EIO);
    });
    disk.fs.thaw();
    assert_eq!(disk.read("a"), b"old");
    assert!(!disk.exists("b"));
    file.write_all_at(b"new", 0).expect("nothing was cut: the file is still open");
}

#[test]
fn a_freeze_that_is_thawed_was_only_a_pause() {
    for trigger in [Trigger::before(1, Kind::Write, "a"), Trigger::after(1, Kind::Write, "a")] {
        let disk = Disk::new();
        let file = disk.create("a", b"");
        disk.fs.freeze_at(trigger);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| file.write_all_at(b"new", 0));
            disk.fs.wait_frozen(PATIENCE).unwrap();
            disk.fs.thaw();
            writing.join().unwrap().unwrap();
        });
        assert_eq!(disk.read("a"), b"new");
    }
}

#[test]
fn what_was_held_by_a_cut_has_no_effect_even_if_the_thaw_follows_at_once() {
    let disk = Disk::new();
    for _ in 0..200 {
        disk.fs.freeze_at(Trigger::before(1, Kind::Create, "ghost"));
        std::thread::scope(|scope| {
            let creating = scope.spawn(|| File::create(disk.path("ghost")).map(drop));
            disk.fs.wait_frozen(PATIENCE).unwrap();
            disk.fs.cut(CutMode::ForgetAll, 0);
            disk.fs.thaw();
            assert_eq!(errno(creating.join().unwrap()), libc::EIO);
        });
        assert!(!disk.exists("ghost"));
    }
}

#[test]
fn waiting_for_a_trigger_that_does_not_fire_ends() {
    let disk = Disk::new();
    disk.fs.freeze_at(Trigger::before(1, Kind::Any, "**"));
    assert_eq!(disk.fs.wait_frozen(Duration::from_millis(1)), None);
}

#[test]
fn a_cut_takes_away_triggers_that_have_not_fired() {
    let disk = Disk::new();
    disk.fs.freeze_at(Trigger::before(1, Kind::Create, "a"));
    disk.cut_and_forget();
    disk.create("a", b"");
}

#[test]
fn operations_are_counted_by_kind_and_path() {
    let disk = Disk::new();
    fs::create_dir(disk.path("journal")).unwrap();
    let file = disk.create("journal/1", b"x");
    let earlier = disk.fs.counters();
    file.write_all_at(b"y", 0).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    disk.create("other", b"").sync_all().unwrap();
    disk.sync_dir("journal");
    fs::rename(disk.path("journal/1"), disk.path("journal/2")).unwrap();
    let counters = disk.fs.counters();
    assert_eq!((counters.of(Kind::Write), counters.of(Kind::Sync), counters.of(Kind::Create)), (2, 3, 3));
    let started = counters.since(&earlier);
    let journal = |kind| started.matching(&Match::new(kind, "journal/*"));
    assert_eq!((journal(Kind::Write), journal(Kind::Sync), journal(Kind::Create)), (1, 2, 0));
    assert_eq!(journal(Kind::Any), 4);
    assert_eq!(started.matching(&Match::new(Kind::SyncDir, "journal")), 1);
    assert_eq!(started.matching(&Match::new(Kind::Rename, "journal/2")), 1);
}
