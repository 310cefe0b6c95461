//! One file twice: as the running system sees it, and as a power cut would leave it.

use std::{collections::BTreeMap, mem};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::content::{Content, PAGE, Page, spans};

/// How many earlier states of one page a cut may bring back. The kernel writes a dirty page back whenever it
/// likes, so a page that is rewritten between two fsyncs may stay on the disk in any state it ever had.
const PAGE_STATES_MAX: usize = 3;
/// How many un-fsynced sizes are remembered; in a longer row, one from its middle is left out.
const SIZES_MAX: usize = 32;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a reader sees, what a power cut leaves, and what lies between.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    now: Content,
    durable: Content,
    /// Pages written since the last fsync, each with its states in between, oldest first. A page that
    /// differs from the durable one and is not in here was dropped by a failed fsync.
    dirty: BTreeMap<u64, Vec<Option<Page>>>,
    /// Sizes that the file has had since the last fsync, oldest first.
    sizes: Vec<u64>,
    /// How many fsyncs have failed.
    failures: u32,
}

/// What a cut did to one file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) pages_kept: u64,
    pub(crate) pages_forgotten: u64,
    pub(crate) size_forgotten: bool,
}

impl File {
    pub(crate) fn now(&self) -> &Content {
        &self.now
    }

    pub(crate) fn durable(&self) -> &Content {
        &self.durable
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// What the running system does to it.
impl File {
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for span in spans(offset, end) {
            self.touch(span.page);
        }
        let size = self.now.size();
        self.now.write(offset, data);
        self.note_size(size);
    }

    pub(crate) fn resize(&mut self, size: u64) {
        let before = self.now.size();
        let dropped: Vec<u64> =
            if size < before { self.now.pages_from(size / PAGE).collect() } else { vec![] };
        for page in dropped {
            self.touch(page);
        }
        self.now.resize(size);
        self.note_size(before);
    }

    /// Gives `start..end` room; the file grows to `end` unless `keep_size`.
    pub(crate) fn allocate(&mut self, start: u64, end: u64, keep_size: bool) {
        for span in spans(start, end) {
            if self.now.page(span.page).is_none() {
                self.touch(span.page);
                self.now.allocate(span.page);
            }
        }
        if !keep_size && end > self.now.size() {
            self.resize(end);
        }
    }

    pub(crate) fn zero(&mut self, start: u64, end: u64) {
        for span in spans(start, end) {
            if self.now.page(span.page).is_some() {
                self.touch(span.page);
                self.now.zero(span);
            }
        }
    }

    /// How many of the bytes `start..end` can be written when `free` more pages may be taken.
    pub(crate) fn bytes_that_fit(&self, start: u64, end: u64, mut free: u64) -> u64 {
        for span in spans(start, end) {
            if self.now.page(span.page).is_none() {
                if free == 0 {
                    return (span.page * PAGE).max(start) - start;
                }
                free -= 1;
            }
        }
        end - start
    }

    fn touch(&mut self, page: u64) {
        let present = self.now.page(page).cloned();
        self.dirty
            .entry(page)
            .and_modify(|states| {
                if states.len() == PAGE_STATES_MAX {
                    states.remove(0);
                }
                states.push(present);
            })
            .or_default();
    }

    fn note_size(&mut self, before: u64) {
        if self.now.size() != before {
            if self.sizes.len() == SIZES_MAX {
                self.sizes.remove(SIZES_MAX / 2);
            }
            self.sizes.push(self.now.size());
        }
    }
}

/// What fsync and a power cut do to it.
impl File {
    /// Makes what was written since the last fsync durable, and nothing else: a page that a failed fsync
    /// dropped stays lost until it is written again.
    pub(crate) fn sync(&mut self) {
        // Writing a page back takes the size on the disk at least to what was written, as ext4 and xfs do;
        // it matters only after a failed fsync, which forgets the size as well.
        let written = self.dirty.keys().last().map_or(0, |last| (last + 1) * PAGE).min(self.now.size());
        let size = if self.sizes.is_empty() { self.durable.size().max(written) } else { self.now.size() };
        for page in mem::take(&mut self.dirty).into_keys() {
            self.durable.set_page(page, self.now.page(page).cloned());
        }
        self.durable.resize(size);
        self.sizes.clear();
    }

    /// A failed fsync as Linux does it: the pages are marked clean, and nothing is durable.
    pub(crate) fn fail_sync(&mut self) {
        self.dirty.clear();
        self.sizes.clear();
        self.failures += 1;
    }

    pub(crate) fn forget(&mut self) -> Losses {
        let losses = Losses {
            pages_kept: 0,
            pages_forgotten: self.dirty.len() as u64,
            size_forgotten: !self.sizes.is_empty(),
        };
        self.become_durable();
        losses
    }

    /// Keeps some of the pages, each in its newest or in an earlier state, and one of the sizes.
    pub(crate) fn keep_random(&mut self, rng: &mut StdRng) -> Losses {
        // One probability for all files would nearly always lose about half of the pages: never a single one.
        let keep = *[0.05, 0.5, 0.95].choose(rng).expect("the list is not empty");
        let mut losses = Losses::default();
        for (page, states) in mem::take(&mut self.dirty) {
            if rng.random_bool(keep) {
                losses.pages_kept += 1;
                let newest = self.now.page(page).cloned();
                let state = if rng.random() { newest } else { pick(&states, newest, rng) };
                self.durable.set_page(page, state);
            } else {
                losses.pages_forgotten += 1;
            }
        }
        let newest = self.sizes.last().copied().unwrap_or(self.durable.size());
        let size = if rng.random() { newest } else { pick(&self.sizes, self.durable.size(), rng) };
        losses.size_forgotten = size != newest;
        self.durable.resize(size);
        self.become_durable();
        losses
    }

    /// Forgets everything except some sectors of one write. Returns how many sectors were kept.
    pub(crate) fn tear(&mut self, offset: u64, data: &[u8], rng: &mut StdRng) -> u64 {
        let end = offset + data.len() as u64;
        let before = self.durable.size();
        let size = if end > before && rng.random() { end } else { before };
        let mut kept = 0;
        for (at, sector) in sectors(offset, data) {
            if rng.random() {
                self.durable.write(at, sector);
                kept += 1;
            }
        }
        self.durable.resize(size);
        self.become_durable();
        kept
    }

    fn become_durable(&mut self) {
        self.now = self.durable.clone();
        self.dirty.clear();
        self.sizes.clear();
    }
}

fn pick<T: Clone>(earlier: &[T], other: T, rng: &mut StdRng) -> T {
    let index = rng.random_range(0..=earlier.len());
    earlier.get(index).cloned().unwrap_or(other)
}

/// The parts of a write that fall into one sector of the disk each.
pub(crate) fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let to_boundary = SECTOR - usize::try_from(offset % SECTOR as u64).expect("less than a sector");
    let (first, rest) = data.split_at(to_boundary.min(data.len()));
    let mut at = offset;
    std::iter::once(first).chain(rest.chunks(SECTOR)).filter(|part| !part.is_empty()).map(move |part| {
        let start = at;
        at += part.len() as u64;
        (start, part)
    })
}
