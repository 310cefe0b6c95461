//! The journal: what makes entries durable.
//!
//! It is a folder of segment files, appended to and never changed; those that are whole and read seldom are
//! archived, which changes how they are kept and nothing else. Read in this order:
//!
//! - `format`: the bytes.
//! - `writer`: a batch becomes a record; a segment ends and the next begins; what happens when a write fails.
//! - `segment`, `reader`: reading one file, and all of them, believing nothing.
//! - `tail`: torn or corrupt.
//! - `archive`: a whole segment, compressed.
//! - `start`: opening a journal after a stop, a crash, or for the first time.
//! - `disk`: the operating system; `sim`, its stand-in, which forgets, tears and fails as a test wants it.
//!
//! There are no threads here, and no streams: only positions, batches and files.

pub(crate) mod archive;
pub(crate) mod disk;
pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod segment;
pub(crate) mod start;
pub(crate) mod tail;
pub(crate) mod writer;

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
