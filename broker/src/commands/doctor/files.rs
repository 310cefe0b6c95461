//! Whose the files are, and who else may use them.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use countersign::{
    config::Config,
    keys::{
        folder::{self, Error},
        identity,
    },
    log::log_exists,
};

use super::{report::Findings, secret_files};

/// What another user finds out is not what the broker would.
pub(super) fn user(config: &Config, findings: &mut Findings) {
    let us = rustix::process::geteuid().as_raw();
    let Ok(owner) = config.keys.folder.metadata().map(|folder| folder.uid()) else { return };
    if owner != us {
        findings.warn(
            "user",
            format!(
                "this is user {us}, and the keys are user {owner}'s: what it may open, this may not show"
            ),
            format!("run this as the broker's user: sudo -u '#{owner}' countersign doctor ..."),
        );
    }
}

/// Each key: there, of its kind, nobody else's; and all of them the log's.
pub(super) fn keys(config: &Config, findings: &mut Findings) {
    let folder = &config.keys.folder;
    let has_log = log_exists(&config.log.folder).unwrap_or(true);
    let problems = folder::problems(folder);
    for problem in &problems {
        findings.fail("keys", says(problem), what_to_do(problem, has_log));
    }
    if !problems.is_empty() {
        return;
    }
    // What cannot be read of the log is found where that is looked at.
    let logged = identity::logged(&config.log.folder).ok().flatten();
    match folder::load(folder) {
        Err(error) => findings.fail("keys", error, "restore the keys from their backup"),
        Ok(keys) => match logged.map(|event| identity::compare(&event, &keys)) {
            Some(Err(error)) => findings.fail(
                "keys",
                error,
                "restore the keys that belong to this log, or the log that belongs to these keys",
            ),
            Some(Ok(())) => {
                findings.good(
                    "keys",
                    format!("of broker {}: the log's, and nobody else's to read", keys.broker_id()),
                );
            }
            None => {
                findings.good("keys", format!("of broker {}: nobody else's to read", keys.broker_id()));
            }
        },
    }
}

fn says(problem: &Error) -> String {
    match problem {
        Error::Missing { path } => format!("{} is not there", path.display()),
        Error::Permissions { path, mode } => {
            format!("{}: others than its owner may use it (its mode is {mode:04o})", path.display())
        }
        Error::Owner { path, owner, user } => {
            format!("{} belongs to user {owner}, and this is user {user}", path.display())
        }
        Error::Malformed { path, kind } => format!("{} does not hold a {kind}", path.display()),
        error => error.to_string(),
    }
}

fn what_to_do(problem: &Error, has_log: bool) -> String {
    match problem {
        Error::Missing { .. } if !has_log => {
            "`countersign init DIR` makes a new broker: keys and configuration".to_owned()
        }
        Error::Missing { .. } | Error::Malformed { .. } => {
            "restore it from the backup of the keys: without it what the log has sealed cannot be read"
                .to_owned()
        }
        Error::Permissions { path, .. } => format!("chmod go-rwx '{}'", path.display()),
        Error::Owner { path, user, .. } => {
            format!("run this as the broker's user; if this is it: chown {user} '{}'", path.display())
        }
        _ => "let the broker's user read it".to_owned(),
    }
}

/// Private keys that others have made: a broker refuses those that others may write to, and takes those that others may
/// read.
pub(super) fn secrets(config: &Config, findings: &mut Findings) {
    let files = secret_files(config);
    let mut well = !files.is_empty();
    for file in files {
        // One that cannot be read is a finding of its own.
        let Ok(there) = file.metadata() else { continue };
        let mode = there.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            well = false;
            findings.warn(
                "key-files",
                format!("{}: others than its owner may use it (its mode is {mode:04o})", file.display()),
                format!("chmod go-rwx '{}'", file.display()),
            );
        }
    }
    if well {
        findings.good("key-files", "of TLS and push services: their owner's alone");
    }
}
