//! What the log holds, read once more and judged by the rules, entry by entry, without the domain's `decide`: whoever
//! wrote the log, this says whether it may be there.

mod numbers;
mod outcome;
mod pause;
mod pushes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign::{
    decider::codec::{AccountCodec, Codec as _},
    keys::Keys,
    log::{Entry, EventLog as _, MemoryLog, Position, StreamKind},
};
use countersign_domain::{
    Account, AccountId, Aggregate as _, ApprovalId, AuthenticatorId, Event, Timestamp,
    event::{
        ApprovalRefused, ApprovalRequested, AuthenticatorBound, Question, RecordedAnswer, RefusedBecause,
        Request,
    },
};
use countersign_envelope::{PublicKey, commitment, payload_type, sha256};
use countersign_proto::v1::{self, OutcomeKind};
use futures::FutureExt as _;
use prost::Message as _;

use self::{numbers::Numbers, pause::Pause};
use crate::clock::SimClock;

/// The log as it is durable, judged.
pub(crate) struct Ledger {
    codec: AccountCodec,
    keys: Arc<Keys>,
    clock: Arc<SimClock>,
    next: Position,
    accounts: BTreeMap<AccountId, Book>,
    /// What phones have signed, by its hash.
    answers: BTreeMap<[u8; 32], v1::Envelope>,
    /// Which challenges were pushed to which targets.
    pushed: BTreeSet<(String, String)>,
    wrong: Vec<String>,
}

/// One account.
#[derive(Default)]
struct Book {
    phones: BTreeMap<AuthenticatorId, Phone>,
    approvals: BTreeMap<ApprovalId, Attempt>,
    by_key: BTreeMap<[u8; 32], ApprovalId>,
    numbers: Numbers,
    pause: Pause,
    /// Folded anew, by the domain.
    folded: Account,
}

struct Phone {
    key: PublicKey,
    bound_at: Timestamp,
    active: bool,
    /// Where pushes go, unless the push service said that nobody is there.
    target: Option<String>,
}

/// One sign-in attempt.
struct Attempt {
    request: Request,
    asked: Option<ApprovalRequested>,
    may_answer: BTreeSet<AuthenticatorId>,
    ended: Option<Ended>,
    /// How long the broker has been at work since, without a break.
    waited: Duration,
    /// How often the clock had been set.
    clock_set: u64,
}

/// How it ended, when, and by whose answer, if by one.
#[derive(Clone)]
struct Ended {
    kind: OutcomeKind,
    at: Timestamp,
    by: Option<AuthenticatorId>,
    user_verified: bool,
    refusal: v1::RefusalReason,
}

impl Ledger {
    pub(crate) fn new(codec: AccountCodec, keys: Arc<Keys>, clock: Arc<SimClock>) -> Self {
        Self {
            codec,
            keys,
            clock,
            next: Position::FIRST,
            accounts: BTreeMap::new(),
            answers: BTreeMap::new(),
            pushed: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    /// A phone has signed this answer.
    pub(crate) fn signed(&mut self, envelope: &v1::Envelope) {
        self.answers.insert(answer_hash(envelope), envelope.clone());
    }

    /// Reads what has become durable since.
    pub(crate) fn catch_up(&mut self, log: &MemoryLog) {
        let entry = |at| log.entry(at).now_or_never().expect("a log in memory answers at once");
        while let Some(entry) = entry(self.next).expect("a log in memory can be read") {
            self.next = entry.position.next();
            if entry.stream.kind() == StreamKind::Account {
                self.take_in(&entry);
            }
            self.look_for_numbers(&entry);
        }
    }

    /// What is wrong with what was read since the last call.
    pub(crate) fn wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    /// How an approval ended, if it is known at all and has.
    pub(crate) fn ending(&self, approval: ApprovalId) -> Option<Option<OutcomeKind>> {
        let attempt = self.accounts.get(&approval.account())?.approvals.get(&approval)?;
        Some(attempt.ended.as_ref().map(|ended| ended.kind))
    }

    /// Whether a phone may answer.
    pub(crate) fn is_active(&self, phone: AuthenticatorId) -> bool {
        let book = self.accounts.get(&phone.account());
        book.and_then(|book| book.phones.get(&phone)).is_some_and(|phone| phone.active)
    }

    /// The challenge of an approval.
    pub(crate) fn question(&self, approval: ApprovalId) -> Option<&Question> {
        let attempt = self.accounts.get(&approval.account())?.approvals.get(&approval)?;
        Some(&attempt.asked.as_ref()?.question)
    }

    /// Every approval, in order, with who asked for it.
    pub(crate) fn approvals(&self) -> Vec<ApprovalId> {
        self.accounts.values().flat_map(|book| book.approvals.keys().copied()).collect()
    }

    /// Each account, folded anew.
    pub(crate) fn folded(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.accounts.iter().map(|(id, book)| (*id, &book.folded))
    }

    fn take_in(&mut self, entry: &Entry) {
        let account = self.codec.id(entry.stream);
        let at = Timestamp::from_millis(entry.recorded_at_ms);
        let mut events = Vec::new();
        for record in &entry.events {
            match self.codec.decode(account, record) {
                Ok(event) => events.extend(event),
                Err(error) => self.wrong.push(format!("position {}: {error}", entry.position)),
            }
        }
        let book = self.accounts.entry(account).or_default();
        for event in &events {
            book.numbers.see_clock(at);
            book.pause.see_clock(at);
            // A clock that is set ends what nobody can say the time of any more.
            if let Event::ApprovalExpired { approval } = event
                && self.clock.times_set() == 0
                && book.in_time(*approval, at).is_ok()
            {
                self.wrong.push(format!("position {}: {approval} expired before its time", entry.position));
            }
            if let Err(why) = book.judge(event, at, self.clock.times_set(), (&self.keys, &self.answers)) {
                self.wrong.push(format!("position {}: {why}", entry.position));
            }
            book.folded.evolve(event, at);
        }
        if let Some(why) = book.two_in_one_session() {
            self.wrong.push(format!("position {}: {why}", entry.position));
        }
        if book.pause.is_missing() {
            self.wrong.push(format!("position {}: so many wrong numbers pause push", entry.position));
        }
    }

    /// Rule 2: a stolen log tells no number.
    fn look_for_numbers(&mut self, entry: &Entry) {
        let tells = |number: String| {
            let mut bytes = entry.events.iter().flat_map(|record| [&record.body, &record.sealed]);
            bytes.any(|bytes| bytes.windows(number.len()).any(|some| some == number.as_bytes()))
        };
        if self.accounts.values().flat_map(|book| book.numbers.texts()).any(tells) {
            self.wrong.push(format!("position {}: a number stands there in the clear", entry.position));
        }
    }
}

impl Book {
    fn judge(
        &mut self,
        event: &Event,
        at: Timestamp,
        clock_set: u64,
        (keys, answers): (&Keys, &BTreeMap<[u8; 32], v1::Envelope>),
    ) -> Result<(), String> {
        match event {
            Event::AuthenticatorBound(bound) => {
                self.phones.insert(bound.authenticator, Phone::bound(bound, at));
                Ok(())
            }
            Event::TrialRequested(trial) => {
                self.numbers.show(&trial.enrolment.to_string(), trial.question.number, at)
            }
            Event::EnrolmentEnded { enrolment, .. } => {
                self.numbers.rest(&enrolment.to_string(), at);
                Ok(())
            }
            Event::AuthenticatorActivated { authenticator, enrolment, .. } => {
                self.numbers.rest(&enrolment.to_string(), at);
                self.set_active(*authenticator, true)
            }
            Event::PushTargetDied { authenticator, .. } => self.set_target(*authenticator, None),
            Event::PushTargetReplaced { authenticator, push_target, .. } => {
                self.set_target(*authenticator, Some(push_target.token().to_owned()))
            }
            Event::AuthenticatorRevoked { authenticator, .. } => self.set_active(*authenticator, false),
            Event::ApprovalRequested(asked) => self.requested(asked, at, clock_set, keys),
            Event::ApprovalRefused(refused) => self.refused(refused, at),
            Event::ApprovalApproved { approval, answer, user_verified } => {
                self.in_time(*approval, at)?;
                let said = self.check_answer(*approval, answer, keys)?;
                let number = self.asked(*approval)?.question.number;
                if said.decision() != v1::Decision::Approve || said.number != number.to_text() {
                    return Err(format!("{approval} was approved without its number"));
                }
                if said.user_verified != *user_verified {
                    return Err(format!(
                        "{approval}: whether its person was verified, the phone said otherwise"
                    ));
                }
                let ended = Ended::by_answer(OutcomeKind::Approved, at, answer.authenticator);
                self.end(*approval, Ended { user_verified: *user_verified, ..ended })
            }
            Event::ApprovalDenied { approval, answer, reported } => {
                self.in_time(*approval, at)?;
                let said = self.check_answer(*approval, answer, keys)?.decision();
                let (kind, decision) = if *reported {
                    (OutcomeKind::Reported, v1::Decision::DenyAndReport)
                } else {
                    (OutcomeKind::Denied, v1::Decision::Deny)
                };
                if said != decision {
                    return Err(format!("{approval}: {kind:?} is recorded, and the phone said {said:?}"));
                }
                self.end(*approval, Ended::by_answer(kind, at, answer.authenticator))
            }
            // The event has the answer's hash alone: what was typed, the phone knows.
            Event::NumberWrong { approval, authenticator, answer_hash } => {
                self.in_time(*approval, at)?;
                let signed =
                    answers.get(answer_hash).ok_or(format!("{approval}: nobody typed its number"))?;
                let answer = recorded(signed, *authenticator);
                let said = self.check_answer(*approval, &answer, keys)?;
                let number = self.asked(*approval)?.question.number;
                if said.decision() != v1::Decision::Approve || said.number == number.to_text() {
                    return Err(format!("{approval}: its number was typed, and is recorded as wrong"));
                }
                let policy = self.asked(*approval)?.request.policy;
                self.pause.wrong_number(&policy, at);
                self.end(*approval, Ended::by_answer(OutcomeKind::WrongNumber, at, *authenticator))
            }
            Event::PushPaused { until } => self.pause.begin(*until, at),
            Event::ApprovalExpired { approval } => self.end(*approval, Ended::at(OutcomeKind::Expired, at)),
            Event::ApprovalCancelled { approval, .. } => {
                self.end(*approval, Ended::at(OutcomeKind::Cancelled, at))
            }
            Event::ApprovalSuperseded { approval, .. } => {
                self.end(*approval, Ended::at(OutcomeKind::Superseded, at))
            }
            _ => Ok(()),
        }
    }

    fn set_active(&mut self, phone: AuthenticatorId, active: bool) -> Result<(), String> {
        self.phones.get_mut(&phone).ok_or(format!("{phone} was never bound"))?.active = active;
        Ok(())
    }

    fn set_target(&mut self, phone: AuthenticatorId, target: Option<String>) -> Result<(), String> {
        self.phones.get_mut(&phone).ok_or(format!("{phone} was never bound"))?.target = target;
        Ok(())
    }

    fn requested(
        &mut self,
        asked: &ApprovalRequested,
        at: Timestamp,
        clock_set: u64,
        keys: &Keys,
    ) -> Result<(), String> {
        let request = &asked.request;
        let id = request.approval;
        self.numbers.show(&id.to_string(), asked.question.number, at)?;
        if self.pause.is_on(at) {
            return Err(format!("{id} is pushed, and push is paused"));
        }
        if asked.expires_at != at.plus(request.policy.lifetime) {
            return Err(format!("{id} does not live as long as it should"));
        }
        check_challenge(asked, keys)?;
        if let Some(idempotency) = &request.idempotency {
            let first = *self.by_key.entry(idempotency.key_hash).or_insert(id);
            if first != id {
                return Err(format!("one idempotency key made two approvals, {first} and {id}"));
            }
        }
        let active = self.phones.iter().filter(|(_, phone)| phone.active);
        let may_answer = active.map(|(id, _)| *id).collect();
        let (request, asked) = (request.clone(), Some(asked.clone()));
        let waited = Duration::ZERO;
        self.begin(id, Attempt { request, asked, may_answer, ended: None, waited, clock_set })
    }

    fn refused(&mut self, refused: &ApprovalRefused, at: Timestamp) -> Result<(), String> {
        let (kind, refusal) = match refused.because {
            RefusedBecause::Unreachable => (OutcomeKind::Unreachable, v1::RefusalReason::Unspecified),
            RefusedBecause::TooManyWaiting => (OutcomeKind::Refused, v1::RefusalReason::TooManyWaiting),
            RefusedBecause::PushPaused => (OutcomeKind::Refused, v1::RefusalReason::PushPaused),
            RefusedBecause::NumbersExhausted => (OutcomeKind::Refused, v1::RefusalReason::NumbersExhausted),
            RefusedBecause::TooManyRequests => (OutcomeKind::Refused, v1::RefusalReason::TooManyRequests),
        };
        let request = refused.request.clone();
        let id = request.approval;
        if refused.because == RefusedBecause::PushPaused && !self.pause.is_on(at) {
            return Err(format!("{id} was refused as if push were paused"));
        }
        let attempt = Attempt {
            request,
            asked: None,
            may_answer: BTreeSet::new(),
            ended: Some(Ended { refusal, ..Ended::at(kind, at) }),
            waited: Duration::ZERO,
            clock_set: 0,
        };
        self.begin(id, attempt)
    }

    fn begin(&mut self, id: ApprovalId, attempt: Attempt) -> Result<(), String> {
        match self.approvals.insert(id, attempt) {
            None => Ok(()),
            Some(_) => Err(format!("{id} was asked for twice")),
        }
    }

    /// Rule 3, in the log itself.
    fn end(&mut self, id: ApprovalId, ended: Ended) -> Result<(), String> {
        let attempt = self.approvals.get_mut(&id).ok_or(format!("{id} ended and never began"))?;
        self.numbers.rest(&id.to_string(), ended.at);
        let kind = ended.kind;
        match attempt.ended.replace(ended) {
            None => Ok(()),
            Some(first) => Err(format!("{id} has a second outcome: {:?}, then {kind:?}", first.kind)),
        }
    }

    fn asked(&self, id: ApprovalId) -> Result<&ApprovalRequested, String> {
        let attempt = self.approvals.get(&id).ok_or(format!("{id} ended and never began"))?;
        attempt.asked.as_ref().ok_or(format!("{id} was refused, and is answered"))
    }

    fn in_time(&self, id: ApprovalId, at: Timestamp) -> Result<(), String> {
        if at < self.asked(id)?.expires_at {
            Ok(())
        } else {
            Err(format!("{id} was answered after its time"))
        }
    }

    /// The answer that is recorded, if a phone that may answer signed it, to this very challenge.
    fn check_answer(
        &self,
        id: ApprovalId,
        answer: &RecordedAnswer,
        keys: &Keys,
    ) -> Result<v1::Answer, String> {
        let phone =
            self.phones.get(&answer.authenticator).ok_or(format!("{id}: an unknown phone answered"))?;
        let attempt = self.approvals.get(&id).ok_or(format!("{id} ended and never began"))?;
        if !phone.active || !attempt.may_answer.contains(&answer.authenticator) {
            return Err(format!("{id} was answered by a phone that was not asked"));
        }
        phone
            .key
            .verify(payload_type::ANSWER, &answer.payload, &answer.signature)
            .map_err(|_| format!("{id}: the recorded answer does not verify"))?;
        let said = v1::Answer::decode(answer.payload.clone())
            .map_err(|_| format!("{id}: the recorded answer is no answer"))?;
        let bound = said.approval_id == id.to_string()
            && said.broker_id == keys.broker_id()
            && said.authenticator_id == answer.authenticator.to_string()
            && said.challenge_hash == self.asked(id)?.question.challenge.payload_hash()[..];
        if bound { Ok(said) } else { Err(format!("{id} was answered by an answer to something else")) }
    }

    /// After an entry, a session has one sign-in that waits at most.
    fn two_in_one_session(&self) -> Option<String> {
        let mut sessions = BTreeSet::new();
        let live = self.approvals.iter().filter(|(_, one)| one.ended.is_none());
        for (id, asked) in live.filter_map(|(id, one)| Some((id, one.asked.as_ref()?))) {
            let request = &asked.request;
            if !sessions.insert((request.relying_party, request.session_binding.clone())) {
                return Some(format!("{id} waits beside another of the same session"));
            }
        }
        None
    }
}

impl Phone {
    fn bound(bound: &AuthenticatorBound, at: Timestamp) -> Self {
        let target = Some(bound.push_target.token().to_owned());
        Self { key: bound.key.clone(), bound_at: at, active: false, target }
    }
}

impl Ended {
    fn at(kind: OutcomeKind, at: Timestamp) -> Self {
        Self { kind, at, by: None, user_verified: false, refusal: v1::RefusalReason::Unspecified }
    }

    fn by_answer(kind: OutcomeKind, at: Timestamp, by: AuthenticatorId) -> Self {
        Self { by: Some(by), ..Self::at(kind, at) }
    }
}

/// The challenge is the broker's, says nothing that it should not, and commits to the number.
fn check_challenge(asked: &ApprovalRequested, keys: &Keys) -> Result<(), String> {
    let id = asked.request.approval;
    let signed = &asked.question.challenge;
    keys.public_key()
        .verify(payload_type::CHALLENGE, &signed.payload, &signed.signature)
        .map_err(|_| format!("{id}: the challenge does not verify"))?;
    let said = v1::Challenge::decode(signed.payload.clone()).map_err(|_| format!("{id}: no challenge"))?;
    if said.encode_to_vec() != signed.payload {
        return Err(format!("{id}: the challenge says more than a challenge does"));
    }
    let number = asked.question.number.to_text();
    let committed = commitment(&id.to_string(), asked.question.salt.expose(), &number);
    let right = said.approval_id == id.to_string()
        && said.broker_id == keys.broker_id()
        && said.session_binding == asked.request.session_binding
        && said.commitment == committed[..];
    if right { Ok(()) } else { Err(format!("{id}: the challenge is about something else")) }
}

/// An answer as an event would have it.
fn recorded(envelope: &v1::Envelope, authenticator: AuthenticatorId) -> RecordedAnswer {
    RecordedAnswer {
        authenticator,
        answer_hash: answer_hash(envelope),
        payload: envelope.payload.clone(),
        signature: envelope.signature.clone(),
    }
}

/// What knows an answer's envelope again.
pub(crate) fn answer_hash(envelope: &v1::Envelope) -> [u8; 32] {
    sha256(&[&sha256(&envelope.payload)[..], &envelope.signature].concat())
}
