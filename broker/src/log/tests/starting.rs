//! What a start makes of what it finds.

use std::fs;

use super::super::heads::Heads;
use super::super::journal::disk::OsDisk;
use super::super::snapshots::{HEADS, Snapshots};
use super::super::store::{self, Store};
use super::*;

const GROUP_ENTRIES: u64 = store::GROUP_ENTRIES as u64;
const ENTRIES: u64 = 6 * GROUP_ENTRIES + 7;

/// The groups that the store in this folder has.
fn groups(folder: &Path) -> Vec<u64> {
    let store = Store::open(&folder.join("store"), 1024 * 1024, ID).unwrap();
    let all = (0..ENTRIES / GROUP_ENTRIES).map(|group| group * GROUP_ENTRIES + 1);
    all.filter(|group| store.group(Position::new(*group).unwrap()).unwrap().is_some()).collect()
}

/// Opens a log that something was done to, and sees everything there, in the store too.
async fn opens_whole(folder: &Path) {
    let log = open(folder).unwrap();
    check(&log, ENTRIES).await;
    fill(&log, ENTRIES + 1).await;
    log.close().await;
    assert_eq!(groups(folder).len() as u64, ENTRIES / GROUP_ENTRIES);
}

fn is_set_aside(folder: &Path) -> bool {
    folder.join("store.set-aside").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_opens_again_as_it_was() {
    let folder = closed_log(ENTRIES).await;
    opens_whole(folder.path()).await;
    assert!(!is_set_aside(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_the_journal_can_be_deleted() {
    for name in ["store", "snapshots", "lock"] {
        let folder = closed_log(ENTRIES).await;
        let path = folder.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        opens_whole(folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_garbage_is_made_anew() {
    let damages: [fn(&Path); 4] = [
        |store| fs::write(store.join("db"), vec![0xa5; 700_000]).unwrap(),
        |store| fs::write(store.join("conf"), "no configuration of sled").unwrap(),
        |store| {
            for file in fs::read_dir(store).unwrap() {
                let path = file.unwrap().path();
                if path.is_file() {
                    fs::write(path, b"something else").unwrap();
                }
            }
        },
        |store| {
            fs::remove_dir_all(store).unwrap();
            fs::write(store, b"not even a folder").unwrap();
        },
    ];
    for damage in damages {
        let folder = closed_log(ENTRIES).await;
        damage(&folder.path().join("store"));
        opens_whole(folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_made_snapshot_of_sleds_own_is_removed_before_sled_sees_it() {
    let folder = closed_log(ENTRIES).await;
    let unfinished = folder.path().join("store/snap.00000000FFFFFFFF.generating");
    fs::write(&unfinished, b"half").unwrap();
    opens_whole(folder.path()).await;
    assert!(!unfinished.exists() && !is_set_aside(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_gap_is_made_anew() {
    let folder = closed_log(ENTRIES).await;
    entries_in_sled(folder.path()).remove(65_u64.to_be_bytes()).unwrap().unwrap();
    opens_whole(folder.path()).await;
    assert!(is_set_aside(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_something_else_than_the_journal_is_made_anew() {
    let folder = closed_log(ENTRIES).await;
    {
        let store = Store::open(&folder.path().join("store"), 1024 * 1024, ID).unwrap();
        let other = store.group(Position::new(65).unwrap()).unwrap().unwrap();
        store.put_group(Position::new(129).unwrap(), &other).unwrap();
    }
    opens_whole(folder.path()).await;
    assert!(is_set_aside(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_journal_is_made_anew() {
    let (folder, other) = (closed_log(ENTRIES).await, tempfile::tempdir().unwrap());
    let log = LocalLog::open(&config(other.path()), *b"another one's id").unwrap();
    fill(&log, 100).await;
    log.close().await;
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    copy_folder(&other.path().join("store"), &folder.path().join("store"));
    opens_whole(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_behind_is_brought_up() {
    let folder = closed_log(ENTRIES / 2).await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), old.path());
    let log = open(folder.path()).unwrap();
    fill(&log, ENTRIES).await;
    log.close().await;
    for name in ["store", "snapshots"] {
        fs::remove_dir_all(folder.path().join(name)).unwrap();
        copy_folder(&old.path().join(name), &folder.path().join(name));
    }
    opens_whole(folder.path()).await;
    assert!(!is_set_aside(folder.path()));
}

/// A log whose journal is older than what is named.
async fn with_old_journal(newer: &str) -> tempfile::TempDir {
    let folder = closed_log(ENTRIES / 2).await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), old.path());
    let log = open(folder.path()).unwrap();
    fill(&log, ENTRIES).await;
    log.close().await;
    fs::remove_dir_all(old.path().join(newer)).unwrap();
    copy_folder(&folder.path().join(newer), &old.path().join(newer));
    old
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_or_heads_ahead_of_the_journal_keep_the_log_from_starting() {
    for (newer, seen) in [("store", ENTRIES / 64 * 64), ("snapshots", ENTRIES)] {
        let folder = with_old_journal(newer).await;
        match open(folder.path()) {
            Err(StartError::JournalBehind { witness, seen: found, journal }) => {
                assert!(witness.starts_with(folder.path().join(newer)), "{}", witness.display());
                assert_eq!((found.number(), journal), (seen, Position::new(ENTRIES / 2)));
            }
            other => panic!("{newer}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_cannot_be_believed_are_read_anew() {
    for contents in [&b"garbage"[..], &[0; 300]] {
        let folder = closed_log(ENTRIES).await;
        fs::write(folder.path().join("snapshots").join(HEADS), contents).unwrap();
        opens_whole(folder.path()).await;
    }
    // A sound snapshot of no heads.
    let folder = closed_log(ENTRIES).await;
    let snapshots = Snapshots::new(OsDisk, folder.path().join("snapshots"), ID);
    snapshots.save(HEADS, Position::FIRST, std::iter::once(b"no heads")).unwrap();
    opens_whole(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_saved_when_the_log_closes() {
    let folder = closed_log(ENTRIES).await;
    let snapshots = Snapshots::new(OsDisk, folder.path().join("snapshots"), ID);
    let (position, bytes) = snapshots.load(HEADS).unwrap();
    assert_eq!(position.number(), ENTRIES);
    assert_eq!(Heads::from_bytes(&bytes).unwrap().0.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_names_the_wrong_one_before_it_keeps_the_log_from_starting() {
    let folder = closed_log(100).await;
    // With heads of another history, every entry is out of place.
    let snapshots = Snapshots::new(OsDisk, folder.path().join("snapshots"), ID);
    let heads = Heads::new();
    heads.advance(stream(1), Position::new(40).unwrap());
    snapshots.save(HEADS, Position::new(50).unwrap(), heads.pieces()).unwrap();
    match open(folder.path()) {
        Err(StartError::Corrupt(Corruption { position, damage: Damage::Entry { .. }, .. })) => {
            assert_eq!(position.number(), 51);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time_opens_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    assert_eq!(open(folder.path()).err(), Some(StartError::InUse { folder: folder.path().to_owned() }));
    log.close().await;
    open(folder.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_journal_is_never_passed_over() {
    for with_store in [true, false] {
        let folder = closed_log(200).await;
        if !with_store {
            fs::remove_dir_all(folder.path().join("store")).unwrap();
            fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
        }
        let segments = segments(folder.path());
        assert!(segments.len() > 2);
        for (number, path) in segments.iter().enumerate() {
            let bytes = fs::read(path).unwrap();
            // The closing record is the one that may be damaged: without it this was a crash.
            let end = bytes.len() - if number + 1 == segments.len() { 28 } else { 0 };
            for at in (number..end).step_by(211) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(path, &damaged).unwrap();
                match open(folder.path()) {
                    Err(StartError::Corrupt(corruption)) => {
                        assert_eq!(corruption.file, *path, "byte {at}");
                        assert!(corruption.offset <= at as u64, "byte {at}");
                    }
                    other => panic!("{} byte {at}: {other:?}", path.display()),
                }
            }
            fs::write(path, &bytes).unwrap();
        }
        let log = open(folder.path()).unwrap();
        check(&log, 200).await;
    }
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = LogConfig::new(folder.path());
    for bad in [
        LogConfig { segment_bytes: 4095, ..good.clone() },
        LogConfig { batch_bytes_max: ENTRY_BYTES_MAX, ..good.clone() },
        LogConfig { batch_bytes_max: 65 * 1024 * 1024, ..good.clone() },
        LogConfig { waiting_appends_max: 0, ..good.clone() },
    ] {
        assert!(matches!(LocalLog::open(&bad, ID), Err(StartError::Config(_))), "{bad:?}");
    }
}
