//! A phone and the person who holds it: pushes arrive or do not, the person approves, denies, reports, mistypes, answers
//! late, twice, or at the same moment as somebody else. What is signed is kept and sent again until there is an answer.

mod leaving;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use countersign::{clock::Clock as _, push::PushKind};
use countersign_domain::Timestamp;
use countersign_envelope::{EnrolmentCode, SigningKey, payload_type};
use countersign_proto::v1::{
    self, OutcomeKind, authenticators_client::AuthenticatorsClient, enrolments_client::EnrolmentsClient,
};
use data_encoding::BASE64URL_NOPAD;
use prost::Message;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use self::leaving::Standing;
use crate::{
    calls::{helps_to_retry, said, with_key},
    chance::Chance,
    push::Delivered,
    stage::{REALM, Stage, lock, pause},
};

/// How often what is signed is sent before the person gives up.
const TRIES: u32 = 12;

/// A nonce for reads is good for so long at most.
const NONCE_GOOD_FOR: Duration = Duration::from_secs(120);

/// See above.
pub(crate) struct Phone {
    name: String,
    account: String,
    stage: Arc<Stage>,
    channel: Channel,
    chance: Mutex<Chance>,
    key: SigningKey,
    id: String,
    nonce: Mutex<Bytes>,
    /// A read that it has signed when it was enrolled, and when that was by the broker's clock.
    recorded: Option<(v1::Envelope, Timestamp)>,
    /// The person mistypes more often than not, on each of their phones.
    is_clumsy: bool,
    stands: Mutex<Standing>,
    /// Approvals that it has seen.
    seen: Mutex<BTreeSet<String>>,
}

/// What the person means to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Approve,
    Deny,
    Report,
    Mistype,
    Ignore,
    /// Approves, after the time is over.
    Late,
    /// Sends what nobody signed.
    Forge,
    /// Is no authenticator any more, and approves all the same.
    Leave,
}

/// From its enrolment on, until the simulation ends.
pub(crate) async fn run(
    stage: Arc<Stage>,
    name: String,
    account: String,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut pushes = stage.post.register(&name);
    let phone = Arc::new(Phone::enrol(stage, name, account).await);
    phone.stage.has_enrolled();
    loop {
        let look_after = lock(&phone.chance).millis(2_000..=6_000);
        tokio::select! {
            Some(push) = pushes.recv() => {
                tokio::spawn(Arc::clone(&phone).pushed(push));
            }
            () = pause(look_after) => phone.clone().look().await,
        }
    }
}

impl Phone {
    /// The whole of an enrolment, with the enrolling page's part. Nothing fails yet.
    async fn enrol(stage: Arc<Stage>, name: String, account: String) -> Self {
        let channel = crate::net::to_broker();
        let mut chance = Chance::of(&name, stage.seed);
        let key = SigningKey::ed25519(&chance.bytes());
        let credentials = stage.credentials().await;
        let mut page = EnrolmentsClient::new(channel.clone());
        let mut broker = AuthenticatorsClient::new(channel.clone());
        let begin = v1::BeginEnrolmentRequest {
            account: Some(v1::AccountName { realm: REALM.to_owned(), name: account.clone() }),
        };
        let begun = loop {
            match page.begin_enrolment(with_key(begin.clone(), &credentials.enrolment)).await {
                Ok(begun) => break begun.into_inner(),
                Err(_) => pause(Duration::from_millis(200)).await,
            }
        };
        let code: EnrolmentCode = begun.code.parse().expect("the broker's own code");
        let claim = claim(&stage, &name, &key, &code, chance.bytes());
        let reply = broker
            .complete_enrolment(v1::CompleteEnrolmentRequest { claim: Some(claim) })
            .await
            .expect("an enrolment without faults goes well")
            .into_inner();
        let receipt = reply.receipt.expect("a receipt");
        let receipt = v1::EnrolmentReceipt::decode(receipt.payload).expect("of this form");
        let trial = reply.trial.expect("a trial");
        let number = trial_number(&mut page, &begun.enrolment_id, &credentials.enrolment).await;
        stage.witness.trial(&number);
        let mut phone = Self {
            is_clumsy: Chance::of(&account, stage.seed).happens(20),
            name,
            account,
            channel,
            chance: Mutex::new(chance),
            key,
            id: receipt.authenticator_id.clone(),
            nonce: Mutex::new(receipt.nonce),
            recorded: None,
            stands: Mutex::new(Standing::Is),
            seen: Mutex::default(),
            stage,
        };
        phone.recorded = Some((phone.call_waiting(), phone.stage.clock.now()));
        let answer = v1::TrialAnswer {
            broker_id: phone.stage.keys.broker_id().to_owned(),
            enrolment_id: receipt.enrolment_id,
            challenge_hash: countersign_envelope::sha256(&trial.payload).to_vec().into(),
            authenticator_id: phone.id.clone(),
            number,
            nonce: phone.random(),
        };
        let answer = phone.sign(payload_type::TRIAL_ANSWER, &answer);
        broker
            .submit_answer(v1::SubmitAnswerRequest { answer: Some(answer) })
            .await
            .expect("a trial without faults goes well");
        phone
    }

    async fn pushed(self: Arc<Self>, push: Delivered) {
        pause(push.after).await;
        if push.message.kind != PushKind::Challenge {
            return;
        }
        *lock(&self.nonce) = BASE64URL_NOPAD.decode(push.message.nonce.as_bytes()).unwrap_or_default().into();
        for kind in [v1::acknowledge_request::Kind::Delivered, v1::acknowledge_request::Kind::Opened] {
            if lock(&self.chance).happens(70) {
                let request = v1::AcknowledgeRequest {
                    kind: kind.into(),
                    approval_id: push.message.id.clone(),
                    authenticator_id: self.id.clone(),
                    token: BASE64URL_NOPAD
                        .decode(push.message.acknowledgement_token.as_bytes())
                        .unwrap_or_default()
                        .into(),
                };
                let _ = self.broker().acknowledge(request).await.map_err(|status| self.hears(&status));
            }
        }
        if lock(&self.chance).happens(50) {
            self.fetch(&push.message.id).await;
        } else {
            self.look().await;
        }
    }

    /// The person opens the app.
    async fn look(self: Arc<Self>) {
        self.is_replayed().await;
        for _ in 0..3 {
            let had_left = self.stands(Standing::HasLeft);
            let call = Some(self.call_waiting());
            match self.broker().list_waiting(v1::ListWaitingRequest { call }).await {
                Ok(_) if had_left => {
                    return self
                        .stage
                        .witness
                        .wrong(format!("{} has left, and is told what waits", self.name));
                }
                Ok(reply) => {
                    let reply = reply.into_inner();
                    *lock(&self.nonce) = reply.next_nonce;
                    for challenge in reply.challenges {
                        self.consider(challenge);
                    }
                    return;
                }
                Err(status) => self.hears(&status),
            }
        }
    }

    /// Somebody sends again what it signed long ago.
    async fn is_replayed(&self) {
        let Some((call, signed_at)) = &self.recorded else { return };
        let clock = &self.stage.clock;
        let (now, times_set) = (clock.now(), clock.times_set());
        if now <= signed_at.plus(NONCE_GOOD_FOR) || lock(&self.chance).happens(50) {
            return;
        }
        let call = Some(call.clone());
        let taken = self.broker().list_waiting(v1::ListWaitingRequest { call }).await.is_ok();
        // By a clock that was set back meanwhile, it may be young again.
        if taken && clock.times_set() == times_set {
            self.stage.witness.wrong(format!("{}: a read was answered long after it was signed", self.name));
        }
    }

    fn call_waiting(&self) -> v1::Envelope {
        let call = v1::ListWaitingCall {
            broker_id: self.stage.keys.broker_id().to_owned(),
            authenticator_id: self.id.clone(),
            nonce: lock(&self.nonce).clone(),
        };
        self.sign(payload_type::LIST_WAITING, &call)
    }

    async fn fetch(self: &Arc<Self>, id: &str) {
        for _ in 0..3 {
            let call = v1::FetchChallengeCall {
                broker_id: self.stage.keys.broker_id().to_owned(),
                authenticator_id: self.id.clone(),
                nonce: lock(&self.nonce).clone(),
                id: id.to_owned(),
            };
            let call = Some(self.sign(payload_type::FETCH_CHALLENGE, &call));
            match self.broker().fetch_challenge(v1::FetchChallengeRequest { call }).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    *lock(&self.nonce) = reply.next_nonce;
                    if let Some(challenge) = reply.challenge {
                        self.consider(challenge);
                    }
                    return;
                }
                Err(status) => {
                    self.hears(&status);
                    self.hears_ending(id, &status);
                    if !helps_to_retry(&status) && status.code() != Code::Unauthenticated {
                        return;
                    }
                }
            }
        }
    }

    /// A challenge is there. It is checked, and shown once.
    fn consider(self: &Arc<Self>, envelope: v1::Envelope) {
        let key = self.stage.keys.public_key();
        let good = key.verify(payload_type::CHALLENGE, &envelope.payload, &envelope.signature).is_ok();
        let challenge = v1::Challenge::decode(envelope.payload.clone()).ok().filter(|_| good);
        let Some(challenge) = challenge else {
            return self.stage.witness.wrong(format!("{} was given what the broker did not sign", self.name));
        };
        if challenge.account_name != self.account {
            return self.stage.witness.wrong(format!("{} was given another account's challenge", self.name));
        }
        if !lock(&self.seen).insert(challenge.approval_id.clone()) {
            return;
        }
        self.stage.witness.challenge(&challenge.approval_id, &envelope);
        tokio::spawn(Arc::clone(self).decide(envelope, challenge));
    }

    async fn decide(self: Arc<Self>, envelope: v1::Envelope, challenge: v1::Challenge) {
        let intent = lock(&self.chance).one_of(&[
            (44, Intent::Approve),
            (12, Intent::Deny),
            (6, Intent::Report),
            (if self.is_clumsy { 150 } else { 8 }, Intent::Mistype),
            (12, Intent::Ignore),
            (12, Intent::Late),
            (6, Intent::Forge),
            (3, Intent::Leave),
        ]);
        let id = &challenge.approval_id;
        self.stage.witness.note(format!("{} means to {intent:?} {id}", self.name));
        self.think(intent, &challenge).await;
        if intent == Intent::Leave {
            self.leave().await;
        }
        let answer = |decision: v1::Decision, number: String| v1::Answer {
            broker_id: challenge.broker_id.clone(),
            approval_id: id.clone(),
            challenge_hash: countersign_envelope::sha256(&envelope.payload).to_vec().into(),
            authenticator_id: self.id.clone(),
            decision: decision.into(),
            number,
            user_verified: decision == v1::Decision::Approve,
            nonce: self.random(),
        };
        let shown = self.stage.seen(id);
        let said = match (intent, shown) {
            (Intent::Ignore, _) => return,
            (Intent::Deny, _) => answer(v1::Decision::Deny, String::new()),
            (Intent::Report, _) => answer(v1::Decision::DenyAndReport, String::new()),
            (Intent::Approve | Intent::Late | Intent::Forge | Intent::Leave, Some(number)) => {
                answer(v1::Decision::Approve, number)
            }
            (Intent::Mistype, Some(number)) => {
                let wrong = (number.parse::<u32>().unwrap_or_default() + 1) % 1_000_000;
                answer(v1::Decision::Approve, format!("{wrong:06}"))
            }
            // The page does not show a number: nobody can type it.
            (_, None) => answer(v1::Decision::Deny, String::new()),
        };
        let mut signed = self.sign_answer(&said);
        if intent == Intent::Forge {
            signed.signature = vec![0; 64].into();
        }
        let first = self.submit(id, &signed).await;
        if intent == Intent::Forge && first.is_some() {
            self.stage.witness.wrong(format!("{id}: an answer that nobody signed was taken"));
        }
        self.afterwards(id, &answer(v1::Decision::Deny, String::new()), (&signed, first)).await;
    }

    /// Whole seconds, often, so that people act at the same moment, each on a phone or a page of their own.
    async fn think(&self, intent: Intent, challenge: &v1::Challenge) {
        let millis = |at: Option<&prost_types::Timestamp>| {
            at.map_or(0, |at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000).max(0).cast_unsigned()
        };
        let now = self.stage.clock.now().as_millis();
        let until = if intent == Intent::Late {
            millis(challenge.expires_at.as_ref()) + lock(&self.chance).number(0..=700)
        } else if lock(&self.chance).happens(60) {
            millis(challenge.issued_at.as_ref()) + 3_000
        } else {
            now + lock(&self.chance).number(100..=9_000)
        };
        pause(Duration::from_millis(until.saturating_sub(now).min(40_000))).await;
    }

    /// The same answer again gets the same reply; another one changes nothing.
    async fn afterwards(
        &self,
        id: &str,
        another: &v1::Answer,
        (signed, first): (&v1::Envelope, Option<OutcomeKind>),
    ) {
        let Some(first) = first else { return };
        if lock(&self.chance).happens(30) {
            let after = lock(&self.chance).millis(0..=4_000);
            pause(after).await;
            let again = self.submit(id, signed).await;
            if again.is_some_and(|again| again != first) {
                self.stage.witness.wrong(format!("{id}: the same answer got {first:?}, then {again:?}"));
            }
        }
        if lock(&self.chance).happens(20) {
            let another = self.sign_answer(another);
            self.submit(id, &another).await;
        }
    }

    /// Sends it until there is a word; none if there is not, or if it is that of a broken answer.
    async fn submit(&self, id: &str, signed: &v1::Envelope) -> Option<OutcomeKind> {
        for _ in 0..TRIES {
            let request = v1::SubmitAnswerRequest { answer: Some(signed.clone()) };
            let had_left = self.stands(Standing::HasLeft);
            match self.broker().submit_answer(request).await {
                Ok(_) if had_left => {
                    self.stage.witness.wrong(format!("{id}: {} had left, and answered", self.name));
                    return None;
                }
                Ok(reply) => {
                    let outcome = reply.into_inner().outcome();
                    self.stage.witness.told(&self.name, id, outcome);
                    return Some(outcome);
                }
                Err(status) => {
                    self.hears(&status);
                    if let Some(ended) = self.hears_ending(id, &status) {
                        return Some(ended);
                    }
                    if !helps_to_retry(&status) {
                        let forged = signed.signature[..] == [0; 64];
                        let unknown = status.code() == Code::Unauthenticated && !self.stands(Standing::Is);
                        if !forged && !unknown {
                            self.stage.witness.wrong(format!("{}: {id}: {}", self.name, said(&status)));
                        }
                        return None;
                    }
                }
            }
            let after = lock(&self.chance).millis(200..=1_500);
            pause(after).await;
        }
        None
    }

    /// What an error says is for the person, and no place for a number.
    fn hears(&self, status: &Status) {
        let said = said(status);
        self.stage.witness.note(format!("{} hears {said}", self.name));
        self.stage.witness.text("an error for a phone", said);
        if let Some(nonce) = status.metadata().get_bin("countersign-nonce-bin") {
            *lock(&self.nonce) = nonce.to_bytes().unwrap_or_default();
        }
    }

    /// The outcome that stands, where the broker says so.
    fn hears_ending(&self, id: &str, status: &Status) -> Option<OutcomeKind> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.reason == "APPROVAL_ENDED")?;
        let name = info.metadata.get("outcome")?.to_uppercase().replace(' ', "_");
        let outcome = OutcomeKind::from_str_name(&format!("OUTCOME_KIND_{name}"))?;
        self.stage.witness.told(&self.name, id, outcome);
        Some(outcome)
    }

    fn broker(&self) -> AuthenticatorsClient<Channel> {
        AuthenticatorsClient::new(self.channel.clone())
    }

    fn random(&self) -> Bytes {
        lock(&self.chance).bytes::<16>().to_vec().into()
    }

    fn sign_answer(&self, answer: &v1::Answer) -> v1::Envelope {
        let signed = self.sign(payload_type::ANSWER, answer);
        self.stage.witness.signed(&signed);
        signed
    }

    fn sign(&self, payload_type: &str, message: &impl Message) -> v1::Envelope {
        envelope(&self.key, &self.id, payload_type, message)
    }
}

fn envelope(key: &SigningKey, key_id: &str, payload_type: &str, message: &impl Message) -> v1::Envelope {
    let payload = message.encode_to_vec();
    v1::Envelope {
        signature: key.sign(payload_type, &payload).to_vec().into(),
        payload: payload.into(),
        payload_type: payload_type.to_owned(),
        key_id: key_id.to_owned(),
    }
}

fn claim(
    stage: &Stage,
    target: &str,
    key: &SigningKey,
    code: &EnrolmentCode,
    nonce: [u8; 16],
) -> v1::Envelope {
    let broker_key = stage.keys.public_key().as_bytes();
    let public = key.public_key();
    let target = v1::push_target::Service::FcmRegistrationToken(target.to_owned());
    let claim = v1::EnrolmentClaim {
        broker_id: stage.keys.broker_id().to_owned(),
        locator: code.locator().to_owned(),
        secret_mac: code.secret().mac(code.locator(), broker_key, public.as_bytes()).to_vec().into(),
        broker_key: broker_key.to_vec().into(),
        authenticator_key: Some(v1::PublicKey {
            algorithm: v1::SignatureAlgorithm::Ed25519.into(),
            key: public.as_bytes().to_vec().into(),
        }),
        platform: v1::Platform::Android.into(),
        push_target: Some(v1::PushTarget { service: Some(target) }),
        device_name: "A phone".to_owned(),
        nonce: nonce.to_vec().into(),
    };
    envelope(key, code.locator(), payload_type::ENROLMENT_CLAIM, &claim)
}

async fn trial_number(page: &mut EnrolmentsClient<Channel>, enrolment: &str, key: &str) -> String {
    use v1::enrolment_update::Update;
    let watch = v1::WatchEnrolmentRequest { enrolment_id: enrolment.to_owned(), after_sequence: 0 };
    let mut updates = page.watch_enrolment(with_key(watch, key)).await.expect("it is watched").into_inner();
    loop {
        let update = updates.message().await.expect("it goes on").expect("it has not ended");
        if let Some(Update::Trial(trial)) = update.update {
            return trial.match_number;
        }
    }
}
