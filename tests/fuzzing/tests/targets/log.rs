//! What the log's files have: journal, archive, the store's groups, snapshots, folds.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use countersign::{
    log::{
        Append, Entry, EventLog, EventRecord, Expected, KeptFold, LocalLog, LogConfig, OfflineLog, Position,
        StreamId, StreamKind, Urgency, Version, folds_in, group_entries, group_value, heads_again,
        keep_folds, packed, snapshot_again, unpacked, verify,
    },
    projection::index::Index,
};
use futures::StreamExt as _;
use fuzzing::fuzz;

const JOURNAL: [u8; 16] = [9; 16];
const SEGMENT_HEADER_BYTES: usize = 48;
const RECORD_HEADER_BYTES: usize = 28;

/// Of a damaged journal nothing is read but what was written, in its place. If the checksums are as they would be,
/// positions are without a gap still.
#[test]
fn journal() {
    let dir = tempfile::tempdir().expect("a folder");
    let written = write_log(dir.path(), 5);
    let segment = segments(dir.path(), "seg").remove(0);
    let real = fs::read(&segment).expect("it is read");
    fuzz("journal", &[("five_entries", real)], |bytes| {
        fs::write(&segment, bytes).expect("it is written");
        for entry in read_log(dir.path()) {
            let at = usize::try_from(entry.position.number() - 1).expect("small");
            assert_eq!(written.get(at), Some(&entry));
        }
        let mut bytes = bytes.to_vec();
        make_checksums_right(&mut bytes);
        fs::write(&segment, bytes).expect("it is written");
        assert_dense(&read_log(dir.path()));
    });
}

/// What is unpacked is all that was packed and nothing else, and is packed and unpacked again as the same; and whoever
/// reads a log with it in an archived segment gets entries without a gap.
#[test]
fn archive() {
    fuzz_archive("archive", unpacked);
}

pub(super) fn fuzz_archive(name: &str, unpacked: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let dir = tempfile::tempdir().expect("a folder");
    // What the store has not taken over is not archived, and it takes 64 at a time.
    write_log(dir.path(), 80);
    in_log(dir.path(), async |log| {
        log.archive(0).for_each(async |step| drop(step.expect("it is archived"))).await;
    });
    let segment = segments(dir.path(), "arc").remove(0);
    let whole = fs::read(&segment).expect("it is read");
    let (headers, body) = whole.split_at(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES);
    let real = [
        ("entries", body.to_vec()),
        ("nothing", packed(b"")),
        ("not_compressible", packed(&(0..=255).collect::<Vec<u8>>())),
    ];
    fuzz(name, &real, |bytes| {
        let Some(entries) = unpacked(bytes) else { return };
        let alone = lz4_flex::block::decompress(&bytes[4..], entries.len());
        assert_eq!(alone.ok().as_ref(), Some(&entries));
        assert_eq!(unpacked(&packed(&entries)), Some(entries));
        let mut bytes = [headers, bytes].concat();
        let length = u32::try_from(bytes.len() - headers.len()).expect("small");
        bytes[SEGMENT_HEADER_BYTES + 4..][..4].copy_from_slice(&length.to_be_bytes());
        make_checksums_right(&mut bytes);
        fs::write(&segment, bytes).expect("it is written");
        assert_dense(&read_log(dir.path()));
    });
}

/// Of a group of the store nothing is read but what was put there, at its own key; and if the checksum is as it would be,
/// what is read is written as what is read as the same.
#[test]
fn store_group() {
    fuzz_store_group("store_group", group_entries);
}

pub(super) fn fuzz_store_group(name: &str, read: impl Fn(Position, &[u8]) -> Option<Vec<Arc<Entry>>>) {
    let dir = tempfile::tempdir().expect("a folder");
    let written: Vec<_> = write_log(dir.path(), 5).into_iter().map(Arc::new).collect();
    let (first, next) = (Position::FIRST, Position::new(65).expect("not zero"));
    let value = group_value(first, &written);
    assert_eq!(read(first, &value), Some(written.clone()));
    fuzz(name, &[("five_entries", value), ("nothing", group_value(first, &[]))], |bytes| {
        assert!(read(first, bytes).is_none_or(|entries| entries == written));
        assert_eq!(read(next, bytes), None, "it is another group's");
        let body = bytes.get(4..).unwrap_or_default();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&first.number().to_be_bytes()), body);
        let Some(entries) = read(first, &[&crc.to_be_bytes(), body].concat()) else { return };
        assert!(entries.len() <= 64);
        assert!(entries.iter().zip(1..).all(|(entry, number)| entry.position.number() == number));
        assert_eq!(read(first, &group_value(first, &entries)), Some(entries));
    });
}

/// What is read of a snapshot is the bytes that were written; of heads and of the index, what is written as what is read
/// as the same.
#[test]
fn snapshots() {
    fuzz_snapshots("snapshots", snapshot_again);
}

pub(super) fn fuzz_snapshots(name: &str, again: impl Fn(&Bytes) -> Option<Vec<u8>>) {
    let head = [&[StreamKind::Account as u8][..], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
    let other = [&[StreamKind::Delivery as u8][..], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 9]].concat();
    let start = [&b"csignsnp"[..], &[0, 1, 0, 0, 0, 0, 0, 0], &[7; 16], &[0, 0, 0, 0, 0, 0, 0, 5]].concat();
    let of = |contents: &[u8]| with_checksum(&[&start, contents].concat());
    let real = [
        ("heads", of(&[head.clone(), other.clone()].concat())),
        ("heads_twice", of(&[head.clone(), other, head].concat())),
        (
            "index",
            of(br#"{"approvals":[],"ended":[],"enrolments":[],"certificates":[],"relying_parties":[]}"#),
        ),
        ("nothing", of(b"")),
    ];
    fuzz(name, &real, |bytes| {
        // What a disk does to it; and, to get past the checksum, what somebody does who knows of it.
        let checked = with_checksum(&bytes[..bytes.len().saturating_sub(4)]);
        for bytes in [bytes.to_vec(), checked] {
            let bytes = Bytes::from(bytes);
            let Some(again) = again(&bytes) else { continue };
            assert_eq!(again, bytes);
            let contents = &bytes[40..bytes.len() - 4];
            assert_ne!(Index::is_read_again(contents), Some(false));
            if let Some((again, highest)) = heads_again(contents) {
                let heads = |bytes: &[u8]| {
                    let mut heads: Vec<_> = bytes.chunks(25).map(<[u8]>::to_vec).collect();
                    heads.sort_unstable();
                    heads
                };
                let (twice, highest_twice) = heads_again(&again).expect("what was written is read");
                assert_eq!((heads(&twice), highest_twice), (heads(&again), highest));
                assert!(heads(&again).iter().all(|head| heads(contents).contains(head)));
            }
        }
    });
}

pub(super) fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32c::crc32c(bytes).to_be_bytes()].concat()
}

/// Of damaged folds nothing is handed out but what was kept; and if the checksums are as they would be, what is handed
/// out was in the file, and is kept and handed out again.
#[test]
fn folds() {
    fuzz_folds("folds", |_| {});
}

/// `damage` is done to the file before it is read.
pub(super) fn fuzz_folds(name: &str, damage: impl Fn(&Path)) {
    let (dir, again) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
    let head = Position::new(1_000).expect("not zero");
    let fold = |number: u8| -> KeptFold {
        let stream = StreamId::new(StreamKind::Account, [number; 16]);
        (stream, Version::from_token(number.into()), Bytes::from(vec![number; 40]))
    };
    let kept = [1, 2, 3].map(fold).to_vec();
    keep_folds(dir.path(), JOURNAL, kept.clone()).expect("they are kept");
    let file = dir.path().join("0000000001.folds");
    let whole = fs::read(&file).expect("they are there");
    let without_list = whole[..whole.len() - 3 * 33 - 16].to_vec();
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("it is written");
        damage(&file);
        folds_in(dir.path(), JOURNAL, head).expect("it is read, or removed")
    };
    assert_eq!(read(&whole).len(), 3);
    fuzz(name, &[("three", whole), ("without_list", without_list)], |bytes| {
        for fold in read(bytes) {
            assert!(kept.contains(&fold), "{fold:?}");
        }
        let mut bytes = bytes.to_vec();
        make_fold_checksums_right(&mut bytes);
        let found = sorted(read(&bytes));
        assert!(found.iter().all(|(.., fold)| fold.is_empty() || contains(&bytes, fold)));
        let _ = fs::remove_dir_all(again.path());
        keep_folds(again.path(), JOURNAL, found.clone()).expect("they are kept");
        assert_eq!(sorted(folds_in(again.path(), JOURNAL, head).expect("they are read")), found);
    });
}

fn sorted(mut folds: Vec<KeptFold>) -> Vec<KeptFold> {
    folds.sort_unstable_by_key(|(stream, ..)| (stream.kind() as u8, stream.id()));
    folds
}

fn contains(bytes: &[u8], piece: &[u8]) -> bool {
    bytes.windows(piece.len()).any(|window| window == piece)
}

/// As the table in `log/folds.rs` has them: of each fold, and of the list at the end, as long as it says it is.
pub(super) fn make_fold_checksums_right(bytes: &mut [u8]) {
    let number_at = |bytes: &[u8], at: usize| bytes.get(at..at + 4).map(be).unwrap_or_default();
    let mut at = 32;
    while at + 33 <= bytes.len() {
        let end = at + 33 + number_at(bytes, at + 4);
        let Some(rest) = bytes.get(at + 4..end) else { break };
        let crc = crc32c::crc32c(rest);
        bytes[at..at + 4].copy_from_slice(&crc.to_be_bytes());
        at = end;
    }
    let Some(end) = bytes.len().checked_sub(16) else { return };
    let Some(list) = end.checked_sub(number_at(bytes, end).saturating_mul(33)) else { return };
    let crc = crc32c::crc32c(&bytes[list..end + 4]);
    bytes[end + 4..end + 8].copy_from_slice(&crc.to_be_bytes());
}

/// As the tables in `log/journal/format.rs` have them: of the segment's header, and of each record.
fn make_checksums_right(bytes: &mut [u8]) {
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&bytes[..44]);
    bytes[44..48].copy_from_slice(&crc.to_be_bytes());
    let (seed, mut at) = (crc32c::crc32c(&bytes[16..40]), SEGMENT_HEADER_BYTES);
    while let Some(header) = bytes.get(at..at + RECORD_HEADER_BYTES) {
        let end = at + RECORD_HEADER_BYTES + be(&header[4..8]);
        let known = [b"ENTR", b"PACK", b"DONE"].iter().any(|magic| header.starts_with(&magic[..]));
        let Some(body) = bytes.get(at + RECORD_HEADER_BYTES..end).filter(|_| known) else { return };
        let crc = crc32c::crc32c(body);
        bytes[at + 20..at + 24].copy_from_slice(&crc.to_be_bytes());
        let crc = crc32c::crc32c_append(seed, &bytes[at..at + 24]);
        bytes[at + 24..at + 28].copy_from_slice(&crc.to_be_bytes());
        at = end;
    }
}

fn be(bytes: &[u8]) -> usize {
    let bytes = bytes.try_into().expect("four bytes");
    usize::try_from(u32::from_be_bytes(bytes)).expect("64 bits")
}

/// All that is looked at by who verifies it, and all that can be read.
fn read_log(folder: &Path) -> Vec<Entry> {
    let _ = verify(folder);
    let Ok(log) = OfflineLog::open(folder) else { return Vec::new() };
    log.entries(Position::FIRST).take(1_000).flatten().collect()
}

fn assert_dense(entries: &[Entry]) {
    for (entry, number) in entries.iter().zip(1..) {
        assert_eq!(entry.position.number(), number);
    }
}

/// A log of so many entries.
fn write_log(folder: &Path, entries: u8) -> Vec<Entry> {
    in_log(folder, async |log| {
        for at in 0..entries {
            let append = Append {
                stream: StreamId::new(StreamKind::Account, [at % 2; 16]),
                expected: Expected::Any,
                urgency: Urgency::Now,
                recorded_at_ms: u64::from(at),
                events: vec![EventRecord {
                    kind: 1,
                    version: 1,
                    may_ignore: false,
                    body: vec![at; 40].into(),
                    sealed: Bytes::new(),
                }],
            };
            log.append(append).await.expect("it is durable");
        }
    });
    let log = OfflineLog::open(folder).expect("it opens");
    log.entries(Position::FIRST).collect::<Result<_, _>>().expect("all of it")
}

fn in_log(folder: &Path, what: impl AsyncFnOnce(&LocalLog)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = LogConfig { segment_bytes: 4 * 1024, ..LogConfig::new(folder) };
        let log = LocalLog::open(&config, JOURNAL).expect("a log");
        what(&log).await;
        log.close().await;
    });
}

/// The files of segments that are kept so, in the order of their positions.
fn segments(folder: &Path, kept: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(LogConfig::new(folder).journal_folder()).expect("it is there");
    let mut files: Vec<_> = files.map(|file| file.expect("a segment").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == kept));
    files.sort_unstable();
    files
}
