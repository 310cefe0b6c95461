//! What there is: files, directories and the rest, their attributes, and when they may go.

use std::{ffi::OsString, time::SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use super::{
    Ino, PAGE, Tree,
    dir::{Change, Dir},
    file::File,
};

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) node: Node,
    pub(crate) meta: Meta,
    pub(crate) durable_meta: Meta,
    /// How many names lead here in the volatile view.
    pub(crate) links: u32,
    /// How many references the kernel holds.
    pub(crate) lookups: u64,
    pub(crate) opens: u32,
    /// The last name it was given; the root has none.
    pub(crate) place: Option<Place>,
    /// How many pages of [`Tree::used_bytes`] are its.
    charged_pages: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    File(File),
    Dir(Dir),
    Symlink(OsString),
    /// A socket or a named pipe: the kernel does the rest.
    Special(FileType),
}

impl Node {
    pub(crate) fn kind(&self) -> FileType {
        match self {
            Self::File(_) => FileType::RegularFile,
            Self::Dir(_) => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special(kind) => *kind,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    accessed: SystemTime,
    pub(crate) modified: SystemTime,
    changed: SystemTime,
}

impl Meta {
    pub(crate) fn new(mode: u32, uid: u32, gid: u32, now: SystemTime) -> Self {
        let mode = u16::try_from(mode & 0o7777).expect("twelve bits fit");
        Self { mode, uid, gid, accessed: now, modified: now, changed: now }
    }

    fn touch(&mut self, now: SystemTime) {
        self.modified = now;
        self.changed = now;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) dir: Ino,
    pub(crate) name: OsString,
}

impl Inode {
    pub(crate) fn new(node: Node, meta: Meta) -> Self {
        let durable_meta = meta.clone();
        Self { node, meta, durable_meta, links: 1, lookups: 0, opens: 0, place: None, charged_pages: 0 }
    }

    fn is_dead(&self) -> bool {
        self.links == 0 && self.lookups == 0 && self.opens == 0
    }
}

/// The attributes that chmod, chown and utimes change; the size is [`Tree::truncate`]'s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) accessed: Option<TimeOrNow>,
    pub(crate) modified: Option<TimeOrNow>,
}

impl Tree {
    pub(crate) fn attr(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let inode = self.inode(ino)?;
        let (size, pages) = match &inode.node {
            Node::File(file) => (file.now().size(), file.now().page_count()),
            Node::Symlink(target) => (target.len() as u64, 0),
            Node::Dir(_) | Node::Special(_) => (0, 0),
        };
        let Meta { mode, uid, gid, accessed, modified, changed } = inode.meta;
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: pages * (PAGE / 512),
            atime: accessed,
            mtime: modified,
            ctime: changed,
            crtime: changed,
            kind: inode.node.kind(),
            perm: mode,
            // Of a directory 1, as btrfs has it: 2 would promise that it has no directories in it.
            nlink: inode.links,
            uid,
            gid,
            rdev: 0,
            blksize: u32::try_from(PAGE).expect("4096 fits"),
            flags: 0,
        })
    }

    pub(crate) fn set_attributes(&mut self, ino: Ino, wanted: &Attributes) -> Result<(), Errno> {
        let now = self.tick();
        let meta = &mut self.inode_mut(ino)?.meta;
        let at = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        let mode = wanted.mode.map(|mode| u16::try_from(mode & 0o7777).expect("twelve bits fit"));
        *meta = Meta {
            mode: mode.unwrap_or(meta.mode),
            uid: wanted.uid.unwrap_or(meta.uid),
            gid: wanted.gid.unwrap_or(meta.gid),
            accessed: wanted.accessed.map_or(meta.accessed, at),
            modified: wanted.modified.map_or(meta.modified, at),
            changed: now,
        };
        Ok(())
    }

    /// Counts the pages of a file anew after it was changed.
    pub(super) fn recharge(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            let pages = match &inode.node {
                // What only a power cut can bring back takes no room.
                Node::File(file) if !inode.is_dead() => file.now().page_count(),
                _ => 0,
            };
            self.used_pages = self.used_pages - inode.charged_pages + pages;
            inode.charged_pages = pages;
        }
    }

    pub(super) fn touch(&mut self, ino: Ino) {
        let now = self.tick();
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.meta.touch(now);
        }
    }

    /// Lets an inode go that nothing leads to: no name, no open file, no reference of the kernel, and nothing
    /// that a cut could bring back.
    pub(super) fn drop_if_dead(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(Inode::is_dead) {
            self.recharge(ino);
            if !self.may_come_back(ino) {
                self.inodes.remove(&ino);
            }
        }
    }

    /// After operations became durable: what they removed can go.
    pub(super) fn drop_all_dead(&mut self) {
        let dead: Vec<Ino> =
            self.inodes.iter().filter(|(_, inode)| inode.is_dead()).map(|(ino, _)| *ino).collect();
        for ino in dead {
            self.drop_if_dead(ino);
        }
    }

    fn may_come_back(&self, ino: Ino) -> bool {
        let names_it = |inode: &Inode| match &inode.node {
            Node::Dir(dir) => dir.durable.values().any(|child| *child == ino),
            _ => false,
        };
        self.pending.iter().any(|op| op.mentions(ino)) || self.inodes.values().any(names_it)
    }

    /// Makes one change to the durable names, and tolerates that what it rests on is not there: a cut may
    /// have kept a later operation without an earlier one.
    pub(super) fn apply_durably(&mut self, change: Change) {
        let Change { dir, name, before, after } = change;
        // A directory whose own removal is durable takes its names along.
        let Some(Inode { node: Node::Dir(dir), .. }) = self.inodes.get_mut(&dir) else { return };
        match after {
            Some(ino) => {
                dir.durable.insert(name, ino);
            }
            None if dir.durable.get(&name).copied() == before => {
                dir.durable.remove(&name);
            }
            None => {}
        }
    }
}
