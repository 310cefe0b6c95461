//! Countersign end to end: the programs as processes, gRPC over sockets, a log on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod backup;
mod bad_answers;
mod bad_input;
mod bench;
mod callers;
mod connections;
mod damage;
mod demo;
mod doctor;
mod enrolment;
mod first_sign_in;
mod following;
mod hostile;
mod limits;
mod load;
mod log_command;
mod metrics;
mod operators;
mod outcomes;
mod overload;
mod push_faults;
mod race;
mod rates;
mod readme;
mod reload;
mod secrets;
mod stopping;
mod support;
mod tls;
mod traces;
