//! The one task that follows the log. What it reads is durable; whoever wrote it, this broker or another, everybody
//! who waits hears of it here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use countersign_domain::{
    AccountId, ApprovalId, EnrolmentId, Event, Timestamp,
    account::{Effect, react},
};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Board, Index, board, index, said};
use crate::{
    decider::{
        self, Decider,
        codec::{
            AccountCodec, Codec, RelyingPartyCodec, delivery,
            delivery::{Delivery, DeliveryStep, Subject},
        },
    },
    log::{Entry, EventLog, Position, ReadError, StreamKind},
    telemetry::{metrics, traces},
};

/// A snapshot of the index is kept each time that so many entries have passed: as many as a start reads in a second.
const SNAPSHOT_EVERY: u64 = 100_000;

/// Something that happened to a push, with when: what a waiting login is shown.
pub type ApprovalBoard = Board<ApprovalId, (Timestamp, Delivery)>;
/// Enrolments have no steps of their own on the board: who waits reads them from the log.
pub type EnrolmentBoard = Board<EnrolmentId, ()>;

/// Follows the log.
pub struct Follower {
    log: Arc<dyn EventLog>,
    accounts: Arc<Decider<AccountCodec>>,
    relying_parties: Arc<Decider<RelyingPartyCodec>>,
    index: Arc<Index>,
    approvals: Arc<ApprovalBoard>,
    enrolments: Arc<EnrolmentBoard>,
    effects: mpsc::Sender<(AccountId, Effect)>,
    next: Position,
    keeping: Option<AbortOnDropHandle<()>>,
}

/// What the follower keeps up to date.
#[derive(Debug, Clone)]
pub struct ReadModels {
    /// What is live.
    pub index: Arc<Index>,
    /// Who waits for an approval.
    pub approvals: Arc<ApprovalBoard>,
    /// Who waits for an enrolment.
    pub enrolments: Arc<EnrolmentBoard>,
}

impl Follower {
    /// Reads what happened while no broker ran, and puts on the board what is still live. Nothing is dispatched yet.
    pub async fn catch_up(
        log: Arc<dyn EventLog>,
        accounts: Arc<Decider<AccountCodec>>,
        relying_parties: Arc<Decider<RelyingPartyCodec>>,
        effects: mpsc::Sender<(AccountId, Effect)>,
    ) -> Result<(Self, ReadModels), decider::Error> {
        let kept = log.snapshot(index::SNAPSHOT).await;
        let kept = kept.and_then(|(position, bytes)| Some((position, Index::from_bytes(&bytes)?)));
        let (kept_until, index) = kept.map_or((None, Index::default()), |(at, index)| (Some(at), index));
        let mut follower = Self {
            log,
            accounts,
            relying_parties,
            index: Arc::new(index),
            approvals: Arc::default(),
            enrolments: Arc::default(),
            effects,
            next: Position::after(kept_until),
            keeping: None,
        };
        let mut entries = follower.log.read_all(follower.next);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            follower.fold(&entry);
            follower.index.know(entry.position);
            follower.next = entry.position.next();
        }
        follower.put_on_board().await?;
        let models = ReadModels {
            index: Arc::clone(&follower.index),
            approvals: Arc::clone(&follower.approvals),
            enrolments: Arc::clone(&follower.enrolments),
        };
        Ok((follower, models))
    }

    /// Takes up what was live when the last broker stopped, then follows the log to its end.
    pub async fn run(mut self) -> Result<(), ReadError> {
        for (id, expires_at) in self.index.live_approvals() {
            self.effect(id.account(), Effect::PushChallenge(id)).await;
            self.effect(id.account(), Effect::ExpireApproval(id, expires_at)).await;
        }
        for (id, expires_at) in self.index.live_enrolments() {
            self.effect(id.account(), Effect::PushTrial(id)).await;
            self.effect(id.account(), Effect::ExpireEnrolment(id, expires_at)).await;
        }
        metrics().log.followed.set((), self.next.before().map_or(0, Position::number));
        // Of these the last broker may not have told the phones.
        self.index.settle_all();
        for id in self.index.to_replace() {
            self.effect(id.account(), Effect::ReplaceShown(id, None)).await;
        }
        let mut requested = Requested::default();
        let mut entries = self.log.follow(self.next);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let events = self.fold(&entry);
            self.index.know(entry.position);
            metrics().log.followed.set((), entry.position.number());
            for (account, event) in events {
                self.tell(&event);
                said::event(account, &event, &self.index);
                metrics()
                    .happened(&event, requested.see(&event, Timestamp::from_millis(entry.recorded_at_ms)));
                if let Some((id, Moment::Ends)) = approval_of(&event) {
                    self.index.settle(id);
                    traces::forget(id);
                }
                for effect in react(&event) {
                    self.effect(account, effect).await;
                }
            }
            if entry.position.number() % SNAPSHOT_EVERY == 0 {
                self.keep(entry.position);
            }
            self.next = entry.position.next();
        }
        if let Some(before) = self.keeping.take() {
            let _ = before.await;
        }
        if let Some(last) = self.next.before() {
            self.keep(last);
        }
        if let Some(last) = self.keeping.take() {
            let _ = last.await;
        }
        Ok(())
    }

    /// Takes an entry into the index; gives the events of accounts in it.
    fn fold(&self, entry: &Entry) -> Vec<(AccountId, Event)> {
        let at = Timestamp::from_millis(entry.recorded_at_ms);
        match entry.stream.kind() {
            StreamKind::Account => match self.accounts.decode(entry) {
                Ok((account, events)) => {
                    for event in &events {
                        self.index.account_event(event, at);
                    }
                    return events.into_iter().map(|event| (account, event)).collect();
                }
                Err(error) => undecidable(&error),
            },
            StreamKind::RelyingParty => match self.relying_parties.decode(entry) {
                Ok((_, events)) => {
                    for event in &events {
                        self.index.relying_party_event(event);
                    }
                }
                Err(error) => undecidable(&error),
            },
            StreamKind::Delivery => {
                for delivery in
                    entry.events.iter().filter_map(|record| delivery::decode(record).ok().flatten())
                {
                    if let Subject::Approval(id) = delivery.subject {
                        if let DeliveryStep::Accepted { .. } = delivery.step {
                            self.index.shows(id, delivery.authenticator);
                        }
                        self.approvals.step(id, (at, delivery));
                    }
                }
            }
            StreamKind::Broker => {}
        }
        Vec::new()
    }

    /// Wakes who waits.
    fn tell(&self, event: &Event) {
        match approval_of(event) {
            Some((id, Moment::Begins)) => self.approvals.begin(id),
            Some((id, Moment::Refused | Moment::Ends)) => self.approvals.end(id),
            None => self.tell_enrolment(event),
        }
    }

    fn tell_enrolment(&self, event: &Event) {
        match event {
            Event::EnrolmentBegun(begun) => self.enrolments.begin(begun.enrolment),
            Event::EnrolmentCodeRefused { enrolment } => self.enrolments.step(*enrolment, ()),
            Event::TrialRequested(trial) => self.enrolments.step(trial.enrolment, ()),
            Event::EnrolmentEnded { enrolment, .. } | Event::AuthenticatorActivated { enrolment, .. } => {
                self.enrolments.end(*enrolment);
            }
            _ => {}
        }
    }

    /// The places of what is live, with the steps so far.
    async fn put_on_board(&self) -> Result<(), decider::Error> {
        for (id, _) in self.index.live_approvals() {
            let span = match span(&self.accounts, id, ANY_TIME).await {
                // That account has to wait for a newer release; the others have not.
                Err(error @ decider::Error::Undecidable { .. }) => {
                    undecidable(&error);
                    continue;
                }
                span => span?,
            };
            let Some(span) = span else { continue };
            self.approvals.begin(id);
            for step in deliveries(&*self.log, id, span).await? {
                self.approvals.step(id, step);
            }
        }
        for (id, _) in self.index.live_enrolments() {
            self.enrolments.begin(id);
        }
        Ok(())
    }

    async fn effect(&self, account: AccountId, effect: Effect) {
        // Closed only when the broker stops; what is not done now is done at the next start.
        let _ = self.effects.send((account, effect)).await;
    }

    /// Keeps a snapshot behind itself: the outcomes that come meanwhile wait neither for its making nor for the disk. Not
    /// while one is still being kept.
    fn keep(&mut self, position: Position) {
        if self.keeping.as_ref().is_some_and(|before| !before.is_finished()) {
            return;
        }
        let (log, copy) = (Arc::clone(&self.log), self.index.copy());
        let keeping =
            async move { log.save_snapshot(index::SNAPSHOT, position, copy.to_bytes().into()).await };
        self.keeping = Some(AbortOnDropHandle::new(tokio::spawn(keeping)));
    }
}

/// When the approvals were requested that this follower saw begin, for telling how long they lasted.
#[derive(Default)]
struct Requested(HashMap<ApprovalId, Timestamp>);

impl Requested {
    /// How long the approval has lasted that this event ends, if its request was seen.
    fn see(&mut self, event: &Event, at: Timestamp) -> Option<Duration> {
        match approval_of(event)? {
            (id, Moment::Begins) => {
                self.0.insert(id, at);
                None
            }
            (id, Moment::Ends) => self.0.remove(&id).map(|requested| requested.until(at)),
            (_, Moment::Refused) => None,
        }
    }
}

/// Where an approval stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The entry that it began with.
    pub requested: Position,
    /// The entry that ended it, if one has.
    pub ended: Option<Position>,
}

/// Before everything that was recorded.
const ANY_TIME: Timestamp = Timestamp::from_millis(0);

/// Where an approval stands in the log; none if it was not requested since then. What is older is not read: an id that
/// nobody has been given costs no more than that.
pub async fn span(
    accounts: &Decider<AccountCodec>,
    id: ApprovalId,
    since: Timestamp,
) -> Result<Option<Span>, decider::Error> {
    let mut ended = None;
    let mut entries = accounts.log().read_back(accounts.codec().stream(id.account()));
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if entry.recorded_at_ms < since.as_millis() {
            break;
        }
        for event in accounts.decode(&entry)?.1 {
            match approval_of(&event) {
                Some((approval, Moment::Begins)) if approval == id => {
                    return Ok(Some(Span { requested: entry.position, ended }));
                }
                Some((approval, Moment::Refused)) if approval == id => {
                    return Ok(Some(Span { requested: entry.position, ended: Some(entry.position) }));
                }
                Some((approval, Moment::Ends)) if approval == id => ended = Some(entry.position),
                _ => {}
            }
        }
    }
    Ok(None)
}

/// The same progress of the same phone is one step, however often it was recorded.
impl board::Step for (Timestamp, Delivery) {
    fn repeats(&self, (_, earlier): &Self) -> bool {
        self.1 == *earlier
    }
}

/// What happened to the pushes of an approval while it lived, oldest first, as the log has it: the steps that the board
/// has.
pub async fn deliveries(
    log: &dyn EventLog,
    id: ApprovalId,
    span: Span,
) -> Result<Vec<(Timestamp, Delivery)>, ReadError> {
    let mut found = Vec::new();
    let mut entries = log.read_back(delivery::stream(id.account()));
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if entry.position < span.requested {
            break;
        }
        if span.ended.is_none_or(|ended| entry.position < ended) {
            let at = Timestamp::from_millis(entry.recorded_at_ms);
            let of_entry =
                entry.events.iter().rev().filter_map(|record| delivery::decode(record).ok().flatten());
            let of_approval = of_entry.filter(|delivery| delivery.subject == Subject::Approval(id));
            found.extend(of_approval.map(|delivery| (at, delivery)));
        }
    }
    let mut steps: Vec<(Timestamp, Delivery)> = Vec::new();
    for step in found.into_iter().rev() {
        if !steps.iter().any(|earlier| board::Step::repeats(&step, earlier)) {
            steps.push(step);
        }
    }
    Ok(steps)
}

/// What an event is in the life of an approval.
enum Moment {
    Begins,
    Refused,
    Ends,
}

fn approval_of(event: &Event) -> Option<(ApprovalId, Moment)> {
    match event {
        Event::ApprovalRequested(requested) => Some((requested.request.approval, Moment::Begins)),
        Event::ApprovalRefused(refused) => Some((refused.request.approval, Moment::Refused)),
        Event::ApprovalApproved { approval, .. }
        | Event::ApprovalDenied { approval, .. }
        | Event::NumberWrong { approval, .. }
        | Event::ApprovalExpired { approval }
        | Event::ApprovalCancelled { approval, .. }
        | Event::ApprovalSuperseded { approval, .. } => Some((*approval, Moment::Ends)),
        _ => None,
    }
}

fn undecidable(error: &decider::Error) {
    tracing::error!(%error, "the log has an event that this release cannot read; nothing is decided on its stream");
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("next", &self.next).finish_non_exhaustive()
    }
}
