//! What changes bytes: write, truncate, fallocate; and reading them.

use fuser::Errno;
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};

use super::{Ino, LastWrite, PAGE, Tree, content::spans};

/// The largest file: snapshots hold files in memory, so that a stray seek must not ask for a terabyte.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 34;

impl Tree {
    pub(crate) fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        Ok(self.file(self.opened(handle)?)?.now().read(offset, u64::from(length)))
    }

    /// Returns how many bytes were written: on a disk that gets full less than all, as Linux does.
    pub(crate) fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let ino = self.opened(handle)?;
        let end = end_of(offset, data.len() as u64)?;
        let free = self.free_pages();
        let file = self.file_mut(ino)?;
        let fitting = file.bytes_that_fit(offset, end, free);
        if fitting == 0 && !data.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let data = &data[..usize::try_from(fitting).expect("at most the length of a slice")];
        file.write(offset, data);
        self.recharge(ino);
        self.touch(ino);
        self.note_write(ino, offset, data);
        Ok(u32::try_from(data.len()).expect("the kernel writes at most 16 MiB at once"))
    }

    /// The write that a torn cut would tear; also one that is held back before it takes effect.
    pub(crate) fn note_write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        match &mut self.last_write {
            // Every write comes by here: the buffer is used again.
            Some(last) => {
                (last.ino, last.offset) = (ino, offset);
                last.data.clear();
                last.data.extend_from_slice(data);
            }
            none => *none = Some(LastWrite { ino, offset, data: data.to_vec() }),
        }
    }

    pub(crate) fn truncate(&mut self, ino: Ino, handle: Option<u64>, size: u64) -> Result<(), Errno> {
        if let Some(handle) = handle {
            self.opened(handle)?;
        }
        let size = end_of(0, size)?;
        self.file_mut(ino)?.resize(size);
        self.recharge(ino);
        self.touch(ino);
        self.last_write_is_past(ino);
        Ok(())
    }

    /// Preallocates, punches holes or zeroes, as far as FUSE passes it on.
    pub(crate) fn fallocate(
        &mut self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let ino = self.opened(handle)?;
        let end = end_of(offset, length)?;
        let free = self.free_pages();
        let keep_size = mode & FALLOC_FL_KEEP_SIZE != 0;
        let file = self.file_mut(ino)?;
        match mode & !FALLOC_FL_KEEP_SIZE {
            FALLOC_FL_PUNCH_HOLE => file.zero(offset, end),
            0 | FALLOC_FL_ZERO_RANGE => {
                let missing = spans(offset, end).filter(|span| file.now().page(span.page).is_none());
                if missing.count() as u64 > free {
                    return Err(Errno::ENOSPC);
                }
                if mode & FALLOC_FL_ZERO_RANGE != 0 {
                    file.zero(offset, end);
                }
                file.allocate(offset, end, keep_size);
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.recharge(ino);
        self.touch(ino);
        self.last_write_is_past(ino);
        Ok(())
    }

    /// Once a file was synced or cut, its last write is not in flight any more.
    pub(super) fn last_write_is_past(&mut self, ino: Ino) {
        if self.last_write.as_ref().is_some_and(|last| last.ino == ino) {
            self.last_write = None;
        }
    }

    fn free_pages(&self) -> u64 {
        match self.rules.capacity_bytes {
            Some(bytes) => (bytes / PAGE).saturating_sub(self.used_pages),
            None => u64::MAX,
        }
    }
}

fn end_of(offset: u64, length: u64) -> Result<u64, Errno> {
    offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)
}
