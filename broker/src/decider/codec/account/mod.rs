//! Events of accounts. Personal data and secrets are sealed under the account's key; each in its own place, so that
//! nothing sealed can be moved.

mod decode;
mod encode;

use std::sync::Arc;

use bytes::Bytes;
use countersign_domain::{Account, AccountId, Event, kept};
use countersign_envelope::sha256;
use zeroize::Zeroizing;

use super::{Codec, Error};
use crate::{
    entropy::Entropy,
    keys::{
        Keys,
        seal::{self, Place, Sealer},
    },
    log::{EventRecord, StreamId, StreamKind, Version},
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

    fn keep(&self, id: AccountId, version: Version, state: &Account) -> Option<Bytes> {
        let within = state_bytes(version);
        Some(self.keys.sealer.seal(kept_state(id, &within), &state.to_kept(), &*self.entropy))
    }

    fn kept(&self, id: AccountId, version: Version, bytes: &[u8]) -> Option<Account> {
        let within = state_bytes(version);
        Account::from_kept(&self.keys.sealer.open(kept_state(id, &within), bytes).ok()?)
    }
}

/// Opens the personal data of an event, as stored: the bytes of its message.
pub fn open_personal(
    sealer: &Sealer,
    account: AccountId,
    record: &EventRecord,
) -> Result<Zeroizing<Vec<u8>>, seal::Error> {
    sealer.open(personal(account, &event_bytes(record)), &record.sealed)
}

/// The personal data of one event.
fn personal(account: AccountId, event: &[u8; EVENT_LENGTH]) -> Place<'_> {
    Place { account, purpose: "personal", within: event }
}

/// What personal data belongs to: the event's type (4, big-endian), its version (4), and SHA-256 of its body, which is
/// final before anything is sealed for it. So that whoever can write the log cannot give an event what was sealed for
/// another, although both be of one type and one account.
fn event_bytes(record: &EventRecord) -> [u8; EVENT_LENGTH] {
    let mut bytes = [0; EVENT_LENGTH];
    bytes[..4].copy_from_slice(&record.kind.to_be_bytes());
    bytes[4..8].copy_from_slice(&record.version.to_be_bytes());
    bytes[8..].copy_from_slice(&sha256(&record.body));
    bytes
}

const EVENT_LENGTH: usize = 4 + 4 + 32;

/// The number and salt of an approval or enrolment.
pub fn match_number(account: AccountId, id: &[u8]) -> Place<'_> {
    Place { account, purpose: "match-number", within: id }
}

/// The secret of an enrolment's code.
fn enrolment_secret(account: AccountId, id: &[u8]) -> Place<'_> {
    Place { account, purpose: "enrolment-secret", within: id }
}

/// A state that is kept beside the events. It has what they have sealed, and is sealed as they are: it goes with the
/// account's key.
fn kept_state(account: AccountId, within: &[u8; STATE_LENGTH]) -> Place<'_> {
    Place { account, purpose: "account-state", within }
}

/// What a kept state belongs to: the format of states (4, big-endian), and the version of the stream that it was made up
/// to (8). One of another format does not open.
fn state_bytes(version: Version) -> [u8; STATE_LENGTH] {
    let mut bytes = [0; STATE_LENGTH];
    bytes[..4].copy_from_slice(&kept::FORMAT.to_be_bytes());
    bytes[4..].copy_from_slice(&version.to_token().to_be_bytes());
    bytes
}

const STATE_LENGTH: usize = 4 + 8;

/// How a number and its salt are sealed: digits (1), value (4, big-endian), salt (32).
const NUMBER_LENGTH: usize = 1 + 4 + 32;

#[cfg(test)]
mod tests;
