//! Every event is read as it was written, and is on disk as it always was.

use std::sync::Mutex;

use bytes::Bytes;
use countersign_domain::{
    ApprovalId, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Context, EnrolmentBegun, EnrolmentEnd,
        Idempotency, Identity, Platform, PushServiceKind, PushTarget, Question, RecordedAnswer,
        RefusedBecause, Request, RevokedBy, SignedMessage, TrialRequested,
    },
    number::{MatchNumber, Salt},
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::{Algorithm, EnrolmentCode, SigningKey};
use data_encoding::HEXLOWER;

use super::*;
use crate::keys::folder;

/// Bytes that count up: what is sealed with them is the same at every run.
#[derive(Debug, Default)]
struct Counting(Mutex<u8>);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let mut next = self.0.lock().unwrap();
        for byte in bytes {
            *byte = *next;
            *next = next.wrapping_add(1);
        }
    }
}

fn codec() -> AccountCodec {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    folder::create(&keys, &Counting::default()).unwrap();
    AccountCodec::new(Arc::new(folder::load(&keys).unwrap()), Arc::new(Counting::default()))
}

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);

/// One event of each kind, and of each choice within it.
fn events() -> Vec<Event> {
    let (approval, other) = (ApprovalId::new(ACCOUNT, [2; 16]), ApprovalId::new(ACCOUNT, [3; 16]));
    let authenticator = AuthenticatorId::new(ACCOUNT, [4; 8]);
    let enrolment = EnrolmentId::new(ACCOUNT, [5; 8]);
    let relying_party = RelyingPartyId::from_bytes([6; 16]);
    let text = DisplayText::recorded;
    let signed = SignedMessage {
        payload: Bytes::from_static(b"payload"),
        signature: Bytes::from_static(&[7; 64]),
        key_id: "fingerprint".to_owned(),
    };
    let question = Question {
        number: MatchNumber::new(7, 2).unwrap(),
        salt: Salt::from_bytes([8; 32]),
        commitment: [9; 32],
        challenge: signed.clone(),
    };
    let request = Request {
        approval,
        relying_party,
        application: text("Webmail"),
        context: Context {
            source_ip: Some("2001:db8::1".parse().unwrap()),
            place: Some(text("Göteborg")),
            browser: None,
        },
        session_binding: Bytes::from_static(&[10; 16]),
        idempotency: Some(Idempotency { key_hash: [11; 32], request_hash: [12; 32] }),
        policy: Policy::default(),
    };
    let bare = Request { idempotency: None, context: Context::default(), ..request.clone() };
    let answer = RecordedAnswer {
        authenticator,
        answer_hash: [13; 32],
        payload: Bytes::from_static(b"answer"),
        signature: Bytes::from_static(&[14; 64]),
    };
    let ed25519 = SigningKey::ed25519(&[15; 32]).public_key();
    let es256 = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
    let es256 =
        countersign_envelope::PublicKey::parse(Algorithm::Es256, &HEXLOWER.decode(es256.as_bytes()).unwrap());
    let bound = |key, platform, service| {
        Event::AuthenticatorBound(AuthenticatorBound {
            authenticator,
            enrolment,
            key,
            platform,
            device_name: text("Åsa's phone"),
            push_target: PushTarget::recorded(service, "target"),
            claim_hash: [16; 32],
        })
    };
    let at = Timestamp::from_millis(1_700_000_000_123);
    let mut events = vec![
        Event::Opened(Identity { realm: Realm::recorded("example.org"), name: text("Åsa") }),
        Event::EnrolmentBegun(EnrolmentBegun {
            enrolment,
            code: EnrolmentCode::from_random(&[17; 12]),
            expires_at: at,
            relying_party,
        }),
        Event::EnrolmentCodeRefused { enrolment },
        bound(ed25519, Platform::Android, PushServiceKind::Fcm),
        bound(es256.unwrap(), Platform::Ios, PushServiceKind::Apns),
        Event::TrialRequested(TrialRequested {
            enrolment,
            authenticator,
            question: question.clone(),
            expires_at: at,
        }),
        Event::AuthenticatorActivated { authenticator, enrolment, answer_hash: [18; 32] },
        Event::AuthenticatorRevoked {
            authenticator,
            by: RevokedBy::Unenrolment { counter: 19 },
            was_active: false,
        },
        Event::AuthenticatorRevoked {
            authenticator,
            by: RevokedBy::RelyingParty(relying_party),
            was_active: true,
        },
        Event::AuthenticatorRevoked { authenticator, by: RevokedBy::Trial, was_active: false },
        Event::PushTargetReplaced {
            authenticator,
            push_target: PushTarget::recorded(PushServiceKind::Apns, "another"),
            counter: 20,
        },
        Event::PushTargetDied { authenticator, target_hash: [21; 32], reason: "Unregistered".to_owned() },
        Event::ApprovalRequested(ApprovalRequested {
            request: request.clone(),
            question: question.clone(),
            expires_at: at,
            authenticators_addressed: 2,
        }),
        Event::ApprovalRequested(ApprovalRequested {
            request: bare.clone(),
            question,
            expires_at: at,
            authenticators_addressed: 1,
        }),
        Event::ApprovalApproved { approval, answer: answer.clone(), user_verified: true },
        Event::ApprovalDenied { approval, answer: answer.clone(), reported: false },
        Event::ApprovalDenied { approval, answer, reported: true },
        Event::NumberWrong { approval, authenticator, answer_hash: [22; 32] },
        Event::ApprovalExpired { approval },
        Event::ApprovalCancelled { approval, by: relying_party },
        Event::ApprovalSuperseded { approval, by: other },
        Event::PushPaused { until: at },
    ];
    let ends = [
        EnrolmentEnd::CodeRefused,
        EnrolmentEnd::Expired,
        EnrolmentEnd::WrongNumber,
        EnrolmentEnd::Declined,
        EnrolmentEnd::Cancelled,
        EnrolmentEnd::Revoked,
    ];
    events.extend(ends.map(|reason| Event::EnrolmentEnded { enrolment, reason, answer_hash: None }));
    events.push(Event::EnrolmentEnded {
        enrolment,
        reason: EnrolmentEnd::Declined,
        answer_hash: Some([23; 32]),
    });
    let refusals = [
        RefusedBecause::Unreachable,
        RefusedBecause::TooManyWaiting,
        RefusedBecause::PushPaused,
        RefusedBecause::NumbersExhausted,
        RefusedBecause::TooManyRequests,
    ];
    let refused = |because| Event::ApprovalRefused(ApprovalRefused { request: bare.clone(), because });
    events.extend(refusals.map(refused));
    events
}

#[test]
fn every_event_is_read_as_it_was_written() {
    let codec = codec();
    for event in events() {
        let record = codec.encode(ACCOUNT, &event);
        assert_eq!(codec.decode(ACCOUNT, &record).unwrap(), Some(event));
    }
}

/// What is on disk can be read for ever. If this fails, the format has changed: it may only be added to.
#[test]
fn events_are_on_disk_as_they_always_were() {
    let codec = codec();
    let lines = events().into_iter().map(|event| {
        let record = codec.encode(ACCOUNT, &event);
        format!(
            "{} {} {} {}\n",
            record.kind,
            record.version,
            HEXLOWER.encode(&record.body),
            HEXLOWER.encode(&record.sealed)
        )
    });
    let now: String = lines.collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/decider/codec/account/on_disk.txt");
    if std::env::var_os("WRITE_ON_DISK").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let always = std::fs::read_to_string(&file).unwrap();
    for (line, (now, always)) in now.lines().zip(always.lines()).enumerate() {
        assert_eq!(now, always, "event {line}");
    }
    assert_eq!(now.lines().count(), always.lines().count());
}

#[test]
fn nothing_personal_and_no_number_is_in_the_clear() {
    let codec = codec();
    for event in events() {
        let record = codec.encode(ACCOUNT, &event);
        for personal in ["Åsa", "Göteborg", "target", "another", "payload", "answer", "2001:db8"] {
            let found = record.body.windows(personal.len()).any(|bytes| bytes == personal.as_bytes());
            assert!(!found, "{personal} in {event:?}");
        }
    }
}

#[test]
fn an_event_moved_to_another_account_does_not_open() {
    let codec = codec();
    for event in events() {
        let record = codec.encode(ACCOUNT, &event);
        if !record.sealed.is_empty() {
            let moved = codec.decode(AccountId::from_bytes([99; 16]), &record);
            assert!(matches!(moved, Err(Error::Sealed { .. })), "{moved:?}");
        }
    }
}

#[test]
fn what_is_sealed_for_one_event_does_not_open_in_another_of_its_type_and_account() {
    let codec = codec();
    let records: Vec<_> = events().iter().map(|event| codec.encode(ACCOUNT, event)).collect();
    let sealed = || records.iter().filter(|record| !record.sealed.is_empty());
    let mut swaps = 0;
    for one in sealed() {
        for other in sealed().filter(|other| other.kind == one.kind && other.body != one.body) {
            let swapped = EventRecord { sealed: other.sealed.clone(), ..one.clone() };
            let opened = codec.decode(ACCOUNT, &swapped);
            assert!(matches!(opened, Err(Error::Sealed { .. })), "{opened:?}");
            swaps += 1;
        }
    }
    assert!(swaps >= 6, "{swaps}");
    // Nor is the rest of an event changed round what is sealed in it.
    for one in sealed() {
        let mut body = one.body.to_vec();
        // A field of a later release, which this one skips.
        body.extend([0xf8, 0x7f, 0x01]);
        let opened = codec.decode(ACCOUNT, &EventRecord { body: body.into(), ..one.clone() });
        assert!(matches!(opened, Err(Error::Sealed { .. })), "{opened:?}");
    }
}

#[test]
fn an_unknown_event_is_refused_unless_it_may_be_ignored() {
    let codec = codec();
    let mut record = codec.encode(ACCOUNT, &events()[0]);
    for (kind, version) in [(9_999, 1), (record.kind, 2), (0, 1), (140, 1)] {
        record.kind = kind;
        record.version = version;
        record.may_ignore = false;
        assert_eq!(codec.decode(ACCOUNT, &record), Err(Error::Unknown { kind, version }));
    }
    record.kind = 9_999;
    record.may_ignore = true;
    assert_eq!(codec.decode(ACCOUNT, &record), Ok(None));
}

mod damaged {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A bit that flipped behind the log's checksums is an error, and never another event of the same kind.
        #[test]
        fn a_changed_seal_is_an_error(at in 0usize..10_000, bit in 0u8..8) {
            let codec = codec();
            for event in events() {
                let record = codec.encode(ACCOUNT, &event);
                if record.sealed.is_empty() {
                    continue;
                }
                let mut sealed = record.sealed.to_vec();
                let at = at % sealed.len();
                sealed[at] ^= 1 << bit;
                let changed = EventRecord { sealed: sealed.into(), ..record };
                prop_assert!(codec.decode(ACCOUNT, &changed).is_err());
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(kind in 0u32..200, body: Vec<u8>, sealed: Vec<u8>) {
            let record =
                EventRecord { kind, version: 1, may_ignore: false, body: body.into(), sealed: sealed.into() };
            let _ = codec().decode(ACCOUNT, &record);
        }
    }
}
