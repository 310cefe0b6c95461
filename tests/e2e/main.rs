//! Countersign end to end: the programs as processes, gRPC over sockets, a log on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod first_sign_in;
mod following;
mod outcomes;
mod support;
