//! The power cut: what is durable stays, and of the rest what the mode keeps.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Ino, ROOT, Tree,
    dir::DirOp,
    file::{Losses, sectors},
    inode::{Inode, Node, Place},
};

/// What a power cut does with what no fsync has made durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CutMode {
    /// All of it is forgotten.
    ForgetAll,
    /// Each page of 4 KiB, each size, each change of mode or owner and each directory operation is kept or
    /// forgotten at random. A page that was written several times since the last fsync may come back in one
    /// of its last three earlier states: the kernel writes back when it likes.
    KeepRandomPages(DirOrder),
    /// All of it is forgotten but for the last write: of that, a random subset of its 512-byte sectors is
    /// kept, and the size has grown or not. A write that is held by a trigger counts as the last one.
    TornWrite,
}

/// Which un-fsynced operations of one directory can be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DirOrder {
    /// The first ones up to any point, as with a journaling file system.
    InOrder,
    /// Any of them, which POSIX allows and ext2 does.
    AnyOrder,
}

/// What a cut did: a harness can tell from it whether the cut put anything to the test.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CutReport {
    /// Un-fsynced pages of 4 KiB that were kept.
    pub pages_kept: u64,
    /// Un-fsynced pages of 4 KiB that were forgotten.
    pub pages_forgotten: u64,
    /// Files whose newest size was forgotten.
    pub sizes_forgotten: u64,
    /// Un-fsynced directory operations that were kept.
    pub dir_ops_kept: u64,
    /// Un-fsynced directory operations that were forgotten.
    pub dir_ops_forgotten: u64,
    /// The write that was torn, if the mode asked for it and there was one.
    pub torn: Option<Torn>,
}

/// A write of which a power cut left a part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Torn {
    /// The file, below the mount point.
    pub path: String,
    /// Where the write began, in bytes.
    pub offset: u64,
    /// Its sectors of 512 bytes.
    pub sectors: u64,
    /// How many of them are on the disk.
    pub sectors_kept: u64,
}

/// What an inode of before the cut became.
struct Known {
    new: Ino,
    is_dir: bool,
}

impl Tree {
    /// Afterwards the volatile view is the durable one, and no handle of before leads anywhere.
    pub(crate) fn cut(&mut self, mode: CutMode, seed: u64) -> CutReport {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut report = CutReport::default();
        self.cut_names(mode, &mut rng, &mut report);
        self.cut_files(mode, &mut rng, &mut report);
        self.start_again();
        report
    }

    fn cut_names(&mut self, mode: CutMode, rng: &mut StdRng, report: &mut CutReport) {
        let pending = std::mem::take(&mut self.pending);
        let kept = match mode {
            CutMode::ForgetAll | CutMode::TornWrite => vec![false; pending.len()],
            CutMode::KeepRandomPages(DirOrder::AnyOrder) => pending.iter().map(|_| rng.random()).collect(),
            CutMode::KeepRandomPages(DirOrder::InOrder) => kept_in_order(&pending, rng),
        };
        for (op, kept) in pending.into_iter().zip(kept) {
            if kept {
                report.dir_ops_kept += 1;
                for change in op.0 {
                    self.apply_durably(change);
                }
            } else {
                report.dir_ops_forgotten += 1;
            }
        }
    }

    fn cut_files(&mut self, mode: CutMode, rng: &mut StdRng, report: &mut CutReport) {
        let last = self.last_write.take().filter(|_| mode == CutMode::TornWrite);
        let torn_path = last.as_ref().map(|last| self.path(last.ino));
        for (ino, inode) in &mut self.inodes {
            if !matches!(mode, CutMode::KeepRandomPages(_)) || rng.random() {
                inode.meta = inode.durable_meta.clone();
            }
            let Node::File(file) = &mut inode.node else { continue };
            let Losses { pages_kept, pages_forgotten, size_forgotten } = match (mode, &last) {
                (CutMode::KeepRandomPages(_), _) => file.keep_random(rng),
                (CutMode::TornWrite, Some(last)) if last.ino == *ino => {
                    let losses = file.forget();
                    report.torn = Some(Torn {
                        path: torn_path.clone().unwrap_or_default(),
                        offset: last.offset,
                        sectors: sectors(last.offset, &last.data).count() as u64,
                        sectors_kept: file.tear(last.offset, &last.data, rng),
                    });
                    losses
                }
                _ => file.forget(),
            };
            report.pages_kept += pages_kept;
            report.pages_forgotten += pages_forgotten;
            report.sizes_forgotten += u64::from(size_forgotten);
        }
    }

    /// Builds the volatile view anew from the durable names, with new inode numbers, as after a mount.
    fn start_again(&mut self) {
        let mut old = std::mem::take(&mut self.inodes);
        let mut known = HashMap::from([(ROOT, Known { new: ROOT, is_dir: true })]);
        let mut todo = vec![(ROOT, None)];
        while let Some((ino, place)) = todo.pop() {
            let mut inode =
                old.remove(&ino).expect("an inode is put on the list once, when it is first seen");
            let new_ino = known[&ino].new;
            if let Node::Dir(dir) = &mut inode.node {
                dir.now.clear();
                for (name, child) in std::mem::take(&mut dir.durable) {
                    match known.get(&child) {
                        // Kept in any order, renames can leave a directory under two names or inside itself;
                        // a file system check keeps the first.
                        Some(Known { is_dir: true, .. }) => continue,
                        Some(Known { new, .. }) => dir.now.insert(name, *new),
                        None => {
                            let Some(inode) = old.get(&child) else { continue };
                            let new = self.next_ino;
                            self.next_ino += 1;
                            known.insert(child, Known { new, is_dir: matches!(inode.node, Node::Dir(_)) });
                            todo.push((child, Some(Place { dir: new_ino, name: name.clone() })));
                            dir.now.insert(name, new)
                        }
                    };
                }
                dir.durable.clone_from(&dir.now);
            }
            let mut remounted = Inode::new(inode.node, inode.meta);
            remounted.place = place;
            self.inodes.insert(new_ino, remounted);
        }
        self.handles.clear();
        self.count_links();
        self.used_pages = 0;
        for ino in self.inodes.keys().copied().collect::<Vec<_>>() {
            self.recharge(ino);
        }
    }

    fn count_links(&mut self) {
        let mut links: HashMap<Ino, u32> = HashMap::from([(ROOT, 1)]);
        for inode in self.inodes.values() {
            if let Node::Dir(dir) = &inode.node {
                for child in dir.now.values() {
                    *links.entry(*child).or_default() += 1;
                }
            }
        }
        for (ino, inode) in &mut self.inodes {
            inode.links = links.get(ino).copied().unwrap_or_default();
        }
    }
}

/// For each directory a point up to which its operations may be kept; an operation of two directories needs
/// both, and what comes after a forgotten one is forgotten.
fn kept_in_order(pending: &[DirOp], rng: &mut StdRng) -> Vec<bool> {
    let mut counts: BTreeMap<Ino, usize> = BTreeMap::new();
    for dir in pending.iter().flat_map(DirOp::dirs) {
        *counts.entry(dir).or_default() += 1;
    }
    let mut room: BTreeMap<Ino, usize> =
        counts.into_iter().map(|(dir, count)| (dir, rng.random_range(0..=count))).collect();
    let mut kept = Vec::with_capacity(pending.len());
    for op in pending {
        let fits = op.dirs().all(|dir| room[&dir] > 0);
        for dir in op.dirs() {
            let room = room.get_mut(&dir).expect("counted above");
            *room = if fits { room.saturating_sub(1) } else { 0 };
        }
        kept.push(fits);
    }
    kept
}
