//! What each mode of a cut keeps.

use std::{collections::BTreeSet, fs, os::unix::fs::FileExt};

use crashfs::{CutMode, DirOrder, Kind, Trigger};

use crate::common::{Disk, PAGE, PATIENCE};

const KEEP_IN_ORDER: CutMode = CutMode::KeepRandomPages(DirOrder::InOrder);
const KEEP_IN_ANY_ORDER: CutMode = CutMode::KeepRandomPages(DirOrder::AnyOrder);
/// Enough that what may happen with a probability of a few percent does.
const SEEDS: std::ops::Range<u64> = 0..200;

#[test]
fn pages_are_kept_whole_or_not_at_all_and_in_every_combination() {
    let mut seen = BTreeSet::new();
    let disk = Disk::new();
    for seed in SEEDS {
        disk.clear();
        let file = disk.create_durably("a", &[b'o'; 2 * PAGE]);
        file.write_all_at(&[b'n'; 2 * PAGE], 0).unwrap();
        let report = disk.cut(KEEP_IN_ORDER, seed);
        assert_eq!(report.pages_kept + report.pages_forgotten, 2);
        let bytes = disk.read("a");
        let pages: Vec<u8> = bytes.chunks(PAGE).map(|page| page[0]).collect();
        assert!(bytes.chunks(PAGE).all(|page| page.iter().all(|byte| *byte == page[0])));
        seen.insert(pages);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_size_can_grow_without_its_bytes_and_bytes_can_be_kept_without_their_size() {
    let mut seen = BTreeSet::new();
    let disk = Disk::new();
    for seed in SEEDS {
        disk.clear();
        let file = disk.create_durably("a", b"");
        file.write_all_at(&[b'n'; PAGE], 0).unwrap();
        disk.cut(KEEP_IN_ORDER, seed);
        let bytes = disk.read("a");
        seen.insert((bytes.len(), bytes.first().copied()));
    }
    assert_eq!(seen, BTreeSet::from([(0, None), (PAGE, Some(0)), (PAGE, Some(b'n'))]));
}

#[test]
fn a_page_written_twice_can_come_back_as_it_was_in_between() {
    let mut seen = BTreeSet::new();
    let disk = Disk::new();
    for seed in SEEDS {
        disk.clear();
        let file = disk.create_durably("a", b"0");
        file.write_all_at(b"1", 0).unwrap();
        file.write_all_at(b"2", 0).unwrap();
        disk.cut(KEEP_IN_ORDER, seed);
        seen.insert(disk.read("a"));
    }
    assert_eq!(seen, BTreeSet::from([b"0".to_vec(), b"1".to_vec(), b"2".to_vec()]));
}

#[test]
fn what_was_synced_survives_whatever_else_is_kept() {
    let disk = Disk::new();
    for seed in SEEDS {
        disk.clear();
        let file = disk.create("a", &[b's'; PAGE]);
        file.sync_all().unwrap();
        disk.sync_dir("");
        file.write_all_at(&[b'n'; 3 * PAGE], PAGE as u64).unwrap();
        disk.create("b", b"");
        disk.cut(if seed % 2 == 0 { KEEP_IN_ORDER } else { KEEP_IN_ANY_ORDER }, seed);
        assert_eq!(disk.read("a")[..PAGE], [b's'; PAGE]);
    }
}

/// Which of three files, created in this order, survive.
fn survivors(mode: CutMode) -> BTreeSet<Vec<bool>> {
    let disk = Disk::new();
    SEEDS
        .map(|seed| {
            disk.clear();
            for name in ["1", "2", "3"] {
                disk.create(name, b"");
            }
            disk.cut(mode, seed);
            ["1", "2", "3"].map(|name| disk.exists(name)).to_vec()
        })
        .collect()
}

#[test]
fn directory_operations_in_order_are_kept_up_to_some_point() {
    let prefixes = [[false; 3], [true, false, false], [true, true, false], [true; 3]];
    assert_eq!(survivors(KEEP_IN_ORDER), prefixes.map(Vec::from).into());
}

#[test]
fn directory_operations_in_any_order_are_kept_in_every_combination() {
    assert_eq!(survivors(KEEP_IN_ANY_ORDER).len(), 8);
}

#[test]
fn a_rename_is_kept_or_forgotten_whole_in_every_mode() {
    let disk = Disk::new();
    for mode in [CutMode::ForgetAll, CutMode::TornWrite, KEEP_IN_ORDER, KEEP_IN_ANY_ORDER] {
        for seed in SEEDS {
            disk.clear();
            fs::create_dir(disk.path("d")).unwrap();
            disk.create("to", b"old");
            disk.create("from", b"new");
            disk.create("moved", b"moved");
            disk.fs.sync_all();
            fs::rename(disk.path("from"), disk.path("to")).unwrap();
            fs::rename(disk.path("moved"), disk.path("d/moved")).unwrap();
            disk.cut(mode, seed);
            let renamed = disk.read("to") == b"new";
            assert_eq!(renamed, !disk.exists("from"), "{mode:?} {seed}");
            assert_ne!(disk.exists("moved"), disk.exists("d/moved"), "{mode:?} {seed}");
        }
    }
}

#[test]
fn a_rename_kept_without_the_one_before_it_takes_no_other_file_away() {
    let disk = Disk::new();
    let mut alone = 0;
    for seed in SEEDS {
        disk.clear();
        disk.create("a", b"new");
        disk.create_durably("b", b"old");
        fs::rename(disk.path("a"), disk.path("b")).unwrap();
        fs::rename(disk.path("b"), disk.path("c")).unwrap();
        disk.cut(KEEP_IN_ANY_ORDER, seed);
        if disk.exists("a") && disk.exists("c") {
            assert_eq!((disk.read("b"), disk.read("c")), (b"old".to_vec(), b"new".to_vec()));
            alone += 1;
        }
    }
    assert!(alone > 0);
}

#[test]
fn in_order_a_forgotten_operation_of_two_directories_stops_both() {
    let disk = Disk::new();
    let mut stopped = 0;
    for seed in SEEDS {
        disk.clear();
        fs::create_dir(disk.path("one")).unwrap();
        fs::create_dir(disk.path("two")).unwrap();
        disk.create_durably("one/moved", b"");
        disk.create("one/before", b"");
        fs::rename(disk.path("one/moved"), disk.path("two/moved")).unwrap();
        disk.create("one/after", b"");
        disk.create("two/after", b"");
        disk.cut(KEEP_IN_ORDER, seed);
        if disk.exists("one/moved") {
            assert!(!disk.exists("one/after") && !disk.exists("two/after"));
            stopped += 1;
        } else {
            assert!(disk.exists("one/before"));
        }
    }
    assert!(stopped > 0);
}

#[test]
fn the_last_write_is_torn_by_sectors_and_grows_the_file_or_not() {
    let disk = Disk::new();
    let (mut parts, mut sizes) = (BTreeSet::new(), BTreeSet::new());
    for seed in SEEDS {
        disk.clear();
        // From the middle of sector 0 to the middle of sector 3, of which the last two are new.
        let file = disk.create_durably("a", &[b'o'; 1024]);
        let other = disk.create_durably("b", b"old");
        other.write_all_at(b"new", 0).unwrap();
        file.write_all_at(&[b'n'; 1400], 256).unwrap();
        let report = disk.cut(CutMode::TornWrite, seed);
        let bytes = disk.read("a");
        assert_eq!(bytes[..256], [b'o'; 256]);
        let sectors = [256..512, 512..1024, 1024..1536, 1536..1656].map(|sector| {
            let sector = bytes.get(sector).unwrap_or_default();
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is written whole");
            sector.first().copied()
        });
        sizes.insert(bytes.len());
        parts.insert(sectors);
        assert_eq!(disk.read("b"), b"old");
        let torn = report.torn.unwrap();
        assert_eq!((torn.path.as_str(), torn.offset, torn.sectors), ("a", 256, 4));
        if bytes.len() == 1656 {
            let kept = sectors.iter().filter(|sector| **sector == Some(b'n')).count();
            assert_eq!(torn.sectors_kept, kept as u64);
        }
    }
    assert_eq!(sizes, BTreeSet::from([1024, 1656]));
    assert_eq!(parts.len(), 16 + 4, "every subset when grown, and of the first two when not");
}

#[test]
fn a_write_that_was_synced_is_not_torn() {
    let disk = Disk::new();
    let file = disk.create_durably("a", b"");
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.cut(CutMode::TornWrite, 1).torn, None);
    assert_eq!(disk.read("a"), b"synced");
}

#[test]
fn a_write_that_is_held_is_the_one_that_is_torn() {
    let mut seen = BTreeSet::new();
    let disk = Disk::new();
    for seed in 0..32 {
        disk.clear();
        let file = disk.create_durably("a", &[b'o'; 1024]);
        disk.fs.freeze_at(Trigger::before(1, Kind::Write, "a"));
        std::thread::scope(|scope| {
            scope.spawn(|| file.write_at(&[b'n'; 1024], 0).unwrap_err());
            disk.fs.wait_frozen(PATIENCE).unwrap();
            assert_eq!(disk.fs.volatile_snapshot().file("a").unwrap(), [b'o'; 1024]);
            disk.fs.cut(CutMode::TornWrite, seed);
        });
        disk.fs.thaw();
        let bytes = disk.read("a");
        seen.insert((bytes[0], bytes[512]));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn the_same_seed_decides_the_same_way() {
    let cut = |seed| {
        let disk = Disk::new();
        let file = disk.create_durably("a", &vec![0; 20 * PAGE]);
        file.write_all_at(&vec![1; 20 * PAGE], 0).unwrap();
        for number in 0..10 {
            disk.create(&format!("file-{number}"), b"x");
        }
        (disk.cut(KEEP_IN_ANY_ORDER, seed), disk.fs.volatile_snapshot())
    };
    assert_eq!(cut(5), cut(5));
    assert_ne!(cut(5), cut(6));
}

#[test]
fn the_disk_can_be_used_and_cut_again_and_again() {
    let disk = Disk::new();
    for round in 0..50_u64 {
        let name = format!("round-{round}");
        disk.create(&name, &round.to_be_bytes()).sync_all().unwrap();
        disk.sync_dir("");
        disk.create("lost", b"");
        disk.cut_and_forget();
        assert!(!disk.exists("lost"));
        for earlier in 0..=round {
            assert_eq!(disk.read(&format!("round-{earlier}")), earlier.to_be_bytes());
        }
    }
}
