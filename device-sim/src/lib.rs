//! The other side of the wire: what the broker talks to, played by one process.
//!
//! This crate knows the public protocols only. It never depends on the broker or its domain, so that a
//! mistake cannot be made on both sides at once and hide itself.
//!
//! In the order of the story:
//!
//! - [`push_services`]: an APNs and an FCM that speak Apple's and Google's documented protocols, with
//!   faults on demand, and the devices that they deliver to;
//! - [`login`]: the enrolling page that gives out codes, and the login server that asks for approvals;
//! - [`phone`]: phones that enrol, check what the broker signed, and answer;
//! - [`load`]: all of them at once, and whether everybody was told the same;
//! - [`bench`](mod@bench): what the broker spends on it, beside what cannot be avoided.
//!
//! Beside the story: [`wire`] is the way to the broker for the last two, [`clock`] the only place that reads the time,
//! and [`entropy`] the only one that asks the operating system for randomness.

pub mod bench;
pub mod clock;
pub mod entropy;
pub mod load;
pub mod login;
pub mod phone;
pub mod push_services;
pub mod wire;
