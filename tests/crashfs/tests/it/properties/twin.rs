//! Without a cut, any row of operations gives the same answers and leaves the same as on a real directory.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};

use crate::common::{Disk, sync_dir};

const NAMES: [&str; 8] = ["a", "b", "d", "e", "d/a", "d/e", "e/a", "d/e/a"];
/// Spans several pages, and ends of pages are likely.
const OFFSETS: [u64; 7] = [0, 1, 100, 4095, 4096, 5000, 12_288];

#[derive(Clone, Debug)]
enum Op {
    Open { name: usize, create: bool, truncate: bool, new: bool, append: bool },
    Close { handle: usize },
    Write { handle: usize, offset: u64, length: usize, byte: u8 },
    Append { handle: usize, length: usize, byte: u8 },
    Read { handle: usize, offset: u64, length: usize },
    Resize { handle: usize, size: u64 },
    Allocate { handle: usize, offset: u64, length: u64, flags: u32 },
    Sync { handle: usize, data_only: bool },
    Stat { handle: usize },
    MakeDir { name: usize },
    RemoveDir { name: usize },
    Remove { name: usize },
    Rename { from: usize, to: usize, flags: u32 },
    Link { from: usize, to: usize },
    SetMode { name: usize, mode: u32 },
    SyncDir { name: usize },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let name = || 0..NAMES.len();
    let handle = || 0..4_usize;
    let offset = || prop::sample::select(OFFSETS.as_slice());
    let length = || prop::sample::select([0_usize, 1, 10, 4095, 4096, 4097, 9000].as_slice());
    let op = prop_oneof![
        6 => (name(), any::<[bool; 4]>()).prop_map(|(name, [create, truncate, new, append])| {
            Op::Open { name, create, truncate, new, append: append && !truncate }
        }),
        2 => handle().prop_map(|handle| Op::Close { handle }),
        6 => (handle(), offset(), length(), 1..9_u8)
            .prop_map(|(handle, offset, length, byte)| Op::Write { handle, offset, length, byte }),
        3 => (handle(), length(), 1..9_u8)
            .prop_map(|(handle, length, byte)| Op::Append { handle, length, byte }),
        3 => (handle(), offset(), length())
            .prop_map(|(handle, offset, length)| Op::Read { handle, offset, length }),
        3 => (handle(), offset()).prop_map(|(handle, size)| Op::Resize { handle, size }),
        2 => (handle(), offset(), offset(), prop::sample::select([0_u32, 1, 3, 16, 17].as_slice()))
            .prop_map(|(handle, offset, length, flags)| Op::Allocate { handle, offset, length, flags }),
        2 => (handle(), any::<bool>()).prop_map(|(handle, data_only)| Op::Sync { handle, data_only }),
        2 => handle().prop_map(|handle| Op::Stat { handle }),
        3 => name().prop_map(|name| Op::MakeDir { name }),
        1 => name().prop_map(|name| Op::RemoveDir { name }),
        2 => name().prop_map(|name| Op::Remove { name }),
        4 => (name(), name(), 0..3_u32).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        2 => (name(), name()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (name(), 0..0o1000_u32).prop_map(|(name, mode)| Op::SetMode { name, mode: mode | 0o700 }),
        1 => name().prop_map(|name| Op::SyncDir { name }),
    ];
    vec(op, 1..80)
}

/// One of the two sides.
struct Side {
    root: PathBuf,
    handles: Vec<Option<File>>,
}

impl Side {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), handles: std::iter::repeat_with(|| None).take(4).collect() }
    }

    /// What the operating system answered: a description of it, or the error number.
    fn apply(&mut self, number: usize, op: &Op) -> Result<String, Option<i32>> {
        self.try_apply(number, op).map_err(|error| error.raw_os_error())
    }

    fn try_apply(&mut self, number: usize, op: &Op) -> io::Result<String> {
        let path = |name: usize| self.root.join(NAMES[name]);
        let open = |handle: usize| {
            let file = self.handles[handle].as_ref();
            file.ok_or_else(|| io::Error::other("closed"))
        };
        match *op {
            Op::Open { name, create, truncate, new, append } => {
                let mut options = OpenOptions::new();
                options
                    .read(true)
                    .write(true)
                    .create(create)
                    .truncate(truncate)
                    .create_new(new)
                    .append(append);
                let file = options.open(path(name))?;
                self.handles[number % 4] = Some(file);
            }
            Op::Close { handle } => self.handles[handle] = None,
            Op::Write { handle, offset, length, byte } => {
                return Ok(open(handle)?.write_at(&vec![byte; length], offset)?.to_string());
            }
            Op::Append { handle, length, byte } => {
                let file = open(handle)?;
                let end = file.metadata()?.len();
                return Ok(file.write_at(&vec![byte; length], end)?.to_string());
            }
            Op::Read { handle, offset, length } => {
                let mut bytes = vec![0; length];
                let read = open(handle)?.read_at(&mut bytes, offset)?;
                return Ok(format!("{:?}", &bytes[..read]));
            }
            Op::Resize { handle, size } => open(handle)?.set_len(size)?,
            Op::Allocate { handle, offset, length, flags } => {
                fallocate(open(handle)?, FallocateFlags::from_bits_retain(flags), offset, length)?;
            }
            Op::Sync { handle, data_only: true } => open(handle)?.sync_data()?,
            Op::Sync { handle, data_only: false } => open(handle)?.sync_all()?,
            Op::Stat { handle } => {
                let seen = open(handle)?.metadata()?;
                return Ok(format!("{} bytes, {} links", seen.len(), seen.nlink()));
            }
            Op::MakeDir { name } => fs::create_dir(path(name))?,
            Op::RemoveDir { name } => fs::remove_dir(path(name))?,
            Op::Remove { name } => fs::remove_file(path(name))?,
            Op::Rename { from, to, flags } => {
                renameat_with(CWD, path(from), CWD, path(to), RenameFlags::from_bits_retain(flags))?;
            }
            Op::Link { from, to } => fs::hard_link(path(from), path(to))?,
            Op::SetMode { name, mode } => fs::set_permissions(path(name), Permissions::from_mode(mode))?,
            Op::SyncDir { name } => {
                if fs::metadata(path(name))?.is_dir() {
                    sync_dir(&path(name))?;
                }
            }
        }
        Ok(String::new())
    }

    /// Everything that can be seen: type, mode, links and bytes, by path.
    fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![self.root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let (path, seen) = (entry.path(), entry.metadata().unwrap());
                let below = path.strip_prefix(&self.root).unwrap().to_owned();
                if seen.is_dir() {
                    tree.insert(below, format!("directory, {:o}", seen.mode()));
                    todo.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    tree.insert(below, format!("{:o}, {} links, {bytes:?}", seen.mode(), seen.nlink()));
                }
            }
        }
        tree
    }
}

#[test]
fn it_answers_like_a_real_directory_and_a_cut_after_syncing_all_changes_nothing() {
    let disk = Disk::new();
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&ops(), |ops| {
        disk.clear();
        let real = tempfile::tempdir().unwrap();
        let (mut ours, mut theirs) = (Side::new(disk.fs.dir()), Side::new(real.path()));
        for (number, op) in ops.iter().enumerate() {
            prop_assert_eq!(ours.apply(number, op), theirs.apply(number, op), "{} {:?}", number, op);
        }
        let tree = theirs.tree();
        prop_assert_eq!(&ours.tree(), &tree);
        disk.fs.sync_all();
        disk.cut_and_forget();
        prop_assert_eq!(&ours.tree(), &tree);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
