//! What a push holds: what waits, until when, and what the phone needs to ask for more. Nothing in it is shown: anybody
//! who knows the target and a push service's key could have written it.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Phone, REMEMBERED_MAX};
use crate::clock::Timestamp;

/// The version of pushes that this phone reads.
const VERSION: u64 = 1;

/// A push, as it came. It holds a token, and prints without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Push {
    /// What it is about.
    pub kind: PushKind,
    /// The approval's id, the enrolment's, or the authenticator's that a notice is about.
    pub id: String,
    /// The phone that it is for.
    pub authenticator_id: String,
    /// Until when it is of use.
    pub expires_at: Timestamp,
    /// Stands for the phone when it acknowledges; empty where there is nothing to acknowledge.
    pub token: Bytes,
    /// The server's nonce for the phone's next read.
    pub nonce: Bytes,
}

/// What a push is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushKind {
    /// A sign-in attempt waits.
    Challenge,
    /// The phone's own trial waits.
    Trial,
    /// An approval has ended.
    Ended,
    /// Something about the account changed.
    Notice,
}

/// What the phone makes of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Something new.
    New,
    /// The same came before: push services deliver at least once.
    Again,
    /// It is for another authenticator: an app that was enrolled anew still gets the old one's pushes.
    NotForThisPhone,
}

/// Why a push cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPush {
    /// Not the JSON that the broker sends.
    #[error("the push is not one of Countersign's: {0}")]
    Json(#[from] serde_json::Error),
    /// Of a version that this phone does not know.
    #[error("the push is of version {0}; this phone reads version 1")]
    Version(u64),
}

/// Both services' bodies: APNs' payload has our part beside its own, FCM's message as its data.
#[derive(Deserialize)]
struct Body {
    #[serde(alias = "data")]
    countersign: Countersign,
}

#[derive(Deserialize)]
struct Countersign {
    #[serde(deserialize_with = "number")]
    v: u64,
    kind: PushKind,
    id: String,
    authenticator: String,
    #[serde(deserialize_with = "number")]
    expires: u64,
    #[serde(deserialize_with = "bytes")]
    token: Bytes,
    #[serde(deserialize_with = "bytes")]
    nonce: Bytes,
}

/// FCM's data holds strings only.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
}

impl Push {
    /// Reads the body of a push as the device got it: APNs' payload, or FCM's message.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidPush> {
        let Body { countersign } = serde_json::from_slice(body)?;
        if countersign.v != VERSION {
            return Err(InvalidPush::Version(countersign.v));
        }
        Ok(Self {
            kind: countersign.kind,
            id: countersign.id,
            authenticator_id: countersign.authenticator,
            expires_at: Timestamp::from_seconds(countersign.expires),
            token: countersign.token,
            nonce: countersign.nonce,
        })
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Phone {
    /// Takes a push: keeps its nonce, and says if it is for this phone and new.
    ///
    /// What asks for something is asked for once. That something has ended or changed is never taken for a repetition:
    /// the broker is asked about it all the same, and a push that somebody else wrote must not hide the broker's.
    pub fn receive(&self, push: &Push) -> Received {
        if push.authenticator_id != self.authenticator_id() {
            return Received::NotForThisPhone;
        }
        self.learn_nonce(&push.nonce);
        match push.kind {
            PushKind::Ended | PushKind::Notice => Received::New,
            PushKind::Challenge | PushKind::Trial if self.remember(&push.id) => Received::New,
            PushKind::Challenge | PushKind::Trial => Received::Again,
        }
    }

    /// Notes that something of this id came. False if it did before.
    fn remember(&self, id: &str) -> bool {
        let mut state = self.lock();
        if state.remembered.iter().any(|known| **known == *id) {
            return false;
        }
        if state.remembered.len() == REMEMBERED_MAX {
            state.remembered.remove(0);
        }
        state.remembered.push(id.into());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = r#""kind":"challenge","id":"a1","authenticator":"p1","token":"AAEC","nonce":"AwQ""#;

    #[test]
    fn the_same_is_read_from_apns_and_from_fcm() {
        let apns =
            format!(r#"{{"aps":{{"alert":{{}}}},"countersign":{{"v":1,"expires":1700000000,{FIELDS}}}}}"#);
        let fcm =
            format!(r#"{{"token":"t","data":{{"v":"1","expires":"1700000000",{FIELDS}}},"android":{{}}}}"#);
        let read = Push::parse(apns.as_bytes()).expect("as APNs delivers it");
        assert_eq!(read, Push::parse(fcm.as_bytes()).expect("as FCM delivers it"));
        assert_eq!(read.kind, PushKind::Challenge);
        assert_eq!(read.expires_at, Timestamp::from_seconds(1_700_000_000));
        assert_eq!(read.token, [0u8, 1, 2][..]);
    }

    #[test]
    fn a_push_of_somebody_else_is_no_push() {
        for body in ["", "{}", "[]", r#"{"countersign":{"v":1}}"#, r#"{"data":{"hello":"world"}}"#] {
            assert!(Push::parse(body.as_bytes()).is_err(), "{body}");
        }
        let newer = format!(r#"{{"countersign":{{"v":2,"expires":1,{FIELDS}}}}}"#);
        assert!(matches!(Push::parse(newer.as_bytes()), Err(InvalidPush::Version(2))));
    }

    #[test]
    fn a_push_does_not_print_its_token() {
        let body = format!(r#"{{"countersign":{{"v":1,"expires":1,{FIELDS}}}}}"#);
        let push = Push::parse(body.as_bytes()).expect("a push");
        assert_eq!(format!("{push:?}"), r#"Push { kind: Challenge, id: "a1", .. }"#);
    }
}
