//! Events as the log has them, sealed fields, and states that are kept beside them.

use bytes::Bytes;
use countersign::{
    decider::codec::{
        AccountCodec, Codec, Error, RelyingPartyCodec, account::open_personal, delivery, delivery::Delivery,
    },
    keys::seal::Place,
    log::{EventRecord, Version},
};
use countersign_domain::{Account, Aggregate as _, Command, Event, account::react};
use countersign_envelope::sha256;
use fuzzing::fuzz;

use super::real::{
    ACCOUNT, KEYS, NOW, NoEntropy, RELYING_PARTY, account, approval, delivery as delivery_of, delivery_steps,
    enrolments, events as real_events, phone, relying_party_events,
};

pub(super) fn codec() -> AccountCodec {
    AccountCodec::new(std::sync::Arc::clone(&KEYS), std::sync::Arc::new(NoEntropy))
}

/// An event that is read is written as what is read as the same, and what folds it does not care where it came from.
#[test]
fn events() {
    fuzz_events("events", |record| codec().decode(ACCOUNT, record), delivery::decode);
}

pub(super) fn fuzz_events(
    name: &str,
    of_account: impl Fn(&EventRecord) -> Result<Option<Event>, Error>,
    of_delivery: impl Fn(&EventRecord) -> Result<Option<Delivery>, Error>,
) {
    let of_relying_party = |record: &EventRecord| RelyingPartyCodec.decode(RELYING_PARTY, record);
    let codec = codec();
    let mut real = Vec::new();
    for (name, event) in real_events() {
        let record = codec.encode(ACCOUNT, &event);
        assert_eq!(of_account(&stored(&unsealed(&record))), Ok(Some(event)));
        real.push((name, unsealed(&record)));
    }
    for (name, event) in relying_party_events() {
        let record = RelyingPartyCodec.encode(RELYING_PARTY, &event);
        assert_eq!(of_relying_party(&stored(&unsealed(&record))), Ok(Some(event)));
        real.push((name, unsealed(&record)));
    }
    for (name, step) in delivery_steps() {
        let record = delivery::encode(&delivery_of(step));
        assert!(of_delivery(&stored(&unsealed(&record))).is_ok_and(|read| read.is_some()));
        real.push((name, unsealed(&record)));
    }
    let account = account();
    fuzz(name, &real, |bytes| {
        let record = stored(bytes);
        if let Ok(Some(event)) = of_account(&record) {
            assert_eq!(of_account(&codec.encode(ACCOUNT, &event)), Ok(Some(event.clone())));
            assert_folds(account.clone(), &event);
        }
        if let Ok(Some(event)) = of_relying_party(&record) {
            let again = of_relying_party(&RelyingPartyCodec.encode(RELYING_PARTY, &event));
            assert_eq!(again, Ok(Some(event)));
        }
        if let Ok(Some(delivery)) = of_delivery(&record) {
            assert_eq!(of_delivery(&delivery::encode(&delivery)), Ok(Some(delivery)));
        }
    });
}

/// What stands between what an event has in the clear and what it has sealed.
const SEALED: &[u8] = b"|sealed|";

/// An event as the seeds write it: its kind, its body, and what is personal in it.
fn unsealed(record: &EventRecord) -> Vec<u8> {
    let kind = u8::try_from(record.kind).expect("kinds are small");
    let mut bytes = [&[kind], &record.body[..]].concat();
    if !record.sealed.is_empty() {
        bytes.extend_from_slice(SEALED);
        bytes.extend_from_slice(&open_personal(&KEYS.sealer, ACCOUNT, record).expect("it was sealed here"));
    }
    bytes
}

/// Such an event as it would be in the log. What is personal is sealed after the change: else nobody would read it.
fn stored(bytes: &[u8]) -> EventRecord {
    let (kind, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let at = rest.windows(SEALED.len()).position(|piece| piece == SEALED);
    let (body, personal) = at.map_or((rest, &[][..]), |at| (&rest[..at], &rest[at + SEALED.len()..]));
    let (kind, version) = (u32::from(*kind), 1_u32);
    // As `decider/codec/account` tells what personal data belongs to.
    let event = [&kind.to_be_bytes()[..], &version.to_be_bytes(), &sha256(body)].concat();
    let place = Place { account: ACCOUNT, purpose: "personal", within: &event };
    EventRecord {
        kind,
        version,
        may_ignore: false,
        body: Bytes::copy_from_slice(body),
        sealed: KEYS.sealer.seal(place, personal, &NoEntropy),
    }
}

/// An account takes any event that was recorded; what it is then can be kept.
pub(super) fn assert_folds(mut account: Account, event: &Event) {
    account.evolve(event, NOW);
    let _ = react(event);
    assert_eq!(Account::from_kept(&account.to_kept()).as_ref(), Some(&account));
}

/// Nothing opens but what was sealed, as it was sealed.
#[test]
fn sealed_fields() {
    let place = || Place { account: ACCOUNT, purpose: "personal", within: b"event" };
    let sealed = KEYS.sealer.seal(place(), b"a secret", &NoEntropy).to_vec();
    fuzz("sealed_fields", &[("secret", sealed.clone())], |bytes| {
        assert_eq!(KEYS.sealer.open(place(), bytes).is_ok(), bytes == sealed);
    });
}

/// A state that is read is the bytes that were kept, all of them, and whoever has it can go on with it; sealed, it is read
/// in its own place only.
#[test]
fn kept_account() {
    fuzz_kept_account("kept_account", Account::from_kept);
}

pub(super) fn fuzz_kept_account(name: &str, read: impl Fn(&[u8]) -> Option<Account>) {
    let version = |number| Version::from_token(number);
    let (codec, whole) = (codec(), account());
    let sealed = codec.keep(ACCOUNT, version(9), &whole).expect("it is kept");
    assert_eq!(codec.kept(ACCOUNT, version(9), &sealed), Some(whole.clone()));
    let real = [("account", whole.to_kept().to_vec()), ("nobody", Account::default().to_kept().to_vec())];
    let commands = [
        Command::ExpireApproval(approval()),
        Command::CancelApproval { approval: approval(), relying_party: RELYING_PARTY },
        Command::ExpireEnrolment(enrolments()[1]),
        Command::CancelEnrolment(enrolments()[2]),
        Command::RevokeAuthenticator { authenticator: phone(), relying_party: RELYING_PARTY },
    ];
    fuzz(name, &real, |bytes| {
        assert_eq!(codec.kept(ACCOUNT, version(9), bytes), None, "nobody sealed that");
        assert_eq!(codec.kept(ACCOUNT, version(10), &sealed), None, "another version's");
        let Some(account) = read(bytes) else { return };
        assert_eq!(&account.to_kept()[..], bytes);
        for event in commands.iter().filter_map(|command| account.decide(command, NOW).ok()).flatten() {
            assert_folds(account.clone(), &event);
        }
    });
}
