//! What every aggregate is: a state that is folded from its events and decides on commands.

use crate::Timestamp;

/// A consistency boundary: its events are one stream, a decision sees all of its state.
pub trait Aggregate: Default + Clone + Send + Sync + 'static {
    /// What may be asked of it.
    type Command;
    /// A fact about it.
    type Event;
    /// Why a command changes nothing.
    type Refusal;

    /// Decides: the events that the command causes (none, if what it asks for stands already), or why not.
    /// `now` is the broker's clock; nobody else's time decides anything.
    fn decide(&self, command: &Self::Command, now: Timestamp) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// Takes a recorded event in. Total: what was recorded always applies, whichever release recorded it.
    /// `at` is when it was recorded.
    fn evolve(&mut self, event: &Self::Event, at: Timestamp);

    /// The state after these events.
    fn fold<'a>(events: impl IntoIterator<Item = (Timestamp, &'a Self::Event)>) -> Self
    where
        Self::Event: 'a,
    {
        let mut state = Self::default();
        for (at, event) in events {
            state.evolve(event, at);
        }
        state
    }
}
