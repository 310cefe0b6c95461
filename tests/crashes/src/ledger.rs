//! What the clients of the load were told, kept outside the broker, and whether the log agrees with it.

use std::{
    collections::{BTreeMap, HashMap},
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

#[derive(Debug, Default)]
struct Told {
    approvals: HashMap<String, Approval>,
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
    entries: u64,
}

impl Ledger {
    /// A login was given a number for this approval.
    pub fn issued(&self, approval_id: &str) {
        self.told().approvals.entry(approval_id.to_owned()).or_default().issued = true;
    }

    /// Somebody was told how this approval ended.
    pub fn ended(&self, approval_id: &str, outcome: OutcomeKind, whom: &str) {
        let mut told = self.told();
        let known = told.approvals.entry(approval_id.to_owned()).or_default().outcome.replace(outcome);
        if known.is_some_and(|known| known != outcome) {
            told.wrong
                .push(format!("{approval_id}: {whom} was told {outcome:?} after {known:?} had been told"));
        }
    }

    /// Something that must not happen at all.
    pub fn wrong(&self, what: String) {
        self.told().wrong.push(what);
    }

    /// How many things were told: numbers and outcomes.
    pub fn len(&self) -> usize {
        let told = self.told();
        told.approvals.values().map(|one| usize::from(one.issued) + usize::from(one.outcome.is_some())).sum()
    }

    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let told = self.told();
        wrong.extend(told.wrong.iter().cloned());
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
        Ok(wrong)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logged {
    fn event(&mut self, event: &v1::log_entry::Event) -> Result<()> {
        let body = event.body.clone();
        let kind = EventType::try_from(i32::try_from(event.kind)?)?;
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

/// Ids in the log are bytes; as text they are lower-case Crockford base32, most significant bits first.
fn id_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let digits = (0..(bytes.len() * 8).div_ceil(5))
        .map(|digit| (0..5).fold(0, |value, at| value << 1 | bit(digit * 5 + at)));
    digits.map(|value| char::from(DIGITS[value])).collect()
}
