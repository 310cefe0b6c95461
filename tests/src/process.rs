//! The broker as an operator runs it: `countersign init`, a configuration, `countersign serve`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use countersign_proto::v1::administration_client::AdministrationClient;
pub use device_sim::wire::free_port;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{Result, programs};

/// On a machine that is busy with other tests, a start may take this long.
const START_MAX: Duration = Duration::from_secs(60);

/// A broker: its folder, and its process while it runs.
#[derive(Debug)]
pub struct Broker {
    folder: Folder,
    port: u16,
    queue_ms: u64,
    child: Option<Child>,
}

#[derive(Debug)]
enum Folder {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Broker {
    /// Makes a broker in a temporary folder, with this appended to its configuration. It does not run yet.
    pub fn make(configuration: &str) -> Result<Self> {
        Self::make_in(Folder::Temporary(tempfile::tempdir()?), configuration)
    }

    /// The same in a folder of the caller's.
    pub fn make_at(folder: &Path, configuration: &str) -> Result<Self> {
        Self::make_in(Folder::Given(folder.to_owned()), configuration)
    }

    fn make_in(folder: Folder, configuration: &str) -> Result<Self> {
        // The same port at every start, so that whoever waits finds the broker again.
        let port = free_port()?;
        // A debug build on a machine that runs all tests at once would send some of them away, and be right.
        let broker = Self { folder, port, queue_ms: 0, child: None };
        let address = format!("127.0.0.1:{port}");
        let made = Command::new(programs::countersign())
            .args(["init", "--listen", &address, "--public-url", &format!("http://{address}")])
            .arg(broker.home())
            .output()?;
        ensure!(made.status.success(), "countersign init: {}", String::from_utf8_lossy(&made.stderr));
        broker.append_configuration(configuration)?;
        Ok(broker)
    }

    /// The folder with configuration, keys and log.
    pub fn home(&self) -> PathBuf {
        match &self.folder {
            Folder::Temporary(folder) => folder.path().join("broker"),
            Folder::Given(folder) => folder.clone(),
        }
    }

    /// Its configuration.
    pub fn config_file(&self) -> PathBuf {
        self.home().join("countersign.toml")
    }

    /// Changes the configuration, for the next start.
    pub fn edit_configuration(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let text = fs::read_to_string(self.config_file())?;
        Ok(fs::write(self.config_file(), edit(text))?)
    }

    fn append_configuration(&self, more: &str) -> Result<()> {
        self.edit_configuration(|text| format!("{text}\n{more}"))
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From the next start on it sends new work away when there is more than this before each core, as `limits.queue_ms`
    /// has it. Without this it lets in all.
    pub fn shed_beyond(&mut self, queue_ms: u64) {
        self.queue_ms = queue_ms;
    }

    /// Starts the process and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut child = self.serve().stdout(Stdio::piped()).stderr(self.stderr()?).spawn()?;
        let stdout = child.stdout.take().context("standard output was asked for")?;
        let (said, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut first = String::new();
            let _ = BufReader::new(stdout).read_line(&mut first);
            let _ = said.send(first);
        });
        let first = line.recv_timeout(START_MAX).context("the broker says nothing")?;
        if !first.starts_with("countersign serves ") {
            let status = child.wait()?;
            anyhow::bail!("the broker does not start ({status}): {}", self.said());
        }
        self.child = Some(child);
        Ok(())
    }

    /// Starts the process, which is expected not to serve: how it ended, and what it said.
    pub fn start_in_vain(&mut self) -> Result<(ExitStatus, String)> {
        let mut child = self.serve().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("standard output was asked for")?;
        let mut first = String::new();
        BufReader::new(stdout).read_line(&mut first)?;
        if first.starts_with("countersign serves ") {
            child.kill()?;
        }
        let ended = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(first.is_empty(), "it should not serve, and does: {said}");
        Ok((ended.status, said))
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(programs::countersign());
        command.args(["serve", "--config"]).arg(self.config_file()).stdin(Stdio::null());
        command.env("COUNTERSIGN__LIMITS__QUEUE_MS", self.queue_ms.to_string());
        command
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let status = self.wait()?;
        ensure!(status.signal() == Some(9), "ended before it was killed: {status}");
        Ok(())
    }

    /// Hands the process to somebody who ends it in a way of his own, and knows that it has ended.
    pub fn end_by<T>(&mut self, end: impl FnOnce(&mut Child) -> std::io::Result<T>) -> Result<T> {
        let mut child = self.child.take().context("the broker does not run")?;
        Ok(end(&mut child)?)
    }

    /// Starts the process without waiting until it serves: it may be ended before it does.
    pub fn launch(&mut self) -> Result<()> {
        self.child = Some(self.serve().stdout(Stdio::null()).stderr(self.stderr()?).spawn()?);
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the broker does not run")?;
        Pid::from_raw(i32::try_from(child.id())?).context("a process id is not 0")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.process()?, signal)?)
    }

    /// Bytes of memory that the process has now (VmRSS).
    pub fn memory_bytes(&self) -> Result<u64> {
        let child = self.child.as_ref().context("the broker does not run")?;
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("Linux says so")?;
        let kib = line.split_whitespace().nth(1).context("a number")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.take().context("the broker does not run")?.wait()?)
    }

    /// SIGTERM, and waits for the end, while this runtime's connections say goodbye: the broker waits for them.
    pub async fn stopped(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Waits for the process to end, while everything else in this runtime goes on.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the broker does not run")?;
        Ok(tokio::task::spawn_blocking(move || child.wait()).await??)
    }

    /// What its processes have said on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.home().join("stderr")).unwrap_or_default()
    }

    fn stderr(&self) -> Result<File> {
        Ok(File::options().create(true).append(true).open(self.home().join("stderr"))?)
    }

    /// Its administration, over the socket.
    pub async fn administration(&self) -> Result<AdministrationClient<Channel>> {
        let socket = self.home().join("admin.sock");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://administration").connect_with_connector(connector).await?;
        Ok(AdministrationClient::new(channel))
    }

    /// Runs `countersign` with `--config` of this broker: its status, standard output and standard error.
    pub fn command(&self, arguments: &[&str]) -> Result<(ExitStatus, String, String)> {
        let mut command = Command::new(programs::countersign());
        let done =
            command.args(arguments).arg("--config").arg(self.config_file()).stdin(Stdio::null()).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((done.status, text(&done.stdout), text(&done.stderr)))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
