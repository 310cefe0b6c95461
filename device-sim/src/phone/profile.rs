//! Who answers, and how: the honest, the careless, and those who want in.

use std::{fmt, str::FromStr, time::Duration};

use countersign_envelope::{Algorithm, payload_type};
use countersign_proto::v1::{self, OutcomeKind};

use super::{
    Challenge, Decision, Key, Number, Phone,
    answer::{AnswerBuilder, tampered, with_bad_signature},
};
use crate::{
    clock::Clock,
    wire::{Refusal, Transport},
};

/// How long after the challenge's end a late answer is sent.
const LATE_BY: Duration = Duration::from_millis(250);
/// Between two tries of an answer whose reply was lost.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How a phone, or somebody who plays one, answers a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Types the number and approves.
    Approve,
    /// Denies.
    Deny,
    /// Denies, and reports.
    Report,
    /// Does nothing.
    Ignore,
    /// Types another number.
    WrongNumber,
    /// Approves, once the challenge is over.
    Late,
    /// Approves twice at once, each signed for itself.
    Twice,
    /// Approves, and sends the same bytes again.
    Replayed,
    /// Has no key: signs with another one, changes what was signed, turns a bit over, leaves the signature out.
    Forged,
}

/// What a profile did, and what the broker said to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// The profile.
    pub profile: Profile,
    /// Each answer in the order in which it was sent, and its reply.
    pub said: Vec<Said>,
}

/// One answer and its reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// What was sent, for people.
    pub what: &'static str,
    /// What came back.
    pub reply: Result<OutcomeKind, Refusal>,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Approve,
        Self::Deny,
        Self::Report,
        Self::Ignore,
        Self::WrongNumber,
        Self::Late,
        Self::Twice,
        Self::Replayed,
        Self::Forged,
    ];

    /// Its name, as in a mix of profiles.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::WrongNumber => "wrong-number",
            Self::Late => "late",
            Self::Twice => "twice",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
        }
    }

    /// The outcome that it must lead to, if nobody else answers.
    pub const fn outcome(self) -> OutcomeKind {
        match self {
            Self::Approve | Self::Twice | Self::Replayed => OutcomeKind::Approved,
            Self::Deny => OutcomeKind::Denied,
            Self::Report => OutcomeKind::Reported,
            Self::WrongNumber => OutcomeKind::WrongNumber,
            Self::Ignore | Self::Late | Self::Forged => OutcomeKind::Expired,
        }
    }

    /// Whether it needs the number that the page shows.
    pub const fn needs_number(self) -> bool {
        !matches!(self, Self::Deny | Self::Report | Self::Ignore)
    }

    /// Plays it against one challenge, with the number that the page shows.
    pub async fn play(
        self,
        phone: &Phone,
        transport: &Transport,
        challenge: &Challenge,
        number: &Number,
        clock: &Clock,
    ) -> Played {
        self.play_for(phone, transport, challenge, number, clock, Duration::ZERO).await
    }

    /// The same; an answer whose reply is lost, or that a broker sends away for now, is sent again, the same bytes,
    /// until so long after its first try.
    pub async fn play_for(
        self,
        phone: &Phone,
        transport: &Transport,
        challenge: &Challenge,
        number: &Number,
        clock: &Clock,
        patience: Duration,
    ) -> Played {
        let honest = Decision::Approve { number: number.expose() };
        let sign = |decision| AnswerBuilder::new(phone, challenge, decision).sign();
        let send = async |what, answer: v1::Envelope| {
            let first = clock.now();
            loop {
                let reply = phone.submit(transport, answer.clone()).await;
                let again = reply.as_ref().is_err_and(Refusal::retry_helps);
                if !again || clock.now().since(first) >= patience {
                    return Said { what, reply };
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        };
        let said = match self {
            Self::Ignore => Vec::new(),
            Self::Approve => vec![send("the number", sign(honest)).await],
            Self::Deny => vec![send("deny", sign(Decision::Deny)).await],
            Self::Report => vec![send("deny and report", sign(Decision::Report)).await],
            Self::WrongNumber => {
                let other = number.other();
                let wrong = Decision::Approve { number: other.expose() };
                vec![send("another number", sign(wrong)).await]
            }
            Self::Late => {
                clock.wait_until(challenge.expires_at().plus(LATE_BY)).await;
                vec![send("the number, too late", sign(honest)).await]
            }
            Self::Twice => {
                let (one, other) = (sign(honest), sign(honest));
                let (one, other) =
                    tokio::join!(send("the number", one), send("the number, signed once more", other));
                vec![one, other]
            }
            Self::Replayed => {
                let answer = sign(honest);
                let first = send("the number", answer.clone()).await;
                vec![first, send("the same bytes again", answer).await]
            }
            Self::Forged => {
                let mut said = Vec::new();
                for (what, answer) in forgeries(phone, challenge, number) {
                    said.push(send(what, answer).await);
                }
                said
            }
        };
        Played { profile: self, said }
    }
}

/// What can be tried without the phone's key, the number known: none of it may ever be taken.
pub fn forgeries(phone: &Phone, challenge: &Challenge, number: &Number) -> Vec<(&'static str, v1::Envelope)> {
    let honest = Decision::Approve { number: number.expose() };
    let stranger = Key::generate(phone.key().public_key().algorithm());
    let other_kind = Key::generate(match phone.key().public_key().algorithm() {
        Algorithm::Ed25519 => Algorithm::Es256,
        Algorithm::Es256 => Algorithm::Ed25519,
    });
    let builder = || AnswerBuilder::new(phone, challenge, honest);
    // Somebody captured a denial, and makes an approval of it.
    let denial = AnswerBuilder::new(phone, challenge, Decision::Deny).sign();
    let turned_round = tampered(denial, |answer| {
        answer.set_decision(v1::Decision::Approve);
        number.expose().clone_into(&mut answer.number);
    });
    let mut unsigned = builder().sign();
    unsigned.signature = vec![0; 64].into();
    let mut signed_for_something_else = builder().payload_type(payload_type::UNENROL).sign();
    payload_type::ANSWER.clone_into(&mut signed_for_something_else.payload_type);
    vec![
        ("signed with a stranger's key", builder().signed_with(&stranger).sign()),
        ("signed with a key of the other algorithm", builder().signed_with(&other_kind).sign()),
        ("a denial turned into an approval", turned_round),
        ("one bit of the signature turned over", with_bad_signature(builder().sign())),
        ("a signature of zeros", unsigned),
        ("signed as another kind of message", signed_for_something_else),
        ("bound to another broker", builder().broker_id("another-broker").sign()),
    ]
}

impl Played {
    /// Whether the broker said what it must say to this profile.
    pub fn is_as_it_must_be(&self) -> bool {
        let refused_as =
            |said: &Said, reason| said.reply.as_ref().is_err_and(|refusal| refusal.reason() == Some(reason));
        let got = |said: &Said| said.reply == Ok(self.profile.outcome());
        match self.profile {
            Profile::Ignore => self.said.is_empty(),
            Profile::Late => self.said.iter().all(|said| refused_as(said, "APPROVAL_ENDED")),
            Profile::Forged => self.said.iter().all(|said| refused_as(said, "SIGNATURE_INVALID")),
            // One of the two is first; the other is told the outcome that stands.
            Profile::Twice => {
                let first = self.said.iter().filter(|said| got(said)).count();
                let second = self.said.iter().filter(|said| {
                    refused_as(said, "APPROVAL_ENDED")
                        && said
                            .reply
                            .as_ref()
                            .is_err_and(|refusal| refusal.outcome() == Some(OutcomeKind::Approved))
                });
                first == 1 && second.count() == 1
            }
            Profile::Approve | Profile::Deny | Profile::Report | Profile::WrongNumber | Profile::Replayed => {
                !self.said.is_empty() && self.said.iter().all(got)
            }
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No profile is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no profile is called {0:?}; there are approve, deny, report, ignore, wrong-number, late, twice, replayed and forged"
)]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        let found = Self::ALL.into_iter().find(|profile| profile.as_str() == name);
        found.ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}
