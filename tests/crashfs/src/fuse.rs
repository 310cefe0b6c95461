//! What the kernel asks for, handed to the gate.
//!
//! Three answers to the kernel carry the whole design:
//!
//! - `FOPEN_DIRECT_IO` on every file: reads and writes go past the page cache. Each `write(2)` arrives here,
//!   in order, before it returns; nothing of a killed process waits in the kernel; after a cut no stale page
//!   can be read. It also makes the kernel refuse `mmap(MAP_SHARED)` (ENODEV), the one way to dirty a page
//!   that would be written back after its process died.
//! - `FOPEN_NOFLUSH`: `close` sends nothing. A process that is killed while the file system is frozen must be
//!   able to close its files, or it could not die.
//! - A lifetime of zero for names and attributes, so that a cut needs no invalidation.
//!
//! Locks (flock, fcntl) are not implemented, so the kernel keeps them itself: they hold between processes of
//! this machine and end with the process, which is what a local file system does.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use libc::{O_DSYNC, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK};

use crate::{
    gate::{Act, Gate},
    tree::{Attributes, NAME_BYTES_MAX, New, NewNode, PAGE, Tree},
};

const NOT_CACHED: Duration = Duration::ZERO;
/// Inode numbers are never used twice, so there is only one generation.
const GENERATION: Generation = Generation(0);
/// What statfs tells when there is no limit.
const CAPACITY_BYTES_SHOWN: u64 = 1 << 40;
/// How many inodes statfs tells are free; there is no limit.
const INODES_SHOWN: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Fuse(pub(crate) Arc<Gate>);

/// Reply in one expression: every reply type of fuser has its own `error`.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Fuse {
    fn look<T>(&self, apply: impl FnOnce(&mut Tree) -> Result<T, Errno>) -> Result<T, Errno> {
        self.0.run(&Act::Other, apply)
    }

    fn create_entry(&self, parent: INodeNo, name: &OsStr, new: New, reply: ReplyEntry) {
        let created = self.0.run(&Act::Create(parent.0, name), |tree| {
            let ino = tree.create(parent.0, name, new)?;
            tree.entry(ino)
        });
        answer!(reply, created, attr => reply.entry(&NOT_CACHED, &attr, GENERATION));
    }
}

fn file_flags() -> FopenFlags {
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
}

fn new(request: &Request, what: NewNode, mode: u32) -> New {
    New { what, mode, uid: request.uid(), gid: request.gid() }
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.look(|tree| tree.lookup(parent.0, name));
        answer!(reply, found, attr => reply.entry(&NOT_CACHED, &attr, GENERATION));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.0.tell(|tree| tree.forget(ino.0, lookups));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.look(|tree| tree.attr(ino.0)), attr => reply.attr(&NOT_CACHED, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Attributes { mode, uid, gid, accessed, modified };
        let act = if size.is_some() { Act::Truncate(ino.0) } else { Act::Other };
        let set = self.0.run(&act, |tree| {
            if let Some(size) = size {
                tree.truncate(ino.0, handle.map(|handle| handle.0), size)?;
            }
            tree.set_attributes(ino.0, &wanted)?;
            tree.attr(ino.0)
        });
        answer!(reply, set, attr => reply.attr(&NOT_CACHED, &attr));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.look(|tree| tree.symlink_target(ino.0).map(OsStr::to_owned));
        answer!(reply, target, target => reply.data(target.as_bytes()));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let what = match mode & S_IFMT {
            S_IFREG => NewNode::File,
            S_IFSOCK => NewNode::Special(FileType::Socket),
            S_IFIFO => NewNode::Special(FileType::NamedPipe),
            _ => return reply.error(Errno::EPERM),
        };
        self.create_entry(parent, name, new(request, what, mode), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.create_entry(parent, name, new(request, NewNode::Dir, mode), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let what = NewNode::Symlink(target.as_os_str().to_owned());
        self.create_entry(parent, name, new(request, what, 0o777), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.0.run(&Act::Create(parent.0, name), |tree| {
            tree.link(ino.0, parent.0, name)?;
            tree.entry(ino.0)
        });
        answer!(reply, linked, attr => reply.entry(&NOT_CACHED, &attr, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.0.run(&Act::Unlink(parent.0, name), |tree| tree.unlink(parent.0, name));
        answer!(reply, done, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.0.run(&Act::Unlink(parent.0, name), |tree| tree.rmdir(parent.0, name));
        answer!(reply, done, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        let done = self.0.run(&Act::Rename { from, to }, |tree| tree.rename(from, to, flags));
        answer!(reply, done, () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.look(|tree| tree.open(ino.0));
        answer!(reply, opened, handle => reply.opened(FileHandle(handle), file_flags()));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let created = self.0.run(&Act::Create(parent.0, name), |tree| {
            let ino = tree.create(parent.0, name, new(request, NewNode::File, mode))?;
            Ok((tree.open(ino)?, tree.entry(ino)?))
        });
        answer!(reply, created, (handle, attr) => {
            reply.created(&NOT_CACHED, &attr, GENERATION, FileHandle(handle), file_flags());
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.0.run(&Act::Read(ino.0), |tree| tree.read(handle.0, offset, size));
        answer!(reply, bytes, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.run(&Act::Write { ino: ino.0, offset, data }, |tree| {
            let written = tree.write(handle.0, offset, data)?;
            // With direct I/O the kernel leaves O_DSYNC and O_SYNC (which contains it) to the file system.
            if flags.0 & O_DSYNC != 0 {
                tree.sync(handle.0, true)?;
            }
            Ok(written)
        });
        answer!(reply, written, written => reply.written(written));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let act = Act::Sync { ino: ino.0, handle: handle.0 };
        answer!(reply, self.0.run(&act, |tree| tree.sync(handle.0, data_only)), () => reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.tell(|tree| tree.release(handle.0));
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.0.run(&Act::Truncate(ino.0), |tree| tree.fallocate(handle.0, offset, length, mode));
        answer!(reply, done, () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.look(|tree| tree.open(ino.0));
        answer!(reply, opened, handle => reply.opened(FileHandle(handle), FopenFlags::empty()));
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.look(|tree| {
            let entries = tree.listing(handle.0, usize::try_from(offset).map_err(|_| Errno::EINVAL)?)?;
            for ((name, ino, kind), next) in entries.iter().zip(offset + 1..) {
                if reply.add(INodeNo(*ino), next, *kind, name) {
                    break;
                }
            }
            Ok(())
        });
        answer!(reply, listed, () => reply.ok());
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.tell(|tree| tree.release(handle.0));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let act = Act::SyncDir { ino: ino.0, handle: handle.0 };
        answer!(reply, self.0.run(&act, |tree| tree.sync_dir(handle.0)), () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let seen = self.look(|tree| {
            let blocks = tree.rules.capacity_bytes.unwrap_or(CAPACITY_BYTES_SHOWN) / PAGE;
            Ok((blocks, blocks.saturating_sub(tree.used_bytes() / PAGE), tree.inode_count()))
        });
        let page = u32::try_from(PAGE).expect("4096 fits");
        answer!(reply, seen, (blocks, free, inodes) => {
            let files = inodes + INODES_SHOWN;
            reply.statfs(blocks, free, free, files, INODES_SHOWN, page, NAME_BYTES_MAX, page);
        });
    }
}
