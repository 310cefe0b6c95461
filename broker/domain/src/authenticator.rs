//! An enrolled app with its key.

use countersign_envelope::PublicKey;

use crate::{
    Account, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp,
    approval::Approval,
    call::{VerifiedReplacePushTarget, VerifiedUnenrol},
    command::Refusal,
    event::{AuthenticatorBound, EnrolmentEnd, Event, Platform, PushTarget, RevokedBy},
    kept::{kept_fields, kept_variants},
    limits,
    text::DisplayText,
    throttle,
};

/// An authenticator as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticator {
    /// Its id.
    pub id: AuthenticatorId,
    /// The enrolment that bound it.
    pub enrolment: EnrolmentId,
    /// Its key.
    pub key: PublicKey,
    /// What the phone runs.
    pub platform: Platform,
    /// As the person knows it.
    pub device_name: DisplayText,
    /// On trial, active, revoked.
    pub state: State,
    /// Since when the key is bound.
    pub bound_at: Timestamp,
    /// When it last answered.
    pub last_used_at: Option<Timestamp>,
    /// Where pushes go.
    pub push_target: PushTarget,
    /// When the phone gave that target.
    pub push_target_since: Timestamp,
    /// The push service said that the target is dead.
    pub push_target_dead: bool,
    /// When the phone gave its last targets.
    pub(crate) push_target_changes: Vec<Timestamp>,
    /// The phone's counter of changes.
    pub counter: u64,
    /// SHA-256 of the claim that bound it.
    pub claim_hash: [u8; 32],
}

kept_fields!(Authenticator {
    id,
    enrolment,
    key,
    platform,
    device_name,
    state,
    bound_at,
    last_used_at,
    push_target,
    push_target_since,
    push_target_dead,
    push_target_changes,
    counter,
    claim_hash,
});

/// Whether an authenticator may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Bound, the trial not passed: it gets its trial and nothing else.
    OnTrial,
    /// It may answer what was asked for since.
    Active {
        /// When the trial was passed.
        since: Timestamp,
    },
    /// Its key is refused.
    Revoked {
        /// When.
        at: Timestamp,
        /// Whether the others need to hear of it: it had been active.
        was_active: bool,
    },
}

kept_variants!(State { 1 => OnTrial, 2 => Active { since }, 3 => Revoked { at, was_active } });

impl Authenticator {
    pub(crate) fn bound(event: &AuthenticatorBound, at: Timestamp) -> Self {
        Self {
            id: event.authenticator,
            enrolment: event.enrolment,
            key: event.key.clone(),
            platform: event.platform,
            device_name: event.device_name.clone(),
            state: State::OnTrial,
            bound_at: at,
            last_used_at: None,
            push_target: event.push_target.clone(),
            push_target_since: at,
            push_target_dead: false,
            push_target_changes: Vec::new(),
            counter: 0,
            claim_hash: event.claim_hash,
        }
    }

    /// Whether its key is good for anything.
    pub fn is_bound(&self) -> bool {
        !matches!(self.state, State::Revoked { .. })
    }

    /// Whether it may answer approvals.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Active { .. })
    }

    /// Whether it may answer this approval: it is active, and was when the approval was asked for. A phone that is
    /// enrolled while somebody waits at a login is not asked about it.
    pub fn may_answer(&self, approval: &Approval) -> bool {
        self.is_active() && approval.issued.as_ref().is_some_and(|issued| issued.addressed.contains(&self.id))
    }

    pub(crate) fn move_to(&mut self, push_target: &PushTarget, counter: u64, at: Timestamp) {
        self.push_target = push_target.clone();
        self.push_target_since = at;
        self.push_target_dead = false;
        self.counter = counter;
        self.push_target_changes.retain(|one| one.is_within(limits::PUSH_TARGET_CHANGES_WINDOW, at));
        if self.push_target_changes.len() >= limits::PUSH_TARGET_CHANGES_MAX {
            self.push_target_changes.remove(0);
        }
        self.push_target_changes.push(at);
    }

    /// The target to push to, unless it is dead.
    pub fn live_push_target(&self) -> Option<&PushTarget> {
        (!self.push_target_dead).then_some(&self.push_target)
    }
}

pub(crate) fn revoke(
    account: &Account,
    id: AuthenticatorId,
    relying_party: RelyingPartyId,
) -> Result<Vec<Event>, Refusal> {
    let authenticator = account.authenticator(id).ok_or(Refusal::UnknownAuthenticator)?;
    if !authenticator.is_bound() {
        return Ok(vec![]);
    }
    Ok(end(authenticator, RevokedBy::RelyingParty(relying_party)))
}

pub(crate) fn unenrol(account: &Account, call: &VerifiedUnenrol) -> Result<Vec<Event>, Refusal> {
    let authenticator = account.bound_authenticator(call.authenticator())?;
    rising(authenticator, call.counter())?;
    Ok(end(authenticator, RevokedBy::Unenrolment { counter: call.counter() }))
}

/// The target that the phone has already changes nothing, and leaves no event, where that is sound: where the call is
/// the last change itself, whose reply was lost on the way, or carries the very next counter, so that no call with a
/// counter between can be under way. One that skips counters is recorded: a change that was signed before it, and comes
/// after it, must find its counter used.
pub(crate) fn replace_push_target(
    account: &Account,
    call: &VerifiedReplacePushTarget,
    now: Timestamp,
) -> Result<Vec<Event>, Refusal> {
    let authenticator = account.bound_authenticator(call.authenticator())?;
    let same = authenticator.push_target == *call.push_target();
    if same && authenticator.counter == call.counter() {
        return Ok(vec![]);
    }
    rising(authenticator, call.counter())?;
    let next = authenticator.counter.checked_add(1) == Some(call.counter());
    if same && next && !authenticator.push_target_dead {
        return Ok(vec![]);
    }
    if let Some(retry_after) = throttle::wait(
        &authenticator.push_target_changes,
        limits::PUSH_TARGET_CHANGES_MAX,
        limits::PUSH_TARGET_CHANGES_WINDOW,
        now,
    ) {
        return Err(Refusal::TooManyPushTargets { most: limits::PUSH_TARGET_CHANGES_MAX, retry_after });
    }
    Ok(vec![Event::PushTargetReplaced {
        authenticator: authenticator.id,
        push_target: call.push_target().clone(),
        counter: call.counter(),
    }])
}

/// Ignored where the phone has given another target since, or, when it was known to be dead, the same one anew after the
/// moment that the push service reports: that registration is not the one that died.
pub(crate) fn record_dead_target(
    account: &Account,
    id: AuthenticatorId,
    target_hash: [u8; 32],
    dead_since: Option<Timestamp>,
    reason: &str,
) -> Result<Vec<Event>, Refusal> {
    let authenticator = account.authenticator(id).ok_or(Refusal::UnknownAuthenticator)?;
    let given_since = dead_since.is_some_and(|dead| authenticator.push_target_since > dead);
    let another = authenticator.push_target.hash() != target_hash;
    if another || given_since || authenticator.push_target_dead || !authenticator.is_bound() {
        return Ok(vec![]);
    }
    Ok(vec![Event::PushTargetDied { authenticator: id, target_hash, reason: reason.to_owned() }])
}

fn rising(authenticator: &Authenticator, counter: u64) -> Result<(), Refusal> {
    if counter > authenticator.counter {
        Ok(())
    } else {
        Err(Refusal::CounterNotRising { last: authenticator.counter })
    }
}

/// An authenticator that ends during its trial ends the enrolment with it.
fn end(authenticator: &Authenticator, by: RevokedBy) -> Vec<Event> {
    let was_active = authenticator.is_active();
    let revoked = Event::AuthenticatorRevoked { authenticator: authenticator.id, by, was_active };
    if authenticator.state == State::OnTrial {
        let enrolment = authenticator.enrolment;
        vec![revoked, Event::EnrolmentEnded { enrolment, reason: EnrolmentEnd::Revoked, answer_hash: None }]
    } else {
        vec![revoked]
    }
}

impl Account {
    /// An authenticator of this account, in whatever state.
    pub fn authenticator(&self, id: AuthenticatorId) -> Option<&Authenticator> {
        self.authenticators.iter().find(|authenticator| authenticator.id == id)
    }

    /// All that are remembered, oldest first.
    pub fn authenticators(&self) -> impl Iterator<Item = &Authenticator> {
        self.authenticators.iter()
    }

    /// Those that may answer, oldest first.
    pub fn active_authenticators(&self) -> impl Iterator<Item = &Authenticator> {
        self.authenticators.iter().filter(|authenticator| authenticator.is_active())
    }

    pub(crate) fn bound_authenticator(&self, id: AuthenticatorId) -> Result<&Authenticator, Refusal> {
        self.authenticator(id).filter(|one| one.is_bound()).ok_or(Refusal::UnknownAuthenticator)
    }

    pub(crate) fn change_authenticator(
        &mut self,
        id: AuthenticatorId,
        change: impl FnOnce(&mut Authenticator),
    ) {
        if let Some(authenticator) = self.authenticators.iter_mut().find(|one| one.id == id) {
            change(authenticator);
        }
    }

    pub(crate) fn forget_old_authenticators(&mut self) {
        let revoked = self.authenticators.iter().filter(|one| !one.is_bound()).count();
        let mut excess = revoked.saturating_sub(limits::AUTHENTICATORS_REVOKED_KEPT);
        self.authenticators.retain(|one| {
            let forget = excess > 0 && !one.is_bound();
            excess -= usize::from(forget);
            !forget
        });
    }
}
