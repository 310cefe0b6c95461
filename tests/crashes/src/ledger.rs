//! What the clients of the load were told, kept outside the broker, and whether the log agrees with it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use countersign_proto::{
    event::v1::{self as stored, EventType},
    v1::{self, OutcomeKind, administration_client::AdministrationClient},
};
use prost::Message as _;
use tonic::transport::Channel;

/// What was told.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Told>);

/// Something that was told, or done at somebody's request, and that happens once: by the ids of what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// A page was given a code for this enrolment.
    Begun(String),
    /// A phone was given its receipt, as this authenticator.
    Bound(String),
    /// The phone's trial is passed.
    Active(String),
    /// A page was told that this authenticator is revoked.
    Revoked(String),
    /// The phone was told that the broker has its new push target, by the change of this counter.
    PushTarget(String, u64),
}

#[derive(Debug, Default)]
struct Told {
    approvals: HashMap<String, Approval>,
    facts: HashSet<Fact>,
    wrong: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct Approval {
    issued: bool,
    outcome: Option<OutcomeKind>,
}

/// What the log says.
#[derive(Debug, Default)]
struct Logged {
    approvals: HashMap<String, Vec<OutcomeKind>>,
    facts: HashMap<Fact, usize>,
    entries: u64,
}

impl Ledger {
    /// A login was given a number for this approval.
    pub fn issued(&self, approval_id: &str) {
        self.lock().approvals.entry(approval_id.to_owned()).or_default().issued = true;
    }

    /// Somebody was told how this approval ended.
    pub fn ended(&self, approval_id: &str, outcome: OutcomeKind, whom: &str) {
        let mut told = self.lock();
        let known = told.approvals.entry(approval_id.to_owned()).or_default().outcome.replace(outcome);
        if known.is_some_and(|known| known != outcome) {
            told.wrong
                .push(format!("{approval_id}: {whom} was told {outcome:?} after {known:?} had been told"));
        }
    }

    /// Somebody was told this.
    pub fn told(&self, fact: Fact) {
        self.lock().facts.insert(fact);
    }

    /// Something that must not happen at all.
    pub fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// How many things of each kind were told.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let told = self.lock();
        let numbers = told.approvals.values().filter(|one| one.issued).map(|_| "number".to_owned());
        let outcomes = told.approvals.values().filter_map(|one| one.outcome).map(in_words);
        let facts = told.facts.iter().map(|fact| fact.name().to_owned());
        let mut counts = BTreeMap::new();
        numbers.chain(outcomes).chain(facts).for_each(|kind| *counts.entry(kind).or_default() += 1);
        counts
    }

    /// Everything in which the log and what was told differ, and everything that is wrong with the log itself.
    pub async fn compare(&self, mut administration: AdministrationClient<Channel>) -> Result<Vec<String>> {
        let mut entries = administration.read_log(v1::ReadLogRequest::default()).await?.into_inner();
        let mut logged = Logged::default();
        let mut wrong = Vec::new();
        let mut heads = BTreeMap::new();
        while let Some(entry) = entries.message().await? {
            logged.entries += 1;
            if entry.position != logged.entries {
                wrong.push(format!("position {} where {} should be", entry.position, logged.entries));
                logged.entries = entry.position;
            }
            let head = heads.insert(entry.stream.clone(), entry.position).unwrap_or(0);
            if entry.previous != head {
                wrong.push(format!(
                    "position {}: follows {} and names {}",
                    entry.position, head, entry.previous
                ));
            }
            for event in &entry.events {
                logged.event(event).with_context(|| format!("position {}", entry.position))?;
            }
        }
        wrong.extend(self.differences(&logged));
        Ok(wrong)
    }

    /// What was told and is not so in the log, and what the log has more often than it can be.
    fn differences(&self, logged: &Logged) -> Vec<String> {
        let told = self.lock();
        let mut wrong = told.wrong.clone();
        for (id, endings) in &logged.approvals {
            if endings.len() > 1 {
                wrong.push(format!("{id}: {endings:?} in the log"));
            }
        }
        for (id, approval) in &told.approvals {
            match (logged.approvals.get(id), approval.outcome) {
                (None, _) => wrong.push(format!("{id}: was told and is not in the log")),
                (Some(endings), Some(outcome)) if endings.first() != Some(&outcome) => {
                    wrong.push(format!("{id}: {outcome:?} was told, the log has {endings:?}"));
                }
                _ => {}
            }
        }
        for (fact, times) in logged.facts.iter().filter(|(_, times)| **times > 1) {
            wrong.push(format!("{fact}: {times} times in the log"));
        }
        let lost = told.facts.iter().filter(|fact| !logged.facts.contains_key(fact));
        wrong.extend(lost.map(|fact| format!("{fact}: was told and is not in the log")));
        wrong
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fact {
    /// What an event says of this kind.
    fn logged(kind: EventType, body: &[u8]) -> Result<Option<Self>> {
        Ok(Some(match kind {
            EventType::EnrolmentBegun => {
                Self::Begun(id_text(&stored::EnrolmentBegun::decode(body)?.enrolment))
            }
            EventType::AuthenticatorBound => {
                Self::Bound(id_text(&stored::AuthenticatorBound::decode(body)?.authenticator))
            }
            EventType::AuthenticatorActivated => {
                Self::Active(id_text(&stored::AuthenticatorActivated::decode(body)?.authenticator))
            }
            EventType::AuthenticatorRevoked => {
                Self::Revoked(id_text(&stored::AuthenticatorRevoked::decode(body)?.authenticator))
            }
            EventType::PushTargetReplaced => {
                let replaced = stored::PushTargetReplaced::decode(body)?;
                Self::PushTarget(id_text(&replaced.authenticator), replaced.counter)
            }
            _ => return Ok(None),
        }))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Begun(_) => "enrolment begun",
            Self::Bound(_) => "phone bound",
            Self::Active(_) => "phone active",
            Self::Revoked(_) => "phone revoked",
            Self::PushTarget(..) => "push target",
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Begun(id)
        | Self::Bound(id)
        | Self::Active(id)
        | Self::Revoked(id)
        | Self::PushTarget(id, _)) = self;
        write!(f, "{id}: {}", self.name())?;
        if let Self::PushTarget(_, counter) = self { write!(f, " by change {counter}") } else { Ok(()) }
    }
}

impl Logged {
    fn event(&mut self, event: &v1::log_entry::Event) -> Result<()> {
        let body = event.body.clone();
        let kind = EventType::try_from(i32::try_from(event.kind)?)?;
        if let Some(fact) = Fact::logged(kind, &body)? {
            *self.facts.entry(fact).or_default() += 1;
            return Ok(());
        }
        let (approval, ending) = match kind {
            EventType::ApprovalRequested => (stored::ApprovalRequested::decode(body)?.approval, None),
            EventType::ApprovalRefused => {
                (stored::ApprovalRefused::decode(body)?.approval, Some(OutcomeKind::Refused))
            }
            EventType::ApprovalApproved => {
                (stored::ApprovalApproved::decode(body)?.approval, Some(OutcomeKind::Approved))
            }
            EventType::ApprovalDenied => {
                let denied = stored::ApprovalDenied::decode(body)?;
                let kind = if denied.reported { OutcomeKind::Reported } else { OutcomeKind::Denied };
                (denied.approval, Some(kind))
            }
            EventType::NumberWrong => {
                (stored::NumberWrong::decode(body)?.approval, Some(OutcomeKind::WrongNumber))
            }
            EventType::ApprovalExpired => {
                (stored::ApprovalExpired::decode(body)?.approval, Some(OutcomeKind::Expired))
            }
            EventType::ApprovalCancelled => {
                (stored::ApprovalCancelled::decode(body)?.approval, Some(OutcomeKind::Cancelled))
            }
            EventType::ApprovalSuperseded => {
                (stored::ApprovalSuperseded::decode(body)?.approval, Some(OutcomeKind::Superseded))
            }
            _ => return Ok(()),
        };
        self.approvals.entry(id_text(&approval)).or_default().extend(ending);
        Ok(())
    }
}

fn in_words(outcome: OutcomeKind) -> String {
    outcome.as_str_name().trim_start_matches("OUTCOME_KIND_").to_lowercase().replace('_', " ")
}

/// Ids in the log are bytes; as text they are lower-case Crockford base32, most significant bits first.
fn id_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let digits = (0..(bytes.len() * 8).div_ceil(5))
        .map(|digit| (0..5).fold(0, |value, at| value << 1 | bit(digit * 5 + at)));
    digits.map(|value| char::from(DIGITS[value])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(events: &[(EventType, Vec<u8>)]) -> Logged {
        let mut logged = Logged::default();
        for (kind, body) in events {
            let kind = u32::try_from(i32::from(*kind)).expect("type numbers are positive");
            let event = v1::log_entry::Event { kind, body: body.clone().into(), ..Default::default() };
            logged.event(&event).expect("readable");
        }
        logged
    }

    fn id(byte: u8) -> Vec<u8> {
        vec![byte; 16]
    }

    fn replaced(counter: u64) -> Vec<u8> {
        stored::PushTargetReplaced { authenticator: id(2).into(), counter }.encode_to_vec()
    }

    #[test]
    fn what_was_told_of_phones_must_be_in_the_log_once() {
        let begun = stored::EnrolmentBegun { enrolment: id(1).into(), ..Default::default() }.encode_to_vec();
        let bound =
            stored::AuthenticatorBound { authenticator: id(2).into(), ..Default::default() }.encode_to_vec();
        let active = stored::AuthenticatorActivated { authenticator: id(2).into(), ..Default::default() }
            .encode_to_vec();
        let revoked = stored::AuthenticatorRevoked { authenticator: id(2).into(), ..Default::default() }
            .encode_to_vec();
        let events = [
            (EventType::EnrolmentBegun, begun),
            (EventType::AuthenticatorBound, bound),
            (EventType::AuthenticatorActivated, active),
            // One of whose reply nobody heard.
            (EventType::PushTargetReplaced, replaced(1)),
            (EventType::PushTargetReplaced, replaced(2)),
            (EventType::AuthenticatorRevoked, revoked.clone()),
        ];
        let ledger = Ledger::default();
        let phone = id_text(&id(2));
        let facts = [
            Fact::Begun(id_text(&id(1))),
            Fact::Bound(phone.clone()),
            Fact::Active(phone.clone()),
            Fact::PushTarget(phone.clone(), 2),
            Fact::Revoked(phone.clone()),
        ];
        for fact in facts {
            ledger.told(fact);
        }
        assert_eq!(ledger.differences(&logged(&events)), Vec::<String>::new());

        for lost in [0, 1, 2, 4, 5] {
            let mut events = events.to_vec();
            events.remove(lost);
            let found = ledger.differences(&logged(&events));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with("was told and is not in the log"), "{found:?}");
        }
        let twice = [&events[..], &[(EventType::AuthenticatorRevoked, revoked)]].concat();
        assert_eq!(
            ledger.differences(&logged(&twice)),
            [format!("{phone}: phone revoked: 2 times in the log")]
        );
    }

    #[test]
    fn an_outcome_that_was_told_must_be_the_one_in_the_log() {
        let cancelled =
            stored::ApprovalCancelled { approval: id(3).into(), ..Default::default() }.encode_to_vec();
        let ledger = Ledger::default();
        ledger.issued(&id_text(&id(3)));
        ledger.ended(&id_text(&id(3)), OutcomeKind::Superseded, "the login");
        let found = ledger.differences(&logged(&[(EventType::ApprovalCancelled, cancelled)]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("Superseded was told"), "{found:?}");
    }
}
