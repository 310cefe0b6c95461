//! What login servers and enrolling pages ask for.

use std::time::Duration;

use countersign::{
    api::{auth::Caller, grpc::read},
    signin::request::NewRequest,
};
use countersign_domain::{
    AccountId, Timestamp,
    event::Identity,
    limits,
    relying_party::Registration,
    text::{DisplayText, Realm},
};
use countersign_proto::v1;
use fuzzing::fuzz;
use prost::Message;
use tonic::{Code, Status};

use super::real::{KEYS, RELYING_PARTY, text};

/// What is taken is within its limits, and of the relying party; it is read as the same again, and under another key it is
/// another request with the same content. Whoever is refused is told why, in short.
#[test]
fn requests() {
    let caller = caller();
    fuzz_requests("requests", |bytes| read::request_approval(&caller, bytes, account_id).ok());
}

pub(super) fn account_id(identity: &Identity) -> AccountId {
    KEYS.account_id(&identity.realm, &identity.name)
}

/// What is asked for by these bytes, if they are a request at all.
type Read = Option<Result<NewRequest, Status>>;

pub(super) fn fuzz_requests(name: &str, request: impl Fn(&[u8]) -> Read) {
    let caller = caller();
    let account = v1::AccountName { name: "Alice".to_owned(), realm: "example.org".to_owned() };
    let approval = v1::RequestApprovalRequest {
        account: Some(account.clone()),
        application: "Webmail".to_owned(),
        context: Some(v1::Context {
            source_ip: "2001:db8::1".to_owned(),
            place: "Gothenburg".to_owned(),
            browser: "Firefox".to_owned(),
        }),
        session_binding: vec![13; 16].into(),
        idempotency_key: "a key".replace(' ', "-"),
        lifetime: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    let bare = v1::RequestApprovalRequest {
        context: None,
        idempotency_key: String::new(),
        lifetime: None,
        ..approval.clone()
    };
    let wait = v1::WaitApprovalRequest {
        approval_id: super::real::approval().to_string(),
        max_wait: Some(prost_types::Duration { seconds: 30, nanos: 500 }),
    };
    let enrolment = v1::BeginEnrolmentRequest { account: Some(account) };
    let real = [
        ("approval", approval.encode_to_vec()),
        ("bare_approval", bare.encode_to_vec()),
        ("wait", wait.encode_to_vec()),
        ("enrolment", enrolment.encode_to_vec()),
    ];
    for (name, approval) in &real[..2] {
        assert!(matches!(request(approval), Some(Ok(_))), "{name}");
    }
    fuzz(name, &real, |bytes| {
        match request(bytes) {
            Some(Ok(new)) => {
                assert_within_limits(&caller, &new);
                assert_read_again(bytes, &new, &request);
            }
            Some(Err(status)) => assert_says_why(&status),
            None => {}
        }
        match read::wait_approval(bytes) {
            Ok(Ok(wait)) => assert!(wait <= Duration::from_secs(60), "{wait:?}"),
            Ok(Err(status)) => assert_says_why(&status),
            Err(_) => {}
        }
        match read::begin_enrolment(&caller, bytes) {
            Ok(Ok(identity)) => {
                assert_eq!(identity.realm, caller.registration.realm);
                assert_fit_to_show(&identity.name, limits::ACCOUNT_NAME_CHARACTERS_MAX);
            }
            Ok(Err(status)) => assert_says_why(&status),
            Err(_) => {}
        }
    });
}

pub(super) fn caller() -> Caller {
    let registration = Registration {
        id: RELYING_PARTY,
        name: text("Shop"),
        applications: vec![text("Webmail"), text("VPN")],
        realm: Realm::recorded("example.org"),
        registered_at: Timestamp::default(),
    };
    Caller { id: RELYING_PARTY, registration }
}

fn assert_within_limits(caller: &Caller, new: &NewRequest) {
    assert_eq!(new.relying_party, caller.id);
    assert!(caller.registration.applications.contains(&new.application), "{:?}", new.application);
    assert!(limits::SESSION_BINDING_BYTES.contains(&new.session_binding.len()));
    assert!(new.lifetime.is_none_or(|lifetime| limits::APPROVAL_LIFETIME.contains(&lifetime)));
    for shown in [&new.context.place, &new.context.browser].into_iter().flatten() {
        assert_fit_to_show(shown, limits::CONTEXT_CHARACTERS_MAX);
    }
}

fn assert_fit_to_show(text: &DisplayText, most: usize) {
    assert!((1..=most).contains(&text.as_str().chars().count()), "{text:?}");
    assert!(!text.as_str().chars().any(char::is_control), "{text:?}");
}

fn assert_read_again(bytes: &[u8], new: &NewRequest, request: impl Fn(&[u8]) -> Read) {
    let message = v1::RequestApprovalRequest::decode(bytes).expect("it was read before");
    let again = request(&message.encode_to_vec()).expect("what was written is read").expect("as before");
    assert_eq!(format!("{again:?}"), format!("{new:?}"));
    let other = v1::RequestApprovalRequest { idempotency_key: "another-key".to_owned(), ..message };
    let other = request(&other.encode_to_vec()).expect("what was written is read").expect("as before");
    if let (Some(one), Some(other)) = (&new.idempotency, &other.idempotency) {
        assert_eq!((one.request_hash, one.key_hash != other.key_hash), (other.request_hash, true));
    }
}

fn assert_says_why(status: &Status) {
    assert!(matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied), "{status:?}");
    assert!(!status.message().is_empty());
    let bytes = status.message().len() + status.details().len();
    assert!(bytes <= 4_096, "{bytes} bytes: {status:?}");
}
