//! `given(events).when(command).then(events)`: the tests of an aggregate as its history reads.

use std::fmt::Debug;

use crate::{Aggregate, Timestamp};

/// A history, and what is asked at its end.
#[derive(Debug)]
pub struct Given<A: Aggregate> {
    state: A,
    now: Timestamp,
}

/// What came of a command.
#[derive(Debug)]
pub struct Then<A: Aggregate> {
    state: A,
    now: Timestamp,
    result: Result<Vec<A::Event>, A::Refusal>,
}

/// The state after these events, each with when it was recorded.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = (Timestamp, A::Event)>) -> Given<A> {
    let mut state = A::default();
    let mut now = Timestamp::default();
    for (at, event) in events {
        state.evolve(&event, at);
        now = at;
    }
    Given { state, now }
}

impl<A: Aggregate> Given<A>
where
    A::Event: Debug + PartialEq,
    A::Refusal: Debug + PartialEq,
{
    /// Goes on from a state.
    pub fn state(state: A, now: Timestamp) -> Self {
        Self { state, now }
    }

    /// The command comes at this moment instead of that of the last event.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// The state so far.
    pub fn as_state(&self) -> &A {
        &self.state
    }

    /// Asks.
    pub fn when(self, command: &A::Command) -> Then<A> {
        let result = self.state.decide(command, self.now);
        Then { state: self.state, now: self.now, result }
    }
}

impl<A: Aggregate> Then<A>
where
    A::Event: Debug + PartialEq,
    A::Refusal: Debug + PartialEq,
{
    /// Exactly these events came of it. Goes on from the state after them.
    #[track_caller]
    pub fn then(self, expected: &[A::Event]) -> Given<A> {
        let events = self.result.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        assert_eq!(events, expected);
        Given { state: after(self.state, &events, self.now), now: self.now }
    }

    /// Events came of it that this says yes to. Goes on from the state after them.
    #[track_caller]
    pub fn then_some(self, expected: impl FnOnce(&[A::Event]) -> bool) -> Given<A> {
        let events = self.result.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        assert!(expected(&events), "unexpected events: {events:#?}");
        Given { state: after(self.state, &events, self.now), now: self.now }
    }

    /// It was refused so.
    #[track_caller]
    pub fn then_refused(self, expected: &A::Refusal) {
        match self.result {
            Ok(events) => panic!("not refused: {events:?}"),
            Err(refusal) => assert_eq!(&refusal, expected),
        }
    }
}

fn after<A: Aggregate>(mut state: A, events: &[A::Event], now: Timestamp) -> A {
    for event in events {
        state.evolve(event, now);
    }
    state
}
