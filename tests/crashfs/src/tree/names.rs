//! What changes names: create, link, unlink, rename.

use std::ffi::{OsStr, OsString};

use fuser::{Errno, FileType, RenameFlags};

use super::{
    Ino, Tree,
    dir::{Change, Dir, DirOp},
    file::File,
    inode::{Inode, Meta, Node, Place},
};

/// Linux' own limit for one name.
pub(crate) const NAME_BYTES_MAX: u32 = 255;

/// What a new name shall lead to, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) what: NewNode,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum NewNode {
    File,
    Dir,
    Symlink(OsString),
    /// A socket or a named pipe.
    Special(FileType),
}

impl Tree {
    pub(crate) fn create(&mut self, parent: Ino, name: &OsStr, new: New) -> Result<Ino, Errno> {
        self.vacant(parent, name)?;
        let New { what, mode, uid, gid } = new;
        let node = match what {
            NewNode::File => Node::File(File::default()),
            NewNode::Dir => Node::Dir(Dir::default()),
            NewNode::Symlink(target) => Node::Symlink(target),
            NewNode::Special(kind) => Node::Special(kind),
        };
        let meta = Meta::new(mode, uid, gid, self.tick());
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::new(node, meta));
        self.change(vec![Change { dir: parent, name: name.into(), before: None, after: Some(ino) }])?;
        Ok(ino)
    }

    pub(crate) fn link(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        self.vacant(parent, name)?;
        let inode = self.inode_mut(ino)?;
        if matches!(inode.node, Node::Dir(_)) {
            return Err(Errno::EPERM);
        }
        inode.links += 1;
        self.touch(ino);
        self.change(vec![Change { dir: parent, name: name.into(), before: None, after: Some(ino) }])
    }

    pub(crate) fn unlink(&mut self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        let ino = self.child(parent, name)?;
        if matches!(self.inode(ino)?.node, Node::Dir(_)) {
            return Err(Errno::EISDIR);
        }
        self.remove(parent, name, ino)
    }

    pub(crate) fn rmdir(&mut self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        let ino = self.child(parent, name)?;
        if !self.dir(ino)?.now.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(parent, name, ino)
    }

    pub(crate) fn rename(
        &mut self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let ino = self.child(from.0, from.1)?;
        let replaced = self.dir(to.0)?.now.get(to.1).copied();
        if flags == RenameFlags::RENAME_EXCHANGE {
            return self.exchange(from, ino, to, replaced.ok_or(Errno::ENOENT)?);
        }
        // RENAME_WHITEOUT is for overlays.
        if !(RenameFlags::RENAME_NOREPLACE.contains(flags)) {
            return Err(Errno::EINVAL);
        }
        let Some(replaced) = replaced else {
            self.vacant(to.0, to.1)?;
            return self.change(moved(from, to, ino, None));
        };
        if flags == RenameFlags::RENAME_NOREPLACE {
            return Err(Errno::EEXIST);
        }
        if replaced == ino {
            return Ok(());
        }
        match (&self.inode(ino)?.node, &self.inode(replaced)?.node) {
            (Node::Dir(_), Node::Dir(dir)) if !dir.now.is_empty() => return Err(Errno::ENOTEMPTY),
            (Node::Dir(_), Node::Dir(_)) => {}
            (Node::Dir(_), _) => return Err(Errno::ENOTDIR),
            (_, Node::Dir(_)) => return Err(Errno::EISDIR),
            _ => {}
        }
        self.lose_a_name(replaced)?;
        self.change(moved(from, to, ino, Some(replaced)))
    }

    pub(crate) fn symlink_target(&self, ino: Ino) -> Result<&OsStr, Errno> {
        if let Node::Symlink(target) = &self.inode(ino)?.node { Ok(target) } else { Err(Errno::EINVAL) }
    }

    fn exchange(
        &mut self,
        (one_dir, one_name): (Ino, &OsStr),
        one: Ino,
        (other_dir, other_name): (Ino, &OsStr),
        other: Ino,
    ) -> Result<(), Errno> {
        self.change(vec![
            Change { dir: one_dir, name: one_name.into(), before: Some(one), after: Some(other) },
            Change { dir: other_dir, name: other_name.into(), before: Some(other), after: Some(one) },
        ])
    }

    fn remove(&mut self, parent: Ino, name: &OsStr, ino: Ino) -> Result<(), Errno> {
        self.lose_a_name(ino)?;
        self.change(vec![Change { dir: parent, name: name.into(), before: Some(ino), after: None }])
    }

    /// The inode stays for now: the kernel has looked the name up, and drops that reference later.
    fn lose_a_name(&mut self, ino: Ino) -> Result<(), Errno> {
        self.inode_mut(ino)?.links -= 1;
        self.touch(ino);
        Ok(())
    }

    /// Makes the changes of one operation to the volatile names, and remembers that they are not durable.
    fn change(&mut self, changes: Vec<Change>) -> Result<(), Errno> {
        for Change { dir, name, after, .. } in &changes {
            let names = &mut self.dir_mut(*dir)?.now;
            match after {
                Some(ino) => {
                    names.insert(name.clone(), *ino);
                    self.inode_mut(*ino)?.place = Some(Place { dir: *dir, name: name.clone() });
                }
                None => {
                    names.remove(name);
                }
            }
            self.touch(*dir);
        }
        self.pending.push(DirOp(changes));
        Ok(())
    }

    fn child(&self, parent: Ino, name: &OsStr) -> Result<Ino, Errno> {
        self.dir(parent)?.now.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Refuses a name that cannot be given.
    fn vacant(&self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        if name.len() > NAME_BYTES_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        // A directory that was removed while open takes no new names: the kernel sees to that.
        if self.dir(parent)?.now.contains_key(name) { Err(Errno::EEXIST) } else { Ok(()) }
    }
}

fn moved(from: (Ino, &OsStr), to: (Ino, &OsStr), ino: Ino, replaced: Option<Ino>) -> Vec<Change> {
    vec![
        Change { dir: from.0, name: from.1.into(), before: Some(ino), after: None },
        Change { dir: to.0, name: to.1.into(), before: replaced, after: Some(ino) },
    ]
}
