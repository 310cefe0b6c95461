//! The log, and the disk that it is on.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use countersign::{
    clock::Stopwatch,
    config::Config,
    log::{Ending, OfflineLog, backup::unfinished_restore, log_exists, verify},
};
use countersign_domain::Timestamp;
use countersign_proto::v1;

use super::{report::Findings, running::Running};

/// Less room than for so many segments should be known.
const SEGMENTS_FREE: u64 = 16;
/// The disk is asked so often how long it takes, with so many bytes.
const FLUSHES: usize = 16;
const FLUSH_BYTES: usize = 4 * 1024;
/// A login waits for two of these at least.
const FLUSH_SLOW: Duration = Duration::from_millis(20);

/// How the log stands; gives when its last entry was recorded.
pub(super) async fn look(
    config: &Config,
    running: Option<&Running>,
    deep: bool,
    findings: &mut Findings,
) -> Option<Timestamp> {
    let folder = &config.log.folder;
    if let Ok(Some(unfinished)) = unfinished_restore(folder) {
        let todo = "run `countersign restore` again; if a new log is meant to begin here, delete that folder";
        findings.fail("log", format!("{}: a restore has not come to its end", unfinished.display()), todo);
        return None;
    }
    match log_exists(folder) {
        Err(error) => {
            findings.fail("log", error, "let the broker's user read it");
            return None;
        }
        Ok(false) => {
            findings.good("log", format!("none yet: `countersign serve` makes it in {}", folder.display()));
            return None;
        }
        Ok(true) => {}
    }
    if deep {
        all_of_it(config, findings);
    }
    match running {
        Some(running) => asked(running, findings).await,
        None => read(config, findings),
    }
}

fn all_of_it(config: &Config, findings: &mut Findings) {
    let repair = repair(config);
    match verify(&config.log.folder) {
        Err(error) => findings.fail("log", error, "let the broker's user read it"),
        Ok(report) => {
            for finding in &report.findings {
                findings.fail("log", finding, &repair);
            }
            for contradiction in &report.contradictions {
                findings.fail("log", contradiction, &repair);
            }
            if report.is_sound() {
                findings.good("log", format!("all {} entries are as they were written", report.entries));
            }
        }
    }
}

/// Of a broker that has it open.
async fn asked(running: &Running, findings: &mut Findings) -> Option<Timestamp> {
    let newest = v1::ReadLogRequest { last: 1, ..Default::default() };
    let mut administration = running.administration.clone();
    let read = async { administration.read_log(newest).await?.into_inner().message().await };
    match read.await {
        Err(status) => {
            let todo = "look at what its own log says";
            findings.fail("log", format!("the broker cannot read it: {}", status.message()), todo);
            None
        }
        Ok(entry) => {
            let position = entry.as_ref().map_or(0, |entry| entry.position);
            findings.good("log", format!("open in the broker; its last position is {position}"));
            let at = entry?.recorded_at?;
            let millis = at.seconds.saturating_mul(1_000).saturating_add(i64::from(at.nanos) / 1_000_000);
            Some(Timestamp::from_millis(u64::try_from(millis).ok()?))
        }
    }
}

/// Of its files: the last segment is read to its end.
fn read(config: &Config, findings: &mut Findings) -> Option<Timestamp> {
    let log = match OfflineLog::open(&config.log.folder) {
        Ok(log) => log,
        Err(error) => {
            findings.fail("log", error, repair(config));
            return None;
        }
    };
    let head = log.head().map_or_else(|| "none".to_owned(), |head| head.to_string());
    match log.ending() {
        Ending::Corrupt(corruption) => findings.fail("log", corruption, repair(config)),
        Ending::Nothing => findings.fail(
            "log",
            format!(
                "{}: the journal is not there, and what was made from it is",
                config.log.folder.display()
            ),
            "mount the volume that it is on, or restore its backup; `countersign log verify` says more",
        ),
        Ending::Closed => findings.good("log", format!("closed; its last position is {head}")),
        Ending::Open | Ending::Torn { .. } => {
            findings
                .good("log", format!("not closed, which the next start mends; its last position is {head}"));
        }
    }
    let last = log.entry(log.head()?).ok().flatten()?;
    Some(Timestamp::from_millis(last.recorded_at_ms))
}

fn repair(config: &Config) -> String {
    format!(
        "`countersign log repair --config {}` says what can be done, and asks first",
        config.file().display()
    )
}

/// Room, kind, and how long the disk takes to keep something.
pub(super) fn disk(config: &Config, findings: &mut Findings) {
    let folder = there(&config.log.folder);
    if let Ok(room) = rustix::fs::statvfs(&folder) {
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let says = format!("{} MiB are free", free / (1024 * 1024));
        let segment = config.log.segment_bytes;
        let todo = "make room: without it nobody can sign in, though nothing is lost";
        match free {
            _ if free < 2 * segment => findings.fail("disk", says, todo),
            _ if free < SEGMENTS_FREE * segment => findings.warn("disk", says, todo),
            _ => findings.good("disk", says),
        }
    }
    if let Some(kind) = rustix::fs::statfs(&folder).ok().and_then(|disk| unfit(disk.f_type)) {
        findings.warn(
            "disk",
            format!("{} is on {kind}", folder.display()),
            "put the log on a local disk that keeps what it has synced: an outcome is told once it is durable",
        );
    }
    match flushes(&folder) {
        Ok((median, longest)) if median > FLUSH_SLOW => findings.warn(
            "disk",
            format!("takes {} to keep 4 KiB, {} at most", millis(median), millis(longest)),
            "put the log on a faster disk: a login waits for this at least twice",
        ),
        Ok((median, longest)) => {
            findings
                .good("disk", format!("keeps 4 KiB within {}, {} at most", millis(median), millis(longest)));
        }
        Err(error) => findings.fail(
            "disk",
            format!("{}: nothing can be written: {error}", folder.display()),
            "let the broker's user write there, and the file system be writable",
        ),
    }
}

/// The folder, or the nearest one above it that is there.
fn there(folder: &Path) -> PathBuf {
    let above = folder.ancestors().find(|folder| folder.is_dir());
    above.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// File systems that do not keep what they have synced, or may not (statfs(2)).
fn unfit(kind: i64) -> Option<&'static str> {
    match kind {
        0x0102_1994 => Some("tmpfs, which is memory: it is gone with the machine"),
        0x8584_58f6 => Some("ramfs, which is memory: it is gone with the machine"),
        0x794c_7630 => Some("overlayfs, a container's own layer: it is gone with the container"),
        0x6969 => Some("NFS, whose server may keep less than it says"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB, whose server may keep less than it says"),
        _ => None,
    }
}

/// The median and the longest of some flushes.
fn flushes(folder: &Path) -> io::Result<(Duration, Duration)> {
    let mut file: File = tempfile::tempfile_in(folder)?;
    let mut taken = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        file.write_all(&[b'x'; FLUSH_BYTES])?;
        let stopwatch = Stopwatch::start();
        file.sync_data()?;
        taken.push(stopwatch.elapsed());
    }
    taken.sort_unstable();
    Ok((taken[FLUSHES / 2], taken[FLUSHES - 1]))
}

fn millis(span: Duration) -> String {
    format!("{}.{:02} ms", span.as_millis(), span.subsec_micros() % 1_000 / 10)
}
