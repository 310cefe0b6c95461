//! How a phone comes to an account, in the order in which it happens:
//!
//! 1. [`begin`]: an enrolling page asks for a code;
//! 2. [`bind`]: the phone claims it with its new key, and gets its trial;
//! 3. (the trial's answer comes in as any answer does: see [`crate::signin::answer`]);
//! 4. [`watch`]: the page is told each step, and shows the trial's number;
//! 5. [`manage`]: afterwards phones are listed, revoked, and change themselves.

pub mod begin;
pub mod bind;
pub mod manage;
pub mod watch;

use crate::signin::SignIn;

pub use crate::signin::Error;

/// What the steps of an enrolment share.
#[derive(Debug, Clone)]
pub struct Enrol {
    pub(crate) sign_in: SignIn,
    /// The address of this broker as phones reach it.
    pub(crate) public_url: String,
}

impl Enrol {
    /// Puts the steps together.
    pub fn new(sign_in: SignIn, public_url: String) -> Self {
        Self { sign_in, public_url }
    }
}

#[cfg(test)]
mod tests;
