//! A simulation of broker, phones and logins, all of it from one seed: the broker's own rooms and services, put together
//! as the program does it, real gRPC on turmoil's network, and beneath them what can go wrong: delays, loss, partitions,
//! a disk that is slow or full, crashes that lose what was not acknowledged, a clock that somebody sets, a push service
//! that is away.
//!
//! In the order of a run:
//!
//! - [`run`](run()): the cast, the faults, the quiet afterwards;
//! - `stage`: what all share; `chance`, `clock`, `net`, `push`: the seed's randomness, time, network, push service;
//! - `broker` and its `door`, `phone`, `login`: who takes part;
//! - `witness`: what was told, pushed and logged, held against the rules as it happens;
//! - `ledger`: what the log holds, judged entry by entry without the domain's `decide`;
//! - `mutation`: rules broken on purpose, which have to be found.
//!
//! One run is one process (`one-seed`), so that nothing is left over from the last: the standard library's and tokio's
//! own randomness come from the seed, too (mad-turmoil). `tests/simulate` runs many.

mod broker;
mod calls;
mod chance;
mod clock;
mod door;
mod ledger;
mod login;
mod mutation;
mod net;
mod phone;
mod push;
mod run;
mod stage;
mod witness;

pub use mutation::Mutation;
pub use run::run;
pub use witness::Run;
