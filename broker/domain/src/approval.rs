//! One sign-in attempt, from its request to its outcome.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Account, ApprovalId, AuthenticatorId, RelyingPartyId, Timestamp,
    answer::{Decision, VerifiedAnswer},
    command::Refusal,
    enrolment::Enrolment,
    event::{ApprovalRefused, ApprovalRequested, Event, Idempotency, Question, RefusedBecause, Request},
    idempotency::KnownKey,
    kept::kept_fields,
    limits,
    number::{MatchNumber, Resting},
    policy::Policy,
};

/// An approval as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// Who asked.
    pub relying_party: RelyingPartyId,
    /// The login server's value for the session that waits.
    pub session_binding: Bytes,
    /// To know the same request again.
    pub idempotency: Option<Idempotency>,
    /// What holds for it.
    pub policy: Policy,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// What was issued; none where it was refused at once.
    pub issued: Option<Issued>,
    /// How it ended, if it has.
    pub ending: Option<Ending>,
    /// Its time was over, by the clock of an event.
    seen_over: bool,
}

kept_fields!(Approval {
    id,
    relying_party,
    session_binding,
    idempotency,
    policy,
    requested_at,
    issued,
    ending,
    seen_over,
});

/// What the login server was given, and what answers are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The number that the page shows.
    pub number: MatchNumber,
    /// When it is over.
    pub expires_at: Timestamp,
    /// How many active authenticators it is for.
    pub authenticators_addressed: u32,
    /// Which: those that were active when it was asked for. Not by the clock, which can stand still or go back.
    pub addressed: Vec<AuthenticatorId>,
    /// SHA-256 of the challenge's payload.
    pub challenge_hash: [u8; 32],
    /// What the phones are sent; dropped at the end, when nobody is sent it any more.
    pub question: Option<Question>,
}

kept_fields!(Issued { number, expires_at, authenticators_addressed, addressed, challenge_hash, question });

/// How an approval ended: once, and for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Which way.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// The answer that ended it, if one did.
    pub answer: Option<Answered>,
}

kept_fields!(Ending { outcome, at, answer });

/// Who ended an approval by an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Who.
    pub authenticator: AuthenticatorId,
    /// Since when that authenticator is bound.
    pub bound_at: Timestamp,
    /// SHA-256 of the answer's envelope: the same answer again gets the same reply.
    pub answer_hash: [u8; 32],
}

kept_fields!(Answered { authenticator, bound_at, answer_hash });

/// The ways in which an approval ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The right number, approved.
    Approved {
        /// The phone checked the person for this answer.
        user_verified: bool,
    },
    /// Denied.
    Denied,
    /// Denied: 'this was not me'.
    Reported,
    /// A wrong number was typed.
    WrongNumber,
    /// Nobody answered in time.
    Expired,
    /// Withdrawn.
    Cancelled,
    /// A newer request took its place.
    Superseded,
    /// Refused at once; [`RefusedBecause::Unreachable`] is an outcome of its own to the login server.
    Refused(RefusedBecause),
}

/// What would come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assessment {
    /// It was made before, and is this approval.
    Stands(ApprovalId),
    /// It is refused.
    Refused(RefusedBecause),
    /// It would be issued.
    Issue {
        /// The approval whose place it takes.
        supersedes: Option<ApprovalId>,
        /// For how many active authenticators.
        authenticators_addressed: u32,
    },
}

/// What would come of a request, so that no number is drawn and nothing signed in vain.
pub fn assess(account: &Account, request: &Request, now: Timestamp) -> Result<Assessment, Refusal> {
    if account.identity().is_none() {
        return Err(Refusal::UnknownAccount);
    }
    if let Some(idempotency) = &request.idempotency
        && let Some((id, known)) = account.by_idempotency_key(&idempotency.key_hash)
    {
        return if known.is_of(idempotency) {
            Ok(Assessment::Stands(id))
        } else {
            Err(Refusal::IdempotencyKeyReused)
        };
    }
    // Every request draws an id of its own, so this is the same one again.
    if account.approval(request.approval).is_some() {
        return Ok(Assessment::Stands(request.approval));
    }
    // A key that found no room would be forgotten, and its request made anew when it is sent again.
    if request.idempotency.is_some()
        && let Some(retry_after) = account.keys.full(now)
    {
        return Err(Refusal::TooManyRequests { retry_after });
    }
    let refused = |because| match account.throttle().refusals_exhausted(now) {
        Some(retry_after) => Err(Refusal::TooManyRequests { retry_after }),
        None => Ok(Assessment::Refused(because)),
    };
    let addressed = account.active_authenticators().count();
    if addressed == 0 {
        return refused(RefusedBecause::Unreachable);
    }
    if account.throttle().paused_until(now).is_some() {
        return refused(RefusedBecause::PushPaused);
    }
    if account.throttle().requests_exhausted(&request.policy, now) {
        return refused(RefusedBecause::TooManyRequests);
    }
    let waiting = || account.live_approvals().filter(|one| !one.is_overdue(now));
    let supersedes = waiting().find(|one| one.is_of_session(request)).map(|one| one.id);
    if waiting().count() - usize::from(supersedes.is_some()) >= request.policy.waiting_max as usize {
        return refused(RefusedBecause::TooManyWaiting);
    }
    let numbers = MatchNumber::count(request.policy.digits) as usize;
    if account.numbers_taken(request.policy.digits, now) >= numbers / 2 {
        return refused(RefusedBecause::NumbersExhausted);
    }
    let authenticators_addressed = u32::try_from(addressed).unwrap_or(u32::MAX);
    Ok(Assessment::Issue { supersedes, authenticators_addressed })
}

pub(crate) fn request(
    account: &Account,
    request: &Request,
    question: Option<&Question>,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let (supersedes, authenticators_addressed) = match assess(account, request, now)? {
        Assessment::Stands(_) => return Ok(vec![]),
        Assessment::Refused(because) => {
            return Ok(vec![Event::ApprovalRefused(ApprovalRefused { request: request.clone(), because })]);
        }
        Assessment::Issue { supersedes, authenticators_addressed } => (supersedes, authenticators_addressed),
    };
    let question = question.ok_or(Refusal::NumberTaken)?;
    if account.number_is_taken(question.number, now) {
        return Err(Refusal::NumberTaken);
    }
    let overdue = account.live_approvals().filter(|one| one.is_overdue(now));
    let mut events: Vec<_> = overdue.map(|one| Event::ApprovalExpired { approval: one.id }).collect();
    if let Some(approval) = supersedes {
        events.push(Event::ApprovalSuperseded { approval, by: request.approval });
    }
    events.push(Event::ApprovalRequested(ApprovalRequested {
        request: request.clone(),
        question: question.clone(),
        expires_at: now.plus(request.policy.lifetime),
        authenticators_addressed,
    }));
    Ok(events)
}

/// The order of checks: signature and binding made the [`VerifiedAnswer`]; then live and in time; the number last.
pub(crate) fn answer(
    account: &Account,
    answer: &VerifiedAnswer,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let approval = account.approval(answer.approval()).ok_or(Refusal::UnknownApproval)?;
    let by = account.bound_authenticator(answer.authenticator())?;
    if !by.may_answer(approval) {
        return Err(Refusal::UnknownAuthenticator);
    }
    if let Some(ending) = &approval.ending {
        let same = ending.answer.as_ref().is_some_and(|known| known.answer_hash == answer.hash());
        return if same { Ok(vec![]) } else { Err(Refusal::ApprovalEnded(ending.clone())) };
    }
    if approval.is_overdue(now) {
        return Ok(vec![Event::ApprovalExpired { approval: approval.id }]);
    }
    let issued = approval.issued.as_ref().ok_or(Refusal::UnknownApproval)?;
    let approval = approval.id;
    Ok(match answer.decision() {
        Decision::Approve { number, user_verified } if issued.number.matches_typed(number) => {
            vec![Event::ApprovalApproved {
                approval,
                answer: answer.to_recorded(),
                user_verified: *user_verified,
            }]
        }
        Decision::Approve { .. } => wrong_number(account, approval, answer, now),
        Decision::Deny => {
            vec![Event::ApprovalDenied { approval, answer: answer.to_recorded(), reported: false }]
        }
        Decision::DenyAndReport => {
            vec![Event::ApprovalDenied { approval, answer: answer.to_recorded(), reported: true }]
        }
    })
}

/// A wrong number ends the approval, and counts against the account.
fn wrong_number(
    account: &Account,
    approval: ApprovalId,
    answer: &VerifiedAnswer,
    now: Timestamp,
) -> Vec<Event> {
    let authenticator = answer.authenticator();
    let mut events = vec![Event::NumberWrong { approval, authenticator, answer_hash: answer.hash() }];
    let policy = account.approval(approval).map(|one| one.policy).unwrap_or_default();
    if let Some(until) = account.throttle().pause_after_one_more(&policy, now) {
        events.push(Event::PushPaused { until });
    }
    events
}

pub(crate) fn expire(account: &Account, id: ApprovalId, now: Timestamp) -> Result<Vec<Event>, Refusal> {
    let approval = account.approval(id).ok_or(Refusal::UnknownApproval)?;
    let due = approval.ending.is_none() && approval.is_overdue(now);
    Ok(if due { vec![Event::ApprovalExpired { approval: id }] } else { vec![] })
}

pub(crate) fn cancel(
    account: &Account,
    id: ApprovalId,
    by: RelyingPartyId,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let approval =
        account.approval(id).filter(|one| one.relying_party == by).ok_or(Refusal::UnknownApproval)?;
    if approval.ending.is_some() {
        return Ok(vec![]);
    }
    // Nobody withdraws what the clock has ended.
    if approval.is_overdue(now) {
        return Ok(vec![Event::ApprovalExpired { approval: id }]);
    }
    Ok(vec![Event::ApprovalCancelled { approval: id, by }])
}

impl Approval {
    pub(crate) fn requested(
        event: &ApprovalRequested,
        addressed: Vec<AuthenticatorId>,
        at: Timestamp,
    ) -> Self {
        let issued = Issued {
            number: event.question.number,
            expires_at: event.expires_at,
            authenticators_addressed: event.authenticators_addressed,
            addressed,
            challenge_hash: event.question.challenge.payload_hash(),
            question: Some(event.question.clone()),
        };
        Self::of(&event.request, at, Some(issued), None)
    }

    pub(crate) fn refused(event: &ApprovalRefused, at: Timestamp) -> Self {
        let ending = Ending { outcome: Outcome::Refused(event.because), at, answer: None };
        Self::of(&event.request, at, None, Some(ending))
    }

    fn of(request: &Request, at: Timestamp, issued: Option<Issued>, ending: Option<Ending>) -> Self {
        Self {
            id: request.approval,
            relying_party: request.relying_party,
            // Of its own: what came from outside is a slice of all that came with it, and would keep that for a day.
            session_binding: Bytes::copy_from_slice(&request.session_binding),
            idempotency: request.idempotency.clone(),
            policy: request.policy,
            requested_at: at,
            issued,
            ending,
            seen_over: false,
        }
    }

    /// Whether its time is over, whether or not that has been recorded yet.
    ///
    /// The broker's clock can be set. Set forward, it ends what is over by it. Set back:
    /// - what has ended stays ended: an ending is an event;
    /// - what was over by the clock of any event of its account stays over, although nobody had ended it;
    /// - what was asked for ahead of the clock ([`Timestamp::is_ahead_of`]) is over: by how much the clock was set, nobody
    ///   knows;
    /// - so whatever is live has at most its lifetime and [`limits::CLOCK_STEP`] to go.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let over = |issued: &Issued| issued.expires_at <= now || self.requested_at.is_ahead_of(now);
        self.seen_over || self.issued.as_ref().is_some_and(over)
    }

    pub(crate) fn see_clock(this: &mut Arc<Self>, now: Timestamp) {
        let over = this.ending.is_none() && this.is_overdue(now);
        if over != this.seen_over {
            Arc::make_mut(this).seen_over = over;
        }
    }

    fn is_of_session(&self, request: &Request) -> bool {
        self.relying_party == request.relying_party && self.session_binding == request.session_binding
    }
}

impl Account {
    /// An approval that is live or ended lately. The log knows the older ones.
    pub fn approval(&self, id: ApprovalId) -> Option<&Approval> {
        self.all_approvals().find(|approval| approval.id == id)
    }

    /// Those that wait for an answer, oldest first.
    pub fn live_approvals(&self) -> impl Iterator<Item = &Approval> {
        self.all_approvals().filter(|approval| approval.ending.is_none())
    }

    fn all_approvals(&self) -> impl Iterator<Item = &Approval> {
        self.approvals.iter().map(|approval| &**approval)
    }

    /// Whether a number is live, on the page of a sign-in or of an enrolment, or was so lately that it must rest.
    pub fn number_is_taken(&self, number: MatchNumber, now: Timestamp) -> bool {
        self.recent_numbers(number.digits(), now).any(|taken| taken == number)
    }

    fn numbers_taken(&self, digits: u8, now: Timestamp) -> usize {
        let mut taken: Vec<_> = self.recent_numbers(digits, now).map(MatchNumber::value).collect();
        taken.sort_unstable();
        taken.dedup();
        taken.len()
    }

    fn recent_numbers(&self, digits: u8, now: Timestamp) -> impl Iterator<Item = MatchNumber> {
        let live = self.live_approvals().filter_map(|one| one.issued.as_ref()).map(|issued| issued.number);
        let on_trial = self.live_enrolments().filter_map(Enrolment::trial_number);
        let resting = self.numbers.iter().filter(move |one| one.rests(now)).map(|one| one.number);
        live.chain(on_trial).chain(resting).filter(move |number| number.digits() == digits)
    }

    /// From now on the number is not live any more. Of trials the last few rest: an account has only so many sign-ins in
    /// ten minutes, but any number of trials.
    pub(crate) fn rest(&mut self, number: Resting) {
        self.numbers.retain(|one| one.rests(number.since));
        let of_trials = self.numbers.iter().filter(|one| one.of_trial).count();
        if number.of_trial
            && of_trials >= limits::TRIAL_NUMBERS_RESTING_MAX
            && let Some(oldest) = self.numbers.iter().position(|one| one.of_trial)
        {
            self.numbers.remove(oldest);
        }
        self.numbers.push(number);
    }

    /// The approval that a request with this idempotency key made within the last day. It may be forgotten itself: then
    /// the log knows it.
    pub fn by_idempotency_key(&self, key_hash: &[u8; 32]) -> Option<(ApprovalId, &KnownKey)> {
        self.keys.find(key_hash).map(|known| (known.approval(), known))
    }

    pub(crate) fn remember_approval(&mut self, approval: Approval, now: Timestamp) {
        // One id, one approval: a second of the same id could never be ended.
        if self.approval(approval.id).is_none() {
            self.forget_old_approvals(now);
            if let Some(idempotency) = &approval.idempotency {
                self.keys.remember(idempotency, approval.id, now);
            }
            self.approvals.push(Arc::new(approval));
        }
    }

    pub(crate) fn end_approval(&mut self, id: ApprovalId, ending: Ending) {
        // The first ending stands: no recorded event may change it, whichever release recorded it.
        if let Some(approval) = self.approvals.iter_mut().find(|one| one.id == id && one.ending.is_none()) {
            let approval = Arc::make_mut(approval);
            let (number, at) = (approval.issued.as_ref().map(|issued| issued.number), ending.at);
            approval.ending = Some(ending);
            if let Some(issued) = &mut approval.issued {
                issued.question = None;
            }
            if let Some(number) = number {
                self.rest(Resting { number, since: at, of_trial: false });
            }
        }
    }

    /// Those that were refused at once are counted apart: whoever makes many requests of an account must not make it
    /// forget what it answered to others.
    fn forget_old_approvals(&mut self, now: Timestamp) {
        let count = |refused: bool| {
            self.approvals
                .iter()
                .filter(|one| one.ending.is_some() && one.issued.is_none() == refused)
                .count()
        };
        let mut refused = count(true).saturating_sub(limits::APPROVALS_REFUSED_KEPT_MAX);
        let mut ended = count(false).saturating_sub(limits::APPROVALS_ENDED_KEPT_MAX);
        self.approvals.retain(|one| match &one.ending {
            None => true,
            Some(ending) => {
                let excess = if one.issued.is_none() { &mut refused } else { &mut ended };
                let forget = *excess > 0 || ending.at.plus(limits::APPROVALS_ENDED_KEPT) <= now;
                *excess = excess.saturating_sub(1);
                !forget
            }
        });
    }
}
