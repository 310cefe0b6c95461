//! The clock: against the log's last entry, files, and what push services say.

use std::{path::Path, time::UNIX_EPOCH};

use countersign::{
    clock::{Clock as _, SystemClock},
    config::Config,
    push::Reached,
};
use countersign_domain::Timestamp;

use super::{report::Findings, secret_files};

/// What a file or the log may be ahead: clocks of file servers differ.
const AHEAD_S: i64 = 60;
/// Beyond this, somebody should look.
const OFF_S: i64 = 5;
/// Beyond this, approvals end while people still look at them, and credentials are soon refused.
const FAR_OFF_S: i64 = 60;

const SET_IT: &str = "set this machine's clock, and keep it by NTP (`timedatectl set-ntp true`)";

pub(super) fn look(config: &Config, last: Option<Timestamp>, asked: &[Reached], findings: &mut Findings) {
    let now = SystemClock.now();
    let behind = last.map_or(0, |last| seconds_ahead(last, now));
    let mut files = secret_files(config);
    files.push(config.file().to_owned());
    let newest = files.iter().filter_map(|file| changed(file)).max();
    let younger = newest.map_or(0, |newest| seconds_ahead(newest, now));
    if behind > AHEAD_S {
        findings.fail("clock", format!("is {behind} s behind the log's last entry"), SET_IT);
    } else if younger > AHEAD_S {
        findings.warn(
            "clock",
            format!("files were changed {younger} s from now: it may have been set back"),
            SET_IT,
        );
    }
    // The second that they say began at most one second before.
    let skews = asked.iter().filter_map(|one| Some(seconds_ahead(one.our_time, one.their_time?)));
    let Some(skew) = skews.min_by_key(|skew| skew.abs()) else {
        if !findings.is_wrong("clock") {
            findings
                .good("clock", "not behind what the log and files say; nobody outside was asked, or told it");
        }
        return;
    };
    let direction = if skew < 0 { "behind" } else { "ahead of" };
    let says = format!("is {} s {direction} the push services' clocks", skew.abs());
    match skew.abs() {
        off if off > FAR_OFF_S => findings.fail("clock", says, SET_IT),
        off if off > OFF_S => findings.warn("clock", says, SET_IT),
        off => findings.good("clock", format!("within {} s of the push services' clocks", off.max(1))),
    }
}

/// How far one moment is ahead of another; less than nothing if it is behind.
fn seconds_ahead(one: Timestamp, other: Timestamp) -> i64 {
    let millis = i128::from(one.as_millis()) - i128::from(other.as_millis());
    i64::try_from(millis / 1_000).unwrap_or(i64::MAX)
}

fn changed(file: &Path) -> Option<Timestamp> {
    let since_1970 = file.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::default().plus(since_1970))
}
