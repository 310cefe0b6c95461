//! Each target is a test, for a short time; `tests/fuzz TARGET --minutes N` gives it a long one. None may panic, and each
//! has something that must be so besides.

use std::{
    fs,
    panic::catch_unwind,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use countersign::{
    config::Config,
    decider::codec::{AccountCodec, Codec, RelyingPartyCodec, delivery},
    entropy::Entropy,
    keys::{Keys, folder, seal::Place},
    log::{
        Append, Entry, EventLog, EventRecord, Expected, LocalLog, LogConfig, OfflineLog, Position, StreamId,
        StreamKind, Urgency, heads_again, snapshot_again, verify,
    },
    projection::index::Index,
    push::{Error, apns, fcm, retry_after},
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
use http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use prost::Message;
use serde_json::Value;

const BROKER_ID: &str = "broker";
const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
static PHONE: LazyLock<AuthenticatorId> = LazyLock::new(|| AuthenticatorId::new(ACCOUNT, [2; 8]));
static APPROVAL: LazyLock<ApprovalId> = LazyLock::new(|| ApprovalId::new(ACCOUNT, [3; 16]));

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::ed25519(&[4; 32]));
/// The same keys each time, so that a seed is what it was.
#[derive(Debug)]
struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("keys");
    folder::create(&at, &NoEntropy).expect("keys are made");
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
    fuzz_envelopes("envelope", |envelope| {
        KEY.public_key().verify(&envelope.payload_type, &envelope.payload, &envelope.signature).is_ok()
    });
}

fn fuzz_envelopes(name: &str, verifies: impl Fn(&v1::Envelope) -> bool) {
    let real = signed(payload_type::ANSWER, answer().encode_to_vec().into());
    fuzz(name, &[("answer", real.encode_to_vec())], |bytes| {
        let Ok(envelope) = v1::Envelope::decode(bytes) else { return };
        assert_eq!(v1::Envelope::decode(&envelope.encode_to_vec()[..]), Ok(envelope.clone()));
        if verifies(&envelope) {
            assert_eq!((&envelope.payload, &envelope.payload_type), (&real.payload, &real.payload_type));
            assert!(verifies(&envelope));
            assert!(!verifies(&v1::Envelope { payload_type: "other".to_owned(), ..envelope }));
        }
    });
}

/// A key that is taken is the bytes that came.
#[test]
fn public_key() {
    let es256 = SigningKey::generate_es256().0.public_key();
    let real = [("ed25519", KEY.public_key().as_bytes().to_vec()), ("es256", es256.as_bytes().to_vec())];
    fuzz("public_key", &real, |bytes| {
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
    let real = [("code", code.to_text().as_bytes().to_vec()), ("uri", uri.to_text().as_bytes().to_vec())];
    fuzz("enrolment_code", &real, |bytes| {
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
    let real = [
        ("answer", answer().encode_to_vec()),
        ("list_waiting", reading.encode_to_vec()),
        ("unenrol", leaving.encode_to_vec()),
    ];
    fuzz("phone_calls", &real, |bytes| {
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
    let codec = AccountCodec::new(Arc::clone(&KEYS), Arc::new(NoEntropy));
    let records: Vec<_> = some_events().iter().map(|event| codec.encode(ACCOUNT, event)).collect();
    let names =
        ["opened", "enrolment_begun", "bound", "activated", "refused", "approved", "expired", "push_paused"];
    let bodies: Vec<_> = names.into_iter().zip(records.iter().map(|record| record.body.to_vec())).collect();
    fuzz("events", &bodies, |bytes| {
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
    let sealed = KEYS.sealer.seal(place(), b"a secret", &NoEntropy).to_vec();
    fuzz("sealed_fields", &[("secret", sealed.clone())], |bytes| {
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
    fuzz("configuration", &[("small", real.to_vec())], |bytes| {
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
    fuzz("journal", &[("five_entries", real)], |bytes| {
        fs::write(&segment, bytes).expect("it is written");
        let _ = verify(dir.path());
        let Ok(log) = OfflineLog::open(dir.path()) else { return };
        for entry in log.entries(Position::FIRST).take(1_000).flatten() {
            let at = usize::try_from(entry.position.number() - 1).expect("small");
            assert_eq!(written.get(at), Some(&entry));
        }
    });
}

/// What is read of a snapshot is the bytes that were written; of heads and of the index, what is written as what is read
/// as the same.
#[test]
fn snapshots() {
    fuzz_snapshots("snapshots", snapshot_again);
}

fn fuzz_snapshots(name: &str, again: impl Fn(&Bytes) -> Option<Vec<u8>>) {
    let head = [&[StreamKind::Account as u8][..], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
    let other = [&[StreamKind::Delivery as u8][..], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 9]].concat();
    let start = [&b"csignsnp"[..], &[0, 1, 0, 0, 0, 0, 0, 0], &[7; 16], &[0, 0, 0, 0, 0, 0, 0, 5]].concat();
    let of = |contents: &[u8]| with_checksum(&[&start, contents].concat());
    let real = [
        ("heads", of(&[head.clone(), other.clone()].concat())),
        ("heads_twice", of(&[head.clone(), other, head].concat())),
        (
            "index",
            of(br#"{"approvals":[],"ended":[],"enrolments":[],"certificates":[],"relying_parties":[]}"#),
        ),
        ("nothing", of(b"")),
    ];
    fuzz(name, &real, |bytes| {
        // What a disk does to it; and, to get past the checksum, what somebody does who knows of it.
        let checked = with_checksum(&bytes[..bytes.len().saturating_sub(4)]);
        for bytes in [bytes.to_vec(), checked] {
            let bytes = Bytes::from(bytes);
            let Some(again) = again(&bytes) else { continue };
            assert_eq!(again, bytes);
            let contents = &bytes[40..bytes.len() - 4];
            assert_ne!(Index::is_read_again(contents), Some(false));
            if let Some((again, highest)) = heads_again(contents) {
                let heads = |bytes: &[u8]| {
                    let mut heads: Vec<_> = bytes.chunks(25).map(<[u8]>::to_vec).collect();
                    heads.sort_unstable();
                    heads
                };
                let (twice, highest_twice) = heads_again(&again).expect("what was written is read");
                assert_eq!((heads(&twice), highest_twice), (heads(&again), highest));
                assert!(heads(&again).iter().all(|head| heads(contents).contains(head)));
            }
        }
    });
}

fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32c::crc32c(bytes).to_be_bytes()].concat()
}

/// What a push service says is a word fit for a log line; no phone loses its target but by a word that means it.
#[test]
fn apns_answer() {
    let dead = ["BadDeviceToken", "ExpiredToken", "Unregistered"];
    let real = [
        (
            "dead",
            &br#"410
{"reason":"Unregistered","timestamp":1699999999000}"#[..],
        ),
        ("too_many", b"429 120\n{\"reason\":\"TooManyRequests\"}"),
        ("token_expired", b"403\n{\"reason\":\"ExpiredProviderToken\"}"),
    ];
    fuzz("apns_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        let Some(error) = apns::refusal(status, &headers, body, NOW) else { return };
        assert_fit_for_a_log(&error, 64);
        if matches!(error, Error::Dead { .. }) {
            assert!(dead.contains(&error.reason()) || status == StatusCode::GONE, "{status}: {error}");
        }
    });
}

/// The same of Google's.
#[test]
fn fcm_answer() {
    let real = [
        (
            "dead",
            &br#"404
{"error":{"code":404,"status":"NOT_FOUND","details":[{"errorCode":"UNREGISTERED"}]}}"#[..],
        ),
        (
            "bad_field",
            br#"400
{"error":{"details":[{"errorCode":"INVALID_ARGUMENT"},{"fieldViolations":[{"field":"message.token"}]}]}}"#,
        ),
        (
            "quota",
            br#"429 30
{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}"#,
        ),
        (
            "unauthenticated",
            br#"401
{"error":{"status":"UNAUTHENTICATED"}}"#,
        ),
    ];
    let of_the_phone =
        ["UNREGISTERED", "SENDER_ID_MISMATCH", "message.token", "not a valid FCM registration token"];
    fuzz("fcm_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        let Some(error) = fcm::refusal(status, &headers, body, NOW) else { return };
        assert_fit_for_a_log(&error, 64 + "INVALID_ARGUMENT: ".len());
        if matches!(error, Error::Dead { .. }) {
            // What nobody reads of it need not be UTF-8.
            let Ok(said) = serde_json::from_slice::<Value>(body) else { return };
            let said = said.to_string();
            assert!(of_the_phone.iter().any(|word| said.contains(word)), "{said}: {error}");
        }
    });
}

/// A token is what was granted, is in use for a minute at least, and shown to nobody.
#[test]
fn oauth_answer() {
    let real = [
        (
            "granted",
            &br#"200
{"access_token":"ya29.a-token","expires_in":3599,"token_type":"Bearer"}"#[..],
        ),
        (
            "denied",
            br#"400
{"error":"invalid_grant","error_description":"Invalid JWT"}"#,
        ),
        ("unavailable", b"503 60\nbackend error"),
    ];
    fuzz("oauth_answer", &real.map(owned), |bytes| {
        let (status, headers, body) = http_answer(bytes);
        match fcm::granted(status, &headers, body, NOW) {
            Ok((bearer, life)) => {
                // What nobody reads of it need not be UTF-8.
                let Ok(said) = serde_json::from_slice::<Value>(body) else { return };
                // serde takes a list for a struct.
                let token =
                    said.get("access_token").or(said.get(0)).and_then(Value::as_str).expect("a token");
                assert_eq!(bearer.as_bytes(), format!("Bearer {token}").as_bytes());
                assert_eq!(format!("{bearer:?}"), "Sensitive");
                assert!(life >= Duration::from_secs(60), "{life:?}");
            }
            Err(error) => {
                assert_fit_for_a_log(&error, 192);
                assert!(
                    status != StatusCode::OK || error.reason().starts_with("the token endpoint answered")
                );
            }
        }
    });
}

/// `Retry-After` is nothing that waits for longer than an hour; a number is itself, and a date is as far off as it is.
#[test]
fn retry_after_header() {
    fuzz_retry_after("retry_after_header", retry_after);
}

fn fuzz_retry_after(name: &str, read: impl Fn(&HeaderMap, Timestamp) -> Option<Duration>) {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let real = [
        ("seconds", &b"120"[..]),
        ("date", b"Tue, 14 Nov 2023 22:14:00 GMT"),
        ("leap_day", b"Thu, 29 Feb 2024 23:59:59 GMT"),
    ];
    fuzz(name, &real.map(owned), |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let text = value.to_str().unwrap_or_default().trim().to_owned();
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        assert!(read(&headers, NOW) <= Some(HOUR), "{text}");
        if let Ok(seconds) = text.parse::<u64>()
            && !text.starts_with('+')
        {
            assert_eq!(read(&headers, NOW), Some(Duration::from_secs(seconds).min(HOUR)));
        }
        // A date that somebody else reads and writes as it stands.
        if let Ok(date) = httpdate::parse_http_date(&text)
            && httpdate::fmt_http_date(date) == text
        {
            let since_1970 = date.duration_since(std::time::UNIX_EPOCH).expect("later");
            let at = Timestamp::default().plus(since_1970);
            let before = Duration::from_secs(40).min(since_1970);
            assert_eq!(read(&headers, at.minus(before)), Some(before), "{text}");
        }
    });
}

/// What is made of a broken parser: its target fails within the time that it has in each run of the tests.
fn assert_is_found(fault: impl FnOnce() + std::panic::UnwindSafe) {
    assert!(catch_unwind(fault).is_err(), "the target does not see that the parser is broken");
}

#[test]
fn a_signature_that_leaves_out_the_nonce_is_found() {
    assert_is_found(|| {
        let real = answer().encode_to_vec();
        let nonce_at = real.len() - 16;
        fuzz_envelopes("envelope", |envelope| {
            let mut payload = envelope.payload.to_vec();
            if payload.len() == real.len() {
                payload[nonce_at..].copy_from_slice(&real[nonce_at..]);
            }
            KEY.public_key().verify(&envelope.payload_type, &payload, &envelope.signature).is_ok()
        });
    });
}

#[test]
fn a_snapshot_whose_checksum_nobody_looks_at_is_found() {
    assert_is_found(|| {
        fuzz_snapshots("snapshots", |bytes| {
            let checked = bytes.get(..bytes.len().checked_sub(4)?)?;
            snapshot_again(&with_checksum(checked).into())
        });
    });
}

#[test]
fn a_number_of_seconds_that_loses_its_fourth_digit_is_found() {
    assert_is_found(|| {
        fuzz_retry_after("retry_after_header", |headers, now| {
            let seconds = headers[RETRY_AFTER].to_str().ok().and_then(|text| text.parse::<u64>().ok());
            let read = retry_after(headers, now);
            seconds.map_or(read, |seconds| read.min(Some(Duration::from_secs(seconds % 1_000))))
        });
    });
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn owned((name, bytes): (&'static str, &[u8])) -> (&'static str, Vec<u8>) {
    (name, bytes.to_vec())
}

/// An answer as the seeds write it: status, and what `Retry-After` says, on the first line; then the body.
fn http_answer(bytes: &[u8]) -> (StatusCode, HeaderMap, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let (status, after) = head.split_at(head.len().min(3));
    let mut headers = HeaderMap::new();
    if let Some(value) = after.strip_prefix(b" ").and_then(|after| HeaderValue::from_bytes(after).ok()) {
        headers.insert(RETRY_AFTER, value);
    }
    (StatusCode::from_bytes(status).unwrap_or(StatusCode::IM_A_TEAPOT), headers, body)
}

/// Printable, of a length that makes sense, and nobody is sent away for longer than an hour.
fn assert_fit_for_a_log(error: &Error, bytes_max: usize) {
    let reason = error.reason();
    assert!(reason.len() <= bytes_max, "{reason}");
    assert!(reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{reason:?}");
    if let Error::Retry { after, .. } = error {
        assert!(*after <= Some(Duration::from_secs(60 * 60)), "{after:?}");
    }
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
