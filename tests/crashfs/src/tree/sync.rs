//! What makes things durable, and what pretends to.

use fuser::Errno;

use super::{
    Ino, Tree,
    dir::{DirOp, take_with_dependencies},
    inode::Node,
};

impl Tree {
    /// fsync, or fdatasync when `data_only`: bytes and size, and with fsync the mode, owner and times.
    pub(crate) fn sync(&mut self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let ino = self.opened(handle)?;
        if self.rules.syncs_ignored {
            return Ok(());
        }
        let file = self.file_mut(ino)?;
        file.sync();
        let failures = file.failures();
        if !data_only {
            self.sync_meta(ino)?;
        }
        self.last_write_is_past(ino);
        if !self.rules.strict_dirs {
            let ops = std::mem::take(&mut self.pending);
            self.make_durable(ops);
        }
        // Linux reports a failed write-back once to everyone who had the file open (errseq_t), and writes
        // what is dirty by now all the same.
        let handle = self.handle_mut(handle)?;
        if std::mem::replace(&mut handle.failures_seen, failures) == failures {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }

    /// fsync of a directory: its names, with everything that they rest on.
    pub(crate) fn sync_dir(&mut self, handle: u64) -> Result<(), Errno> {
        let ino = self.opened(handle)?;
        if self.rules.syncs_ignored {
            return Ok(());
        }
        self.sync_meta(ino)?;
        let ops = take_with_dependencies(&mut self.pending, ino);
        self.make_durable(ops);
        Ok(())
    }

    /// An fsync that reports EIO: what it should have made durable counts as clean and is lost at the cut.
    pub(crate) fn fail_sync(&mut self, handle: u64) -> Result<(), Errno> {
        let ino = self.opened(handle)?;
        let file = self.file_mut(ino)?;
        file.fail_sync();
        let failures = file.failures();
        self.last_write_is_past(ino);
        self.handle_mut(handle)?.failures_seen = failures;
        Ok(())
    }

    /// The same for a directory.
    pub(crate) fn fail_sync_dir(&mut self, handle: u64) -> Result<(), Errno> {
        let ino = self.opened(handle)?;
        take_with_dependencies(&mut self.pending, ino);
        self.drop_all_dead();
        Ok(())
    }

    /// Everything becomes durable: how a harness says 'this was there before the test'.
    pub(crate) fn sync_all(&mut self) {
        let ops = std::mem::take(&mut self.pending);
        self.make_durable(ops);
        for inode in self.inodes.values_mut() {
            inode.durable_meta = inode.meta.clone();
            if let Node::File(file) = &mut inode.node {
                file.sync();
            }
        }
        self.last_write = None;
    }

    pub(super) fn make_durable(&mut self, ops: Vec<DirOp>) {
        if ops.is_empty() {
            return;
        }
        for change in ops.into_iter().flat_map(|op| op.0) {
            self.apply_durably(change);
        }
        self.drop_all_dead();
    }

    fn sync_meta(&mut self, ino: Ino) -> Result<(), Errno> {
        let inode = self.inode_mut(ino)?;
        inode.durable_meta = inode.meta.clone();
        Ok(())
    }
}
