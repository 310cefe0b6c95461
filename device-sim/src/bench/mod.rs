//! What the broker spends beyond the work that cannot be avoided.
//!
//! In one run, on one machine: [`parts`] (what the broker's program says of its parts, each by itself) and [`calls`]
//! (gRPC calls that do nothing) are the ceilings; [`whole`] is what approvals cost; [`ceiling`] puts the ones beside the
//! others. [`waiting`] is what it costs that somebody waits, [`overload`] what is left when
//! more is asked for than can be done, [`aged`] what a long past costs. All figures that count are ratios: a machine that is busy, or slow, is so for both sides.

pub mod aged;
pub mod calls;
pub mod ceiling;
mod inside;
pub mod overload;
pub mod parts;
pub mod plot;
pub mod waiting;
pub mod whole;

pub use ceiling::{Ceiling, Plan, Ratios, Round};

use crate::load::{LoadError, StageError};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The broker, or what is round it.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Approvals could not be asked for.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The bare calls.
    #[error("the bare calls failed: {0}")]
    Calls(String),
    /// What the broker's program printed.
    #[error("{what} printed something else than its figures: {source}")]
    Malformed {
        /// Which command.
        what: &'static str,
        /// Where.
        source: serde_json::Error,
    },
    /// The broker's metrics.
    #[error("the broker's metrics cannot be read: {0}")]
    Metrics(String),
    /// A figure of approvals that went wrong is none.
    #[error("{count} of the approvals went wrong, the first: {first}")]
    Mismatches {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// Nor is one of others than it should be of.
    #[error("{0} of the accounts that signed in have no past: the log has opened them since")]
    Newcomers(u64),
    /// Nor is one of a log that cannot be looked at.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Pushes were refused.
    #[error("{0} pushes were not accepted")]
    Pushes(u64),
}
