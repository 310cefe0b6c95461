//! Countersign, a push-notification approval broker.
//!
//! The rooms, in the order of the story of one sign-in:
//!
//! | room | what happens there |
//! |---|---|
//! | [`api`] | a login server or a phone calls: who is it, is it well-formed |
//! | [`signin`] | **the story**: request, dispatch, answer, wait, expiry |
//! | [`enrol`] | its sibling: begin, bind, trial, active |
//! | [`decider`] | load, fold, decide, append, again on a conflict: the one way from a command to an event |
//! | `countersign_domain` | the decisions, pure |
//! | [`log`] | events become durable, and are followed |
//! | [`projection`] | what is live, and who waits for it |
//! | [`push`] | APNs and FCM: they report, they do not decide |
//! | [`rates`] | how often somebody may call |
//! | [`shares`] | how many somebody may have of what there is only so much of |
//! | [`keys`] | the only holder of secrets |
//! | [`broker`] | puts them together |
//!
//! `signin`, `enrol` and `decider` know the domain and the traits, never gRPC, files or push services.

pub mod api;
pub mod broker;
pub mod clock;
pub mod config;
pub mod decider;
pub mod enrol;
pub mod entropy;
pub mod key_file;
pub mod keys;
pub mod live;
pub mod log;
pub mod projection;
pub mod push;
pub mod rates;
pub mod shares;
pub mod signin;
pub mod telemetry;
