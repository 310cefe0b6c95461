//! An enrolling page: somebody who is signed in there adds a phone.

use std::fmt;

use countersign_proto::v1::{self, EnrolmentEnd, enrolment_update};
use zeroize::Zeroizing;

use super::{
    credential::{ApiKey, Client},
    resume::Backoff,
};
use crate::{
    clock::{Clock, Timestamp},
    phone::Number,
    wire::{Refusal, Transport, optional_moment},
};

/// An enrolling page, for the accounts of one realm.
#[derive(Clone, Debug)]
pub struct EnrollingPage {
    client: Client,
    realm: String,
}

/// A code that waits. It holds the code's secret, and prints without it.
pub struct Begun {
    /// Which enrolment.
    pub enrolment_id: String,
    /// For the QR code.
    pub uri: Zeroizing<String>,
    /// To type.
    pub code: Zeroizing<String>,
    /// The broker's address, to type.
    pub address: String,
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// One step of an enrolment.
#[derive(Clone, Debug, PartialEq)]
pub struct EnrolmentUpdate {
    /// Dense from 1 within the enrolment.
    pub sequence: u32,
    /// When.
    pub at: Option<Timestamp>,
    /// What happened.
    pub step: EnrolmentStep,
}

/// What happened to an enrolment.
#[derive(Clone, Debug, PartialEq)]
pub enum EnrolmentStep {
    /// The code waits.
    Begun {
        /// Until when.
        expires_at: Option<Timestamp>,
    },
    /// Somebody used a wrong secret.
    CodeRefused {
        /// How many more are taken.
        attempts_left: u32,
    },
    /// A phone is bound: show the number.
    Trial {
        /// Which.
        authenticator_id: String,
        /// What it calls itself.
        device_name: String,
        /// What it runs.
        platform: v1::Platform,
        /// What the page shows.
        number: Number,
        /// Until when.
        expires_at: Option<Timestamp>,
    },
    /// The phone is active.
    Active {
        /// Which.
        authenticator_id: String,
    },
    /// It failed.
    Ended {
        /// Why.
        reason: EnrolmentEnd,
    },
    /// Something that this release does not know.
    Unknown,
}

/// The steps of one enrolment, as they come.
pub struct EnrolmentUpdates(tonic::Streaming<v1::EnrolmentUpdate>);

impl EnrollingPage {
    /// A page with this API key; without one, with the client certificate of the transport.
    pub fn new(transport: &Transport, key: Option<ApiKey>) -> Self {
        Self { client: Client::new(transport, key), realm: String::new() }
    }

    /// For accounts of this realm, not of the relying party's own.
    #[must_use]
    pub fn in_realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// Its way to the broker: the generated clients, with its credential, for what no page would send.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn account(&self, name: &str) -> Option<v1::AccountName> {
        Some(v1::AccountName { realm: self.realm.clone(), name: name.to_owned() })
    }

    /// Makes a code for a new phone.
    pub async fn begin(&self, account: &str) -> Result<Begun, Refusal> {
        let request = v1::BeginEnrolmentRequest { account: self.account(account) };
        let begun = self.client.enrolments().begin_enrolment(request).await?.into_inner();
        Ok(Begun {
            enrolment_id: begun.enrolment_id,
            uri: Zeroizing::new(begun.uri),
            code: Zeroizing::new(begun.code),
            address: begun.address,
            expires_at: optional_moment(begun.expires_at.as_ref()),
        })
    }

    /// The steps after `after_sequence`.
    pub async fn watch(&self, enrolment_id: &str, after_sequence: u32) -> Result<EnrolmentUpdates, Refusal> {
        let request = v1::WatchEnrolmentRequest { enrolment_id: enrolment_id.to_owned(), after_sequence };
        Ok(EnrolmentUpdates(self.client.enrolments().watch_enrolment(request).await?.into_inner()))
    }

    /// Follows an enrolment to its end, through restarts of the broker and lost connections. Each step is told once;
    /// the last is given back: [`EnrolmentStep::Active`] or [`EnrolmentStep::Ended`].
    pub async fn until_done(
        &self,
        enrolment_id: &str,
        clock: &Clock,
        mut told: impl FnMut(&EnrolmentUpdate),
    ) -> Result<EnrolmentStep, Refusal> {
        let mut backoff = Backoff::new();
        let mut known = 0;
        loop {
            let watched = self.watch(enrolment_id, known).await;
            if watched.is_ok() {
                backoff.opened(clock.now());
            }
            let broke = match watched {
                Err(refusal) => refusal,
                Ok(mut updates) => loop {
                    match updates.next().await {
                        Ok(Some(update)) if update.sequence <= known => {}
                        Ok(Some(update)) => {
                            backoff.succeeded();
                            known = update.sequence;
                            told(&update);
                            if update.step.is_last() {
                                return Ok(update.step);
                            }
                        }
                        Ok(None) => {
                            break tonic::Status::unavailable("the broker ended the stream before the end")
                                .into();
                        }
                        Err(refusal) => break refusal,
                    }
                },
            };
            backoff.wait(broke, clock).await?;
        }
    }

    /// Withdraws an enrolment that waits.
    pub async fn cancel(&self, enrolment_id: &str) -> Result<(), Refusal> {
        let request = v1::CancelEnrolmentRequest { enrolment_id: enrolment_id.to_owned() };
        self.client.enrolments().cancel_enrolment(request).await?;
        Ok(())
    }

    /// The account's authenticators, oldest first.
    pub async fn list(&self, account: &str) -> Result<Vec<v1::Authenticator>, Refusal> {
        let request = v1::ListAuthenticatorsRequest { account: self.account(account) };
        Ok(self.client.enrolments().list_authenticators(request).await?.into_inner().authenticators)
    }

    /// Ends an authenticator.
    pub async fn revoke(&self, account: &str, authenticator_id: &str) -> Result<(), Refusal> {
        let request = v1::RevokeAuthenticatorRequest {
            account: self.account(account),
            authenticator_id: authenticator_id.to_owned(),
        };
        self.client.enrolments().revoke_authenticator(request).await?;
        Ok(())
    }
}

impl EnrolmentUpdates {
    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<EnrolmentUpdate>, Refusal> {
        Ok(self.0.message().await?.map(EnrolmentUpdate::of))
    }
}

impl EnrolmentUpdate {
    fn of(update: v1::EnrolmentUpdate) -> Self {
        use enrolment_update::Update as Kind;
        let step = match update.update {
            Some(Kind::Begun(begun)) => {
                EnrolmentStep::Begun { expires_at: optional_moment(begun.expires_at.as_ref()) }
            }
            Some(Kind::CodeRefused(refused)) => {
                EnrolmentStep::CodeRefused { attempts_left: refused.attempts_left }
            }
            Some(Kind::Trial(trial)) => EnrolmentStep::Trial {
                platform: trial.platform(),
                authenticator_id: trial.authenticator_id,
                device_name: trial.device_name,
                number: Number::new(trial.match_number),
                expires_at: optional_moment(trial.expires_at.as_ref()),
            },
            Some(Kind::Active(active)) => EnrolmentStep::Active { authenticator_id: active.authenticator_id },
            Some(Kind::Ended(ended)) => EnrolmentStep::Ended { reason: ended.reason() },
            None => EnrolmentStep::Unknown,
        };
        Self { sequence: update.sequence, at: optional_moment(update.at.as_ref()), step }
    }
}

impl EnrolmentStep {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Active { .. } | Self::Ended { .. })
    }
}

impl fmt::Debug for EnrolmentUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentUpdates")
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").field("enrolment_id", &self.enrolment_id).finish_non_exhaustive()
    }
}
