//! The log and the keys belong together: the broker's own stream says which key signs.

use std::path::Path;

use countersign_proto::event::v1::{EventType, KeyIntroduced};
use prost::Message;

use super::Keys;
use crate::{
    clock::Clock,
    log::{
        Append, AppendError, EventLog, EventRecord, Expected, OfflineLog, Position, ReadError, StreamId,
        StreamKind, Urgency,
    },
};

/// The broker's own stream: there is one.
pub const STREAM: StreamId = StreamId::new(StreamKind::Broker, [0; 16]);

/// Why the keys are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another broker wrote the log, or its keys were lost.
    #[error(
        "the log was written by the broker {logged} with the signing key {logged_key}, and the keys are those of the \
         broker {ours} with {our_key}: restore the keys that belong to this log"
    )]
    AnotherBroker {
        /// In the log.
        logged: String,
        /// In the log.
        logged_key: String,
        /// In the folder of keys.
        ours: String,
        /// In the folder of keys.
        our_key: String,
    },
    /// The broker's stream has something that this release cannot read.
    #[error("the broker's own stream in the log cannot be read: a newer release wrote it")]
    Unreadable,
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log does not take the introduction.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Introduces the key to an empty log; to any other, makes sure that it is the one that was introduced.
pub async fn introduce(log: &dyn EventLog, keys: &Keys, clock: &dyn Clock) -> Result<(), Error> {
    let introduced = log.read(STREAM, None).await?.iter().flat_map(|entry| entry.events.clone()).next_back();
    if let Some(event) = introduced {
        return compare(&event, keys);
    }
    log.append(Append {
        stream: STREAM,
        expected: Expected::Empty,
        urgency: Urgency::Now,
        recorded_at_ms: clock.now().as_millis(),
        events: vec![EventRecord {
            kind: EventType::KeyIntroduced as u32,
            version: 1,
            may_ignore: false,
            body: of(keys).encode_to_vec().into(),
            sealed: bytes::Bytes::new(),
        }],
    })
    .await?;
    Ok(())
}

/// What the log in this folder was begun with, which may be open in a broker; none where it does not say.
pub fn logged(log: &Path) -> Result<Option<EventRecord>, ReadError> {
    for entry in OfflineLog::open(log)?.entries(Position::FIRST).take(INTRODUCED_WITHIN) {
        let entry = entry?;
        if entry.stream == STREAM {
            return Ok(entry.events.into_iter().next());
        }
    }
    Ok(None)
}

/// A log begins with what its broker says of itself: not behind this entry.
const INTRODUCED_WITHIN: usize = 64;

/// The broker that this event has introduced.
pub fn broker_of(introduced: &EventRecord) -> Option<String> {
    Some(KeyIntroduced::decode(introduced.body.clone()).ok()?.broker_id)
}

/// Whether these are the keys that this event of the broker's stream has introduced.
pub fn compare(introduced: &EventRecord, keys: &Keys) -> Result<(), Error> {
    let hex = |key: &[u8]| data_encoding::HEXLOWER.encode(key);
    let (logged, ours) =
        (KeyIntroduced::decode(introduced.body.clone()).map_err(|_| Error::Unreadable)?, of(keys));
    if logged == ours {
        return Ok(());
    }
    Err(Error::AnotherBroker {
        logged: logged.broker_id,
        logged_key: hex(&logged.public_key),
        ours: ours.broker_id,
        our_key: hex(&ours.public_key),
    })
}

fn of(keys: &Keys) -> KeyIntroduced {
    KeyIntroduced {
        broker_id: keys.broker_id().to_owned(),
        public_key: keys.public_key().as_bytes().to_vec().into(),
    }
}
