//! A disk for tests: it keeps apart what was written and what was made durable, and at a power cut forgets,
//! keeps or tears, sector by sector, what was not. It fills up, and it fails, on command.

#![expect(clippy::cast_possible_truncation, reason = "tests run where a usize has 64 bits")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

/// Numbers that look random and follow from the seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}

/// What a power cut does to sectors that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerCut {
    Forgets,
    Keeps,
    KeepsSome,
    /// The same, of a file system that keeps no order of what happened in a folder.
    KeepsSomeInNoOrder,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The power is cut at this operation, counted from 0; a write gets as far as the dice say.
    PowerCutAt(u64),
    /// This operation fails with EIO; a sync that fails forgets what it had to write, and later ones do not
    /// know of it.
    FailsAt(u64),
    /// No file can be made: the process has as many open as it may.
    NoFiles,
    /// Syncs do nothing: the control.
    SyncsLie,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

/// The files of all folders.
type Names = BTreeMap<PathBuf, usize>;

#[derive(Debug)]
struct State {
    dice: Dice,
    inodes: Vec<Inode>,
    names: Names,
    /// The names as they were at the last `sync_folder`, then after each change since.
    names_durable: Vec<Names>,
    operations: u64,
    trouble: Option<Trouble>,
    off: bool,
    room_bytes: Option<usize>,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    written: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice: Dice(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            names_durable: vec![BTreeMap::new()],
            operations: 0,
            trouble: None,
            off: false,
            room_bytes: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on, counted from 0, this goes wrong.
    pub(crate) fn trouble(&self, trouble: Option<Trouble>) {
        let mut state = self.lock();
        (state.operations, state.trouble) = (0, trouble);
    }

    /// How many operations there were since `trouble` was set.
    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// From now on, files have at most so many bytes together.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        self.lock().room_bytes = bytes;
    }

    /// What all files have together.
    pub(crate) fn bytes_used(&self) -> usize {
        self.lock().used()
    }

    /// Cuts the power and switches it on again.
    pub(crate) fn power_cut(&self, cut: PowerCut) {
        let mut state = self.lock();
        let State { dice, inodes, names_durable, .. } = &mut *state;
        for inode in inodes {
            inode.power_cut(cut, dice);
        }
        let names = match cut {
            PowerCut::Forgets => names_durable[0].clone(),
            PowerCut::Keeps => names_durable[names_durable.len() - 1].clone(),
            // Changes to a folder become durable in their order.
            PowerCut::KeepsSome => names_durable[dice.roll(names_durable.len() as u64) as usize].clone(),
            PowerCut::KeepsSomeInNoOrder => {
                let changes = names_durable.windows(2).filter(|_| dice.roll(2) == 0);
                changes.fold(names_durable[0].clone(), |names, change| changed(names, &change[0], &change[1]))
            }
        };
        (state.names, state.names_durable) = (names.clone(), vec![names]);
        (state.off, state.trouble, state.operations) = (false, None, 0);
    }

    /// Kills the process: what was written is there, durable or not.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        (state.off, state.trouble, state.operations) = (false, None, 0);
    }

    /// The files with their contents as they are read now.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(path, inode)| (path.clone(), state.inodes[*inode].written.clone())).collect()
    }

    /// What happens by chance follows from this seed from now on.
    pub(crate) fn chance(&self, seed: u64) {
        self.lock().dice = Dice(seed);
    }

    /// A disk with these files, durable.
    pub(crate) fn with_contents(contents: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::new(1);
        for (path, bytes) in contents {
            disk.create(path).unwrap().write_at(bytes, 0).unwrap();
        }
        disk.power_cut(PowerCut::Keeps);
        disk
    }
}

/// What a change made of other names, made of these.
fn changed(mut names: Names, before: &Names, after: &Names) -> Names {
    names.retain(|name, _| after.contains_key(name) || !before.contains_key(name));
    let new = after.iter().filter(|(name, inode)| before.get(*name) != Some(inode));
    names.extend(new.map(|(name, inode)| (name.clone(), *inode)));
    names
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].written.len()).sum()
    }

    /// Counts an operation, and fails it if it is its turn.
    fn operate(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.trouble {
            Some(Trouble::PowerCutAt(at)) if number == at => self.off = true,
            Some(Trouble::FailsAt(at)) if number == at => return Err(io::Error::other("EIO")),
            _ => {}
        }
        if self.off { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn change_names(&mut self, change: impl FnOnce(&mut BTreeMap<PathBuf, usize>)) {
        change(&mut self.names);
        self.names_durable.push(self.names.clone());
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if bytes.is_empty() {
            return;
        }
        let from = self.written.len().min(offset);
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        self.written[offset..end].copy_from_slice(bytes);
        self.dirty.extend(from / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
    }

    fn sync(&mut self, all: bool) {
        if self.durable.len() < self.written.len() {
            self.durable.resize(self.written.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&mut self.durable, &self.written, sector);
        }
        // fdatasync need not make a shorter length durable.
        if all {
            self.durable.truncate(self.written.len());
        }
    }

    /// The kernel writes some of it back before anybody asks.
    fn write_back_some(&mut self, dice: &mut Dice) {
        self.durable.resize(self.durable.len().max(self.written.len()), 0);
        for sector in self.dirty.iter().filter(|_| dice.roll(2) == 0) {
            copy_sector(&mut self.durable, &self.written, *sector);
        }
    }

    fn power_cut(&mut self, cut: PowerCut, dice: &mut Dice) {
        let length = match cut {
            PowerCut::Forgets => self.durable.len(),
            PowerCut::Keeps => self.written.len(),
            PowerCut::KeepsSome | PowerCut::KeepsSomeInNoOrder => {
                let (a, b) = (self.durable.len(), self.written.len());
                a.min(b) + dice.roll(a.abs_diff(b) as u64 + 1) as usize
            }
        };
        self.durable.resize(self.durable.len().max(length), 0);
        for sector in std::mem::take(&mut self.dirty) {
            if cut == PowerCut::Keeps || (cut != PowerCut::Forgets && dice.roll(2) == 0) {
                copy_sector(&mut self.durable, &self.written, sector);
            }
        }
        self.durable.truncate(length);
        self.written = self.durable.clone();
    }
}

fn copy_sector(to: &mut [u8], from: &[u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(to.len()).min(from.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl Disk for SimDisk {
    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.operate()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.operate()?;
        Ok(Box::new(SimFile { disk: self.clone(), inode: state.inode(path)? }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.operate()?;
        if state.trouble == Some(Trouble::NoFiles) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.change_names(|names| {
            names.insert(path.to_owned(), inode);
        });
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        let inode = state.inode(from)?;
        state.change_names(|names| {
            names.remove(from);
            names.insert(to.to_owned(), inode);
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        state.inode(path)?;
        state.change_names(|names| {
            names.remove(path);
        });
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        if state.trouble != Some(Trouble::SyncsLie) {
            state.names_durable = vec![state.names.clone()];
        }
        Ok(())
    }
}

impl SimFile {
    fn sync(&self, all: bool) -> io::Result<()> {
        let mut state = self.disk.lock();
        let operated = state.operate();
        let off = state.off;
        let lies = state.trouble == Some(Trouble::SyncsLie);
        let inode = &mut state.inodes[self.inode];
        match &operated {
            Ok(()) if !lies => inode.sync(all),
            Err(_) if !off => inode.dirty.clear(),
            _ => {}
        }
        operated
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.operate()?;
        Ok(state.inodes[self.inode].written.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.operate()?;
        let written = state.inodes[self.inode].written.get(offset as usize..).unwrap_or_default();
        let bytes = written.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&written[..bytes]);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let was_off = state.off;
        let operated = state.operate();
        let mut bytes = bytes;
        if operated.is_err() {
            let some = if was_off { 0 } else { state.dice.roll(bytes.len() as u64 + 1) };
            bytes = &bytes[..some as usize];
        }
        let grows = (offset as usize + bytes.len()).saturating_sub(state.inodes[self.inode].written.len());
        let room = state.room_bytes.map_or(usize::MAX, |room| room.saturating_sub(state.used()));
        if grows > room {
            let fits = bytes.len() - (grows - room).min(bytes.len());
            state.inodes[self.inode].write(&bytes[..fits], offset as usize);
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.inodes[self.inode].write(bytes, offset as usize);
        operated
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let State { inodes, dice, .. } = &mut *state;
        let inode = &mut inodes[self.inode];
        inode.write_back_some(dice);
        inode.written.resize(length as usize, 0);
        inode.dirty.retain(|sector| (sector * SECTOR_BYTES) < length as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(false)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(true)
    }
}
