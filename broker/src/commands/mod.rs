//! The program's commands: one file each.

pub(crate) mod admin;
pub(crate) mod admin_client;
pub(crate) mod backup;
pub(crate) mod bench_parts;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod open_files;
pub(crate) mod reload;
pub(crate) mod serve;
