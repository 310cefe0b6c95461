//! What a start makes of what it finds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::heads::Heads;
use super::super::journal::disk::OsDisk;
use super::super::part;
use super::super::snapshots::{HEADS, Snapshots};
use super::*;

const GROUP_ENTRIES: u64 = part::GROUP_ENTRIES as u64;
const ENTRIES: u64 = 6 * GROUP_ENTRIES + 7;

/// The groups that the store in this folder has.
fn groups(folder: &Path) -> Vec<u64> {
    let store = open_store(folder).unwrap();
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
async fn a_folder_that_others_may_look_into_is_shut() {
    let folder = closed_log(1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(folder.path().join("lock")).unwrap();
    let log = open(folder.path()).unwrap();
    assert_eq!((mode(folder.path()), mode(&folder.path().join("lock"))), (0o700, 0o600));
    log.close().await;
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

fn part(store: &Path) -> std::path::PathBuf {
    store.join(store::name(Position::FIRST))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_garbage_is_made_anew() {
    let damages: [fn(&Path); 5] = [
        |store| fs::write(part(store).join("db"), vec![0xa5; 700_000]).unwrap(),
        |store| fs::write(part(store).join("conf"), "no configuration of sled").unwrap(),
        |store| fs::rename(part(store), store.join("something else")).unwrap(),
        |store| {
            for file in fs::read_dir(part(store)).unwrap() {
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
    let unfinished = part_folder(folder.path()).join("snap.00000000FFFFFFFF.generating");
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
        let store = open_store(folder.path()).unwrap();
        let other = store.group(Position::new(65).unwrap()).unwrap().unwrap();
        store.put_group(Position::new(129).unwrap(), &other).unwrap();
    }
    opens_whole(folder.path()).await;
    assert!(is_set_aside(folder.path()));
}

/// A closed log of another journal with so many entries.
async fn another_log(up_to: u64) -> tempfile::TempDir {
    let other = tempfile::tempdir().unwrap();
    let log = LocalLog::open(&config(other.path()), *b"another one's id").unwrap();
    fill(&log, up_to).await;
    log.close().await;
    other
}

fn put_in_place(folder: &Path, name: &str, from: &Path) {
    fs::remove_dir_all(folder.join(name)).unwrap();
    copy_folder(&from.join(name), &folder.join(name));
}

fn contradiction(opened: Result<LocalLog, StartError>) -> Contradiction {
    match opened {
        Err(StartError::Contradicted(contradiction)) => contradiction,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_and_what_was_made_from_another_one_are_not_one_log() {
    for name in ["store", "snapshots", "journal"] {
        let (folder, other) = (closed_log(ENTRIES).await, another_log(100).await);
        put_in_place(folder.path(), name, other.path());
        let journal = folder.path().join("journal");
        let before: Vec<_> = segments(folder.path()).iter().map(|path| fs::read(path).unwrap()).collect();
        match contradiction(open(folder.path())) {
            Contradiction::AnotherJournal { journal: found, witness } => {
                assert_eq!(found, journal);
                let expected = folder.path().join(if name == "journal" { "snapshots" } else { name });
                assert!(witness.starts_with(&expected), "{name}: {}", witness.display());
            }
            other => panic!("{name}: {other:?}"),
        }
        let after: Vec<_> = segments(folder.path()).iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(before, after, "{name}: nothing was changed");
        assert!(!is_set_aside(folder.path()));
        assert_eq!(verify(folder.path()).unwrap().contradictions.len(), 1, "{name}");
        // What the error says to delete, if this journal is the one that is meant.
        for name in ["store", "snapshots"] {
            fs::remove_dir_all(folder.path().join(name)).unwrap();
        }
        let log = open(folder.path()).unwrap();
        check(&log, if name == "journal" { 100 } else { ENTRIES }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_journal_that_has_nothing_in_it_is_taken_over() {
    let (folder, other) = (closed_log(ENTRIES).await, another_log(3).await);
    put_in_place(folder.path(), "store", other.path());
    opens_whole(folder.path()).await;
    assert!(!is_set_aside(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_journal_has_vanished_is_no_new_log() {
    for (vanished, kept) in [("journal/", "snapshots"), ("journal", "snapshots"), ("journal", "store")] {
        let folder = closed_log(ENTRIES).await;
        let journal = folder.path().join("journal");
        fs::remove_dir_all(&journal).unwrap();
        if vanished == "journal/" {
            fs::create_dir(&journal).unwrap();
        }
        let other = if kept == "store" { "snapshots" } else { "store" };
        fs::remove_dir_all(folder.path().join(other)).unwrap();
        let seen = if kept == "store" { ENTRIES / 64 * 64 } else { ENTRIES };
        let found = contradiction(open(folder.path()));
        let witness = match kept {
            "store" => folder.path().join("store"),
            _ => folder.path().join("snapshots").join(HEADS),
        };
        let expected = Contradiction::NoJournal { journal, witness, seen: Position::new(seen) };
        assert_eq!(found, expected);
        let said = found.to_string();
        assert!(said.contains(&format!("knows of {seen} entries: is the volume mounted")), "{said}");
        let report = verify(folder.path()).unwrap();
        assert_eq!((report.is_sound(), report.contradictions), (false, vec![expected.clone()]));
        let plan = super::super::repair::plan(folder.path()).unwrap();
        assert_eq!((plan.is_sound(), plan.steps.len(), plan.contradictions), (false, 0, vec![expected]));
        assert!(!folder.path().join("journal").exists() || segments(folder.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_group_yet_is_enough_to_miss_the_journal() {
    let folder = closed_log(3).await;
    fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let witness = folder.path().join("store");
    match contradiction(open(folder.path())) {
        Contradiction::NoJournal { witness: found, seen: None, .. } => assert_eq!(found, witness),
        other => panic!("{other:?}"),
    }
    // If a new log is meant, the old one's remains are deleted.
    fs::remove_dir_all(witness).unwrap();
    check(&open(folder.path()).unwrap(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_cut_short_while_it_made_a_new_log_is_made_good() {
    let steps: [fn(&Path); 5] = [
        |_| {},
        |folder| fs::write(folder.join("lock"), b"").unwrap(),
        |folder| fs::create_dir(folder.join("journal")).unwrap(),
        |folder| {
            fs::create_dir(folder.join("journal")).unwrap();
            fs::write(folder.join("journal/00000000000000000001.seg.new"), b"half").unwrap();
        },
        |folder| {
            for name in ["journal", "snapshots", "store"] {
                fs::create_dir(folder.join(name)).unwrap();
            }
        },
    ];
    for step in steps {
        let folder = tempfile::tempdir().unwrap();
        step(folder.path());
        let log = open(folder.path()).unwrap();
        fill(&log, 3).await;
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_cut_short_is_not_cut_further_before_the_heads_are_asked() {
    let folder = closed_log(20).await;
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The closing record, and more than half of the last entry's.
    fs::write(&path, &bytes[..end - 28 - 40]).unwrap();
    let before = fs::read(&path).unwrap();
    let expected = Contradiction::JournalBehind {
        witness: folder.path().join("snapshots").join(HEADS),
        seen: Position::new(20).unwrap(),
        journal: Position::new(19),
    };
    assert_eq!(contradiction(open(folder.path())), expected);
    assert_eq!(fs::read(&path).unwrap(), before, "nothing was changed");
    let report = verify(folder.path()).unwrap();
    assert_eq!(report.contradictions, std::slice::from_ref(&expected));
    assert!(!report.is_sound() && matches!(report.ending, Ending::Torn { .. }));
    let plan = super::super::repair::plan(folder.path()).unwrap();
    assert_eq!(plan.contradictions, [expected]);
    let lost = plan.lost.unwrap();
    assert_eq!((lost.first.number(), lost.last), (20, Position::new(20)));
    assert!(lost.to_string().starts_with("position 20"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_or_a_follower_that_is_ahead_of_the_journal_keeps_the_log_from_starting() {
    let folder = closed_log(5).await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), old.path());
    let log = open(folder.path()).unwrap();
    fill(&log, 9).await;
    log.save_snapshot("waiting", Position::new(8).unwrap(), Bytes::from_static(b"a model")).await;
    log.save_cursor("dispatch", Position::new(7).unwrap()).await;
    log.close().await;
    drop(log);
    for (name, witness, seen) in [("snapshots", "snapshots/model-waiting", 8), ("store", "store", 7)] {
        let mixed = tempfile::tempdir().unwrap();
        copy_folder(old.path(), mixed.path());
        put_in_place(mixed.path(), name, folder.path());
        let _ = fs::remove_file(mixed.path().join("snapshots").join(HEADS));
        let expected = Contradiction::JournalBehind {
            witness: mixed.path().join(witness),
            seen: Position::new(seen).unwrap(),
            journal: Position::new(5),
        };
        assert_eq!(contradiction(open(mixed.path())), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_remembered_to_have_come_further_than_the_log() {
    let folder = closed_log(3).await;
    let log = open(folder.path()).unwrap();
    let beyond = Position::new(4).unwrap();
    log.save_snapshot("waiting", beyond, Bytes::new()).await;
    log.save_cursor("dispatch", beyond).await;
    log.close().await;
    check(&open(folder.path()).unwrap(), 3).await;
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
            Err(StartError::Contradicted(Contradiction::JournalBehind { witness, seen: found, journal })) => {
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
