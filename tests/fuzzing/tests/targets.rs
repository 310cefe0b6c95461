//! Each target is a test, for a short time; `tests/fuzz TARGET --minutes N` gives it a long one. None may panic, and each
//! has something that must be so besides.

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use countersign::{
    config::Config,
    decider::codec::{AccountCodec, Codec, RelyingPartyCodec, delivery},
    entropy::OsEntropy,
    keys::{Keys, folder, seal::Place},
    log::{
        Append, Entry, EventLog, EventRecord, Expected, LocalLog, LogConfig, OfflineLog, Position, StreamId,
        StreamKind, Urgency, verify,
    },
};
use countersign_domain::{
    Account, AccountId, Aggregate as _, ApprovalId, AuthenticatorId, EnrolmentId, Event, RelyingPartyId,
    Timestamp,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
    call::{VerifiedRead, VerifiedReplacePushTarget, VerifiedUnenrol},
    claim::VerifiedClaim,
    event::{
        AuthenticatorBound, Context, EnrolmentBegun, Identity, Platform, PushServiceKind, PushTarget,
        RecordedAnswer, RefusedBecause, Request,
    },
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::{Algorithm, EnrolmentCode, EnrolmentUri, PublicKey, SigningKey, payload_type};
use countersign_proto::v1;
use fuzzing::fuzz;
use prost::Message;

const BROKER_ID: &str = "broker";
const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
static PHONE: LazyLock<AuthenticatorId> = LazyLock::new(|| AuthenticatorId::new(ACCOUNT, [2; 8]));
static APPROVAL: LazyLock<ApprovalId> = LazyLock::new(|| ApprovalId::new(ACCOUNT, [3; 16]));

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::ed25519(&[4; 32]));
static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("keys");
    folder::create(&at, &OsEntropy).expect("keys are made");
    Arc::new(folder::load(&at).expect("and read"))
});

fn signed(payload_type: &str, payload: Bytes) -> v1::Envelope {
    v1::Envelope {
        signature: KEY.sign(payload_type, &payload).to_vec().into(),
        payload,
        payload_type: payload_type.to_owned(),
        key_id: PHONE.to_string(),
    }
}

fn answer() -> v1::Answer {
    v1::Answer {
        broker_id: BROKER_ID.to_owned(),
        approval_id: APPROVAL.to_string(),
        challenge_hash: vec![5; 32].into(),
        authenticator_id: PHONE.to_string(),
        decision: v1::Decision::Approve.into(),
        number: "42".to_owned(),
        user_verified: true,
        nonce: vec![6; 16].into(),
    }
}

/// What verifies, verifies again; and no other bytes do under the same signature.
#[test]
fn envelope() {
    let real = signed(payload_type::ANSWER, answer().encode_to_vec().into());
    fuzz(&[real.encode_to_vec()], |bytes| {
        let Ok(envelope) = v1::Envelope::decode(bytes) else { return };
        assert_eq!(v1::Envelope::decode(&envelope.encode_to_vec()[..]), Ok(envelope.clone()));
        let key = KEY.public_key();
        if key.verify(&envelope.payload_type, &envelope.payload, &envelope.signature).is_ok() {
            assert_eq!((&envelope.payload, &envelope.payload_type), (&real.payload, &real.payload_type));
            let again = key.verify(&envelope.payload_type, &envelope.payload, &envelope.signature);
            assert!(again.is_ok() && key.verify("other", &envelope.payload, &envelope.signature).is_err());
        }
    });
}

/// A key that is taken is the bytes that came.
#[test]
fn public_key() {
    let es256 = SigningKey::generate_es256().0.public_key();
    fuzz(&[KEY.public_key().as_bytes().to_vec(), es256.as_bytes().to_vec()], |bytes| {
        for algorithm in [Algorithm::Ed25519, Algorithm::Es256] {
            if let Ok(key) = PublicKey::parse(algorithm, bytes) {
                assert_eq!(key.as_bytes(), bytes);
                assert!(key.verify("type", b"payload", &[0; 64]).is_err(), "nobody signed that");
            }
        }
    });
}

/// A code and a URI that are read are written as what is read as the same.
#[test]
fn enrolment_code() {
    let code = EnrolmentCode::from_random(&[7; 12]);
    let uri = EnrolmentUri {
        address: "https://approve.example.org:8443".to_owned(),
        code: code.clone(),
        broker_fingerprint: KEY.public_key().fingerprint(),
    };
    let real = [code.to_text().as_bytes().to_vec(), uri.to_text().as_bytes().to_vec()];
    fuzz(&real, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(code) = text.parse::<EnrolmentCode>() {
            assert!(code.to_text().parse::<EnrolmentCode>().is_ok_and(|again| again == code));
        }
        if let Ok(uri) = text.parse::<EnrolmentUri>() {
            assert!(uri.to_text().parse::<EnrolmentUri>().is_ok_and(|again| again == uri), "{uri:?}");
        }
    });
}

/// Whatever a phone signs: its payload is read after its signature, and so are the ids in it.
#[test]
fn phone_calls() {
    let account = account();
    let reading = v1::ListWaitingCall {
        broker_id: BROKER_ID.into(),
        authenticator_id: PHONE.to_string(),
        nonce: Bytes::new(),
    };
    let leaving =
        v1::UnenrolCall { broker_id: BROKER_ID.into(), authenticator_id: PHONE.to_string(), counter: 1 };
    let real = [answer().encode_to_vec(), reading.encode_to_vec(), leaving.encode_to_vec()];
    fuzz(&real, |bytes| {
        let payload = Bytes::copy_from_slice(bytes);
        let sign = |payload_type| signed(payload_type, payload.clone());
        let of_phone = |id: AuthenticatorId| assert_eq!(id, *PHONE);
        let _ = VerifiedAnswer::verify(&account, BROKER_ID, &sign(payload_type::ANSWER));
        let _ = VerifiedTrialAnswer::verify(&account, BROKER_ID, &sign(payload_type::TRIAL_ANSWER));
        let _ = VerifiedClaim::verify(BROKER_ID, &sign(payload_type::ENROLMENT_CLAIM));
        let read = VerifiedRead::list_waiting(&account, BROKER_ID, &sign(payload_type::LIST_WAITING));
        let _ = read.map(|read| of_phone(read.authenticator()));
        let fetch = VerifiedRead::fetch_challenge(&account, BROKER_ID, &sign(payload_type::FETCH_CHALLENGE));
        let _ = fetch.map(|read| of_phone(read.authenticator()));
        let left = VerifiedUnenrol::verify(&account, BROKER_ID, &sign(payload_type::UNENROL));
        let _ = left.map(|left| of_phone(left.authenticator()));
        let moved =
            VerifiedReplacePushTarget::verify(&account, BROKER_ID, &sign(payload_type::REPLACE_PUSH_TARGET));
        let _ = moved.map(|moved| of_phone(moved.authenticator()));
    });
}

/// An event that is read is written as what is read as the same, and what folds it does not care where it came from.
#[test]
fn events() {
    let codec = AccountCodec::new(Arc::clone(&KEYS), Arc::new(OsEntropy));
    let records: Vec<_> = some_events().iter().map(|event| codec.encode(ACCOUNT, event)).collect();
    let bodies: Vec<_> = records.iter().map(|record| record.body.to_vec()).collect();
    fuzz(&bodies, |bytes| {
        for record in &records {
            let record = EventRecord { body: Bytes::copy_from_slice(bytes), ..record.clone() };
            if let Ok(Some(event)) = codec.decode(ACCOUNT, &record) {
                assert_eq!(codec.decode(ACCOUNT, &codec.encode(ACCOUNT, &event)), Ok(Some(event.clone())));
                let mut account = account();
                account.evolve(&event, Timestamp::from_millis(0));
            }
            if let Ok(Some(delivery)) = delivery::decode(&record) {
                assert_eq!(delivery::decode(&delivery::encode(&delivery)), Ok(Some(delivery)));
            }
        }
        for kind in 0..128 {
            let (body, sealed) = (Bytes::copy_from_slice(bytes), Bytes::copy_from_slice(bytes));
            let record = EventRecord { kind, version: 1, may_ignore: false, body, sealed };
            let id = RelyingPartyId::from_bytes([8; 16]);
            if let Ok(Some(event)) = RelyingPartyCodec.decode(id, &record) {
                let again = RelyingPartyCodec.decode(id, &RelyingPartyCodec.encode(id, &event));
                assert_eq!(again, Ok(Some(event)));
            }
        }
    });
}

/// Nothing opens but what was sealed, as it was sealed.
#[test]
fn sealed_fields() {
    let place = || Place { account: ACCOUNT, purpose: "personal", within: b"event" };
    let sealed = KEYS.sealer.seal(place(), b"a secret", &OsEntropy).to_vec();
    fuzz(std::slice::from_ref(&sealed), |bytes| {
        assert_eq!(KEYS.sealer.open(place(), bytes).is_ok(), bytes == sealed);
    });
}

/// A configuration is taken, or refused with words.
#[test]
fn configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("countersign.toml");
    let real = b"public_url = 'http://127.0.0.1:8443'\nserver.listen = '127.0.0.1:0'\nadmin.socket = 'admin.sock'\n\
        keys.folder = 'keys'\nlog.folder = 'log'\n[approvals]\ndigits = 2\nlifetime_s = 60\n[limits]\nconnections = 9\n";
    fuzz(&[real.to_vec()], |bytes| {
        fs::write(&file, bytes).expect("it is written");
        if let Err(error) = Config::load(&file) {
            assert!(!error.to_string().is_empty());
        }
    });
}

/// Of a damaged journal nothing is read but what was written, in its place.
#[test]
fn journal() {
    let dir = tempfile::tempdir().expect("a folder");
    let written = write_log(dir.path());
    let journal = LogConfig::new(dir.path()).journal_folder();
    let segment = fs::read_dir(&journal).expect("it is there").next().expect("one").expect("segment").path();
    let real = fs::read(&segment).expect("it is read");
    fuzz(&[real], |bytes| {
        fs::write(&segment, bytes).expect("it is written");
        let _ = verify(dir.path());
        let Ok(log) = OfflineLog::open(dir.path()) else { return };
        for entry in log.entries(Position::FIRST).take(1_000).flatten() {
            let at = usize::try_from(entry.position.number() - 1).expect("small");
            assert_eq!(written.get(at), Some(&entry));
        }
    });
}

fn write_log(folder: &Path) -> Vec<Entry> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = LogConfig { segment_bytes: 64 * 1024, ..LogConfig::new(folder) };
        let log = LocalLog::open(&config, [9; 16]).expect("a new log");
        for at in 0..5_u8 {
            let append = Append {
                stream: StreamId::new(StreamKind::Account, [at % 2; 16]),
                expected: Expected::Any,
                urgency: Urgency::Now,
                recorded_at_ms: u64::from(at),
                events: vec![EventRecord {
                    kind: 1,
                    version: 1,
                    may_ignore: false,
                    body: vec![at; 40].into(),
                    sealed: Bytes::new(),
                }],
            };
            log.append(append).await.expect("it is durable");
        }
        log.close().await;
    });
    let log = OfflineLog::open(folder).expect("it opens");
    log.entries(Position::FIRST).collect::<Result<_, _>>().expect("all of it")
}

fn identity() -> Identity {
    Identity { realm: Realm::recorded("example.org"), name: DisplayText::recorded("Alice") }
}

fn some_events() -> Vec<Event> {
    let enrolment = EnrolmentId::new(ACCOUNT, [10; 8]);
    let recorded = RecordedAnswer {
        authenticator: *PHONE,
        answer_hash: [11; 32],
        payload: answer().encode_to_vec().into(),
        signature: vec![12; 64].into(),
    };
    let request = Request {
        approval: *APPROVAL,
        relying_party: RelyingPartyId::from_bytes([8; 16]),
        application: DisplayText::recorded("Webmail"),
        context: Context::default(),
        session_binding: vec![13; 16].into(),
        idempotency: None,
        policy: Policy { lifetime: Duration::from_secs(60), ..Policy::default() },
    };
    vec![
        Event::Opened(identity()),
        Event::EnrolmentBegun(EnrolmentBegun {
            enrolment,
            code: EnrolmentCode::from_random(&[7; 12]),
            expires_at: Timestamp::from_millis(600_000),
            relying_party: RelyingPartyId::from_bytes([8; 16]),
        }),
        Event::AuthenticatorBound(bound(enrolment)),
        Event::AuthenticatorActivated { authenticator: *PHONE, enrolment, answer_hash: [14; 32] },
        Event::ApprovalRefused(countersign_domain::event::ApprovalRefused {
            request,
            because: RefusedBecause::PushPaused,
        }),
        Event::ApprovalApproved { approval: *APPROVAL, answer: recorded, user_verified: true },
        Event::ApprovalExpired { approval: *APPROVAL },
        Event::PushPaused { until: Timestamp::from_millis(1) },
    ]
}

fn bound(enrolment: EnrolmentId) -> AuthenticatorBound {
    AuthenticatorBound {
        authenticator: *PHONE,
        enrolment,
        key: KEY.public_key(),
        platform: Platform::Android,
        device_name: DisplayText::recorded("A phone"),
        push_target: PushTarget::recorded(PushServiceKind::Fcm, "target"),
        claim_hash: [15; 32],
    }
}

/// An account with one phone.
fn account() -> Account {
    let mut account = Account::default();
    for event in &some_events()[..4] {
        account.evolve(event, Timestamp::from_millis(0));
    }
    account
}
