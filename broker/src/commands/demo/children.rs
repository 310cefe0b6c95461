//! The sibling program `device-sim`, which plays APNs, FCM and the phones. Each is a process of its own.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::PhoneOfDemo;

/// Nothing in the demo takes longer, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program beside this one.
pub(super) struct DeviceSim(PathBuf);

impl DeviceSim {
    pub(super) fn find() -> anyhow::Result<Self> {
        let me = std::env::current_exe().context("this program's own path is not known")?;
        let sibling = me.with_file_name("device-sim");
        if !sibling.exists() {
            bail!("{}: is not there; build it with: cargo build -p device-sim", sibling.display());
        }
        Ok(Self(sibling))
    }

    pub(super) fn program(&self) -> &Path {
        &self.0
    }

    pub(super) async fn push_services(&self, dir: &Path) -> anyhow::Result<PushServices> {
        let mut command = Command::new(&self.0);
        // Its input closes when the demo is gone, however that ended: nothing of it stays behind.
        command.args(["push-services", "--json", "--until-input-ends", "--dir"]).arg(dir);
        let (child, mut lines, stdin) = spawn(command)?;
        let line = next_line(&mut lines).await?.context("device-sim push-services ended before it began")?;
        let guide: Guide =
            serde_json::from_str(&line).context("device-sim push-services said something else")?;
        Ok(PushServices {
            apns: guide.apns_url,
            fcm: guide.fcm_url,
            control: guide.control_url,
            configuration: guide.broker_configuration,
            child,
            _stdin: stdin,
        })
    }

    /// A phone that enrols by this URI. It ends with its input, too.
    pub(super) async fn phone(
        &self,
        state: &Path,
        push: &PushServices,
        phone: &'static PhoneOfDemo,
        uri: &str,
    ) -> anyhow::Result<Phone> {
        let mut command = Command::new(&self.0);
        command.args(["phone", "--json", "--state"]).arg(state);
        command.args(["--push-control", &push.control, "--service", phone.service]);
        command.args(["--algorithm", phone.algorithm, "--name", phone.name]);
        command.args(["--enrol", "-"]);
        let (child, lines, stdin) = spawn(command)?;
        let mut phone = Phone { of_demo: phone, authenticator_id: String::new(), child, lines, stdin };
        phone.type_line(uri).await?;
        Ok(phone)
    }
}

/// APNs and FCM.
pub(super) struct PushServices {
    pub(super) apns: String,
    pub(super) fcm: String,
    pub(super) control: String,
    /// The sections of the broker's configuration that lead here instead of to Apple and Google.
    pub(super) configuration: String,
    child: Child,
    _stdin: ChildStdin,
}

/// What `device-sim push-services --json` says.
#[derive(Deserialize)]
struct Guide {
    apns_url: String,
    fcm_url: String,
    control_url: String,
    broker_configuration: String,
}

impl PushServices {
    pub(super) async fn stop(self) {
        end(self.child).await;
    }
}

/// One phone, and the person who types on it.
pub(super) struct Phone {
    pub(super) of_demo: &'static PhoneOfDemo,
    /// Known once it is bound.
    pub(super) authenticator_id: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Phone {
    /// Waits until the phone shows what is being asked, then types the number.
    pub(super) async fn type_number(&mut self, asked_for: &str, number: &str) -> anyhow::Result<()> {
        self.wait_for(asked_for).await?;
        self.type_line(number).await
    }

    async fn wait_for(&mut self, event: &str) -> anyhow::Result<()> {
        while let Some(line) = next_line(&mut self.lines).await? {
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            match said["event"].as_str() {
                Some(known) if known == event => return Ok(()),
                Some("error") => bail!("a phone says: {}", said["message"].as_str().unwrap_or(&line)),
                _ => {}
            }
        }
        bail!("a phone ended before it was asked for a {event}")
    }

    async fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        Ok(())
    }

    pub(super) async fn stop(self) {
        end(self.child).await;
    }
}

fn spawn(mut command: Command) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>, ChildStdin)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // A group of its own: Ctrl-C ends the demo, and the demo ends its children, in that order.
    command.as_std_mut().process_group(0);
    let mut child = command.spawn().context("device-sim does not start")?;
    let stdout = child.stdout.take().context("standard output was asked for")?;
    let stdin = child.stdin.take().context("standard input was asked for")?;
    Ok((child, BufReader::new(stdout).lines(), stdin))
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Option<String>> {
    Ok(tokio::time::timeout(PATIENCE, lines.next_line()).await.context("device-sim says nothing")??)
}

async fn end(mut child: Child) {
    if let Some(id) =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(Duration::from_secs(5), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
