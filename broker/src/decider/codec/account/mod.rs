//! Events of accounts. Personal data and secrets are sealed under the account's key; each in its own place, so that
//! nothing sealed can be moved.

mod decode;
mod encode;

use std::sync::Arc;

use countersign_domain::{Account, AccountId, Event};
use countersign_proto::event::v1::EventType;

use super::{Codec, Error};
use crate::{
    entropy::Entropy,
    keys::{Keys, seal::Place},
    log::{EventRecord, StreamId, StreamKind},
};

/// Reads and writes events of accounts.
#[derive(Debug, Clone)]
pub struct AccountCodec {
    keys: Arc<Keys>,
    entropy: Arc<dyn Entropy>,
}

impl AccountCodec {
    /// With the keys that seal.
    pub fn new(keys: Arc<Keys>, entropy: Arc<dyn Entropy>) -> Self {
        Self { keys, entropy }
    }
}

impl Codec for AccountCodec {
    type Aggregate = Account;
    type Id = AccountId;

    fn stream(&self, id: AccountId) -> StreamId {
        StreamId::new(StreamKind::Account, *id.as_bytes())
    }

    fn id(&self, stream: StreamId) -> AccountId {
        AccountId::from_bytes(stream.id())
    }

    fn encode(&self, id: AccountId, event: &Event) -> EventRecord {
        encode::Encoder { sealer: &self.keys.sealer, entropy: &*self.entropy, account: id }.event(event)
    }

    fn decode(&self, id: AccountId, record: &EventRecord) -> Result<Option<Event>, Error> {
        decode::Decoder { sealer: &self.keys.sealer, account: id }.event(record)
    }
}

/// The personal data of an event of this type.
fn personal(account: AccountId, kind: &[u8; 4]) -> Place<'_> {
    Place { account, purpose: "personal", within: kind }
}

/// The number and salt of an approval or enrolment.
fn match_number(account: AccountId, id: &[u8]) -> Place<'_> {
    Place { account, purpose: "match-number", within: id }
}

/// The secret of an enrolment's code.
fn enrolment_secret(account: AccountId, id: &[u8]) -> Place<'_> {
    Place { account, purpose: "enrolment-secret", within: id }
}

fn kind_bytes(kind: EventType) -> [u8; 4] {
    super::number(kind).to_be_bytes()
}

/// How a number and its salt are sealed: digits (1), value (4, big-endian), salt (32).
const NUMBER_LENGTH: usize = 1 + 4 + 32;

#[cfg(test)]
mod tests;
