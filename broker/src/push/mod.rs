//! Push: how a phone learns that something waits for it.
//!
//! A push holds an id and what the phone needs to ask for more; never personal data, never the match number. What
//! the phone shows it fetches, and checks, itself. Nothing here decides: a push service's answer is reported, and
//! what follows from it (a dead target, say) is the domain's.
//!
//! The rooms, in the order in which a push passes through them:
//!
//! | where | what happens |
//! |---|---|
//! | [`Pusher`] (`queue`) | a [`Job`] waits its turn: one bounded queue for each push service |
//! | `queue::dispatcher` | a connection that has room takes it; a failed attempt waits (`retry`), and goes elsewhere |
//! | [`PushService`] | one connection: makes one attempt and says what came of it |
//! | `payload` | what the push holds |
//! | [`apns`], [`fcm`] | Apple's and Google's protocols, their credentials, and what their answers mean |
//! | `connection` | one HTTP/2 connection, made anew when it has gone silent |
//! | [`Report`] | how it ended, once for each job |
//! | [`Probe`] | whether a service is there and takes our credentials, without a phone |
//!
//! 'Accepted' means accepted by the push service. Whether the phone got it, the phone says.

pub mod apns;
mod connection;
pub mod fcm;
mod payload;
mod probe;
mod queue;
mod retry;
mod settings;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};

use crate::live::Reload;
pub use probe::{Probe, Reached};
pub use queue::{EXPIRED, Job, NotQueued, Outcome, Pusher, QueueSettings, Report, UNREACHABLE};
#[doc(hidden)]
pub use retry::retry_after;
pub use settings::{HttpsUrl, SetupError};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where 64 uniformly random bits come from. They spread retries; nothing secret is made of them.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One connection to a push service.
///
/// # The contract
///
/// - **One attempt.** `send` offers the push once. It may repeat what the service provably never looked at (a
///   stream that was refused before it was read, a push refused for a credential that was renewed since), and
///   nothing else: who calls decides about retries.
/// - **It reports and decides nothing.** It changes no state but its own connection and credentials.
/// - **Accepted means accepted by the push service**, never delivered.
/// - **Not in doubt.** [`Error::Unreachable`] may hide an accepted push whose answer got lost: pushes are sent at
///   least once, and phones know a repeated one by its id.
/// - **No limit of its own on time.** The caller bounds it by dropping the future. An implementation takes that
///   for a sign that its connection has gone silent.
/// - **Nothing secret in errors.** No reason holds a target, a token or a key.
#[async_trait]
pub trait PushService: Send + Sync + 'static {
    /// Offers `message` for the phone at `target`, which is one of this service's, to the push service.
    async fn send(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        now: Timestamp,
    ) -> Result<Accepted, Error>;
}

/// A push service as configured: all connections to it, and how pushes wait for them.
pub struct Service {
    /// Whose.
    pub kind: PushServiceKind,
    /// At least one.
    pub connections: Vec<Arc<dyn PushService>>,
    /// How pushes wait for them.
    pub queue: QueueSettings,
    /// What the connections show of us, if that comes from files that may be replaced.
    pub credentials: Option<Arc<dyn Reload>>,
}

/// Settings as they are now; the error says what is wrong with them.
pub type Again<T> = Arc<dyn Fn() -> Result<T, String> + Send + Sync>;

/// Settings that do not change.
fn same<T: Clone + Send + Sync + 'static>(settings: &T) -> Again<T> {
    let settings = settings.clone();
    Arc::new(move || Ok(settings.clone()))
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("kind", &self.kind)
            .field("connections", &self.connections.len())
            .field("queue", &self.queue)
            .field("credentials", &self.credentials)
            .finish()
    }
}

/// What a phone is told by push.
#[derive(Clone, PartialEq, Eq)]
pub struct PushMessage {
    /// What waits, or has ended.
    pub kind: PushKind,
    /// The id of the approval, enrolment or notice: 1 to 64 bytes of visible ASCII. On APNs it is the collapse id,
    /// so that a later push of the same id takes the place of what an earlier one shows.
    pub id: String,
    /// Whom it is for: one phone can hold several accounts.
    pub authenticator_id: String,
    /// From then on the push is of no use: it is neither sent nor kept by the push service.
    pub expires_at: Timestamp,
    /// With it the phone says 'delivered' and 'opened'. Base64url; empty for kinds of which that is not asked.
    pub acknowledgement_token: String,
    /// The server nonce for the phone's next read. Base64url.
    pub nonce: String,
}

impl fmt::Debug for PushMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushMessage")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .field("authenticator_id", &self.authenticator_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What a push is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PushKind {
    /// A sign-in attempt waits for an answer.
    Challenge,
    /// A new phone is asked for its first answer.
    Trial,
    /// An approval has ended: takes the place of what is shown of it.
    Ended,
    /// Something about the account that its owner should know.
    Notice,
}

impl PushKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Challenge, Self::Trial, Self::Ended, Self::Notice];

    /// Its name in a push.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Challenge => "challenge",
            Self::Trial => "trial",
            Self::Ended => "ended",
            Self::Notice => "notice",
        }
    }

    /// Somebody waits in front of a page for the phone to light up.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::Challenge | Self::Trial)
    }
}

/// The push service has taken the push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The push service's name for it: APNs' `apns-id`, FCM's message name.
    pub push_id: String,
}

/// Why the push service has not taken a push; says if a retry helps. No reason holds a target, a token or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target is no phone's any more: no retry helps, and no other push will reach it.
    #[error("the push target is dead: {reason}")]
    Dead {
        /// The push service's word for it.
        reason: String,
        /// Since when, if the push service says.
        since: Option<Timestamp>,
    },
    /// The push service answered 'not now': a retry helps.
    #[error("not now: {reason}")]
    Retry {
        /// The push service's word for it.
        reason: String,
        /// Not before so much time has passed, if the push service says.
        after: Option<Duration>,
    },
    /// No answer: not connected, or the connection broke, or it is silent. A retry helps, best on another
    /// connection.
    #[error("unreachable: {reason}")]
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// This push will never be taken: bad request, bad credentials. No retry helps; an operator must act.
    #[error("refused: {reason}")]
    Refused {
        /// The push service's word for it, and what to do.
        reason: String,
    },
}

impl Error {
    /// Why, in the push service's words.
    pub fn reason(&self) -> &str {
        match self {
            Self::Dead { reason, .. }
            | Self::Retry { reason, .. }
            | Self::Unreachable { reason }
            | Self::Refused { reason } => reason,
        }
    }
}
