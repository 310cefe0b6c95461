//! The way to the broker, for whoever calls it: connections ([`Transport`]) and what a call that got no reply was told
//! ([`Refusal`]).

mod port;
mod refusal;
mod transport;

pub use self::{
    port::free_port,
    refusal::{Refusal, outcome_named},
    transport::{AddressError, Builder, Transport},
};
use crate::clock::Timestamp;

/// A moment in a message; before 1970 counts as 1970.
pub(crate) fn moment(at: &prost_types::Timestamp) -> Timestamp {
    let seconds = u64::try_from(at.seconds).unwrap_or(0);
    let millis = u64::try_from(at.nanos).unwrap_or(0) / 1_000_000;
    Timestamp(seconds.saturating_mul(1_000).saturating_add(millis))
}

/// The same where it may be absent.
pub(crate) fn optional_moment(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    at.map(moment)
}
