//! Where each stream stands: the position of its last durable entry. This is all that memory holds of a
//! stream that nobody asks for, so it is packed: 25 bytes a stream, and what a hash table needs beside them.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock};

use super::entry::{Position, StreamId, StreamKind};

/// With so many parts, no reader waits long for the writer, and a part that outgrows its table is small.
const SHARDS: usize = 256;

/// What one stream takes in a snapshot: kind, id, position.
pub(crate) const HEAD_BYTES: usize = 25;

/// A position without alignment.
type Packed = [u8; 8];

/// A map by stream.
pub(crate) type ByStream<T> = HashMap<StreamId, T, BuildHasherDefault<StreamHasher>>;

/// The heads of all streams.
#[derive(Debug)]
pub(crate) struct Heads {
    shards: Box<[RwLock<ByStream<Packed>>]>,
}

impl Heads {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards }
    }

    /// The position of the stream's last durable entry.
    pub(crate) fn get(&self, stream: StreamId) -> Option<Position> {
        let shard = self.shard(stream).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&stream).copied().and_then(unpack)
    }

    /// The stream's last durable entry is this one now, unless it knows of a later one.
    pub(crate) fn advance(&self, stream: StreamId, position: Position) {
        let mut shard = self.shard(stream).write().unwrap_or_else(PoisonError::into_inner);
        let head = shard.entry(stream).or_default();
        if *head < pack(position) {
            *head = pack(position);
        }
    }

    /// How many streams there are.
    pub(crate) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// All heads as bytes, in pieces. The log goes on meanwhile: of what becomes durable after the call, some
    /// is in it. Whoever reads it back applies what came after once more.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Vec<u8>> {
        self.shards.iter().map(|shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let mut bytes = Vec::with_capacity(shard.len() * HEAD_BYTES);
            for (stream, position) in shard.iter() {
                bytes.push(stream.kind() as u8);
                bytes.extend_from_slice(&stream.id());
                bytes.extend_from_slice(position);
            }
            bytes
        })
    }

    /// The heads that are in these bytes, and the highest position among them; nothing if they are not heads.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<(Self, Option<Position>)> {
        let (heads, rest) = bytes.as_chunks::<HEAD_BYTES>();
        let loaded = Self::new();
        let mut highest = None;
        for head in heads {
            let kind = StreamKind::from_number(head[0])?;
            let id = head[1..17].try_into().ok()?;
            let position = unpack(head[17..].try_into().ok()?)?;
            highest = highest.max(Some(position));
            loaded.advance(StreamId::new(kind, id), position);
        }
        rest.is_empty().then_some((loaded, highest))
    }

    fn shard(&self, stream: StreamId) -> &RwLock<ByStream<Packed>> {
        // The tables inside go by the lowest and the highest bits; those in the middle are free.
        let hash = BuildHasherDefault::<StreamHasher>::default().hash_one(stream);
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

/// Hashes streams, several times for every append: quicker than the standard library's, whose strength
/// against chosen keys is not needed, since nobody outside chooses the id of a stream.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    /// A multiplication whose upper half is folded into the lower, so that every bit reaches every other.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a product")]
    fn write_u64(&mut self, word: u64) {
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word ^ 0xa076_1d64_78bd_642f) * FACTOR;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

// Big-endian, so that packed positions compare as positions do.
fn pack(position: Position) -> Packed {
    position.number().to_be_bytes()
}

fn unpack(packed: Packed) -> Option<Position> {
    Position::new(u64::from_be_bytes(packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u8) -> StreamId {
        StreamId::new(StreamKind::ALL[usize::from(id) % 4], [id; 16])
    }

    #[test]
    fn heads_read_back_from_their_bytes() {
        let heads = Heads::new();
        for id in 0..=255 {
            heads.advance(stream(id), Position::new(u64::from(id) + 1).unwrap());
        }
        let bytes = heads.pieces().collect::<Vec<_>>().concat();
        let (read, highest) = Heads::from_bytes(&bytes).unwrap();
        assert_eq!((read.len(), highest), (256, Position::new(256)));
        assert!((0..=255).all(|id| read.get(stream(id)) == heads.get(stream(id))));
    }

    #[test]
    fn streams_spread_over_all_shards_even_if_their_ids_are_numbers() {
        let heads = Heads::new();
        for id in 0..20_000_u128 {
            heads.advance(StreamId::new(StreamKind::Account, id.to_be_bytes()), Position::FIRST);
            heads.advance(StreamId::new(StreamKind::Delivery, id.to_be_bytes()), Position::FIRST);
        }
        let lengths: Vec<_> = heads.shards.iter().map(|shard| shard.read().unwrap().len()).collect();
        assert!(lengths.iter().all(|length| (80..=240).contains(length)), "{lengths:?}");
    }

    #[test]
    fn a_head_never_goes_back() {
        let heads = Heads::new();
        heads.advance(stream(1), Position::new(7).unwrap());
        heads.advance(stream(1), Position::new(3).unwrap());
        assert_eq!(heads.get(stream(1)), Position::new(7));
    }

    #[test]
    fn what_is_not_heads_is_refused() {
        for bytes in [&[1; 24][..], &[0; 25], &[9; 25], &[1; 26]] {
            assert!(Heads::from_bytes(bytes).is_none(), "{bytes:?}");
        }
    }
}
