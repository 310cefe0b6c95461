//! What the log holds, read once more and judged by the rules, entry by entry, without the domain's `decide`: whoever
//! wrote the log, this says whether it may be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign::{
    decider::codec::{AccountCodec, Codec as _},
    keys::Keys,
    log::{Entry, EventLog as _, MemoryLog, Position, StreamKind},
};
use countersign_domain::{
    Account, AccountId, Aggregate as _, ApprovalId, AuthenticatorId, Event, Timestamp,
    event::{ApprovalRequested, AuthenticatorBound, Question, RecordedAnswer, RefusedBecause},
};
use countersign_envelope::{PublicKey, commitment, payload_type, sha256};
use countersign_proto::v1::{self, OutcomeKind};
use futures::FutureExt as _;
use prost::Message as _;

use crate::clock::SimClock;

/// The log as it is durable, judged.
pub(crate) struct Ledger {
    codec: AccountCodec,
    keys: Arc<Keys>,
    clock: Arc<SimClock>,
    next: Position,
    accounts: BTreeMap<AccountId, Book>,
    wrong: Vec<String>,
}

/// One account.
#[derive(Default)]
struct Book {
    phones: BTreeMap<AuthenticatorId, Phone>,
    approvals: BTreeMap<ApprovalId, Attempt>,
    by_key: BTreeMap<[u8; 32], ApprovalId>,
    /// Folded anew, by the domain.
    folded: Account,
}

struct Phone {
    key: PublicKey,
    active: bool,
}

/// One sign-in attempt.
struct Attempt {
    asked: Option<ApprovalRequested>,
    may_answer: BTreeSet<AuthenticatorId>,
    ended: Option<OutcomeKind>,
}

impl Ledger {
    pub(crate) fn new(codec: AccountCodec, keys: Arc<Keys>, clock: Arc<SimClock>) -> Self {
        Self { codec, keys, clock, next: Position::FIRST, accounts: BTreeMap::new(), wrong: Vec::new() }
    }

    /// Reads what has become durable since.
    pub(crate) fn catch_up(&mut self, log: &MemoryLog) {
        let entry = |at| log.entry(at).now_or_never().expect("a log in memory answers at once");
        while let Some(entry) = entry(self.next).expect("a log in memory can be read") {
            self.next = entry.position.next();
            if entry.stream.kind() == StreamKind::Account {
                self.take_in(&entry);
            }
        }
    }

    /// What is wrong with what was read since the last call.
    pub(crate) fn wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    /// How an approval ended, if it is known at all and has.
    pub(crate) fn ending(&self, approval: ApprovalId) -> Option<Option<OutcomeKind>> {
        Some(self.accounts.get(&approval.account())?.approvals.get(&approval)?.ended)
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
            // A clock that is set ends what nobody can say the time of any more.
            if let Event::ApprovalExpired { approval } = event
                && !self.clock.was_set()
                && book.in_time(*approval, at).is_ok()
            {
                self.wrong.push(format!("position {}: {approval} expired before its time", entry.position));
            }
            if let Err(why) = book.judge(event, at, &self.keys) {
                self.wrong.push(format!("position {}: {why}", entry.position));
            }
            book.folded.evolve(event, at);
        }
        if let Some(why) = book.two_in_one_session() {
            self.wrong.push(format!("position {}: {why}", entry.position));
        }
    }
}

impl Book {
    fn judge(&mut self, event: &Event, at: Timestamp, keys: &Keys) -> Result<(), String> {
        match event {
            Event::AuthenticatorBound(bound) => {
                self.phones.insert(bound.authenticator, Phone::bound(bound));
                Ok(())
            }
            Event::AuthenticatorActivated { authenticator, .. } => self.set_active(*authenticator, true),
            Event::AuthenticatorRevoked { authenticator, .. } => self.set_active(*authenticator, false),
            Event::ApprovalRequested(asked) => self.requested(asked, at, keys),
            Event::ApprovalRefused(refused) => {
                let kind = match refused.because {
                    RefusedBecause::Unreachable => OutcomeKind::Unreachable,
                    _ => OutcomeKind::Refused,
                };
                let attempt = Attempt { asked: None, may_answer: BTreeSet::new(), ended: Some(kind) };
                self.begin(refused.request.approval, attempt)
            }
            Event::ApprovalApproved { approval, answer, .. } => {
                self.in_time(*approval, at)?;
                let said = self.check_answer(*approval, answer, keys)?;
                let number = self.asked(*approval)?.question.number;
                if said.decision() != v1::Decision::Approve || said.number != number.to_text() {
                    return Err(format!("{approval} was approved without its number"));
                }
                self.end(*approval, OutcomeKind::Approved)
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
                self.end(*approval, kind)
            }
            Event::NumberWrong { approval, .. } => {
                self.in_time(*approval, at)?;
                self.end(*approval, OutcomeKind::WrongNumber)
            }
            Event::ApprovalExpired { approval } => self.end(*approval, OutcomeKind::Expired),
            Event::ApprovalCancelled { approval, .. } => self.end(*approval, OutcomeKind::Cancelled),
            Event::ApprovalSuperseded { approval, .. } => self.end(*approval, OutcomeKind::Superseded),
            _ => Ok(()),
        }
    }

    fn set_active(&mut self, phone: AuthenticatorId, active: bool) -> Result<(), String> {
        self.phones.get_mut(&phone).ok_or(format!("{phone} was never bound"))?.active = active;
        Ok(())
    }

    fn requested(&mut self, asked: &ApprovalRequested, at: Timestamp, keys: &Keys) -> Result<(), String> {
        let request = &asked.request;
        let id = request.approval;
        let number = asked.question.number;
        let live = || self.approvals.values().filter(|one| one.ended.is_none());
        if live().filter_map(|one| one.asked.as_ref()).any(|other| other.question.number == number) {
            return Err(format!("two sign-ins of one account show the same number, {id} and another"));
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
        self.begin(id, Attempt { asked: Some(asked.clone()), may_answer, ended: None })
    }

    fn begin(&mut self, id: ApprovalId, attempt: Attempt) -> Result<(), String> {
        match self.approvals.insert(id, attempt) {
            None => Ok(()),
            Some(_) => Err(format!("{id} was asked for twice")),
        }
    }

    /// Rule 3, in the log itself.
    fn end(&mut self, id: ApprovalId, kind: OutcomeKind) -> Result<(), String> {
        let attempt = self.approvals.get_mut(&id).ok_or(format!("{id} ended and never began"))?;
        match attempt.ended.replace(kind) {
            None => Ok(()),
            Some(first) => Err(format!("{id} has a second outcome: {first:?}, then {kind:?}")),
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
    fn bound(bound: &AuthenticatorBound) -> Self {
        Self { key: bound.key.clone(), active: false }
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

/// What knows an answer's envelope again.
pub(crate) fn answer_hash(envelope: &v1::Envelope) -> [u8; 32] {
    sha256(&[&sha256(&envelope.payload)[..], &envelope.signature].concat())
}
