//! The enrolling page is told each step, in the order and with the numbers that the log gives them.

use countersign_domain::{
    AuthenticatorId, EnrolmentId, Event, RelyingPartyId, Timestamp,
    command::Refusal,
    event::{AuthenticatorBound, EnrolmentEnd, Platform},
    limits,
    number::MatchNumber,
    text::DisplayText,
};
use futures::{Stream, StreamExt, stream};

use super::{Enrol, Error};
use crate::{decider::codec::Codec, log::Version, projection::board::News};

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
        // The place first: what comes after we have looked at the log wakes us there.
        let place = self.sign_in.models.enrolments.expect(id);
        let known = place.steps().len();
        let (story, so_far) = Story::read(self, relying_party, id).await?;
        let live = so_far.last().is_some_and(|last| !last.step.is_last());
        let waits = live.then_some((story, place, known));
        let this = self.clone();
        let more = stream::unfold(waits, move |state| {
            let this = this.clone();
            async move {
                let (mut story, place, known) = state?;
                let ended = place.after(known).await == News::Ended;
                match story.go_on(&this).await {
                    Ok(news) => {
                        let last = ended || news.iter().any(|update| update.step.is_last());
                        let news: Vec<_> = news.into_iter().map(Ok).collect();
                        Some((news, (!last).then_some((story, place, known + 1))))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        let all = stream::iter(so_far.into_iter().map(Ok)).chain(more.flat_map(stream::iter));
        Ok(after_sequence(all, after))
    }
}

/// An enrolment as far as its watcher has read it.
#[derive(Debug)]
struct Story {
    id: EnrolmentId,
    /// The account's stream is read up to here.
    version: Option<Version>,
    told: u32,
    codes_refused: u8,
    phone: Option<AuthenticatorBound>,
}

impl Story {
    /// What happened so far: the stream is read back to where the enrolment began.
    async fn read(
        enrol: &Enrol,
        relying_party: RelyingPartyId,
        id: EnrolmentId,
    ) -> Result<(Self, Vec<Update>), Error> {
        enrol.sign_in.rates.looks_back(relying_party)?;
        let accounts = &enrol.sign_in.accounts;
        let since = enrol.sign_in.clock.now().minus(limits::TOLD_FOR);
        let mut newest_first = Vec::new();
        let mut newest = None;
        let mut entries = accounts.log().read_back(accounts.codec().stream(id.account()));
        let begun = loop {
            let entry = entries.next().await.ok_or(Refusal::UnknownEnrolment)??;
            if entry.recorded_at_ms < since.as_millis() {
                return Err(Refusal::UnknownEnrolment.into());
            }
            newest = newest.or(Some(entry.version));
            let (_, mut events) = accounts.decode(&entry)?;
            events.retain(|event| enrolment_of(event) == Some(id));
            let begun = events.iter().find_map(|event| match event {
                Event::EnrolmentBegun(begun) => Some(begun.relying_party),
                _ => None,
            });
            if !events.is_empty() {
                newest_first.push((Timestamp::from_millis(entry.recorded_at_ms), events));
            }
            if let Some(begun) = begun {
                break begun;
            }
        };
        if begun != relying_party {
            return Err(Refusal::UnknownEnrolment.into());
        }
        let mut story = Self { id, version: newest, told: 0, codes_refused: 0, phone: None };
        let oldest_first = newest_first.into_iter().rev();
        let updates = oldest_first.flat_map(|(at, events)| story.take_in(at, events)).collect();
        Ok((story, updates))
    }

    /// What happened since: no more is read than that.
    async fn go_on(&mut self, enrol: &Enrol) -> Result<Vec<Update>, Error> {
        let accounts = &enrol.sign_in.accounts;
        let stream = accounts.codec().stream(self.id.account());
        let mut news = Vec::new();
        for entry in accounts.log().read(stream, self.version).await? {
            let (_, events) = accounts.decode(&entry)?;
            self.version = Some(entry.version);
            news.extend(self.take_in(Timestamp::from_millis(entry.recorded_at_ms), events));
        }
        Ok(news)
    }

    fn take_in(&mut self, at: Timestamp, events: Vec<Event>) -> Vec<Update> {
        let ours = events.into_iter().filter(|event| enrolment_of(event) == Some(self.id));
        let ours: Vec<_> = ours.collect();
        let steps: Vec<_> = ours.into_iter().filter_map(|event| self.step(event)).collect();
        let numbered = steps.into_iter().map(|step| {
            self.told = self.told.saturating_add(1);
            Update { sequence: self.told, at, step }
        });
        numbered.collect()
    }

    /// What an event of this enrolment is to whoever watches it.
    fn step(&mut self, event: Event) -> Option<Step> {
        match event {
            Event::EnrolmentBegun(begun) => Some(Step::Begun { expires_at: begun.expires_at }),
            Event::EnrolmentCodeRefused { .. } => {
                self.codes_refused = self.codes_refused.saturating_add(1);
                let attempts_left = limits::ENROLMENT_CODE_ATTEMPTS.saturating_sub(self.codes_refused);
                Some(Step::CodeRefused { attempts_left })
            }
            Event::AuthenticatorBound(bound) => {
                self.phone = Some(bound);
                None
            }
            Event::TrialRequested(trial) => {
                let phone = self.phone.as_ref().filter(|phone| phone.authenticator == trial.authenticator)?;
                Some(Step::Trial {
                    authenticator: phone.authenticator,
                    device_name: phone.device_name.clone(),
                    platform: phone.platform,
                    number: trial.question.number,
                    expires_at: trial.expires_at,
                })
            }
            Event::AuthenticatorActivated { authenticator, .. } => Some(Step::Active { authenticator }),
            Event::EnrolmentEnded { reason, .. } => Some(Step::Ended { reason }),
            _ => None,
        }
    }
}

/// The enrolment that an event is a step of.
fn enrolment_of(event: &Event) -> Option<EnrolmentId> {
    match event {
        Event::EnrolmentBegun(begun) => Some(begun.enrolment),
        Event::AuthenticatorBound(bound) => Some(bound.enrolment),
        Event::TrialRequested(trial) => Some(trial.enrolment),
        Event::EnrolmentCodeRefused { enrolment }
        | Event::AuthenticatorActivated { enrolment, .. }
        | Event::EnrolmentEnded { enrolment, .. } => Some(*enrolment),
        _ => None,
    }
}

fn after_sequence<S>(updates: S, after: u32) -> impl Stream<Item = Result<Update, Error>> + Send
where
    S: Stream<Item = Result<Update, Error>> + Send,
{
    updates.filter(move |update| std::future::ready(update.as_ref().map_or(true, |one| one.sequence > after)))
}
