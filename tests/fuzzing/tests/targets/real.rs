//! Real values: one of each event, an account that has something of what phones are asked, and what is signed for it.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use countersign::{
    decider::codec::delivery::{Delivery, DeliveryStep, Subject},
    entropy::Entropy,
    keys::{Keys, folder},
};
use countersign_domain::{
    Account, AccountId, Aggregate as _, ApprovalId, AuthenticatorId, CredentialId, EnrolmentId, Event,
    RelyingPartyId, Timestamp,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Context, EnrolmentBegun, EnrolmentEnd,
        Idempotency, Identity, Platform, PushServiceKind, PushTarget, Question, RecordedAnswer,
        RefusedBecause, Request, RevokedBy, SignedMessage, TrialRequested,
    },
    number::{MatchNumber, Salt},
    policy::Policy,
    relying_party::{CredentialSecret, Event as RelyingPartyEvent, Scope},
    text::{DisplayText, Realm},
};
use countersign_envelope::{EnrolmentCode, SigningKey};
use countersign_proto::v1;
use prost::Message;

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(super) const LATER: Timestamp = Timestamp::from_millis(1_700_000_060_000);

pub(super) const BROKER_ID: &str = "broker";
pub(super) const BROKER_KEY: &[u8] = b"what the broker's key would be";
pub(super) const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
pub(super) const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes([8; 16]);
pub(super) const NUMBER: &str = "42";

/// The key of the account's phones.
pub(super) static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::ed25519(&[4; 32]));
/// That of one which would like to be.
pub(super) static NEW_KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::ed25519(&[5; 32]));

/// The same keys each time, so that a seed is what it was.
#[derive(Debug)]
pub(super) struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

pub(super) static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("keys");
    folder::create(&at, &NoEntropy).expect("keys are made");
    Arc::new(folder::load(&at).expect("and read"))
});

/// A phone that is enrolled.
pub(super) fn phone() -> AuthenticatorId {
    AuthenticatorId::new(ACCOUNT, [2; 8])
}

/// One that is on trial.
pub(super) fn on_trial() -> AuthenticatorId {
    AuthenticatorId::new(ACCOUNT, [6; 8])
}

/// A sign-in attempt that waits.
pub(super) fn approval() -> ApprovalId {
    ApprovalId::new(ACCOUNT, [3; 16])
}

/// Those of the two phones, and one whose code waits.
pub(super) fn enrolments() -> [EnrolmentId; 3] {
    [10, 11, 12].map(|number| EnrolmentId::new(ACCOUNT, [number; 8]))
}

/// The code that waits.
pub(super) fn code() -> EnrolmentCode {
    EnrolmentCode::from_random(&[7; 12])
}

pub(super) fn text(text: &str) -> DisplayText {
    DisplayText::recorded(text)
}

pub(super) fn identity() -> Identity {
    Identity { realm: Realm::recorded("example.org"), name: text("Alice") }
}

pub(super) fn question() -> Question {
    Question {
        number: MatchNumber::new(42, 2).expect("two digits"),
        salt: Salt::from_bytes([16; 32]),
        commitment: [17; 32],
        challenge: SignedMessage {
            payload: Bytes::from_static(b"a challenge"),
            signature: vec![18; 64].into(),
            key_id: "fingerprint".to_owned(),
        },
    }
}

fn request() -> Request {
    Request {
        approval: approval(),
        relying_party: RELYING_PARTY,
        application: text("Webmail"),
        context: Context {
            source_ip: "2001:db8::1".parse().ok(),
            place: Some(text("Gothenburg")),
            browser: Some(text("Firefox")),
        },
        session_binding: vec![13; 16].into(),
        idempotency: Some(Idempotency { key_hash: [19; 32], request_hash: [20; 32] }),
        policy: Policy::default(),
    }
}

fn begun(enrolment: EnrolmentId, code: EnrolmentCode) -> Event {
    Event::EnrolmentBegun(EnrolmentBegun { enrolment, code, expires_at: LATER, relying_party: RELYING_PARTY })
}

fn bound(authenticator: AuthenticatorId, enrolment: EnrolmentId) -> Event {
    Event::AuthenticatorBound(AuthenticatorBound {
        authenticator,
        enrolment,
        key: KEY.public_key(),
        platform: Platform::Android,
        device_name: text("A phone"),
        push_target: PushTarget::recorded(PushServiceKind::Fcm, "target"),
        claim_hash: [15; 32],
    })
}

fn trial_requested() -> Event {
    Event::TrialRequested(TrialRequested {
        enrolment: enrolments()[1],
        authenticator: on_trial(),
        question: question(),
        expires_at: LATER,
    })
}

fn activated() -> Event {
    let (authenticator, enrolment) = (phone(), enrolments()[0]);
    Event::AuthenticatorActivated { authenticator, enrolment, answer_hash: [14; 32] }
}

fn requested(request: Request) -> Event {
    let (question, expires_at) = (question(), LATER);
    Event::ApprovalRequested(ApprovalRequested { request, question, expires_at, authenticators_addressed: 1 })
}

/// An account with a phone, one on trial, a code and a sign-in attempt that wait.
pub(super) fn account() -> Account {
    let [first, second, third] = enrolments();
    let events = [
        Event::Opened(identity()),
        begun(first, EnrolmentCode::from_random(&[21; 12])),
        bound(phone(), first),
        activated(),
        begun(second, EnrolmentCode::from_random(&[22; 12])),
        bound(on_trial(), second),
        trial_requested(),
        begun(third, code()),
        requested(request()),
    ];
    let mut account = Account::default();
    for event in &events {
        account.evolve(event, NOW);
    }
    account
}

/// What the phone signs who approves.
pub(super) fn answer() -> v1::Answer {
    v1::Answer {
        broker_id: BROKER_ID.to_owned(),
        approval_id: approval().to_string(),
        challenge_hash: question().challenge.payload_hash().to_vec().into(),
        authenticator_id: phone().to_string(),
        decision: v1::Decision::Approve.into(),
        number: NUMBER.to_owned(),
        user_verified: true,
        nonce: vec![6; 16].into(),
    }
}

/// One of each event, with its name. One that has none here does not compile.
macro_rules! one_of_each {
    ($all:ident: $event:ident { $($name:literal $kind:ident => $value:expr,)* }) => {
        pub(super) fn $all() -> Vec<(&'static str, $event)> {
            let _ = |event: &$event| match event {
                $($event::$kind { .. } => (),)*
            };
            vec![$(($name, $value)),*]
        }
    };
}

one_of_each!(events: Event {
    "opened" Opened => Event::Opened(identity()),
    "enrolment_begun" EnrolmentBegun => begun(enrolments()[2], code()),
    "code_refused" EnrolmentCodeRefused => Event::EnrolmentCodeRefused { enrolment: enrolments()[2] },
    "enrolment_ended" EnrolmentEnded => Event::EnrolmentEnded {
        enrolment: enrolments()[1],
        reason: EnrolmentEnd::Declined,
        answer_hash: Some([23; 32]),
    },
    "bound" AuthenticatorBound => bound(phone(), enrolments()[0]),
    "trial_requested" TrialRequested => trial_requested(),
    "activated" AuthenticatorActivated => activated(),
    "revoked" AuthenticatorRevoked => Event::AuthenticatorRevoked {
        authenticator: phone(),
        by: RevokedBy::RelyingParty(RELYING_PARTY),
        was_active: true,
    },
    "target_replaced" PushTargetReplaced => Event::PushTargetReplaced {
        authenticator: phone(),
        push_target: PushTarget::recorded(PushServiceKind::Apns, "another"),
        counter: 20,
    },
    "target_died" PushTargetDied => Event::PushTargetDied {
        authenticator: phone(),
        target_hash: [21; 32],
        reason: "Unregistered".to_owned(),
    },
    "requested" ApprovalRequested => requested(request()),
    "refused" ApprovalRefused => Event::ApprovalRefused(ApprovalRefused {
        request: request(),
        because: RefusedBecause::PushPaused,
    }),
    "approved" ApprovalApproved => Event::ApprovalApproved {
        approval: approval(),
        answer: recorded_answer(),
        user_verified: true,
    },
    "denied" ApprovalDenied => Event::ApprovalDenied {
        approval: approval(),
        answer: recorded_answer(),
        reported: true,
    },
    "number_wrong" NumberWrong => Event::NumberWrong {
        approval: approval(),
        authenticator: phone(),
        answer_hash: [22; 32],
    },
    "expired" ApprovalExpired => Event::ApprovalExpired { approval: approval() },
    "cancelled" ApprovalCancelled => Event::ApprovalCancelled { approval: approval(), by: RELYING_PARTY },
    "superseded" ApprovalSuperseded => Event::ApprovalSuperseded {
        approval: approval(),
        by: ApprovalId::new(ACCOUNT, [24; 16]),
    },
    "push_paused" PushPaused => Event::PushPaused { until: LATER },
});

one_of_each!(relying_party_events: RelyingPartyEvent {
    "registered" Registered => RelyingPartyEvent::Registered {
        id: RELYING_PARTY,
        name: text("Shop"),
        applications: vec![text("Webmail"), text("VPN")],
        realm: Realm::recorded("example.org"),
    },
    "credential_issued" CredentialIssued => RelyingPartyEvent::CredentialIssued {
        id: CredentialId::new(RELYING_PARTY, [25; 8]),
        scope: Scope::SignIn,
        secret: CredentialSecret::ApiKey([26; 32]),
    },
    "credential_revoked" CredentialRevoked => {
        RelyingPartyEvent::CredentialRevoked(CredentialId::new(RELYING_PARTY, [25; 8]))
    },
});

one_of_each!(delivery_steps: DeliveryStep {
    "push_accepted" Accepted => DeliveryStep::Accepted {
        push_id: "6f2b9a1e-5d0c-4a53-9d42-1e1f0c7d8b6a".to_owned(),
    },
    "push_failed" Failed => DeliveryStep::Failed { reason: "TooManyRequests".to_owned() },
    "push_delayed" Delayed => DeliveryStep::Delayed { reason: "unreachable".to_owned() },
    "push_delivered" Delivered => DeliveryStep::Delivered,
    "challenge_opened" Opened => DeliveryStep::Opened,
});

pub(super) fn delivery(step: DeliveryStep) -> Delivery {
    Delivery { subject: Subject::Approval(approval()), authenticator: phone(), step }
}

fn recorded_answer() -> RecordedAnswer {
    RecordedAnswer {
        authenticator: phone(),
        answer_hash: [11; 32],
        payload: answer().encode_to_vec().into(),
        signature: vec![12; 64].into(),
    }
}
