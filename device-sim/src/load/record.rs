//! What the page and the phone saw of each sign-in.

use std::time::Duration;

use countersign_proto::v1::OutcomeKind;
use tokio::time::Instant;

use super::{mix::Part, pace::now};
use crate::{phone::Played, wire::Refusal};

/// One sign-in, seen from both sides.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who, and what the phone was to do.
    pub part: Part,
    /// Its id, if the broker gave one.
    pub approval_id: Option<Box<str>>,
    /// How it ended, as the page was told.
    pub login: Result<OutcomeKind, Refusal>,
    /// The outcome was for the session that had asked.
    pub is_for_its_session: bool,
    /// What the phone did and heard; none if it never got as far.
    pub phone: Option<Played>,
    /// Why the phone did nothing, if that was not its part.
    pub phone_failed: Option<Box<str>>,
    /// When it was due.
    pub due: Instant,
    /// From when it was due until the page showed the number.
    pub to_number: Option<Duration>,
    /// From when the phone sent its answer until the page had the outcome.
    pub answer_to_outcome: Option<Duration>,
    /// From when it was due until the page had the outcome.
    pub to_outcome: Option<Duration>,
}

impl Record {
    /// The broker was asked for more than it could do, said so at once, and has made nothing of the request.
    pub fn is_shed(&self) -> bool {
        let refused = self.login.as_ref().err().filter(|_| self.approval_id.is_none());
        refused.is_some_and(|refusal| {
            refusal.code() == tonic::Code::ResourceExhausted && refusal.retry_after().is_some()
        })
    }

    /// When its page had the outcome, or gave up.
    fn ended(&self) -> Option<Instant> {
        self.to_outcome.map(|took| self.due + took)
    }

    /// How it ended, in a word.
    pub fn outcome_name(&self) -> &'static str {
        match &self.login {
            Ok(kind) => outcome_name(*kind),
            Err(_) => "none",
        }
    }
}

/// An outcome in a word.
pub fn outcome_name(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Unspecified => "unknown",
        OutcomeKind::Approved => "approved",
        OutcomeKind::Denied => "denied",
        OutcomeKind::Reported => "reported",
        OutcomeKind::WrongNumber => "wrong_number",
        OutcomeKind::Expired => "expired",
        OutcomeKind::Cancelled => "cancelled",
        OutcomeKind::Superseded => "superseded",
        OutcomeKind::Unreachable => "unreachable",
        OutcomeKind::Refused => "refused",
    }
}

/// A time in which the broker was away, or served nobody as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// It began.
    pub from: Instant,
    /// It was over.
    pub until: Instant,
}

impl Outage {
    /// Whether the sign-in waited in it.
    pub fn meets(&self, record: &Record) -> bool {
        record.due <= self.until && record.ended().is_none_or(|ended| self.from <= ended)
    }
}

/// All of them, and how long it took.
#[derive(Debug)]
pub struct Records {
    begun: Instant,
    took: Duration,
    all: Vec<Record>,
    outages: Vec<Outage>,
}

impl Records {
    pub(super) fn begin() -> Self {
        Self { begun: now(), took: Duration::ZERO, all: Vec::new(), outages: Vec::new() }
    }

    pub(super) fn push(&mut self, record: Record) {
        self.all.push(record);
    }

    pub(super) fn end(&mut self, outages: Vec<Outage>) {
        self.took = now().duration_since(self.begun);
        self.outages = outages;
    }

    /// When the broker was killed, until it served again.
    pub fn outages(&self) -> &[Outage] {
        &self.outages
    }

    /// Each, in the order in which they ended.
    pub fn all(&self) -> &[Record] {
        &self.all
    }

    /// The same, to plant something.
    pub fn all_mut(&mut self) -> &mut [Record] {
        &mut self.all
    }

    /// From the first sign-in to the last outcome.
    pub fn took(&self) -> Duration {
        self.took
    }
}
