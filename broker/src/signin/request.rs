//! A login server asks. The account says at once whether it would take the request; only then a number is drawn and a
//! challenge signed. The answer goes out when the event is durable.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use countersign_domain::{
    Account, AccountId, ApprovalId, Command, RelyingPartyId, Timestamp,
    approval::{self, Approval, Assessment},
    challenge::{Names, challenge},
    command::Refusal,
    event::{Context, Event, Idempotency, Question, Request},
    number::{MatchNumber, Salt},
    policy::Policy,
    text::DisplayText,
};
use countersign_envelope::payload_type;

use super::{Error, SignIn, to_its_end::to_its_end};
use crate::{
    decider,
    projection::places::Place,
    shares::Full,
    telemetry::{
        Stopwatch,
        metrics::{labels::Requested, metrics},
        traces,
    },
};

/// What a login server asks for, checked.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Who asks.
    pub relying_party: RelyingPartyId,
    /// Its registered name.
    pub relying_party_name: DisplayText,
    /// For whom.
    pub account: AccountId,
    /// One of its registered applications.
    pub application: DisplayText,
    /// Where the attempt comes from.
    pub context: Context,
    /// The session that waits.
    pub session_binding: Bytes,
    /// To know the request again.
    pub idempotency: Option<Idempotency>,
    /// How long the phone has, if the login server says.
    pub lifetime: Option<Duration>,
}

/// An approval that was asked for, with the account as it was then.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Which.
    pub id: ApprovalId,
    /// Its account.
    pub account: Arc<Account>,
}

impl Opened {
    /// The approval itself.
    pub fn approval(&self) -> Option<&Approval> {
        self.account.approval(self.id)
    }
}

impl SignIn {
    /// Has a sign-in attempt approved. It is durable when this returns; what comes of it, [`SignIn::watch`] tells.
    pub async fn request(&self, new: NewRequest) -> Result<Opened, Error> {
        let this = self.clone();
        // An approval that nobody waits for any more has its place all the same.
        to_its_end(async move {
            let asked = Stopwatch::start();
            let decided = this.ask(new).await;
            let counted_as = decided.as_ref().map_or_else(failed, |(_, counted_as)| *counted_as);
            metrics().requested(counted_as, asked.elapsed());
            decided.map(|(opened, _)| opened)
        })
        .await
    }

    async fn ask(&self, new: NewRequest) -> Result<(Opened, Requested), Error> {
        let policy = Policy { lifetime: new.lifetime.unwrap_or(self.policy.lifetime), ..self.policy };
        let id = ApprovalId::new(new.account, self.entropy.bytes());
        let request = Request {
            approval: id,
            relying_party: new.relying_party,
            application: new.application,
            context: new.context,
            session_binding: new.session_binding,
            idempotency: new.idempotency,
            policy,
        };
        // Before the event is there, because of which the push is sent that belongs to the same trace.
        let trace = traces::follow(id);
        let mut place = None;
        let decided = self
            .accounts
            .decide(new.account, |account, now| {
                let question = match approval::assess(account, &request, now)? {
                    Assessment::Issue { supersedes, .. } => {
                        // What takes another's place needs none of its own; nor does what stands or is refused.
                        place = match (supersedes, place.take()) {
                            (Some(_), _) => None,
                            (None, Some(place)) => Some(place),
                            (None, None) => Some(self.place(&request)?),
                        };
                        Some(self.question(account, &request, &new.relying_party_name, now))
                    }
                    Assessment::Refused(_) | Assessment::Stands(_) => None,
                };
                Ok::<_, Error>(Command::RequestApproval { request: request.clone(), question })
            })
            .await;
        match decided {
            Ok(decided) => {
                let counted_as = made(&decided.events);
                if counted_as == Requested::Issued {
                    trace.keep();
                    if let Some(place) = place {
                        place.keep();
                    }
                }
                let id = standing(&decided.state, &request).unwrap_or(id);
                Ok((Opened { id, account: decided.state }, counted_as))
            }
            Err(error) => {
                if error == Error::Refused(Refusal::UnknownAccount) {
                    self.in_vain(&request, &new.relying_party_name).await?;
                }
                Err(error)
            }
        }
    }

    fn place(&self, request: &Request) -> Result<Place, Error> {
        let places = self.models.index.places();
        places.take(request.approval, request.relying_party, self.live_max).map_err(Error::TooManyLive)
    }

    /// The number, drawn among those that are free in this very state, and the challenge that commits to it.
    fn question(
        &self,
        account: &Account,
        request: &Request,
        relying_party: &DisplayText,
        now: Timestamp,
    ) -> Question {
        let number = MatchNumber::draw(
            request.policy.digits,
            |number| account.number_is_taken(number, now),
            || self.entropy.bits(),
        );
        let identity = account.identity().expect("an account that issues has been opened");
        let names = Names { broker_id: self.keys.broker_id(), account: identity, relying_party };
        let salt = Salt::from_bytes(self.entropy.bytes());
        let (payload, commitment) = challenge(names, request, number, &salt, now);
        let challenge = self.keys.sign(payload_type::CHALLENGE, payload);
        Question { number, salt, commitment, challenge }
    }

    /// What an account costs that nobody has enrolled: the work of one that has been, and its wait for the disk.
    async fn in_vain(&self, request: &Request, relying_party: &DisplayText) -> Result<(), Error> {
        let identity = countersign_domain::event::Identity {
            realm: countersign_domain::text::Realm::recorded("nobody"),
            name: DisplayText::recorded("nobody"),
        };
        let names = Names { broker_id: self.keys.broker_id(), account: &identity, relying_party };
        let number = MatchNumber::draw(request.policy.digits, |_| false, || self.entropy.bits());
        let salt = Salt::from_bytes(self.entropy.bytes());
        let (payload, _) = challenge(names, request, number, &salt, self.clock.now());
        std::hint::black_box(self.keys.sign(payload_type::CHALLENGE, payload));
        Ok(self.accounts.log().append_nothing().await.map_err(decider::Error::Append)?)
    }
}

/// What a request is counted as that made these events.
fn made(events: &[Event]) -> Requested {
    let is_issued = |event: &Event| matches!(event, Event::ApprovalRequested(_));
    match events {
        [] => Requested::Repeated,
        events if events.iter().any(is_issued) => Requested::Issued,
        _ => Requested::Refused,
    }
}

fn failed(error: &Error) -> Requested {
    match error {
        Error::Refused(Refusal::UnknownAccount) => Requested::UnknownAccount,
        Error::TooManyLive(Full::InAll(_)) => Requested::TooManyLive,
        Error::TooManyLive(Full::OfOne(_)) => Requested::TooManyLiveOfRelyingParty,
        Error::Log(_) => Requested::Failed,
        _ => Requested::Rejected,
    }
}

/// The approval that a repeated request stands for.
fn standing(account: &Account, request: &Request) -> Option<ApprovalId> {
    let idempotency = request.idempotency.as_ref()?;
    account.by_idempotency_key(&idempotency.key_hash).map(|(id, _)| id)
}
