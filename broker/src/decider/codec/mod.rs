//! The domain's events as the log keeps them: a type number, a version, a body in the clear, and what is personal
//! sealed. Stored messages are not domain structs: either can change without the other.

pub mod account;
pub mod delivery;
pub mod relying_party;

use std::{fmt::Debug, hash::Hash};

use bytes::Bytes;
use countersign_domain::Aggregate;
use countersign_proto::event::v1::EventType;
use prost::Message;

use crate::{
    keys::seal,
    log::{EventRecord, StreamId, Version},
};

pub use account::AccountCodec;
pub use relying_party::RelyingPartyCodec;

/// Reads and writes the events of one kind of aggregate.
pub trait Codec: Send + Sync + 'static {
    /// Whose events.
    type Aggregate: Aggregate;
    /// What names one.
    type Id: Copy + Eq + Hash + Debug + Send + Sync + 'static;

    /// Its stream.
    fn stream(&self, id: Self::Id) -> StreamId;
    /// Whose stream that is.
    fn id(&self, stream: StreamId) -> Self::Id;
    /// An event to store.
    fn encode(&self, id: Self::Id, event: &<Self::Aggregate as Aggregate>::Event) -> EventRecord;
    /// A stored event; none where its type is unknown and may be ignored.
    fn decode(
        &self,
        id: Self::Id,
        record: &EventRecord,
    ) -> Result<Option<<Self::Aggregate as Aggregate>::Event>, Error>;

    /// A state to keep beside its events, made of those up to this version; none where its events are few.
    fn keep(&self, _id: Self::Id, _version: Version, _state: &Self::Aggregate) -> Option<Bytes> {
        None
    }

    /// A state that was kept; none if it cannot be read, or another release kept it that made something else of events.
    fn kept(&self, _id: Self::Id, _version: Version, _bytes: &[u8]) -> Option<Self::Aggregate> {
        None
    }
}

/// Why a stored event cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A newer release wrote it, and it may not be ignored.
    #[error(
        "event type {kind} version {version} is unknown and may not be ignored: a newer release wrote it; upgrade this one"
    )]
    Unknown {
        /// Its type number.
        kind: u32,
        /// Its version.
        version: u32,
    },
    /// It is not what its type says.
    #[error("{kind:?}: {what}")]
    Malformed {
        /// Its type.
        kind: EventType,
        /// What is wrong.
        what: &'static str,
    },
    /// A sealed field does not open.
    #[error("{kind:?}: {error}")]
    Sealed {
        /// Its type.
        kind: EventType,
        /// Why not.
        error: seal::Error,
    },
}

/// Every event so far has version 1: additions to a message need no new one.
const VERSION: u32 = 1;

fn record(kind: EventType, body: &impl Message) -> EventRecord {
    EventRecord {
        kind: number(kind),
        version: VERSION,
        may_ignore: false,
        body: body.encode_to_vec().into(),
        sealed: Bytes::new(),
    }
}

fn number(kind: EventType) -> u32 {
    u32::try_from(i32::from(kind)).expect("type numbers are positive")
}

/// The type of a stored event, if this release knows it; none where it may be ignored.
fn kind_of(record: &EventRecord) -> Result<Option<EventType>, Error> {
    let known = i32::try_from(record.kind).ok().and_then(|kind| EventType::try_from(kind).ok());
    match known.filter(|kind| *kind != EventType::Unspecified && record.version == VERSION) {
        Some(kind) => Ok(Some(kind)),
        None if record.may_ignore => Ok(None),
        None => Err(unknown(record)),
    }
}

fn unknown(record: &EventRecord) -> Error {
    Error::Unknown { kind: record.kind, version: record.version }
}

fn body<M: Message + Default>(kind: EventType, bytes: &Bytes) -> Result<M, Error> {
    M::decode(bytes.clone()).map_err(|_| Error::Malformed { kind, what: "does not decode" })
}
