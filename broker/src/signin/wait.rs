//! The login is told: each step as it happens, last the outcome. Every call gets the same steps with the same numbers,
//! whenever it comes: from the board while the approval lives, from the log afterwards.

use countersign_domain::{
    Account, Aggregate, ApprovalId, RelyingPartyId, Timestamp,
    approval::{Approval, Ending},
    command::Refusal,
    limits,
};
use futures::{Stream, StreamExt, stream};
use tracing::{Instrument as _, info_span};

use super::{Error, SignIn};
use crate::{
    decider::codec::{Codec, delivery::Delivery},
    projection::{
        board::{News, Seat},
        follower::{deliveries, span},
    },
    telemetry::{
        metrics,
        traces::{self, STORY},
    },
};

/// One step of an approval.
#[derive(Debug, Clone)]
pub struct Update {
    /// Dense from 1 within the approval.
    pub sequence: u32,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub step: Step,
}

/// What happened to an approval.
#[derive(Debug, Clone)]
pub enum Step {
    /// It waits for an answer.
    Issued(Box<Approval>),
    /// A push came so far.
    Progress(Delivery),
    /// It has ended.
    Ended(Box<Approval>, Ending),
}

/// An approval, and what happened to it so far.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The approval.
    pub approval: Approval,
    /// Its steps, in order.
    pub updates: Vec<Update>,
}

/// A seat where the steps of an approval come.
type Steps = Seat<ApprovalId, (Timestamp, Delivery)>;

impl SignIn {
    /// The approval's steps after `after`, those that have happened and those that will, up to its end.
    pub async fn watch(
        &self,
        relying_party: RelyingPartyId,
        id: ApprovalId,
        after: u32,
    ) -> Result<impl Stream<Item = Result<Update, Error>> + Send + use<>, Error> {
        let steps = if let Some((approval, place)) = self.live(relying_party, id).await? {
            self.clone().live_steps(&approval, place).left_stream()
        } else {
            let standing = self.history(relying_party, id).await?;
            stream::iter(standing.updates.into_iter().map(Ok)).right_stream()
        };
        Ok(steps.filter(move |step| {
            let wanted = step.as_ref().map_or(true, |update| update.sequence > after);
            std::future::ready(wanted)
        }))
    }

    /// The approval as it stands.
    pub async fn standing(&self, relying_party: RelyingPartyId, id: ApprovalId) -> Result<Standing, Error> {
        match self.live(relying_party, id).await? {
            Some((approval, place)) => {
                let updates = updates(&approval, place.steps());
                Ok(Standing { approval, updates })
            }
            None => self.history(relying_party, id).await,
        }
    }

    /// Waits until the approval has ended, as long as the caller polls this.
    pub async fn ended(&self, relying_party: RelyingPartyId, id: ApprovalId) -> Result<(), Error> {
        if let Some((_, place)) = self.live(relying_party, id).await? {
            let mut known = place.steps().len();
            while let News::Step(_) = place.after(known).await {
                known += 1;
            }
        }
        Ok(())
    }

    /// Withdraws an approval; gives the ending that stands.
    pub async fn cancel(
        &self,
        relying_party: RelyingPartyId,
        id: ApprovalId,
    ) -> Result<(Approval, Ending), Error> {
        use countersign_domain::Command;
        let command = Command::CancelApproval { approval: id, relying_party };
        let span = traces::of(id).step(|| info_span!(target: STORY, "cancel"));
        let decided = self.accounts.decide(id.account(), |_, _| Ok::<_, Error>(command.clone()));
        let decided = decided.instrument(span).await;
        let approval = match decided {
            Ok(decided) => decided.state.approval(id).cloned(),
            // Not in the account's recent past: the log knows it, if it ever was.
            Err(Error::Refused(Refusal::UnknownApproval)) => {
                Some(self.history(relying_party, id).await?.approval)
            }
            Err(error) => return Err(error),
        };
        let approval = approval.ok_or(Refusal::UnknownApproval)?;
        let ending = approval.ending.clone().ok_or(Refusal::UnknownApproval)?;
        Ok((approval, ending))
    }

    /// The approval and its place on the board, while it is live.
    async fn live(
        &self,
        relying_party: RelyingPartyId,
        id: ApprovalId,
    ) -> Result<Option<(Approval, Steps)>, Error> {
        // The place first: an ending that comes after we have looked at the account is told there.
        let place = self.models.approvals.expect(id);
        let account = self.accounts.load(id.account()).await?;
        let approval =
            account.approval(id).filter(|one| one.ending.is_none() && one.relying_party == relying_party);
        Ok(approval.map(|approval| (approval.clone(), place)))
    }

    fn live_steps(
        self,
        approval: &Approval,
        place: Steps,
    ) -> impl Stream<Item = Result<Update, Error>> + Send + use<> {
        let issued = issued(approval);
        let (relying_party, id) = (approval.relying_party, approval.id);
        let seen = (metrics().story.logins_waiting.one(()), traces::of(id));
        let rest = stream::unfold(Some((self, place, seen, 0)), move |state| async move {
            let (sign_in, place, seen, known) = state?;
            match place.after(known).await {
                News::Step(step) => {
                    let update = progress(known, step);
                    Some((Ok(update), Some((sign_in, place, seen, known + 1))))
                }
                News::Ended => {
                    let tell = seen.1.step(|| info_span!(target: STORY, "tell the login"));
                    let ended = sign_in.ended_update(relying_party, id, place.steps().len());
                    let ended = ended.instrument(tell).await;
                    if let Some(ago) = place.ended_ago() {
                        metrics().story.outcome_told_duration.took((), ago);
                    }
                    if let Some(ago) = place.answered_ago() {
                        metrics().story.answer_to_outcome_duration.took((), ago);
                    }
                    Some((ended, None))
                }
            }
        });
        stream::iter(issued.map(Ok)).chain(rest)
    }

    async fn ended_update(
        &self,
        relying_party: RelyingPartyId,
        id: ApprovalId,
        steps: usize,
    ) -> Result<Update, Error> {
        let account = self.accounts.load(id.account()).await?;
        let approval = match account.approval(id) {
            Some(approval) => approval.clone(),
            None => self.history(relying_party, id).await?.approval,
        };
        ended(&approval, steps).ok_or_else(|| Refusal::UnknownApproval.into())
    }

    /// An approval that has ended, as the log tells it: always the same, for as long as it is told.
    async fn history(&self, relying_party: RelyingPartyId, id: ApprovalId) -> Result<Standing, Error> {
        self.rates.looks_back(relying_party)?;
        let account = self.accounts.load(id.account()).await?;
        let since = self.clock.now().minus(limits::TOLD_FOR);
        let span = span(&self.accounts, id, since).await?.ok_or(Refusal::UnknownApproval)?;
        let approval = match account.approval(id) {
            Some(approval) => approval.clone(),
            None => self.forgotten(id).await?,
        };
        if approval.relying_party != relying_party {
            return Err(Refusal::UnknownApproval.into());
        }
        let steps = deliveries(&**self.accounts.log(), id, span).await?;
        let updates = updates(&approval, steps);
        Ok(Standing { approval, updates })
    }

    /// An approval that its account has forgotten: the account as it was when that ended.
    async fn forgotten(&self, id: ApprovalId) -> Result<Approval, Error> {
        let stream = self.accounts.codec().stream(id.account());
        let mut account = Account::default();
        for entry in self.accounts.log().read(stream, None).await? {
            let (_, events) = self.accounts.decode(&entry)?;
            for event in &events {
                account.evolve(event, Timestamp::from_millis(entry.recorded_at_ms));
            }
            if let Some(approval) = account.approval(id).filter(|one| one.ending.is_some()) {
                return Ok(approval.clone());
            }
        }
        Err(Refusal::UnknownApproval.into())
    }
}

fn updates(approval: &Approval, steps: Vec<(Timestamp, Delivery)>) -> Vec<Update> {
    let count = steps.len();
    let progress = steps.into_iter().enumerate().map(|(known, step)| progress(known, step));
    issued(approval).chain(progress).chain(ended(approval, count)).collect()
}

fn issued(approval: &Approval) -> impl Iterator<Item = Update> + use<> {
    let step = Step::Issued(Box::new(approval.clone()));
    let update = approval.issued.is_some().then_some(Update { sequence: 1, at: approval.requested_at, step });
    update.into_iter()
}

fn progress(known: usize, (at, delivery): (Timestamp, Delivery)) -> Update {
    Update { sequence: number(known + 2), at, step: Step::Progress(delivery) }
}

fn ended(approval: &Approval, steps: usize) -> Option<Update> {
    let ending = approval.ending.clone()?;
    let sequence = if approval.issued.is_some() { number(steps + 2) } else { 1 };
    Some(Update { sequence, at: ending.at, step: Step::Ended(Box::new(approval.clone()), ending) })
}

fn number(sequence: usize) -> u32 {
    u32::try_from(sequence).unwrap_or(u32::MAX)
}
