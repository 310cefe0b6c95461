//! What an entry is on disk, byte by byte. Numbers are big-endian, as sled's keys have to be.
//!
//! An **entry** is the same wherever it is kept, for ever; checksums, compression and whatever proves that it
//! is in the log are outside it. Its position is not part of it: it follows from where it is.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 1 | format of the entry: 1 |
//! | 1 | 1 | kind of the stream |
//! | 2 | 16 | id of the stream |
//! | 18 | 8 | position of the stream's entry before this one, 0 if there is none |
//! | 26 | 8 | when it was recorded, in milliseconds since 1970-01-01T00:00Z |
//! | 34 | 2 | number of events |
//! | 36 | | the events |
//!
//! and an **event**:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | number of the event's type |
//! | 4 | 4 | version of the type |
//! | 8 | 1 | 1 if a reader that does not know the type may pass over it, else 0 |
//! | 9 | 4 | length of the clear part |
//! | 13 | 4 | length of the sealed part |
//! | 17 | | the clear part, then the sealed part |

use bytes::Bytes;

use super::entry::{
    ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, EVENTS_PER_ENTRY_MAX, Entry, EventRecord, Position, StreamId,
    StreamKind, Version, entry_bytes,
};
use super::error::Damage;

/// The bytes of the length that stands before an entry wherever several are kept together.
pub(crate) const ENTRY_LENGTH_BYTES: usize = 4;

const ENTRY_FORMAT: u8 = 1;
const PREVIOUS_AT: usize = 18;

/// Appends an entry behind its length.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let bytes = entry_bytes(&entry.events);
    out.reserve(ENTRY_LENGTH_BYTES + bytes);
    let length = u32::try_from(bytes).expect("an entry is within its limit of bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.push(ENTRY_FORMAT);
    out.push(entry.stream.kind() as u8);
    out.extend_from_slice(&entry.stream.id());
    out.extend_from_slice(&number_or_zero(entry.previous).to_be_bytes());
    out.extend_from_slice(&entry.recorded_at_ms.to_be_bytes());
    let count = u16::try_from(entry.events.len()).expect("an entry is within its limit of events");
    out.extend_from_slice(&count.to_be_bytes());
    for event in &entry.events {
        out.extend_from_slice(&event.kind.to_be_bytes());
        out.extend_from_slice(&event.version.to_be_bytes());
        out.push(u8::from(event.may_ignore));
        for part in [&event.body, &event.sealed] {
            let length = u32::try_from(part.len()).expect("an entry is within its limit of bytes");
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(&event.body);
        out.extend_from_slice(&event.sealed);
    }
}

/// Appends an entry's bytes behind their length.
pub(crate) fn put_behind_length(out: &mut Vec<u8>, entry: &[u8]) {
    let length = u32::try_from(entry.len()).expect("an entry is within its limit of bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(entry);
}

/// Sets the `previous` of an entry that [`encode`] wrote at the start of `encoded`: who encoded it did not
/// know it yet, since that is decided when the entry is given its position.
pub(crate) fn set_previous(encoded: &mut [u8], previous: Option<Position>) {
    let number = number_or_zero(previous);
    let at = ENTRY_LENGTH_BYTES + PREVIOUS_AT;
    encoded[at..at + 8].copy_from_slice(&number.to_be_bytes());
}

fn number_or_zero(position: Option<Position>) -> u64 {
    position.map_or(0, Position::number)
}

/// The entries of a record's body, or of a value of the store: each its bytes, without the length.
pub(crate) fn split_entries(body: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut rest = Reader(body);
    std::iter::from_fn(move || {
        if rest.0.is_empty() {
            return None;
        }
        let entry = (|| {
            let length = rest.u32()? as usize;
            rest.slice(length)
        })();
        if entry.is_none() {
            rest = Reader(&[]);
        }
        Some(entry.ok_or(Malformed("it is shorter than its length says")))
    })
}

/// Why bytes are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Malformed> for Damage {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Entry { what: what.to_owned() }
    }
}

/// What stands at the start of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) stream: StreamId,
    pub(crate) previous: Option<Position>,
    pub(crate) recorded_at_ms: u64,
    events: u16,
}

impl EntryHeader {
    /// Reads the header of an entry that stands at `position`; without a look at its events.
    pub(crate) fn decode(bytes: &[u8], position: Position) -> Result<Self, Malformed> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Malformed("it is longer than an entry may be"));
        }
        let mut read = Reader(bytes);
        let fields =
            (|| Some((read.u8()?, read.u8()?, read.array::<16>()?, read.u64()?, read.u64()?, read.u16()?)))();
        let (format, kind, id, previous, recorded_at_ms, events) =
            fields.ok_or(Malformed("it is shorter than its header"))?;
        if format != ENTRY_FORMAT {
            return Err(Malformed("its format is not known to this program"));
        }
        let kind = StreamKind::from_number(kind)
            .ok_or(Malformed("the kind of its stream is not known to this program"))?;
        let previous = Position::new(previous);
        if previous >= Some(position) {
            return Err(Malformed("the entry before it does not stand before it"));
        }
        if events == 0 || usize::from(events) > EVENTS_PER_ENTRY_MAX {
            return Err(Malformed("its number of events is out of range"));
        }
        Ok(Self { stream: StreamId::new(kind, id), previous, recorded_at_ms, events })
    }
}

/// Reads an entry that stands at `position`. Its events share `bytes`.
pub(crate) fn decode_entry(bytes: &Bytes, position: Position) -> Result<Entry, Malformed> {
    let header = EntryHeader::decode(bytes, position)?;
    let mut read = Reader(&bytes[ENTRY_HEADER_BYTES..]);
    let events = (0..header.events).map(|_| decode_event(bytes, &mut read)).collect::<Result<_, _>>()?;
    if !read.0.is_empty() {
        return Err(Malformed("there are bytes behind its events"));
    }
    let EntryHeader { stream, previous, recorded_at_ms, .. } = header;
    let version = Version::from_token(position.number());
    Ok(Entry { position, stream, version, previous, recorded_at_ms, events })
}

fn decode_event(entry: &Bytes, read: &mut Reader<'_>) -> Result<EventRecord, Malformed> {
    let fields = (|| {
        let (kind, version, flags) = (read.u32()?, read.u32()?, read.u8()?);
        let (body, sealed) = (read.u32()? as usize, read.u32()? as usize);
        Some((kind, version, flags, read.slice(body)?, read.slice(sealed)?))
    })();
    let (kind, version, flags, body, sealed) = fields.ok_or(Malformed("an event of it is cut short"))?;
    if flags > 1 {
        return Err(Malformed("an event of it has flags that are not known to this program"));
    }
    let (body, sealed) = (entry.slice_ref(body), entry.slice_ref(sealed));
    Ok(EventRecord { kind, version, may_ignore: flags == 1, body, sealed })
}

/// Takes bounded pieces from the front of bytes that may be anything.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(piece)
    }

    pub(crate) fn skip(&mut self, length: usize) -> Option<()> {
        self.slice(length).map(|_| ())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (piece, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*piece)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = EventRecord> {
        let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        (any::<u32>(), any::<u32>(), any::<bool>(), bytes(), bytes()).prop_map(
            |(kind, version, may_ignore, body, sealed)| EventRecord {
                kind,
                version,
                may_ignore,
                body,
                sealed,
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let stream = (0..4_usize, any::<[u8; 16]>());
        (2..u64::MAX, stream, any::<u64>(), any::<u64>(), vec(event(), 1..5)).prop_map(
            |(number, (kind, id), previous, recorded_at_ms, events)| Entry {
                position: Position::new(number).unwrap(),
                stream: StreamId::new(StreamKind::ALL[kind], id),
                version: Version::from_token(number),
                previous: Position::new(previous % number),
                recorded_at_ms,
                events,
            },
        )
    }

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(entry, &mut bytes);
        bytes.split_off(ENTRY_LENGTH_BYTES)
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_from_its_bytes(entry in entry()) {
            let bytes = Bytes::from(encoded(&entry));
            prop_assert_eq!(bytes.len(), entry_bytes(&entry.events));
            prop_assert_eq!(decode_entry(&bytes, entry.position), Ok(entry));
        }

        #[test]
        fn what_reads_as_an_entry_has_exactly_these_bytes(
            entry in entry(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<bool>(),
        ) {
            let mut bytes = encoded(&entry);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = value }
            if let Ok(read) = decode_entry(&Bytes::from(bytes.clone()), entry.position) {
                prop_assert_eq!(encoded(&read), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in vec(any::<u8>(), 0..200), number in 1..u64::MAX) {
            let position = Position::new(number).unwrap();
            let _ = decode_entry(&Bytes::from(bytes.clone()), position);
            let _ = EntryHeader::decode(&bytes, position);
            prop_assert!(split_entries(&bytes).map_while(Result::ok).map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }

        #[test]
        fn the_previous_one_can_be_set_later(entry in entry()) {
            let mut later = Vec::new();
            encode(&Entry { previous: None, ..entry.clone() }, &mut later);
            set_previous(&mut later, entry.previous);
            prop_assert_eq!(&later[ENTRY_LENGTH_BYTES..], &encoded(&entry)[..]);
        }
    }

    #[test]
    fn an_entrys_bytes_are_what_they_always_were() {
        let entry = Entry {
            position: Position::new(9).unwrap(),
            stream: StreamId::new(StreamKind::Delivery, *b"0123456789abcdef"),
            version: Version::from_token(9),
            previous: Position::new(0x0102),
            recorded_at_ms: 0x0304,
            events: vec![
                EventRecord {
                    kind: 5,
                    version: 6,
                    may_ignore: true,
                    body: Bytes::from_static(b"clear"),
                    sealed: Bytes::from_static(b"sealed"),
                },
                EventRecord {
                    kind: 7,
                    version: 8,
                    may_ignore: false,
                    body: Bytes::new(),
                    sealed: Bytes::new(),
                },
            ],
        };
        let expected = [
            &[1, 2][..],
            b"0123456789abcdef",
            &[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 2],
            &[0, 0, 0, 5, 0, 0, 0, 6, 1, 0, 0, 0, 5, 0, 0, 0, 6],
            b"clearsealed",
            &[0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(encoded(&entry), expected.concat());
    }
}
