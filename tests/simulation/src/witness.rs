//! Who sees everything: what was told to whom, what was pushed, what was logged, and what is durable. The rules are held
//! against it as it happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign::log::MemoryLog;
use countersign_domain::{Account, AccountId, ApprovalId};
use countersign_envelope::sha256;
use countersign_proto::v1::{self, OutcomeKind};
use data_encoding::HEXLOWER;

use crate::ledger::Ledger;

/// See above. Clones share it.
#[derive(Clone)]
pub(crate) struct Witness(Arc<Mutex<Seen>>);

struct Seen {
    ledger: Ledger,
    log: MemoryLog,
    trace: Vec<String>,
    wrong: Vec<String>,
    /// What each approval's outcome was said to be, by whoever said it first.
    kinds: BTreeMap<ApprovalId, OutcomeKind>,
    updates: BTreeMap<(ApprovalId, u32), v1::ApprovalUpdate>,
    /// Every number that a page has shown.
    numbers: BTreeSet<String>,
    /// Whether a broker is at work.
    at_work: bool,
    /// Whatever went elsewhere than to a page.
    texts: BTreeMap<String, String>,
}

/// What a run comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What was wrong; nothing where every rule was kept.
    pub wrong: Vec<String>,
    /// What happened, in order.
    pub trace: Vec<String>,
    /// How many approvals ended how.
    pub outcomes: BTreeMap<String, usize>,
}

impl Run {
    /// Knows the run again: the same seed gives the same.
    pub fn fingerprint(&self) -> String {
        HEXLOWER.encode(&sha256(self.trace.join("\n").as_bytes()))
    }
}

impl Witness {
    pub(crate) fn new(ledger: Ledger, log: MemoryLog) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            ledger,
            log,
            trace: Vec::new(),
            wrong: Vec::new(),
            kinds: BTreeMap::new(),
            updates: BTreeMap::new(),
            numbers: BTreeSet::new(),
            at_work: true,
            texts: BTreeMap::new(),
        })))
    }

    /// The log as it is after a crash.
    pub(crate) fn look_at(&self, log: MemoryLog) {
        self.see().log = log;
    }

    /// Something happened: a line of the trace.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        self.see().note(what.as_ref());
    }

    /// A broker is at work from now on, or not.
    pub(crate) fn is_at_work(&self, at_work: bool) {
        self.see().at_work = at_work;
    }

    /// So much time has passed.
    pub(crate) fn passes(&self, time: Duration) {
        let mut seen = self.see();
        seen.catch_up();
        let at_work = seen.at_work;
        seen.ledger.pass(time, at_work);
        seen.catch_up();
    }

    /// A challenge goes out.
    pub(crate) fn pushed(&self, approval: &str, target: &str) {
        self.see().ledger.pushed(approval, target);
    }

    /// A rule is broken.
    pub(crate) fn wrong(&self, what: impl Into<String>) {
        self.see().is_wrong(what.into());
    }

    pub(crate) fn is_content(&self) -> bool {
        self.see().wrong.is_empty()
    }

    /// A page shows this number: its approval must be durable by then.
    pub(crate) fn issued(&self, issued: &v1::Issued) {
        let mut seen = self.see();
        seen.numbers.insert(issued.match_number.clone());
        seen.catch_up();
        let known = id(&issued.approval_id).is_some_and(|id| seen.ledger.ending(id).is_some());
        if !known {
            seen.is_wrong(format!("{}: its number was told before it was durable", issued.approval_id));
        }
    }

    /// A page of an enrolment shows this number.
    pub(crate) fn trial(&self, number: &str) {
        self.see().numbers.insert(number.to_owned());
    }

    /// A number that a page has shown, for who gives it away.
    pub(crate) fn any_number(&self) -> Option<String> {
        self.see().numbers.first().cloned()
    }

    /// Somebody was told how an approval ended: rules 1 and 3.
    pub(crate) fn told(&self, who: &str, approval: &str, kind: OutcomeKind) {
        self.see().told(who, approval, kind);
    }

    /// A login server was told it in full: what the log makes of it, and so the same to everybody.
    pub(crate) fn outcome(&self, who: &str, outcome: &v1::Outcome) {
        let mut seen = self.see();
        seen.told(who, &outcome.approval_id, outcome.kind());
        let Some(durable) = id(&outcome.approval_id).and_then(|id| seen.ledger.outcome(id)) else { return };
        if durable != *outcome {
            seen.is_wrong(format!("{who} was told {outcome:?}, and by the log it is {durable:?}"));
        }
    }

    /// A phone was told that it has left: that is durable by then.
    pub(crate) fn left(&self, phone: &str) {
        let mut seen = self.see();
        seen.catch_up();
        if phone.parse().is_ok_and(|phone| seen.ledger.is_active(phone)) {
            seen.is_wrong(format!("{phone} was told that it has left before that was durable"));
        }
    }

    /// A phone has signed an answer.
    pub(crate) fn signed(&self, envelope: &v1::Envelope) {
        self.see().ledger.signed(envelope);
    }

    /// A login server was told a step: the same step has the same number on every call.
    pub(crate) fn update(&self, approval: &str, update: &v1::ApprovalUpdate) {
        let mut seen = self.see();
        let Some(id) = id(approval) else { return };
        let first = seen.updates.entry((id, update.sequence)).or_insert_with(|| update.clone()).clone();
        if first != *update {
            let sequence = update.sequence;
            seen.is_wrong(format!("{id}: step {sequence} was {first:?} once, and then {update:?}"));
        }
    }

    /// A phone was given a challenge: the same to all phones, and to the log.
    pub(crate) fn challenge(&self, approval: &str, envelope: &v1::Envelope) {
        let mut seen = self.see();
        seen.catch_up();
        let known = id(approval).and_then(|id| seen.ledger.question(id));
        let same = known.is_some_and(|question| question.challenge.payload == envelope.payload);
        if !same {
            seen.is_wrong(format!("{approval}: a phone was given another challenge than the log has"));
        }
        let text = String::from_utf8_lossy(&envelope.payload).into_owned();
        seen.text(format!("the challenge of {approval}"), text);
    }

    /// A text that is for others than the page.
    pub(crate) fn text(&self, place: impl Into<String>, text: impl Into<String>) {
        self.see().text(place.into(), text.into());
    }

    /// Every approval that the log knows.
    pub(crate) fn approvals(&self) -> Vec<ApprovalId> {
        let mut seen = self.see();
        seen.catch_up();
        seen.ledger.approvals()
    }

    /// Each account as the log has it.
    pub(crate) fn folded(&self) -> Vec<(AccountId, Account)> {
        let mut seen = self.see();
        seen.catch_up();
        seen.ledger.folded().map(|(id, account)| (id, account.clone())).collect()
    }

    /// The end: what can only be said now.
    pub(crate) fn finish(&self) -> Run {
        let mut seen = self.see();
        seen.catch_up();
        for id in seen.ledger.approvals() {
            if seen.ledger.ending(id) == Some(None) {
                seen.is_wrong(format!("{id} never ended"));
            }
        }
        let leaks: Vec<_> = seen.texts.iter().filter_map(|(text, place)| seen.leak(text, place)).collect();
        for leak in leaks {
            seen.is_wrong(leak);
        }
        let mut outcomes = BTreeMap::new();
        for id in seen.ledger.approvals() {
            if let Some(Some(kind)) = seen.ledger.ending(id) {
                *outcomes.entry(format!("{kind:?}")).or_default() += 1;
            }
        }
        Run { wrong: seen.wrong.clone(), trace: seen.trace.clone(), outcomes }
    }

    fn see(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, what: &str) {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        self.trace.push(format!("{:>9.3} {what}", elapsed.as_secs_f64()));
    }

    fn is_wrong(&mut self, what: String) {
        self.note(&format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    fn catch_up(&mut self) {
        self.ledger.catch_up(&self.log);
        for wrong in self.ledger.wrong() {
            self.is_wrong(wrong);
        }
    }

    fn told(&mut self, who: &str, approval: &str, kind: OutcomeKind) {
        self.note(&format!("{who} is told: {approval} {kind:?}"));
        self.catch_up();
        let Some(id) = id(approval) else { return self.is_wrong(format!("{approval} is no id")) };
        match self.ledger.ending(id) {
            Some(Some(durable)) if durable == kind => {}
            Some(Some(durable)) => {
                self.is_wrong(format!("{id}: {who} was told {kind:?}, and durable is {durable:?}"));
            }
            _ => self.is_wrong(format!("{id}: {who} was told {kind:?} before it was durable")),
        }
        let first = *self.kinds.entry(id).or_insert(kind);
        if first != kind {
            self.is_wrong(format!("{id}: {who} was told {kind:?}, and somebody before {first:?}"));
        }
    }

    fn text(&mut self, place: String, text: String) {
        self.texts.entry(text).or_insert(place);
    }

    /// A number that stands in a text by itself. Within longer words, as ids are, it stands by chance.
    fn leak(&self, text: &str, place: &str) -> Option<String> {
        let is_in_word = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        let number = text.split(|character| !is_in_word(character)).find(|word| self.numbers.contains(*word));
        number.map(|_| format!("a number that only a page may show stands in {place}"))
    }
}

fn id(text: &str) -> Option<ApprovalId> {
    text.parse().ok()
}

/// Takes the broker's log lines: part of the trace, and no place for a number.
#[derive(Clone)]
pub(crate) struct Lines(pub(crate) Witness);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let mut noted = String::new();
        let _ = write!(noted, "broker: {}", line.trim_end());
        self.0.note(noted);
        self.0.text("a log line", line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
