//! The broker's parts, each by itself, as `countersign bench-parts` measures them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::process::Command;

use super::BenchError;
use crate::{load::StageError, push_services::Service};

/// Appends per second with so many waiting, each way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Appends {
    /// How many appends wait at a time.
    pub waiting: usize,
    /// Bytes of an entry.
    pub entry_bytes: usize,
    /// To a plain file, with fdatasync, by a thread that hands over to nobody.
    pub bare_per_second: f64,
    /// To a plain file by a thread that commits in groups what tasks wait for.
    pub plain_per_second: f64,
    /// Through the broker's log.
    pub log_per_second: f64,
    /// The log's rate divided by the plain file's.
    pub ratio: f64,
}

/// Microseconds of CPU time on one core.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Keys {
    /// The broker signs a challenge.
    pub ed25519_sign_us: f64,
    /// A phone's signature is checked, strictly.
    pub ed25519_verify_us: f64,
    /// The same of the other algorithm.
    pub es256_verify_us: f64,
    /// A field of an event is sealed.
    pub seal_us: f64,
    /// And opened.
    pub open_us: f64,
}

/// Pushes by the broker's own client.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Pushes {
    /// The push services have taken them.
    pub accepted: u64,
    /// They have not.
    pub not_accepted: u64,
    /// How many a second.
    pub per_second: f64,
    /// The client's CPU time for each, in microseconds.
    pub cpu_us: f64,
}

/// The broker's program.
#[derive(Clone, Debug)]
pub struct Parts {
    pub(super) program: PathBuf,
}

impl Parts {
    /// Appends with 1, 64 and 1,024 waiting, on the disk of this folder.
    pub async fn appends(&self, folder: &Path, round: Duration) -> Result<Vec<Appends>, BenchError> {
        let mut command = self.part("appends", round);
        command.arg("--rounds=1").arg("--folder").arg(folder);
        figures("countersign bench-parts appends", command).await
    }

    /// Signatures, checks and seals.
    pub async fn keys(&self, round: Duration) -> Result<Keys, BenchError> {
        figures("countersign bench-parts keys", self.part("keys", round)).await
    }

    /// So many pushes to these targets, as the broker of this configuration would send them.
    pub async fn pushes(
        &self,
        config: &Path,
        targets: &[(Service, String)],
        count: u32,
    ) -> Result<Pushes, BenchError> {
        let file = tempfile::NamedTempFile::new().map_err(StageError::io("make a file of push targets"))?;
        let name = |service: &Service| match service {
            Service::Apns => "apns",
            Service::Fcm => "fcm",
        };
        let lines: Vec<_> =
            targets.iter().map(|(service, target)| format!("{} {target}", name(service))).collect();
        std::fs::write(file.path(), lines.join("\n")).map_err(StageError::io("write push targets"))?;
        let mut command = self.command("pushes");
        command.arg("--config").arg(config).arg("--targets").arg(file.path());
        command.arg(format!("--count={count}"));
        let pushes: Pushes = figures("countersign bench-parts pushes", command).await?;
        match pushes.not_accepted {
            0 => Ok(pushes),
            refused => Err(BenchError::Pushes(refused)),
        }
    }

    /// One of the commands.
    pub(super) fn command(&self, part: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["bench-parts", part]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn part(&self, part: &str, round: Duration) -> Command {
        let mut command = self.command(part);
        command.arg(format!("--round={}", round.as_secs_f64()));
        command
    }
}

async fn figures<T: DeserializeOwned>(what: &'static str, mut command: Command) -> Result<T, BenchError> {
    let done = command.output().await.map_err(StageError::io("run countersign bench-parts"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(StageError::Program { what, said }.into());
    }
    serde_json::from_slice(&done.stdout).map_err(|source| BenchError::Malformed { what, source })
}
