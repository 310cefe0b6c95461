//! Sparse bytes in pages of 4 KiB that are shared until they are written.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// What a file system writes back at once, and so what a power cut keeps or forgets at once.
pub(crate) const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// The volatile and the durable view hold the same page until one of them is written.
pub(crate) type Page = Arc<[u8; PAGE_BYTES]>;

static ZEROS: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE_BYTES]));

/// Pages by number, and a size. A page that is not there is a hole, and reads as zeros. Bytes of a page
/// that lie past the size are zero, so that a file that grows again shows no old bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How many pages take up room; holes do not.
    pub(crate) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn page(&self, number: u64) -> Option<&Page> {
        self.pages.get(&number)
    }

    pub(crate) fn set_page(&mut self, number: u64, page: Option<Page>) {
        match page {
            Some(page) => self.pages.insert(number, page),
            None => self.pages.remove(&number),
        };
    }

    /// The numbers of the pages that take up room, from the one given.
    pub(crate) fn pages_from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        self.pages.range(first..).map(|(number, _)| *number)
    }

    /// At most `length` bytes from `offset`; fewer at the end of the file.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let end = offset.saturating_add(length).min(self.size);
        let mut bytes = Vec::with_capacity(in_memory(end.saturating_sub(offset)));
        for Span { page, from, to } in spans(offset, end) {
            match self.pages.get(&page) {
                Some(page) => bytes.extend_from_slice(&page[from..to]),
                None => bytes.resize(bytes.len() + (to - from), 0),
            }
        }
        bytes
    }

    /// Overwrites or extends.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut rest = data;
        for Span { page, from, to } in spans(offset, end) {
            let (here, after) = rest.split_at(to - from);
            let page = self.pages.entry(page).or_insert_with(|| Arc::clone(&ZEROS));
            Arc::make_mut(page)[from..to].copy_from_slice(here);
            rest = after;
        }
        self.size = self.size.max(end);
    }

    /// Gives every page of the range room, filled with zeros where there was a hole.
    pub(crate) fn allocate(&mut self, page: u64) {
        self.pages.entry(page).or_insert_with(|| Arc::clone(&ZEROS));
    }

    /// Zeroes a part of one page; a whole page becomes a hole.
    pub(crate) fn zero(&mut self, Span { page, from, to }: Span) {
        if to - from == PAGE_BYTES {
            self.pages.remove(&page);
        } else if let Some(page) = self.pages.get_mut(&page) {
            Arc::make_mut(page)[from..to].fill(0);
        }
    }

    /// Cuts off, or grows by a hole. Pages past the new size go even when the size does not shrink: contents
    /// that were put together from pages of several moments may have some.
    pub(crate) fn resize(&mut self, size: u64) {
        let past = size.div_ceil(PAGE);
        if self.pages.range(past..).next().is_some() {
            self.pages.split_off(&past);
        }
        let (tail, from) = (size / PAGE, in_memory(size % PAGE));
        // Asked first, because zeroing would end the sharing of a page that is zero there already.
        if self.pages.get(&tail).is_some_and(|page| page[from..].iter().any(|byte| *byte != 0)) {
            self.zero(Span { page: tail, from, to: PAGE_BYTES });
        }
        self.size = size;
    }
}

/// A part of one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) page: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The bytes `start..end`, page by page.
pub(crate) fn spans(start: u64, end: u64) -> impl Iterator<Item = Span> {
    let pages = if start < end { start / PAGE..end.div_ceil(PAGE) } else { 0..0 };
    pages.map(move |page| Span {
        page,
        from: in_memory(start.saturating_sub(page * PAGE)),
        to: in_memory((end - page * PAGE).min(PAGE)),
    })
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a file's bytes fit into memory: FILE_BYTES_MAX bounds them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_past_the_end_are_zero_after_shrinking_and_growing() {
        let mut content = Content::default();
        content.write(0, &[7; 5000]);
        content.resize(100);
        content.resize(5000);
        assert_eq!(content.read(0, 100), [7; 100]);
        assert_eq!(content.read(100, 4900), [0; 4900]);
    }

    #[test]
    fn a_hole_reads_as_zeros_and_takes_no_room() {
        let mut content = Content::default();
        content.write(3 * PAGE, b"x");
        assert_eq!(content.page_count(), 1);
        assert_eq!(content.read(0, 3 * PAGE), vec![0; 3 * PAGE_BYTES]);
    }

    #[test]
    fn resizing_drops_pages_past_a_size_that_never_grew() {
        let mut content = Content::default();
        content.write(0, b"ab");
        content.set_page(5, Some(Arc::new([9; PAGE_BYTES])));
        content.resize(2);
        content.resize(6 * PAGE);
        assert_eq!(content.read(5 * PAGE, PAGE), [0; PAGE_BYTES]);
        assert_eq!(content.read(0, 2), b"ab");
    }

    #[test]
    fn the_spans_of_a_range_cover_it_once() {
        let all: Vec<_> = spans(4000, 9000).map(|span| (span.page, span.from, span.to)).collect();
        assert_eq!(all, [(0, 4000, 4096), (1, 0, 4096), (2, 0, 808)]);
        assert_eq!(spans(10, 10).count(), 0);
    }
}
