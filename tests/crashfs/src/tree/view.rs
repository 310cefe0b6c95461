//! Looking at a view without going through the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    Ino, ROOT, Tree,
    inode::{Inode, Node},
};

/// Everything in the file system at one moment, as a power cut would leave it or as the running system sees
/// it. Paths are relative to the mount point.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
}

/// What one path leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// A directory; what is in it has entries of its own.
    Directory,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(PathBuf),
    /// A socket or a named pipe.
    Special,
}

impl Snapshot {
    /// What a path leads to, if there is anything.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// The bytes of a file, if the path leads to one.
    pub fn file(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        if let Some(Entry::File(bytes)) = self.get(path) { Some(bytes) } else { None }
    }

    /// All paths with what they lead to, sorted; a directory before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }
}

/// Which of the two views.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    Volatile,
    Durable,
}

impl Tree {
    pub(crate) fn snapshot(&self, view: View) -> Snapshot {
        let mut entries = BTreeMap::new();
        let mut todo = vec![(ROOT, PathBuf::new())];
        let mut dirs_seen: BTreeSet<Ino> = BTreeSet::new();
        while let Some((ino, path)) = todo.pop() {
            let Some(Inode { node, .. }) = self.inodes.get(&ino) else { continue };
            let entry = match (node, view) {
                (Node::Dir(dir), _) => {
                    // As in a cut: no directory is found under two names.
                    if !dirs_seen.insert(ino) {
                        continue;
                    }
                    let names = if matches!(view, View::Durable) { &dir.durable } else { &dir.now };
                    todo.extend(names.iter().rev().map(|(name, child)| (*child, path.join(name))));
                    Entry::Directory
                }
                (Node::File(file), View::Volatile) => Entry::File(file.now().read(0, u64::MAX)),
                (Node::File(file), View::Durable) => Entry::File(file.durable().read(0, u64::MAX)),
                (Node::Symlink(target), _) => Entry::Symlink(target.into()),
                (Node::Special(_), _) => Entry::Special,
            };
            if ino != ROOT {
                entries.insert(path, entry);
            }
        }
        Snapshot { entries }
    }
}
