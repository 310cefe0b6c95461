//! Who plays in the stories: one account, its phones with real keys, two login servers, the broker's key. A phone
//! signs as phones do: it encodes a message and signs the bytes.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use countersign_domain::{
    Account, AccountId, ApprovalId, AuthenticatorId, Command, EnrolmentId, Event, RelyingPartyId, Timestamp,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
    approval::{Approval, Outcome},
    call,
    call::{VerifiedReplacePushTarget, VerifiedUnenrol},
    challenge::{Names, challenge, trial_challenge},
    claim::VerifiedClaim,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Context, EnrolmentBegun, Idempotency,
        Identity, Platform, PushServiceKind, PushTarget, Question, RecordedAnswer, RefusedBecause, Request,
        SignedMessage, TrialRequested,
    },
    limits,
    number::{MatchNumber, Salt},
    policy::Policy,
    testing::{Given, Then},
    text::{DisplayText, Realm},
};
use countersign_envelope::{Algorithm, EnrolmentCode, SigningKey, payload_type, sha256};
use countersign_proto::v1;
use prost::Message;

pub(crate) const BROKER_ID: &str = "approve.example.org";
pub(crate) const ACCOUNT: AccountId = AccountId::from_bytes([0xac; 16]);
pub(crate) const SHOP: RelyingPartyId = RelyingPartyId::from_bytes([0x51; 16]);
pub(crate) const BANK: RelyingPartyId = RelyingPartyId::from_bytes([0xba; 16]);

pub(crate) static BROKER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::ed25519(&[0xb0; 32]));

/// So many seconds into the story. Phones are enrolled in the first hundred.
pub(crate) const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

pub(crate) fn text(text: &str) -> DisplayText {
    DisplayText::parse(text, 64).expect("the stories' texts are fit to show")
}

pub(crate) fn identity() -> Identity {
    Identity { realm: Realm::parse("staff").expect("a realm"), name: text("Åsa Lindqvist") }
}

pub(crate) fn opened() -> (Timestamp, Event) {
    (at(0), Event::Opened(identity()))
}

/// The story so far.
pub(crate) fn given(history: impl IntoIterator<Item = (Timestamp, Event)>) -> Given<Account> {
    countersign_domain::testing::given(history)
}

/// An account whose phones are active, since second 10, 20, ...
pub(crate) fn account_with(phones: &[&Phone]) -> Vec<(Timestamp, Event)> {
    let mut history = vec![opened()];
    for (second, phone) in (10..).step_by(10).zip(phones) {
        history.extend(phone.enrolled(at(second)));
    }
    history
}

/// The same, with sign-ins that wait.
pub(crate) fn waiting(phones: &[&Phone], sign_ins: &[&SignIn]) -> Vec<(Timestamp, Event)> {
    let mut history = account_with(phones);
    history.extend(sign_ins.iter().map(|one| one.waits()));
    history
}

// ---- phones ----

/// A phone of the account, or one that would like to be.
#[derive(Debug)]
pub(crate) struct Phone {
    pub(crate) key: SigningKey,
    pub(crate) id: AuthenticatorId,
    pub(crate) enrolment: EnrolmentId,
    number: u8,
}

impl Phone {
    pub(crate) fn ed25519(number: u8) -> Self {
        Self::with_key(SigningKey::ed25519(&[number; 32]), number)
    }

    pub(crate) fn es256(number: u8) -> Self {
        Self::with_key(SigningKey::generate_es256().0, number)
    }

    pub(crate) fn with_key(key: SigningKey, number: u8) -> Self {
        Self {
            key,
            id: AuthenticatorId::new(ACCOUNT, [number; 8]),
            enrolment: EnrolmentId::new(ACCOUNT, [number; 8]),
            number,
        }
    }

    /// One of each algorithm: every rule about signatures holds for both.
    pub(crate) fn both() -> [Self; 2] {
        [Self::ed25519(1), Self::es256(2)]
    }

    pub(crate) fn push_target(&self) -> PushTarget {
        PushTarget::recorded(PushServiceKind::Fcm, &format!("registration-token-{}", self.number))
    }

    /// Its enrolment's code.
    pub(crate) fn code(&self) -> EnrolmentCode {
        EnrolmentCode::from_random(&[self.number; 12])
    }

    /// The number of its trial.
    pub(crate) fn trial_number(&self) -> MatchNumber {
        MatchNumber::new((u32::from(self.number) + 50) % 100, 2).expect("two digits")
    }

    pub(crate) fn begun(&self, since: Timestamp) -> (Timestamp, Event) {
        let begun = EnrolmentBegun {
            enrolment: self.enrolment,
            code: self.code(),
            expires_at: since.plus(limits::ENROLMENT_LIFETIME),
            relying_party: SHOP,
        };
        (since, Event::EnrolmentBegun(begun))
    }

    pub(crate) fn begin(&self) -> Command {
        Command::BeginEnrolment {
            identity: identity(),
            enrolment: self.enrolment,
            code: self.code(),
            relying_party: SHOP,
        }
    }

    /// What its trial asks.
    pub(crate) fn question(&self, begun_at: Timestamp) -> Question {
        let number = self.trial_number();
        let salt = Salt::from_bytes([self.number; 32]);
        let times = (begun_at, begun_at.plus(limits::ENROLMENT_LIFETIME));
        let (payload, commitment) =
            trial_challenge(BROKER_ID, &identity(), (self.enrolment, self.id), (number, &salt), times);
        Question {
            number,
            commitment,
            salt,
            challenge: signed_by_broker(payload_type::TRIAL_CHALLENGE, payload),
        }
    }

    pub(crate) fn bound(&self, claim: &v1::Envelope) -> AuthenticatorBound {
        AuthenticatorBound {
            authenticator: self.id,
            enrolment: self.enrolment,
            key: self.key.public_key(),
            platform: Platform::Android,
            device_name: text("Åsa's phone"),
            push_target: self.push_target(),
            claim_hash: hash(claim),
        }
    }

    /// The events of a claim that was good.
    pub(crate) fn bound_and_asked(&self, claim: &v1::Envelope, begun_at: Timestamp) -> [Event; 2] {
        let trial = TrialRequested {
            enrolment: self.enrolment,
            authenticator: self.id,
            question: self.question(begun_at),
            expires_at: begun_at.plus(limits::ENROLMENT_LIFETIME),
        };
        [Event::AuthenticatorBound(self.bound(claim)), Event::TrialRequested(trial)]
    }

    pub(crate) fn on_trial(&self, since: Timestamp) -> Vec<(Timestamp, Event)> {
        let asked = self.bound_and_asked(&self.claims(), since).map(|event| (since, event));
        [self.begun(since)].into_iter().chain(asked).collect()
    }

    pub(crate) fn activated(&self, answer_hash: [u8; 32]) -> Event {
        Event::AuthenticatorActivated { authenticator: self.id, enrolment: self.enrolment, answer_hash }
    }

    /// Its enrolment ended without it.
    pub(crate) fn failed(&self) -> Event {
        let reason = countersign_domain::event::EnrolmentEnd::WrongNumber;
        Event::EnrolmentEnded { enrolment: self.enrolment, reason, answer_hash: None }
    }

    pub(crate) fn enrolled(&self, since: Timestamp) -> Vec<(Timestamp, Event)> {
        let mut history = self.on_trial(since);
        history.push((since, self.activated([self.number; 32])));
        history
    }

    pub(crate) fn revoked(&self) -> Event {
        Event::AuthenticatorRevoked {
            authenticator: self.id,
            by: countersign_domain::event::RevokedBy::RelyingParty(SHOP),
            was_active: true,
        }
    }

    // What it says:

    pub(crate) fn sign(&self, payload_type: &str, message: &impl Message) -> v1::Envelope {
        let payload = message.encode_to_vec();
        v1::Envelope {
            signature: self.key.sign(payload_type, &payload).to_vec().into(),
            payload: payload.into(),
            payload_type: payload_type.to_owned(),
            key_id: self.id.to_string(),
        }
    }

    pub(crate) fn claim(&self) -> v1::EnrolmentClaim {
        let code = self.code();
        let broker_key = BROKER.public_key();
        let key = self.key.public_key();
        let algorithm = match key.algorithm() {
            Algorithm::Ed25519 => v1::SignatureAlgorithm::Ed25519,
            Algorithm::Es256 => v1::SignatureAlgorithm::Es256,
        };
        v1::EnrolmentClaim {
            broker_id: BROKER_ID.to_owned(),
            locator: code.locator().to_owned(),
            secret_mac: mac(&code, broker_key.as_bytes(), key.as_bytes()),
            broker_key: Bytes::copy_from_slice(broker_key.as_bytes()),
            authenticator_key: Some(v1::PublicKey {
                algorithm: algorithm.into(),
                key: Bytes::copy_from_slice(key.as_bytes()),
            }),
            platform: v1::Platform::Android.into(),
            push_target: Some(fcm(self.push_target().token())),
            device_name: "Åsa's phone".to_owned(),
            nonce: Bytes::from(vec![self.number; 16]),
        }
    }

    pub(crate) fn sign_claim(&self, claim: &v1::EnrolmentClaim) -> v1::Envelope {
        v1::Envelope { key_id: claim.locator.clone(), ..self.sign(payload_type::ENROLMENT_CLAIM, claim) }
    }

    /// The claim with its code.
    pub(crate) fn claims(&self) -> v1::Envelope {
        self.sign_claim(&self.claim())
    }

    pub(crate) fn trial_answer(&self, number: &str) -> v1::TrialAnswer {
        v1::TrialAnswer {
            broker_id: BROKER_ID.to_owned(),
            enrolment_id: self.enrolment.to_string(),
            challenge_hash: bytes(self.question(at(10)).challenge.payload_hash()),
            authenticator_id: self.id.to_string(),
            number: number.to_owned(),
            nonce: Bytes::from(vec![self.number; 16]),
        }
    }

    pub(crate) fn answers_trial(&self, number: &str) -> v1::Envelope {
        self.sign(payload_type::TRIAL_ANSWER, &self.trial_answer(number))
    }

    pub(crate) fn answer(&self, to: &SignIn, decision: v1::Decision) -> v1::Answer {
        v1::Answer {
            broker_id: BROKER_ID.to_owned(),
            approval_id: to.id().to_string(),
            challenge_hash: bytes(to.question().challenge.payload_hash()),
            authenticator_id: self.id.to_string(),
            decision: decision.into(),
            number: String::new(),
            user_verified: false,
            nonce: Bytes::from(vec![self.number; 16]),
        }
    }

    pub(crate) fn approval(&self, of: &SignIn, number: &str) -> v1::Answer {
        v1::Answer { number: number.to_owned(), ..self.answer(of, v1::Decision::Approve) }
    }

    pub(crate) fn approves(&self, it: &SignIn, number: &str) -> v1::Envelope {
        self.sign(payload_type::ANSWER, &self.approval(it, number))
    }

    pub(crate) fn denies(&self, it: &SignIn) -> v1::Envelope {
        self.sign(payload_type::ANSWER, &self.answer(it, v1::Decision::Deny))
    }

    pub(crate) fn reports(&self, it: &SignIn) -> v1::Envelope {
        self.sign(payload_type::ANSWER, &self.answer(it, v1::Decision::DenyAndReport))
    }

    pub(crate) fn unenrols(&self, counter: u64) -> v1::Envelope {
        let call = v1::UnenrolCall {
            broker_id: BROKER_ID.to_owned(),
            authenticator_id: self.id.to_string(),
            counter,
        };
        self.sign(payload_type::UNENROL, &call)
    }

    pub(crate) fn moves_to(&self, registration_token: &str, counter: u64) -> v1::Envelope {
        let call = v1::ReplacePushTargetCall {
            broker_id: BROKER_ID.to_owned(),
            authenticator_id: self.id.to_string(),
            counter,
            push_target: Some(fcm(registration_token)),
        };
        self.sign(payload_type::REPLACE_PUSH_TARGET, &call)
    }
}

pub(crate) fn mac(code: &EnrolmentCode, broker_key: &[u8], key: &[u8]) -> Bytes {
    bytes(code.secret().mac(code.locator(), broker_key, key))
}

pub(crate) fn fcm(registration_token: &str) -> v1::PushTarget {
    let service = v1::push_target::Service::FcmRegistrationToken(registration_token.to_owned());
    v1::PushTarget { service: Some(service) }
}

pub(crate) fn bytes(of: [u8; 32]) -> Bytes {
    Bytes::copy_from_slice(&of)
}

/// What knows an envelope again, made here once more: SHA-256 of the payload's SHA-256 and the signature.
pub(crate) fn hash(envelope: &v1::Envelope) -> [u8; 32] {
    sha256(&[&sha256(&envelope.payload)[..], &envelope.signature].concat())
}

fn signed_by_broker(payload_type: &str, payload: Vec<u8>) -> SignedMessage {
    SignedMessage {
        signature: BROKER.sign(payload_type, &payload).to_vec().into(),
        payload: payload.into(),
        key_id: BROKER.public_key().fingerprint(),
    }
}

// ---- sign-ins ----

/// One sign-in attempt: what is asked for, when, and the number that its page shows.
#[derive(Debug, Clone)]
pub(crate) struct SignIn {
    pub(crate) request: Request,
    pub(crate) number: MatchNumber,
    pub(crate) at: Timestamp,
    addressed: u32,
}

impl SignIn {
    /// The `n`th, of a browser session of its own at the shop. Its page shows this number.
    pub(crate) fn new(n: u32, number: &str, at: Timestamp) -> Self {
        let mut random = [0; 16];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let request = Request {
            approval: ApprovalId::new(ACCOUNT, random),
            relying_party: SHOP,
            application: text("Web shop"),
            context: Context {
                source_ip: Some([192, 0, 2, 7].into()),
                place: Some(text("Gothenburg, Sweden")),
                browser: Some(text("Firefox on Linux")),
            },
            session_binding: Bytes::from(format!("session of sign-in {n}")),
            idempotency: None,
            policy: Policy::default(),
        };
        let digits = u8::try_from(number.len()).expect("a few digits");
        let number = MatchNumber::new(number.parse().expect("digits"), digits).expect("so many digits");
        let policy = Policy { digits, ..request.policy };
        Self { request: Request { policy, ..request }, number, at, addressed: 1 }
    }

    pub(crate) fn of(mut self, relying_party: RelyingPartyId) -> Self {
        self.request.relying_party = relying_party;
        self
    }

    /// It waits in the same browser session.
    pub(crate) fn in_session_of(mut self, other: &Self) -> Self {
        self.request.session_binding = other.request.session_binding.clone();
        self
    }

    /// With an idempotency key, and this body.
    pub(crate) fn keyed(mut self, key: &str, body: &str) -> Self {
        let hash = |text: &str| sha256(text.as_bytes());
        self.request.idempotency = Some(Idempotency { key_hash: hash(key), request_hash: hash(body) });
        self
    }

    pub(crate) fn with_policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.request.policy);
        self
    }

    /// For so many active phones.
    pub(crate) fn addressed(mut self, phones: u32) -> Self {
        self.addressed = phones;
        self
    }

    pub(crate) fn id(&self) -> ApprovalId {
        self.request.approval
    }

    pub(crate) fn expires_at(&self) -> Timestamp {
        self.at.plus(self.request.policy.lifetime)
    }

    /// A moment in its life.
    pub(crate) fn after(&self, seconds: u64) -> Timestamp {
        self.at.plus(Duration::from_secs(seconds))
    }

    pub(crate) fn question(&self) -> Question {
        let salt = Salt::from_bytes([0x5a; 32]);
        let (account, relying_party) = (identity(), text("Shop and Sons"));
        let names = Names { broker_id: BROKER_ID, account: &account, relying_party: &relying_party };
        let (payload, commitment) = challenge(names, &self.request, self.number, &salt, self.at);
        Question {
            number: self.number,
            salt,
            commitment,
            challenge: signed_by_broker(payload_type::CHALLENGE, payload),
        }
    }

    pub(crate) fn command(&self) -> Command {
        Command::RequestApproval { request: self.request.clone(), question: Some(self.question()) }
    }

    pub(crate) fn requested(&self) -> Event {
        Event::ApprovalRequested(ApprovalRequested {
            request: self.request.clone(),
            question: self.question(),
            expires_at: self.expires_at(),
            authenticators_addressed: self.addressed,
        })
    }

    pub(crate) fn waits(&self) -> (Timestamp, Event) {
        (self.at, self.requested())
    }

    pub(crate) fn refused(&self, because: RefusedBecause) -> Event {
        Event::ApprovalRefused(ApprovalRefused { request: self.request.clone(), because })
    }

    pub(crate) fn approved(&self, by: &Phone, answer: &v1::Envelope) -> Event {
        Event::ApprovalApproved { approval: self.id(), answer: recorded(by, answer), user_verified: false }
    }

    pub(crate) fn denied(&self, by: &Phone, answer: &v1::Envelope, reported: bool) -> Event {
        Event::ApprovalDenied { approval: self.id(), answer: recorded(by, answer), reported }
    }

    pub(crate) fn number_wrong(&self, by: &Phone, answer: &v1::Envelope) -> Event {
        Event::NumberWrong { approval: self.id(), authenticator: by.id, answer_hash: hash(answer) }
    }

    pub(crate) fn expired(&self) -> Event {
        Event::ApprovalExpired { approval: self.id() }
    }

    pub(crate) fn cancelled(&self) -> Event {
        Event::ApprovalCancelled { approval: self.id(), by: self.request.relying_party }
    }

    pub(crate) fn superseded_by(&self, newer: &Self) -> Event {
        Event::ApprovalSuperseded { approval: self.id(), by: newer.id() }
    }

    pub(crate) fn cancel(&self) -> Command {
        Command::CancelApproval { approval: self.id(), relying_party: self.request.relying_party }
    }

    pub(crate) fn expire(&self) -> Command {
        Command::ExpireApproval(self.id())
    }
}

pub(crate) fn recorded(by: &Phone, answer: &v1::Envelope) -> RecordedAnswer {
    RecordedAnswer {
        authenticator: by.id,
        answer_hash: hash(answer),
        payload: answer.payload.clone(),
        signature: answer.signature.clone(),
    }
}

// ---- the story so far ----

/// What the account is asked through the public verify functions, as a node of the broker does.
pub(crate) trait Story: Sized {
    fn account(&self) -> &Account;
    fn when_answered(self, envelope: &v1::Envelope) -> Then<Account>;
    fn when_trial_answered(self, envelope: &v1::Envelope) -> Then<Account>;
    fn when_claimed(self, phone: &Phone, envelope: &v1::Envelope) -> Then<Account>;
    fn when_moved(self, envelope: &v1::Envelope) -> Then<Account>;
    fn when_unenrolled(self, envelope: &v1::Envelope) -> Then<Account>;

    /// Why an answer does not even get as far as a decision.
    fn refuses(&self, envelope: &v1::Envelope) -> call::Error {
        VerifiedAnswer::verify(self.account(), BROKER_ID, envelope).expect_err("it was taken")
    }

    fn approval(&self, of: &SignIn) -> &Approval {
        self.account().approval(of.id()).expect("it was requested")
    }

    fn outcome(&self, of: &SignIn) -> Option<Outcome> {
        self.approval(of).ending.as_ref().map(|ending| ending.outcome)
    }

    fn is_live(&self, sign_in: &SignIn) -> bool {
        self.account().live_approvals().any(|one| one.id == sign_in.id())
    }
}

impl Story for Given<Account> {
    fn account(&self) -> &Account {
        self.as_state()
    }

    #[track_caller]
    fn when_answered(self, envelope: &v1::Envelope) -> Then<Account> {
        let answer = VerifiedAnswer::verify(self.as_state(), BROKER_ID, envelope).expect("it is genuine");
        self.when(&Command::SubmitAnswer(answer))
    }

    #[track_caller]
    fn when_trial_answered(self, envelope: &v1::Envelope) -> Then<Account> {
        let answer =
            VerifiedTrialAnswer::verify(self.as_state(), BROKER_ID, envelope).expect("it is genuine");
        self.when(&Command::AnswerTrial(answer))
    }

    #[track_caller]
    fn when_claimed(self, phone: &Phone, envelope: &v1::Envelope) -> Then<Account> {
        self.when(&Command::CompleteEnrolment {
            enrolment: phone.enrolment,
            claim: VerifiedClaim::verify(BROKER_ID, envelope).expect("it is genuine"),
            broker_key: BROKER.public_key().as_bytes().to_vec(),
            authenticator: phone.id,
            question: phone.question(at(10)),
        })
    }

    #[track_caller]
    fn when_moved(self, envelope: &v1::Envelope) -> Then<Account> {
        let call =
            VerifiedReplacePushTarget::verify(self.as_state(), BROKER_ID, envelope).expect("it is genuine");
        self.when(&Command::ReplacePushTarget(call))
    }

    #[track_caller]
    fn when_unenrolled(self, envelope: &v1::Envelope) -> Then<Account> {
        let call = VerifiedUnenrol::verify(self.as_state(), BROKER_ID, envelope).expect("it is genuine");
        self.when(&Command::Unenrol(call))
    }
}
