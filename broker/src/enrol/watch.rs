//! The enrolling page is told each step, in the order and with the numbers that the log gives them.

use countersign_domain::{
    Account, Aggregate, AuthenticatorId, EnrolmentId, Event, RelyingPartyId, Timestamp,
    command::Refusal,
    event::{EnrolmentEnd, Platform},
    limits,
    number::MatchNumber,
    text::DisplayText,
};
use futures::{Stream, StreamExt, stream};

use super::{Enrol, Error};
use crate::{decider::codec::Codec, projection::board::News};

/// One step of an enrolment.
#[derive(Debug, Clone)]
pub struct Update {
    /// Dense from 1 within the enrolment.
    pub sequence: u32,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub step: Step,
}

/// What happened to an enrolment.
#[derive(Debug, Clone)]
pub enum Step {
    /// The code waits.
    Begun {
        /// Until when.
        expires_at: Timestamp,
    },
    /// A wrong secret.
    CodeRefused {
        /// How many are left.
        attempts_left: u8,
    },
    /// A phone is bound and asked for the number.
    Trial {
        /// Which phone.
        authenticator: AuthenticatorId,
        /// What it calls itself.
        device_name: DisplayText,
        /// What it runs.
        platform: Platform,
        /// What the page shows.
        number: MatchNumber,
        /// Until when.
        expires_at: Timestamp,
    },
    /// The authenticator is active.
    Active {
        /// Which.
        authenticator: AuthenticatorId,
    },
    /// It failed.
    Ended {
        /// Why.
        reason: EnrolmentEnd,
    },
}

impl Step {
    fn is_last(&self) -> bool {
        matches!(self, Self::Active { .. } | Self::Ended { .. })
    }
}

impl Enrol {
    /// The enrolment's steps after `after`, those that have happened and those that will, up to its end.
    pub async fn watch(
        &self,
        relying_party: RelyingPartyId,
        id: EnrolmentId,
        after: u32,
    ) -> Result<impl Stream<Item = Result<Update, Error>> + Send + use<>, Error> {
        let place = self.sign_in.models.enrolments.expect(id);
        let known = place.steps().len();
        let so_far = self.updates(relying_party, id).await;
        let live =
            so_far.as_ref().is_ok_and(|updates| updates.last().is_some_and(|last| !last.step.is_last()));
        if !live {
            self.sign_in.models.enrolments.release(id, place);
            return Ok(after_sequence(stream::iter(so_far?.into_iter().map(Ok)).left_stream(), after));
        }
        let so_far = so_far?;
        let told = so_far.len();
        let this = self.clone();
        let more = stream::unfold(Some((place, known, told)), move |state| {
            let this = this.clone();
            async move {
                let (place, known, told) = state?;
                let ended = place.after(known).await == News::Ended;
                match this.updates(relying_party, id).await {
                    Ok(updates) => {
                        let now = updates.len();
                        let news: Vec<_> = updates.into_iter().skip(told).map(Ok).collect();
                        let last = ended
                            || news
                                .iter()
                                .any(|one| matches!(one, Ok(Update { step, .. }) if step.is_last()));
                        Some((news, (!last).then_some((place, known + 1, now))))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        let all = stream::iter(so_far.into_iter().map(Ok)).chain(more.flat_map(stream::iter));
        Ok(after_sequence(all.right_stream(), after))
    }

    /// The steps so far, as the log tells them.
    async fn updates(&self, relying_party: RelyingPartyId, id: EnrolmentId) -> Result<Vec<Update>, Error> {
        let accounts = &self.sign_in.accounts;
        let mut account = Account::default();
        let mut updates: Vec<Update> = Vec::new();
        for entry in accounts.log().read(accounts.codec().stream(id.account()), None).await? {
            let at = Timestamp::from_millis(entry.recorded_at_ms);
            for event in accounts.decode(&entry)?.1 {
                account.evolve(&event, at);
                if let Some(step) = step(&account, id, &event) {
                    let sequence = u32::try_from(updates.len() + 1).unwrap_or(u32::MAX);
                    updates.push(Update { sequence, at, step });
                }
                let begun_by_another = matches!(&event,
                    Event::EnrolmentBegun(begun) if begun.enrolment == id && begun.relying_party != relying_party);
                if begun_by_another {
                    return Err(Refusal::UnknownEnrolment.into());
                }
            }
        }
        if updates.is_empty() { Err(Refusal::UnknownEnrolment.into()) } else { Ok(updates) }
    }
}

fn after_sequence<S>(updates: S, after: u32) -> impl Stream<Item = Result<Update, Error>> + Send
where
    S: Stream<Item = Result<Update, Error>> + Send,
{
    updates.filter(move |update| std::future::ready(update.as_ref().map_or(true, |one| one.sequence > after)))
}

/// What an event is to whoever watches this enrolment.
fn step(account: &Account, id: EnrolmentId, event: &Event) -> Option<Step> {
    match event {
        Event::EnrolmentBegun(begun) if begun.enrolment == id => {
            Some(Step::Begun { expires_at: begun.expires_at })
        }
        Event::EnrolmentCodeRefused { enrolment } if *enrolment == id => {
            let refused = account.enrolment(id)?.codes_refused;
            Some(Step::CodeRefused { attempts_left: limits::ENROLMENT_CODE_ATTEMPTS.saturating_sub(refused) })
        }
        Event::TrialRequested(trial) if trial.enrolment == id => {
            let phone = account.authenticator(trial.authenticator)?;
            Some(Step::Trial {
                authenticator: phone.id,
                device_name: phone.device_name.clone(),
                platform: phone.platform,
                number: trial.question.number,
                expires_at: trial.expires_at,
            })
        }
        Event::AuthenticatorActivated { authenticator, enrolment, .. } if *enrolment == id => {
            Some(Step::Active { authenticator: *authenticator })
        }
        Event::EnrolmentEnded { enrolment, reason, .. } if *enrolment == id => {
            Some(Step::Ended { reason: *reason })
        }
        _ => None,
    }
}
