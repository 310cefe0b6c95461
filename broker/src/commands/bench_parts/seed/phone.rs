//! A phone that nobody holds yet: its key and push target, and what it would know of the broker had it enrolled.

use countersign::{config::Config, keys::Keys};
use countersign_domain::{
    AuthenticatorId,
    event::{Identity, Platform, PushServiceKind, PushTarget},
};
use countersign_envelope::{PublicKey, SigningKey};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde::Serialize;
use zeroize::Zeroizing;

use super::bytes;

/// What people call it.
pub(super) const NAME: &str = "A phone of the bench";

/// One of an account's phones.
pub(super) struct Phone {
    pub(super) key: PublicKey,
    pub(super) platform: Platform,
    pub(super) push_target: PushTarget,
    secret: Secret,
}

/// What the private key is made from again.
enum Secret {
    Seed(Zeroizing<[u8; 32]>),
    Pkcs8(Zeroizing<Vec<u8>>),
}

impl Phone {
    /// An account's first phone is an iPhone, the others are Android phones. Algorithms take turns from phone to phone and
    /// from pair of accounts to pair: of those who sign in by one phone and by the other in turn, every other pair has an
    /// Ed25519 key.
    pub(super) fn draw(account: u64, phone: u8) -> Self {
        let is_es256 = (account / 2 + u64::from(phone)).is_multiple_of(2);
        let (key, secret) = if is_es256 {
            let (key, pkcs8) = SigningKey::generate_es256();
            (key, Secret::Pkcs8(pkcs8))
        } else {
            let seed = Zeroizing::new(bytes());
            (SigningKey::ed25519(&seed), Secret::Seed(seed))
        };
        let (platform, push_target) = if phone == 0 {
            (Platform::Ios, PushTarget::recorded(PushServiceKind::Apns, &device_token()))
        } else {
            (Platform::Android, PushTarget::recorded(PushServiceKind::Fcm, &registration_token()))
        };
        Self { key: key.public_key(), platform, push_target, secret }
    }

    /// What it holds, on one line: the `phone.json` of `device-sim phone`, the private key included.
    pub(super) fn held(
        &self,
        (config, keys): (&Config, &Keys),
        identity: &Identity,
        authenticator: AuthenticatorId,
    ) -> Zeroizing<String> {
        let secret = match &self.secret {
            Secret::Seed(seed) => BASE64.encode(seed.as_slice()),
            Secret::Pkcs8(pkcs8) => BASE64.encode(pkcs8),
        };
        let secret = Zeroizing::new(secret);
        let key = match &self.secret {
            Secret::Seed(_) => HeldKey::Ed25519 { seed: &secret },
            Secret::Pkcs8(_) => HeldKey::Es256 { pkcs8: &secret },
        };
        let push_target = match self.push_target.service() {
            PushServiceKind::Apns => HeldTarget::Apns(self.push_target.token()),
            PushServiceKind::Fcm => HeldTarget::Fcm(self.push_target.token()),
        };
        let held = Held {
            version: 1,
            name: NAME,
            authenticator_id: &authenticator.to_string(),
            account_name: identity.name.as_str(),
            realm: identity.realm.as_str(),
            is_active: true,
            counter: 0,
            notices_until_ms: 0,
            push_target,
            broker: HeldBroker {
                id: keys.broker_id(),
                address: config.public_url.trim_end_matches('/'),
                key: &BASE64.encode(keys.public_key().as_bytes()),
            },
            key,
        };
        Zeroizing::new(serde_json::to_string(&held).expect("strings and numbers are JSON") + "\n")
    }
}

/// 32 bytes, as today's iPhones have them.
fn device_token() -> String {
    HEXLOWER.encode(&bytes::<32>())
}

/// As Firebase makes them: an installation id, which begins with the bits 0111, and what follows it.
fn registration_token() -> String {
    let mut installation = bytes::<16>();
    installation[0] = 0x70 | (installation[0] & 0x0f);
    format!("{}:APA91b{}", BASE64URL_NOPAD.encode(&installation), BASE64URL_NOPAD.encode(&bytes::<100>()))
}

/// Version 1 of what `device-sim` keeps of a phone (`device-sim/src/phone/store.rs`).
#[derive(Serialize)]
struct Held<'a> {
    version: u32,
    name: &'a str,
    authenticator_id: &'a str,
    account_name: &'a str,
    realm: &'a str,
    is_active: bool,
    counter: u64,
    notices_until_ms: u64,
    push_target: HeldTarget<'a>,
    broker: HeldBroker<'a>,
    key: HeldKey<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum HeldTarget<'a> {
    Apns(&'a str),
    Fcm(&'a str),
}

#[derive(Serialize)]
struct HeldBroker<'a> {
    id: &'a str,
    address: &'a str,
    /// Base64.
    key: &'a str,
}

/// Both in base64.
#[derive(Serialize)]
#[serde(tag = "algorithm", rename_all = "lowercase")]
enum HeldKey<'a> {
    Ed25519 { seed: &'a str },
    Es256 { pkcs8: &'a str },
}
