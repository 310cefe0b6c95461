//! The subcommands of `device-sim`.

pub(crate) mod push_services;
