//! The subcommands of `device-sim`.

pub(crate) mod bench;
mod big;
pub(crate) mod enrol;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod phone;
pub(crate) mod push_services;
pub(crate) mod terminal;
