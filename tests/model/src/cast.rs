//! Who takes part, with real keys and real signatures: all that is signed is made once, before anything is explored.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use countersign_domain::{
    Account, AccountId, Aggregate as _, ApprovalId, AuthenticatorId, Command, EnrolmentId, Event,
    RelyingPartyId, Timestamp,
    answer::VerifiedAnswer,
    challenge::{Names, challenge},
    event::{
        AuthenticatorBound, Context, Idempotency, Identity, Platform, PushServiceKind, PushTarget, Question,
        RecordedAnswer, Request, SignedMessage,
    },
    number::{MatchNumber, Salt},
    policy::Policy,
    text::{DisplayText, Realm},
};
use countersign_envelope::{SigningKey, payload_type, sha256};
use countersign_proto::v1;
use prost::Message as _;

use crate::{Asking, Call, Phone, What};

const BROKER_ID: &str = "broker";
const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes([2; 16]);

/// See above.
pub(crate) struct Cast {
    /// The account with both phones active.
    pub(crate) enrolled: Account,
    requests: BTreeMap<Asking, (Request, Question)>,
    answers: BTreeMap<(Phone, Asking, What), VerifiedAnswer>,
}

impl Cast {
    /// The second page is of the first one's session, or of another.
    pub(crate) fn new(same_session: bool) -> Self {
        let enrolled = enrolled();
        let broker = SigningKey::ed25519(&[3; 32]);
        let mut requests = BTreeMap::new();
        let mut answers = BTreeMap::new();
        for asking in Asking::ALL {
            let request = request(asking, same_session);
            let question = question(asking, &request, &broker);
            let mut asked = enrolled.clone();
            let command =
                Command::RequestApproval { request: request.clone(), question: Some(question.clone()) };
            for event in enrolled.decide(&command, moment(0)).expect("the first request is taken") {
                asked.evolve(&event, moment(0));
            }
            for phone in Phone::ALL {
                for what in What::ALL {
                    let envelope = answer(phone, asking, what, &question);
                    let answer = VerifiedAnswer::verify(&asked, BROKER_ID, &envelope).expect("it is genuine");
                    answers.insert((phone, asking, what), answer);
                }
            }
            requests.insert(asking, (request, question));
        }
        Self { enrolled, requests, answers }
    }

    pub(crate) fn ask(&self, asking: Asking) -> Command {
        let (request, question) = self.requests[&asking].clone();
        Command::RequestApproval { request, question: Some(question) }
    }

    pub(crate) fn answer(&self, phone: Phone, asking: Asking, what: What) -> Command {
        Command::SubmitAnswer(self.answers[&(phone, asking, what)].clone())
    }

    /// An answer as it would be recorded.
    pub(crate) fn recorded(&self, call: Call) -> RecordedAnswer {
        let Call::Answer(phone, asking, what) = call else { unreachable!("only answers are recorded") };
        let envelope = answer(phone, asking, what, &self.requests[&asking].1);
        RecordedAnswer {
            authenticator: id(phone),
            answer_hash: [0; 32],
            payload: envelope.payload,
            signature: envelope.signature,
        }
    }

    pub(crate) fn cancel(asking: Asking) -> Command {
        Command::CancelApproval { approval: asking.approval(), relying_party: RELYING_PARTY }
    }

    /// Under which the request of this page is known again.
    pub(crate) fn key_of(&self, asking: Asking) -> [u8; 32] {
        self.requests[&asking].0.idempotency.as_ref().expect("each has one").key_hash
    }

    pub(crate) fn number(&self, asking: Asking) -> String {
        self.requests[&asking].1.number.to_text()
    }
}

/// The moment at which the clock has moved so often: a lifetime and a little each time.
pub(crate) fn moment(clock: u8) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).plus(Duration::from_secs(61) * u32::from(clock))
}

impl Asking {
    pub(crate) fn approval(self) -> ApprovalId {
        ApprovalId::new(ACCOUNT, [self as u8; 16])
    }
}

fn key(phone: Phone) -> SigningKey {
    SigningKey::ed25519(&[10 + phone as u8; 32])
}

fn id(phone: Phone) -> AuthenticatorId {
    AuthenticatorId::new(ACCOUNT, [phone as u8; 8])
}

fn identity() -> Identity {
    Identity { realm: Realm::recorded("example.org"), name: DisplayText::recorded("Alice") }
}

fn enrolled() -> Account {
    let mut account = Account::default();
    account.evolve(&Event::Opened(identity()), moment(0));
    for phone in Phone::ALL {
        let (authenticator, enrolment) = (id(phone), EnrolmentId::new(ACCOUNT, [phone as u8; 8]));
        let bound = AuthenticatorBound {
            authenticator,
            enrolment,
            key: key(phone).public_key(),
            platform: Platform::Android,
            device_name: DisplayText::recorded("A phone"),
            push_target: PushTarget::recorded(PushServiceKind::Fcm, "target"),
            claim_hash: [phone as u8; 32],
        };
        let active = Event::AuthenticatorActivated { authenticator, enrolment, answer_hash: [0; 32] };
        account.evolve(&Event::AuthenticatorBound(bound), moment(0));
        account.evolve(&active, moment(0));
    }
    account
}

fn request(asking: Asking, same_session: bool) -> Request {
    let page = asking.page();
    let session = if same_session { 0 } else { page };
    let hash = |what: &str| sha256(format!("{what} {page}").as_bytes());
    Request {
        approval: asking.approval(),
        relying_party: RELYING_PARTY,
        application: DisplayText::recorded("Webmail"),
        context: Context::default(),
        session_binding: Bytes::from(vec![session; 16]),
        idempotency: Some(Idempotency { key_hash: hash("key"), request_hash: hash("body") }),
        policy: Policy::default(),
    }
}

fn question(asking: Asking, request: &Request, broker: &SigningKey) -> Question {
    let number = MatchNumber::new(10 + asking as u32, 2).expect("two digits");
    let salt = Salt::from_bytes([asking as u8; 32]);
    let (account, relying_party) = (identity(), DisplayText::recorded("Example"));
    let names = Names { broker_id: BROKER_ID, account: &account, relying_party: &relying_party };
    let (payload, commitment) = challenge(names, request, number, &salt, moment(0));
    let challenge = SignedMessage {
        signature: broker.sign(payload_type::CHALLENGE, &payload).to_vec().into(),
        payload: payload.into(),
        key_id: broker.public_key().fingerprint(),
    };
    Question { number, salt, commitment, challenge }
}

fn answer(phone: Phone, asking: Asking, what: What, question: &Question) -> v1::Envelope {
    let (decision, number) = match what {
        What::Approve => (v1::Decision::Approve, question.number.to_text()),
        What::Mistype => (v1::Decision::Approve, "99".to_owned()),
        What::Deny => (v1::Decision::Deny, String::new()),
    };
    let answer = v1::Answer {
        broker_id: BROKER_ID.to_owned(),
        approval_id: asking.approval().to_string(),
        challenge_hash: question.challenge.payload_hash().to_vec().into(),
        authenticator_id: id(phone).to_string(),
        decision: decision.into(),
        number,
        user_verified: false,
        nonce: Bytes::from(vec![0; 16]),
    };
    let payload = answer.encode_to_vec();
    v1::Envelope {
        signature: key(phone).sign(payload_type::ANSWER, &payload).to_vec().into(),
        payload: payload.into(),
        payload_type: payload_type::ANSWER.to_owned(),
        key_id: id(phone).to_string(),
    }
}
