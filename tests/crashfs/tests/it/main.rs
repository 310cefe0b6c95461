//! Every promise of the file system, tried on a real mount.
#![allow(clippy::unwrap_used, reason = "all of it is tests; clippy knows only functions with the attribute")]

mod child;
mod common;
mod concurrency;
mod cuts;
mod durability;
mod engines;
mod faults;
mod mounting;
mod posix;
mod properties;
mod triggers;
