//! The file system without FUSE: inodes, names and open files, each volatile and durable.
//!
//! In the order of the story: [`inode`] is what there is, [`names`] and [`data`] change it, [`sync`] makes
//! it durable, [`cut`] takes away what is not, [`view`] looks at it.

mod content;
mod cut;
mod data;
mod dir;
mod file;
mod inode;
mod names;
mod sync;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{Errno, FileAttr, FileType};

use self::{
    dir::DirOp,
    file::File,
    inode::{Inode, Meta, Node},
};

pub(crate) use self::{
    content::PAGE,
    inode::Attributes,
    names::{NAME_BYTES_MAX, New, NewNode},
    view::View,
};
pub use self::{
    cut::{CutMode, CutReport, DirOrder, Torn},
    view::{Entry, Snapshot},
};

/// The number of an inode. Numbers are never used twice, and a cut gives everything a new one: so nothing
/// that the kernel remembers from before a cut can be mistaken for something after it.
pub(crate) type Ino = u64;

pub(crate) const ROOT: Ino = fuser::INodeNo::ROOT.0;

/// What the harness may change while the file system runs.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) strict_dirs: bool,
    pub(crate) syncs_ignored: bool,
    pub(crate) capacity_bytes: Option<u64>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) rules: Rules,
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
    /// Directory operations that no fsync has made durable, oldest first.
    pending: Vec<DirOp>,
    last_write: Option<LastWrite>,
    /// What stands in for the time of day.
    ticks: u64,
    used_pages: u64,
}

/// One open file or directory.
#[derive(Debug)]
struct Handle {
    ino: Ino,
    /// How many failed fsyncs of this file have been reported here, or had been before it was opened.
    failures_seen: u32,
    /// A directory as it was when reading it began: names must neither repeat nor go missing while others
    /// are removed.
    listing: Vec<(OsString, Ino, FileType)>,
}

/// The write that a torn cut keeps a part of.
#[derive(Debug)]
struct LastWrite {
    ino: Ino,
    offset: u64,
    data: Vec<u8>,
}

impl Tree {
    pub(crate) fn new(rules: Rules) -> Self {
        let root = Inode::new(Node::Dir(dir::Dir::default()), Meta::new(0o755, 0, 0, time(0)));
        Self {
            rules,
            inodes: BTreeMap::from([(ROOT, root)]),
            next_ino: ROOT + 1,
            handles: HashMap::new(),
            next_handle: 1,
            pending: Vec::new(),
            last_write: None,
            ticks: 0,
            used_pages: 0,
        }
    }

    /// Room taken by the volatile view.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_pages * PAGE
    }

    pub(crate) fn inode_count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// What the kernel asks for before it uses a name; it counts as a reference until `forget`.
    pub(crate) fn lookup(&mut self, parent: Ino, name: &OsStr) -> Result<FileAttr, Errno> {
        let child = self.dir(parent)?.now.get(name).copied();
        self.entry(child.ok_or(Errno::ENOENT)?)
    }

    /// Attributes for a reply that gives the kernel one more reference.
    pub(crate) fn entry(&mut self, ino: Ino) -> Result<FileAttr, Errno> {
        self.inode_mut(ino)?.lookups += 1;
        self.attr(ino)
    }

    pub(crate) fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            self.drop_if_dead(ino);
        }
    }

    pub(crate) fn open(&mut self, ino: Ino) -> Result<u64, Errno> {
        let inode = self.inode_mut(ino)?;
        inode.opens += 1;
        let failures_seen = if let Node::File(file) = &inode.node { file.failures() } else { 0 };
        let handle = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(handle, Handle { ino, failures_seen, listing: Vec::new() });
        Ok(handle)
    }

    pub(crate) fn release(&mut self, handle: u64) {
        if let Some(Handle { ino, .. }) = self.handles.remove(&handle) {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.opens -= 1;
            }
            self.drop_if_dead(ino);
        }
    }

    /// The entries of an open directory from a position on, with `.` and `..`.
    pub(crate) fn listing(
        &mut self,
        handle: u64,
        position: usize,
    ) -> Result<&[(OsString, Ino, FileType)], Errno> {
        let ino = self.opened(handle)?;
        if position == 0 {
            let parent = self.inode(ino)?.place.as_ref().map_or(ino, |place| place.dir);
            let mut listing =
                vec![(".".into(), ino, FileType::Directory), ("..".into(), parent, FileType::Directory)];
            for (name, child) in &self.dir(ino)?.now {
                listing.push((name.clone(), *child, self.inode(*child)?.node.kind()));
            }
            self.handle_mut(handle)?.listing = listing;
        }
        let listing = &self.handles.get(&handle).ok_or(Errno::EIO)?.listing;
        Ok(listing.get(position..).unwrap_or_default())
    }

    /// The path of an inode below the mount point, without a leading slash: the last name it was given.
    pub(crate) fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while let Some(place) = self.inodes.get(&at).and_then(|inode| inode.place.as_ref()) {
            names.push(place.name.to_string_lossy());
            at = place.dir;
        }
        names.reverse();
        names.join("/")
    }

    pub(crate) fn path_of_name(&self, parent: Ino, name: &OsStr) -> String {
        let parent = self.path(parent);
        let name = name.to_string_lossy();
        if parent.is_empty() { name.into_owned() } else { format!("{parent}/{name}") }
    }
}

/// How the parts of the tree reach each other.
impl Tree {
    /// The kernel may name an inode that a cut has taken away: it then looks the name up again.
    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::ESTALE)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    fn dir(&self, ino: Ino) -> Result<&dir::Dir, Errno> {
        if let Node::Dir(dir) = &self.inode(ino)?.node { Ok(dir) } else { Err(Errno::ENOTDIR) }
    }

    fn dir_mut(&mut self, ino: Ino) -> Result<&mut dir::Dir, Errno> {
        if let Node::Dir(dir) = &mut self.inode_mut(ino)?.node { Ok(dir) } else { Err(Errno::ENOTDIR) }
    }

    fn file(&self, ino: Ino) -> Result<&File, Errno> {
        match &self.inode(ino)?.node {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Errno::EISDIR),
            Node::Symlink(_) | Node::Special(_) => Err(Errno::EINVAL),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut File, Errno> {
        match &mut self.inode_mut(ino)?.node {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Errno::EISDIR),
            Node::Symlink(_) | Node::Special(_) => Err(Errno::EINVAL),
        }
    }

    /// What a handle leads to. A handle from before a cut leads nowhere, as after a power cut.
    fn opened(&self, handle: u64) -> Result<Ino, Errno> {
        self.handles.get(&handle).map(|handle| handle.ino).ok_or(Errno::EIO)
    }

    fn handle_mut(&mut self, handle: u64) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&handle).ok_or(Errno::EIO)
    }

    fn tick(&mut self) -> SystemTime {
        self.ticks += 1;
        time(self.ticks)
    }
}

/// Time of day is an argument here too: operations are counted from the epoch, a millisecond each, so that
/// order shows and a run can be repeated.
fn time(ticks: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ticks)
}
