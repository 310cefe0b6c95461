//! What goes into the log and what comes out: positions, versions, streams, events, entries.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use bytes::Bytes;
use countersign_domain::ids::{from_text, to_text};
use serde::{Deserialize, Serialize};

/// The most bytes that one entry may have, as [`Append::bytes`] counts them. 64 entries go into one value of
/// the store, so this also bounds what one read has to bring into memory.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// The most events that one entry may have.
pub const EVENTS_PER_ENTRY_MAX: usize = 64;

/// The place of an entry in the log. Positions are dense: the first is 1, and none is ever left out, given
/// twice or changed. Serialised as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(NonZeroU64);

impl Position {
    /// The position of a log's first entry.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The position with this number; there is none with number 0.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, 1 or more.
    pub const fn number(self) -> u64 {
        self.0.get()
    }

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position before this one; none before the first.
    pub const fn before(self) -> Option<Self> {
        Self::new(self.number() - 1)
    }

    /// The position that follows `head`: the first one in an empty log.
    pub const fn after(head: Option<Self>) -> Self {
        match head {
            Some(head) => head.next(),
            None => Self::FIRST,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a stream stands: changes with every entry of the stream. Logs count differently, so nothing but
/// equality has a meaning to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// The version as a number to be kept beside a saved fold; its order and distance mean nothing.
    pub const fn to_token(self) -> u64 {
        self.0
    }

    /// The version that [`to_token`](Self::to_token) gave.
    pub const fn from_token(token: u64) -> Self {
        Self(token)
    }
}

/// What kind of aggregate a stream holds. Its number is on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum StreamKind {
    /// An account with its authenticators and approvals.
    Account = 1,
    /// How an account's pushes fare; stands beside the account's stream and has the same id.
    Delivery = 2,
    /// A relying party with its credentials and policy.
    RelyingParty = 3,
    /// The broker itself: its keys.
    Broker = 4,
}

impl StreamKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Account, Self::Delivery, Self::RelyingParty, Self::Broker];

    /// The kind with this number on disk, if this program knows it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Its name in text: `account`, `delivery`, `relying-party`, `broker`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Delivery => "delivery",
            Self::RelyingParty => "relying-party",
            Self::Broker => "broker",
        }
    }
}

/// Names one stream. In text it is its kind and its id as the id of an account or a relying party is written
/// everywhere else, so that an operator finds the one by the other: `account/60rk4csm6mv3ee1sc5h66s35cr`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    kind: StreamKind,
    id: [u8; 16],
}

impl StreamId {
    /// The stream of this kind and id.
    pub const fn new(kind: StreamKind, id: [u8; 16]) -> Self {
        Self { kind, id }
    }

    /// What kind of aggregate it holds.
    pub const fn kind(self) -> StreamKind {
        self.kind
    }

    /// Its id among the streams of its kind.
    pub const fn id(self) -> [u8; 16] {
        self.id
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), to_text(&self.id))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a stream: expected account, delivery, relying-party or broker, a slash, and 26 digits of base32"
)]
pub struct NotAStream;

impl FromStr for StreamId {
    type Err = NotAStream;

    /// Reads what `Display` writes, and nothing else: one stream has one text.
    fn from_str(text: &str) -> Result<Self, NotAStream> {
        let (kind, id) = text.split_once('/').ok_or(NotAStream)?;
        let kind = StreamKind::ALL.into_iter().find(|known| known.name() == kind).ok_or(NotAStream)?;
        Ok(Self::new(kind, from_text(id).ok_or(NotAStream)?))
    }
}

impl Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One event as the log keeps it. The log never looks inside.
#[derive(Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// The event type's number.
    pub kind: u32,
    /// The version of that type's encoding.
    pub version: u32,
    /// Whether a reader that does not know `kind` may pass over the event.
    pub may_ignore: bool,
    /// What is in the clear: protobuf.
    pub body: Bytes,
    /// What is sealed: AEAD ciphertext; empty if the event holds no personal data.
    pub sealed: Bytes,
}

impl fmt::Debug for EventRecord {
    /// Lengths instead of contents: an event of ten lines of numbers helps nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRecord")
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("may_ignore", &self.may_ignore)
            .field("body_bytes", &self.body.len())
            .field("sealed_bytes", &self.sealed.len())
            .finish()
    }
}

/// What a stream must be like for an append to happen. Appends in flight count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// Without an entry.
    Empty,
    /// At this version exactly.
    At(Version),
}

/// How long an append may wait for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits: it goes with the next batch.
    Now,
    /// Nobody waits: it rides along with the next batch that is written anyway, and causes one of its own
    /// when none came within 20 ms.
    Rides,
}

/// One commit: events of one stream that become durable together or not at all.
#[derive(Debug, Clone)]
pub struct Append {
    /// The stream that they belong to.
    pub stream: StreamId,
    /// What the stream must be like.
    pub expected: Expected,
    /// How long it may wait for company.
    pub urgency: Urgency,
    /// The caller's clock, in milliseconds since 1970-01-01T00:00Z. The log keeps it and does not compare it.
    pub recorded_at_ms: u64,
    /// One event or more, at most [`EVENTS_PER_ENTRY_MAX`], in their order.
    pub events: Vec<EventRecord>,
}

impl Append {
    /// How many bytes the entry will have. Stored, each has 36, and 17 more for every event.
    pub fn bytes(&self) -> usize {
        entry_bytes(&self.events)
    }
}

pub(crate) const ENTRY_HEADER_BYTES: usize = 36;
pub(crate) const EVENT_HEADER_BYTES: usize = 17;

pub(crate) fn entry_bytes(events: &[EventRecord]) -> usize {
    let events = events.iter().map(|event| EVENT_HEADER_BYTES + event.body.len() + event.sealed.len());
    ENTRY_HEADER_BYTES + events.sum::<usize>()
}

/// What an append became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub position: Position,
    /// Where its stream stands with it.
    pub version: Version,
}

/// One commit, as it stands in the log for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub position: Position,
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Where the stream stands with it.
    pub version: Version,
    /// The place of the stream's entry before it; none for the first.
    pub previous: Option<Position>,
    /// When it was recorded, in milliseconds since 1970-01-01T00:00Z, by the clock of who appended it.
    pub recorded_at_ms: u64,
    /// Its events, one or more, in their order.
    pub events: Vec<EventRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_text_reads_back_as_the_same_stream() {
        for kind in StreamKind::ALL {
            for id in [[0; 16], [0xff; 16], *b"0123456789abcdef"] {
                let stream = StreamId::new(kind, id);
                assert_eq!(stream.to_string().parse(), Ok(stream));
                assert_eq!(StreamKind::from_number(kind as u8), Some(kind));
            }
        }
    }

    #[test]
    fn a_streams_text_is_what_it_always_was() {
        let stream = StreamId::new(StreamKind::RelyingParty, *b"0123456789abcdef");
        assert_eq!(stream.to_string(), "relying-party/60rk4csm6mv3ee1sc5h66s35cr");
        let least = StreamId::new(StreamKind::Account, 1_u128.to_be_bytes());
        assert_eq!(least.to_string(), "account/00000000000000000000000004");
    }

    #[test]
    fn a_streams_text_is_found_in_the_ids_of_what_belongs_to_its_account() {
        use countersign_domain::{AccountId, ApprovalId};
        let account = AccountId::from_bytes(*b"an account's id.");
        let stream = StreamId::new(StreamKind::Account, *account.as_bytes()).to_string();
        assert_eq!(stream, format!("account/{account}"));
        let approval = ApprovalId::new(account, [0xff; 16]).to_string();
        // Of the last digit, two bits are what follows in the longer id.
        assert!(approval.starts_with(stream["account/".len()..].split_at(25).0), "{approval}");
    }

    #[test]
    fn what_names_no_stream_is_refused() {
        for text in [
            "",
            "account",
            "account/",
            "accounts/00000000000000000000000000",
            "account/0000000000000000000000000",
            "account/000000000000000000000000000",
            "account/0000000000000000000000000o",
            "account/00000000000000000000000001",
            "account/0000000000000000000000000A",
            "account/0000000000000000000000000é",
        ] {
            assert_eq!(text.parse::<StreamId>(), Err(NotAStream), "{text}");
        }
    }

    #[test]
    fn there_is_no_position_before_the_first() {
        assert_eq!(Position::new(0), None);
        assert_eq!(Position::FIRST.before(), None);
        assert_eq!(Position::FIRST.next().before(), Some(Position::FIRST));
        assert_eq!(Position::after(None), Position::FIRST);
    }
}
