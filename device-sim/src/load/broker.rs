//! The broker's program, as an operator runs it, and what it costs the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::StageError;
use crate::wire::free_port;

/// A start takes no longer, on a machine that is busy with a load.
const START_MAX: Duration = Duration::from_secs(60);
/// Nor does one that makes anew what was made of a log of many millions of events.
const LONG_START_MAX: Duration = Duration::from_secs(1_200);
/// Nor does an end.
const STOP_MAX: Duration = Duration::from_secs(60);

/// What a process has used of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// The memory that is resident now, in bytes.
    pub resident_bytes: u64,
    /// The most memory that was resident at a time, in bytes.
    pub peak_bytes: u64,
}

/// The section of the configuration that says where the log is, as `countersign init` writes it.
const LOG_SECTION: &str = "[log]\nfolder = \"log\"";

/// What a broker has behind it before its first start.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    /// Accounts, of the realm that its login servers ask for.
    pub accounts: u64,
    /// Events of theirs.
    pub events: u64,
    /// So many of them, or all if they are fewer, are people of the load ([`People::of_the_past`](super::People::of_the_past)).
    pub people: usize,
}

/// A broker that was made for this load.
#[derive(Debug)]
pub struct Broker {
    program: PathBuf,
    folder: PathBuf,
    address: String,
    metrics: String,
    limits: Vec<(&'static str, String)>,
    start_max: Duration,
    child: Option<Child>,
    /// Of processes that have ended.
    before: Usage,
}

impl Broker {
    /// Makes one in this folder, with this in its `[log]`, if anything, and this appended to its configuration.
    pub(super) async fn make(
        program: &Path,
        folder: &Path,
        log: Option<&str>,
        more: &str,
    ) -> Result<Self, StageError> {
        let address = format!("127.0.0.1:{}", free_port().map_err(StageError::io("find a free port"))?);
        let mut init = Command::new(program);
        init.args(["init", "--listen", &address, "--public-url", &format!("http://{address}")]).arg(folder);
        let made = init.output().await.map_err(StageError::io("run countersign init"))?;
        if !made.status.success() {
            return Err(StageError::Program {
                what: "countersign init",
                said: String::from_utf8_lossy(&made.stderr).into_owned(),
            });
        }
        let file = folder.join("countersign.toml");
        let mut text = fs::read_to_string(&file).map_err(StageError::io("read the configuration"))?;
        if let Some(log) = log {
            assert!(text.contains(LOG_SECTION), "countersign init writes it so");
            text = text.replace(LOG_SECTION, &format!("[log]\n{log}"));
        }
        fs::write(&file, format!("{text}\n{more}")).map_err(StageError::io("write the configuration"))?;
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let metrics = format!("127.0.0.1:{}", free_port().map_err(StageError::io("find a free port"))?);
        Ok(Self {
            program,
            folder,
            address: format!("http://{address}"),
            metrics,
            limits: Vec::new(),
            start_max: START_MAX,
            child: None,
            before: Usage::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Where Prometheus would ask.
    pub(super) fn metrics(&self) -> String {
        format!("http://{}/metrics", self.metrics)
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.folder.join("countersign.toml")
    }

    pub(super) fn admin_socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Gives it another limit than is usual, by the environment.
    pub(super) fn limit(&mut self, key: &'static str, value: usize) {
        self.limits.push((key, value.to_string()));
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) -> Result<(), StageError> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("stderr"));
        let mut serve = Command::new(&self.program);
        serve
            .args(["serve", "--config"])
            .arg(self.config_file())
            // More than an account of a person needs, so that the load meets the machine's limits and not those.
            .env("COUNTERSIGN__APPROVALS__DIGITS", "6")
            .env("COUNTERSIGN__APPROVALS__WAITING_MAX", "20")
            .env("COUNTERSIGN__APPROVALS__REQUESTS_PER_5_MIN", "1000")
            // All phones and logins of this process are one address, and some of them forge.
            .env("COUNTERSIGN__LIMITS__REQUESTS_PER_S_OF_RELYING_PARTY", "0")
            .env("COUNTERSIGN__LIMITS__CALLS_PER_S_OF_ADDRESS", "0")
            .env("COUNTERSIGN__LIMITS__FAILURES_PER_S_OF_ADDRESS", "0")
            .env("COUNTERSIGN__LIMITS__CALLS_PER_S_OF_DEVICE", "0")
            .env("COUNTERSIGN__TELEMETRY__FILTER", "warn")
            .env("COUNTERSIGN__METRICS__LISTEN", &self.metrics)
            .envs(self.limits.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.map_err(StageError::io("write the broker's log"))?)
            .kill_on_drop(true);
        let mut child = serve.spawn().map_err(StageError::io("run countersign serve"))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut first = String::new();
        let mut lines = BufReader::new(stdout);
        let serves = timeout(self.start_max, lines.read_line(&mut first)).await;
        if !matches!(serves, Ok(Ok(_))) || !first.starts_with("countersign serves ") {
            let said = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
            return Err(StageError::Program { what: "countersign serve", said });
        }
        self.child = Some(child);
        Ok(())
    }

    /// Gives it a past, before its first start: what the program says of it.
    pub(super) async fn seed(&mut self, past: Past, realm: &str) -> Result<Vec<u8>, StageError> {
        self.start_max = LONG_START_MAX;
        let (accounts, events, people) =
            (past.accounts.to_string(), past.events.to_string(), past.people.to_string());
        let phones = self.phones_of_the_past().display().to_string();
        let whose = ["--realm", realm, "--accounts", &accounts, "--events", &events];
        let held = ["--phones", &phones, "--phones-of", &people];
        self.command(&["bench-parts", "seed"], &[&whose[..], &held].concat()).await
    }

    /// The file with what those hold who are people of the load.
    pub(super) fn phones_of_the_past(&self) -> PathBuf {
        self.folder.join("phones")
    }

    /// Runs another command of its program while it does not serve; gives what that prints.
    pub(super) async fn command(&self, what: &[&'static str], more: &[&str]) -> Result<Vec<u8>, StageError> {
        let mut command = Command::new(&self.program);
        command.args(what).args(more).arg("--config").arg(self.config_file()).stdin(Stdio::null());
        let done = command.output().await.map_err(StageError::io("run the broker's program"))?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let what = what.last().copied().unwrap_or_default();
        Err(StageError::Program { what, said: String::from_utf8_lossy(&done.stderr).into_owned() })
    }

    /// Where its log is.
    pub(super) fn log_folder(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Ends it in order.
    pub(super) async fn stop(&mut self) -> Result<(), StageError> {
        let used = self.running_usage();
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(id, Signal::TERM).map_err(|error| StageError::io("end the broker")(error.into()))?;
        }
        let ended = timeout(STOP_MAX, child.wait()).await.unwrap_or_else(|late| Err(late.into()));
        ended.map_err(StageError::io("wait for the broker"))?;
        self.before = self.before.and(used);
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) -> Result<(), StageError> {
        let used = self.running_usage();
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            kill_process(id, Signal::KILL)
                .map_err(|error| StageError::io("kill the broker")(error.into()))?;
        }
        child.wait().await.map_err(StageError::io("wait for the broker"))?;
        self.before = self.before.and(used);
        Ok(())
    }

    /// Of all its processes so far.
    pub(super) fn usage(&self) -> Usage {
        self.before.and(self.running_usage())
    }

    /// Waits until its process has ended by itself. Never, if there is none.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let status = child.wait().await?;
        self.child = None;
        Ok(status)
    }

    /// What it has said on standard error so far, all its processes.
    pub fn said(&self) -> String {
        fs::read(self.folder.join("stderr"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The id of its process, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    fn running_usage(&self) -> Usage {
        self.process().and_then(|id| Usage::of(id).ok()).unwrap_or_default()
    }
}

impl Usage {
    /// What a process has used, as Linux says (`proc(5)`).
    pub fn of(process: u32) -> io::Result<Self> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc is not as proc(5) says");
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(malformed)?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        // Field 3 of the manual is the first here: utime is 14, stime 15.
        let ticks = |at: usize| fields.get(at - 3).and_then(|text| text.parse::<u64>().ok());
        let ticks = ticks(14).zip(ticks(15)).map(|(user, system)| user + system).ok_or_else(malformed)?;
        let cpu = Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second());
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let bytes = |name: &str| {
            let text = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(text.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
        };
        let (resident_bytes, peak_bytes) = bytes("VmRSS:").zip(bytes("VmHWM:")).ok_or_else(malformed)?;
        Ok(Self { cpu, resident_bytes, peak_bytes })
    }

    fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            resident_bytes: other.resident_bytes,
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
        }
    }

    /// What was used since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_has_used_is_something() {
        let used = Usage::of(std::process::id()).unwrap();
        assert!(used.peak_bytes > 1024 * 1024, "{used:?}");
        let later = Usage { cpu: used.cpu + Duration::from_secs(1), peak_bytes: used.peak_bytes + 1, ..used };
        assert_eq!(later.since(used), Usage { cpu: Duration::from_secs(1), ..later });
    }
}
