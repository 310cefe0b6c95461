//! A login server: somebody types a name into its page, and it asks for an approval.

use std::{fmt, time::Duration};

use bytes::Bytes;
use countersign_proto::v1::{self, open_approval_reply};
use data_encoding::HEXLOWER;

use super::{
    credential::{ApiKey, Client},
    resume::Backoff,
    update::{Issued, Outcome, Step, Update},
};
use crate::{
    clock::Clock,
    entropy,
    wire::{Refusal, Transport},
};

/// The broker ends a stream with the outcome; one that does not is not waited for.
const END_MAX: Duration = Duration::from_secs(1);

/// A login server.
#[derive(Clone, Debug)]
pub struct LoginServer {
    client: Client,
}

/// One sign-in attempt, as the login server asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct SignIn {
    /// The account's name.
    pub account: String,
    /// Its realm; empty for the relying party's own.
    pub realm: String,
    /// The application.
    pub application: String,
    /// Where the browser is.
    pub context: v1::Context,
    /// The browser session that waits.
    pub session_binding: Bytes,
    /// Makes a request that is sent again the same request.
    pub idempotency_key: String,
    /// How long the phone has; the broker's default if none.
    pub lifetime: Option<Duration>,
}

/// The updates of one approval, as they come.
pub struct Updates(tonic::Streaming<v1::ApprovalUpdate>);

/// What a page that follows an approval hears.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// The next step.
    Update(&'a Update),
    /// The broker did not answer, or is gone. It is asked again.
    Away(&'a Refusal),
    /// The broker has taken the call.
    There,
}

/// What `OpenApproval` gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// It waits.
    Issued(Issued),
    /// It ended at once.
    Outcome(Outcome),
}

/// An approval as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Which.
    pub approval_id: String,
    /// Absent where it was refused at once.
    pub issued: Option<Issued>,
    /// All so far.
    pub updates: Vec<Update>,
    /// Absent while it waits.
    pub outcome: Option<Outcome>,
}

impl SignIn {
    /// An attempt in a new browser session.
    pub fn new(account: impl Into<String>, application: impl Into<String>) -> Self {
        let mut random = [0; 32];
        entropy::fill(&mut random);
        let (binding, key) = random.split_at(16);
        Self {
            account: account.into(),
            realm: String::new(),
            application: application.into(),
            context: v1::Context::default(),
            session_binding: binding.to_vec().into(),
            idempotency_key: HEXLOWER.encode(key),
            lifetime: None,
        }
    }

    /// In this realm.
    #[must_use]
    pub fn in_realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// From a browser with this IP address.
    #[must_use]
    pub fn from_ip(mut self, ip: impl Into<String>) -> Self {
        self.context.source_ip = ip.into();
        self
    }

    /// In this browser session.
    #[must_use]
    pub fn in_session(mut self, session_binding: impl Into<Bytes>) -> Self {
        self.session_binding = session_binding.into();
        self
    }

    /// With so much time for the phone.
    #[must_use]
    pub fn lasting(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// As a message.
    pub fn to_message(&self) -> v1::RequestApprovalRequest {
        v1::RequestApprovalRequest {
            account: Some(v1::AccountName { realm: self.realm.clone(), name: self.account.clone() }),
            application: self.application.clone(),
            context: Some(self.context.clone()),
            session_binding: self.session_binding.clone(),
            idempotency_key: self.idempotency_key.clone(),
            lifetime: self.lifetime.and_then(|lifetime| lifetime.try_into().ok()),
        }
    }
}

impl LoginServer {
    /// A login server with this API key; without one, with the client certificate of the transport.
    pub fn new(transport: &Transport, key: Option<ApiKey>) -> Self {
        Self { client: Client::new(transport, key) }
    }

    /// Its way to the broker: the generated clients, with its credential, for what no login server would send.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for an approval and follows it.
    pub async fn request(&self, sign_in: &SignIn) -> Result<Updates, Refusal> {
        let updates = self.client.approvals().request_approval(sign_in.to_message()).await?;
        Ok(Updates(updates.into_inner()))
    }

    /// Takes an approval up again, after the update `after_sequence`.
    pub async fn watch(&self, approval_id: &str, after_sequence: u32) -> Result<Updates, Refusal> {
        let request = v1::WatchApprovalRequest { approval_id: approval_id.to_owned(), after_sequence };
        Ok(Updates(self.client.approvals().watch_approval(request).await?.into_inner()))
    }

    /// Asks for an approval without following it. `None` if the reply says neither.
    pub async fn open(&self, sign_in: &SignIn) -> Result<Option<Opened>, Refusal> {
        let reply = self.client.approvals().open_approval(sign_in.to_message()).await?.into_inner();
        Ok(reply.result.map(|result| match result {
            open_approval_reply::Result::Issued(issued) => Opened::Issued(Issued::of(issued)),
            open_approval_reply::Result::Outcome(outcome) => Opened::Outcome(Outcome::of(outcome)),
        }))
    }

    /// One long poll.
    pub async fn wait(&self, approval_id: &str, max_wait: Duration) -> Result<Standing, Refusal> {
        let request = v1::WaitApprovalRequest {
            approval_id: approval_id.to_owned(),
            max_wait: max_wait.try_into().ok(),
        };
        Ok(Standing::of(self.client.approvals().wait_approval(request).await?.into_inner()))
    }

    /// How the approval stands.
    pub async fn get(&self, approval_id: &str) -> Result<Standing, Refusal> {
        let request = v1::GetApprovalRequest { approval_id: approval_id.to_owned() };
        Ok(Standing::of(self.client.approvals().get_approval(request).await?.into_inner()))
    }

    /// Withdraws an approval; gives the outcome that stands.
    pub async fn cancel(&self, approval_id: &str) -> Result<Outcome, Refusal> {
        let request = v1::CancelApprovalRequest { approval_id: approval_id.to_owned() };
        Ok(Outcome::of(self.client.approvals().cancel_approval(request).await?.into_inner()))
    }

    /// Asks for an approval and follows it to its outcome, through restarts of the broker and lost connections: the
    /// request is sent again with its idempotency key until the approval is known, then it is watched from the last
    /// update on. Each update is told once.
    pub async fn until_outcome(
        &self,
        sign_in: &SignIn,
        clock: &Clock,
        told: impl FnMut(&Update),
    ) -> Result<Outcome, Refusal> {
        self.follow_to_outcome(sign_in, clock, only_updates(told)).await
    }

    /// The same for a page that also says when the broker does not answer.
    pub async fn follow_to_outcome(
        &self,
        sign_in: &SignIn,
        clock: &Clock,
        told: impl FnMut(News<'_>),
    ) -> Result<Outcome, Refusal> {
        let opened = self.request(sign_in).await;
        self.follow(opened, Some(sign_in), Known::default(), clock, told).await
    }

    /// The same for a page that gives up at once when the broker does not take the request.
    pub async fn ask_once(
        &self,
        sign_in: &SignIn,
        clock: &Clock,
        told: impl FnMut(&Update),
    ) -> Result<Outcome, Refusal> {
        let opened = Ok(self.request(sign_in).await?);
        self.follow(opened, Some(sign_in), Known::default(), clock, only_updates(told)).await
    }

    /// The same for an approval that waits already: the updates after `after_sequence`, to its outcome.
    pub async fn watch_until_outcome(
        &self,
        approval_id: &str,
        after_sequence: u32,
        clock: &Clock,
        told: impl FnMut(&Update),
    ) -> Result<Outcome, Refusal> {
        let opened = self.watch(approval_id, after_sequence).await;
        let known = Known { approval_id: Some(approval_id.to_owned()), sequence: after_sequence };
        self.follow(opened, None, known, clock, only_updates(told)).await
    }

    /// From a stream to the outcome, through as many more as it takes. Who knows no approval yet needs a sign-in to ask
    /// for one.
    async fn follow(
        &self,
        mut opened: Result<Updates, Refusal>,
        sign_in: Option<&SignIn>,
        mut known: Known,
        clock: &Clock,
        mut told: impl FnMut(News<'_>),
    ) -> Result<Outcome, Refusal> {
        let mut backoff = Backoff::new();
        loop {
            if let Some(outcome) = known.follow(opened, &mut backoff, clock, &mut told).await? {
                return Ok(outcome);
            }
            opened = match (&known.approval_id, sign_in) {
                (Some(id), _) => self.watch(id, known.sequence).await,
                (None, Some(sign_in)) => self.request(sign_in).await,
                (None, None) => unreachable!("what is watched has an id"),
            };
        }
    }
}

/// For a page that does not want to know when the broker is away.
fn only_updates(mut told: impl FnMut(&Update)) -> impl FnMut(News<'_>) {
    move |news| {
        if let News::Update(update) = news {
            told(update);
        }
    }
}

/// How far an approval was followed.
#[derive(Debug, Default)]
struct Known {
    approval_id: Option<String>,
    sequence: u32,
}

impl Known {
    /// Follows one stream as far as it goes; `None` if it broke, and it is time for the next.
    async fn follow(
        &mut self,
        opened: Result<Updates, Refusal>,
        backoff: &mut Backoff,
        clock: &Clock,
        told: &mut impl FnMut(News<'_>),
    ) -> Result<Option<Outcome>, Refusal> {
        let mut updates = match opened {
            Ok(updates) => {
                backoff.opened(clock.now());
                told(News::There);
                updates
            }
            Err(refusal) => return away(refusal, backoff, clock, told).await,
        };
        loop {
            match updates.next().await {
                Ok(Some(update)) if update.sequence <= self.sequence => {}
                Ok(Some(update)) => {
                    backoff.succeeded();
                    self.sequence = update.sequence;
                    if let Step::Issued(issued) = &update.step {
                        self.approval_id = Some(issued.approval_id.clone());
                    }
                    told(News::Update(&update));
                    if let Step::Outcome(outcome) = update.step {
                        updates.read_to_the_end().await;
                        return Ok(Some(outcome));
                    }
                }
                // A stream that ends before the outcome is a broker that went away.
                Ok(None) => {
                    let gone = tonic::Status::unavailable("the broker ended the stream before the outcome");
                    return away(gone.into(), backoff, clock, told).await;
                }
                Err(refusal) => return away(refusal, backoff, clock, told).await,
            }
        }
    }
}

/// Tells that the broker is away, and waits until it is time for the next stream; gives the refusal back if that does not
/// help.
async fn away(
    refusal: Refusal,
    backoff: &mut Backoff,
    clock: &Clock,
    told: &mut impl FnMut(News<'_>),
) -> Result<Option<Outcome>, Refusal> {
    if refusal.retry_helps() {
        told(News::Away(&refusal));
    }
    backoff.wait(refusal, clock).await.map(|()| None)
}

impl Updates {
    /// The next update; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Update>, Refusal> {
        Ok(self.0.message().await?.map(Update::of))
    }

    /// Reads what follows the outcome: nothing, and the end. A stream that is dropped before its end is reset, and a
    /// connection on which a thousand were reset is given up by HTTP/2 (`too_many_internal_resets`), with all others
    /// that wait on it.
    async fn read_to_the_end(&mut self) {
        let end = async { while let Ok(Some(_)) = self.0.message().await {} };
        let _ = tokio::time::timeout(END_MAX, end).await;
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Updates")
    }
}

impl Standing {
    fn of(approval: v1::Approval) -> Self {
        Self {
            approval_id: approval.approval_id,
            issued: approval.issued.map(Issued::of),
            updates: approval.updates.into_iter().map(Update::of).collect(),
            outcome: approval.outcome.map(Outcome::of),
        }
    }
}
