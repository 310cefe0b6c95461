//! The other side of the wire: what the broker talks to, played by one process.
//!
//! This crate knows the public protocols only. It never depends on the broker or its domain, so that a
//! mistake cannot be made on both sides at once and hide itself.
//!
//! In the order of the story:
//!
//! - [`push_services`]: an APNs and an FCM that speak Apple's and Google's documented protocols, with
//!   faults on demand, and the devices that they deliver to.
//!
//! Beside the story: [`clock`] is the only place that reads the time, and [`entropy`] the only one that asks
//! the operating system for randomness.

pub mod clock;
pub mod entropy;
pub mod push_services;
