//! Copying one segment, record by record.

use bytes::Bytes;

use super::Error;
use super::manifest::Sum;
use crate::log::entry::Position;
use crate::log::error::{Damage, DiskError};
use crate::log::format::decode_entry;
use crate::log::journal::disk::DiskFile;
use crate::log::journal::segment::{Found, SegmentReader};
use crate::log::journal::tail::{Verdict, judge};

/// What was copied.
#[derive(Debug)]
pub(super) struct Copied {
    /// How many bytes.
    pub(super) bytes: u64,
    /// SHA-256 of them.
    pub(super) sum: String,
    /// SHA-256 of the first so many as was asked for; none if there are fewer.
    pub(super) prefix: Option<String>,
    /// The position behind the last entry.
    pub(super) next: Position,
    /// When the last entry was recorded.
    pub(super) last_recorded_ms: Option<u64>,
}

/// Copies the header and all whole records. Behind those of the journal's last segment may stand what is being written
/// at the moment, or a write that was interrupted: nobody was told of it.
pub(super) fn copy(
    from: &mut SegmentReader,
    to: &dyn DiskFile,
    is_last: bool,
    prefix_bytes: Option<u64>,
) -> Result<Copied, Error> {
    let mut out =
        Out { to, bytes: 0, sum: Sum::default(), prefix_bytes, prefix: None, path: from.path().to_owned() };
    out.write(&from.header.encode())?;
    let (mut last, mut looked_again) = (Vec::new(), false);
    loop {
        match from.read().map_err(Error::Disk)? {
            Found::Record(_) => {
                out.write(from.record())?;
                looked_again = false;
                if let Some((_, entry)) = from.entries().last() {
                    last.clear();
                    last.extend_from_slice(entry);
                }
            }
            Found::End => break,
            Found::Closed if is_last => break,
            Found::Closed => return Err(Error::Damaged(from.corruption(Damage::BytesAfterEnd))),
            Found::Damaged(damage) if is_last => match judge(from, damage)? {
                Verdict::Torn => break,
                // What was not there when it was read may be now, and more behind it.
                Verdict::Corrupt(_) if !looked_again => {
                    from.look_again()?;
                    looked_again = true;
                }
                Verdict::Corrupt(damage) => return Err(Error::Damaged(from.corruption(damage))),
            },
            Found::Damaged(damage) => return Err(Error::Damaged(from.corruption(damage))),
        }
    }
    let last_recorded_ms = match from.next.before() {
        Some(position) if !last.is_empty() => {
            let entry = decode_entry(&Bytes::from(last), position);
            Some(entry.map_err(|malformed| Error::Damaged(from.corruption(malformed.into())))?.recorded_at_ms)
        }
        _ => None,
    };
    let Out { bytes, sum, prefix, .. } = out;
    Ok(Copied { bytes, sum: sum.finish(), prefix, next: from.next, last_recorded_ms })
}

/// Where it is copied to, and what was so far.
struct Out<'a> {
    to: &'a dyn DiskFile,
    path: std::path::PathBuf,
    bytes: u64,
    sum: Sum,
    prefix_bytes: Option<u64>,
    prefix: Option<String>,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let failed = |error| DiskError::new("copy", &self.path, &error);
        self.to.write_at(bytes, self.bytes).map_err(failed)?;
        self.sum.add(bytes);
        self.bytes += bytes.len() as u64;
        // What was copied the last time ends where a record ends.
        if self.prefix_bytes == Some(self.bytes) {
            self.prefix = Some(self.sum.clone().finish());
        }
        Ok(())
    }
}
