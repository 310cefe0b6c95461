//! Each target is a test, for a short time; `tests/fuzz TARGET --minutes N` gives it a long one. None may panic, and each
//! has something that must be so besides.
//!
//! - `phones`, `logins`: what comes from those who call;
//! - `push`: what push services answer;
//! - `events`, `log`, `files`: what the disk has;
//! - `broken`: each target sees a parser that is broken;
//! - `real`: the real values that all of them begin with.

mod broken;
mod events;
mod files;
mod log;
mod logins;
mod phones;
mod push;
mod real;
