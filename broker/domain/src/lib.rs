//! The decisions of Countersign, and nothing else: no I/O, no clock, no randomness, no async. Time and random
//! values are arguments; what is decided comes back as events.
//!
//! An account is one aggregate, its approvals and enrolments are entities inside it: counters, limits and pauses
//! then need no second stream. In the order of the story:
//!
//! - [`account`]: the state, and `decide`, `evolve` and `react`, which hand on to the rooms below;
//! - [`enrolment`], [`claim`]: a code, a new key, a trial, an active authenticator;
//! - [`authenticator`], [`call`]: enrolled phones, and what they sign beside answers;
//! - [`approval`], [`challenge`], [`number`], [`answer`], [`idempotency`]: a sign-in attempt from its number to its
//!   outcome;
//! - [`policy`], [`throttle`], [`limits`]: what bounds all of it;
//! - [`relying_party`]: who may ask;
//! - [`kept`]: a state as bytes, so that it need not be folded from all events each time;
//! - [`event`], [`command`], [`ids`], [`text`], [`time`]: the words that the rest is written in.

pub mod account;
pub mod aggregate;
pub mod answer;
pub mod approval;
pub mod authenticator;
pub mod call;
pub mod challenge;
pub mod claim;
pub mod command;
pub mod enrolment;
pub mod event;
pub mod idempotency;
pub mod ids;
pub mod kept;
pub mod limits;
pub mod number;
pub mod policy;
pub mod relying_party;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod throttle;
pub mod time;

pub use account::Account;
pub use aggregate::Aggregate;
pub use command::Command;
pub use event::Event;
pub use ids::{AccountId, ApprovalId, AuthenticatorId, CredentialId, EnrolmentId, RelyingPartyId};
pub use relying_party::RelyingParty;
pub use time::Timestamp;
