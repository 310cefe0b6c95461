//! Cuts compared with a reference that is too simple to be wrong: it keeps every state that there ever was.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
};

use crashfs::{CutMode, DirOrder, Fault, Kind, Match};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::common::{Disk, PAGE};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Create { name: usize },
    Write { name: usize, offset: usize, length: usize, byte: u8 },
    Resize { name: usize, size: usize },
    Rename { from: usize, to: usize },
    Remove { name: usize },
    Sync { name: usize },
    FailSync { name: usize },
    SyncDir,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let name = || 0..NAMES.len();
    let at = || prop::sample::select([0_usize, 10, 512, 4000, 4096, 6000, 8192].as_slice());
    let op = prop_oneof![
        4 => name().prop_map(|name| Op::Create { name }),
        8 => (name(), at(), at(), 1..255_u8)
            .prop_map(|(name, offset, length, byte)| Op::Write { name, offset, length, byte }),
        2 => (name(), at()).prop_map(|(name, size)| Op::Resize { name, size }),
        2 => (name(), name()).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => name().prop_map(|name| Op::Remove { name }),
        4 => name().prop_map(|name| Op::Sync { name }),
        1 => name().prop_map(|name| Op::FailSync { name }),
        2 => Just(Op::SyncDir),
    ];
    vec(op, 1..60)
}

type Names<T> = BTreeMap<&'static str, T>;

/// One flat directory.
struct Reference {
    names: Names<usize>,
    /// The names after each operation since the last fsync of the directory; the first is what is durable.
    names_since_sync: Vec<Names<usize>>,
    files: Vec<ReferenceFile>,
    last_write: Option<(usize, usize, Vec<u8>)>,
}

#[derive(Default)]
struct ReferenceFile {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// All bytes after each change since the last fsync, failed or not.
    since_sync: Vec<Vec<u8>>,
    /// Whether a failed fsync dropped something that nothing has rewritten for certain: what an fsync makes
    /// durable is then beyond this reference.
    dropped: bool,
}

impl Reference {
    fn new() -> Self {
        Self { names: Names::new(), names_since_sync: vec![Names::new()], files: vec![], last_write: None }
    }

    fn file(&mut self, name: usize) -> Option<(usize, &mut ReferenceFile)> {
        let file = *self.names.get(NAMES[name])?;
        Some((file, &mut self.files[file]))
    }

    fn names_changed(&mut self) {
        self.names_since_sync.push(self.names.clone());
    }
}

/// Does the same on the disk and on the reference.
fn apply(disk: &Disk, reference: &mut Reference, op: &Op) {
    let path = |name: usize| disk.path(NAMES[name]);
    match *op {
        Op::Create { name } => {
            if File::create_new(path(name)).is_ok() {
                reference.files.push(ReferenceFile::default());
                reference.names.insert(NAMES[name], reference.files.len() - 1);
                reference.names_changed();
            }
        }
        Op::Write { name, offset, length, byte } => {
            let Some((number, file)) = reference.file(name) else { return };
            let bytes = vec![byte; length];
            disk.open(NAMES[name]).write_all_at(&bytes, offset as u64).unwrap();
            if length > 0 {
                let size = file.now.len().max(offset + length);
                file.now.resize(size, 0);
                file.now[offset..offset + length].copy_from_slice(&bytes);
                file.since_sync.push(file.now.clone());
                reference.last_write = Some((number, offset, bytes));
            }
        }
        Op::Resize { name, size } => {
            let Some((number, file)) = reference.file(name) else { return };
            disk.open(NAMES[name]).set_len(size as u64).unwrap();
            file.now.resize(size, 0);
            file.since_sync.push(file.now.clone());
            forget_last_write(reference, number);
        }
        Op::Rename { from, to } => {
            if fs::rename(path(from), path(to)).is_ok() && from != to {
                let file = reference.names.remove(NAMES[from]).unwrap();
                reference.names.insert(NAMES[to], file);
                reference.names_changed();
            }
        }
        Op::Remove { name } => {
            if fs::remove_file(path(name)).is_ok() {
                reference.names.remove(NAMES[name]).unwrap();
                reference.names_changed();
            }
        }
        Op::Sync { name } => {
            let Some((number, file)) = reference.file(name) else { return };
            disk.open(NAMES[name]).sync_data().unwrap();
            if !file.dropped {
                file.durable.clone_from(&file.now);
                file.since_sync.clear();
            }
            forget_last_write(reference, number);
        }
        Op::FailSync { name } => {
            let Some((number, file)) = reference.file(name) else { return };
            disk.fs.faults().inject(Fault::once(Match::new(Kind::Sync, NAMES[name])));
            disk.open(NAMES[name]).sync_data().unwrap_err();
            file.dropped |= !file.since_sync.is_empty();
            forget_last_write(reference, number);
        }
        Op::SyncDir => {
            disk.sync_dir("");
            reference.names_since_sync = vec![reference.names.clone()];
        }
    }
}

fn forget_last_write(reference: &mut Reference, file: usize) {
    if reference.last_write.as_ref().is_some_and(|(last, ..)| *last == file) {
        reference.last_write = None;
    }
}

/// A page as far as the file goes, or zeros where a state of the file did not reach.
fn page_of(bytes: &[u8], page: usize, length: usize) -> Vec<u8> {
    let mut bytes = bytes.get(page * PAGE..).unwrap_or_default().to_vec();
    bytes.resize(length, 0);
    bytes
}

fn check_pages(file: &ReferenceFile, found: &[u8]) -> Result<(), TestCaseError> {
    let states = || std::iter::once(&file.durable).chain(&file.since_sync);
    prop_assert!(states().any(|state| state.len() == found.len()), "a size that never was: {}", found.len());
    for (page, bytes) in found.chunks(PAGE).enumerate() {
        prop_assert!(states().any(|state| page_of(state, page, bytes.len()) == bytes), "page {}", page);
    }
    Ok(())
}

fn check_torn(file: &ReferenceFile, offset: usize, data: &[u8], found: &[u8]) -> Result<(), TestCaseError> {
    let end = offset + data.len();
    prop_assert!(found.len() == file.durable.len() || found.len() == end);
    let mut written = file.durable.clone();
    written.resize(found.len().max(end), 0);
    written[offset..end].copy_from_slice(data);
    for (at, sector) in found.chunks(SECTOR).enumerate() {
        let mut old = file.durable.get(at * SECTOR..).unwrap_or_default().to_vec();
        old.resize(sector.len(), 0);
        let new = &written[at * SECTOR..at * SECTOR + sector.len()];
        prop_assert!(sector == old || sector == new, "sector {}", at);
    }
    Ok(())
}

fn check(disk: &Disk, reference: &Reference, mode: CutMode, seed: u64) -> Result<(), TestCaseError> {
    disk.cut(mode, seed);
    let found: Names<Vec<u8>> =
        NAMES.into_iter().filter(|name| disk.exists(name)).map(|name| (name, disk.read(name))).collect();
    // What was durable comes first, and only in order can more names than that be kept.
    let once_was = match mode {
        CutMode::KeepRandomPages(_) => reference.names_since_sync.as_slice(),
        CutMode::ForgetAll | CutMode::TornWrite => &reference.names_since_sync[..1],
    };
    let same_names = once_was.iter().filter(|names| names.keys().eq(found.keys()));
    let checked: Vec<_> = same_names.map(|names| check_files(reference, names, mode, &found)).collect();
    prop_assert!(!checked.is_empty(), "names that never were together: {:?}", found.keys());
    // Renames can give the same names to other files: one of the states must fit.
    prop_assert!(checked.iter().any(Result::is_ok), "{:?}", checked);
    Ok(())
}

fn check_files(
    reference: &Reference,
    names: &Names<usize>,
    mode: CutMode,
    found: &Names<Vec<u8>>,
) -> Result<(), TestCaseError> {
    for (name, number) in names {
        let (file, found) = (&reference.files[*number], &found[name]);
        // A page may have been dropped and rewritten in part: what an fsync made durable of it, only the page
        // cache knows. The tests of faults say what they expect byte by byte.
        if file.dropped {
            continue;
        }
        match (mode, &reference.last_write) {
            (CutMode::TornWrite, Some((last, offset, data))) if last == number => {
                check_torn(file, *offset, data, found)?;
            }
            (CutMode::TornWrite | CutMode::ForgetAll, _) => prop_assert_eq!(found, &file.durable),
            (CutMode::KeepRandomPages(_), _) => check_pages(file, found)?,
        }
    }
    Ok(())
}

fn modes() -> impl Strategy<Value = CutMode> {
    prop::sample::select(vec![
        CutMode::ForgetAll,
        CutMode::TornWrite,
        CutMode::KeepRandomPages(DirOrder::InOrder),
    ])
}

#[test]
fn a_cut_leaves_what_was_durable_and_of_the_rest_only_what_once_was() {
    let disk = Disk::new();
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(ops(), modes(), any::<u64>()), |(ops, mode, seed)| {
        disk.clear();
        let mut reference = Reference::new();
        for op in &ops {
            apply(&disk, &mut reference, op);
        }
        check(&disk, &reference, mode, seed)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
