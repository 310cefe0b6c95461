//! The domain's rules as stories: `given(events).when(command).then(events)`, with real keys of both algorithms.
//! One program, so that it is linked once; one file a story, in the order in which an account lives through them.

mod answers;
mod approval;
mod authenticators;
mod cast;
mod clock;
mod enrolment;
mod kept;
mod numbers_and_limits;
mod relying_party;
mod rules;
mod secrets;
mod trial;
mod vectors;
