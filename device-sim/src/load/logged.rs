//! What the broker's log says of each approval, as `countersign log show` gives it.

use std::{collections::HashMap, process::Stdio};

use countersign_proto::v1::OutcomeKind;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{Stage, StageError};

/// Endings by approval id.
#[derive(Debug, Default)]
pub struct Logged {
    endings: HashMap<Box<str>, Vec<OutcomeKind>>,
    events: u64,
    opened: u64,
}

#[derive(Deserialize)]
struct Entry {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    r#type: Box<str>,
    approval: Option<Box<str>>,
    #[serde(default)]
    reported: bool,
    because: Option<Box<str>>,
}

impl Logged {
    /// Reads all of the log.
    pub async fn read(stage: &Stage) -> Result<Self, StageError> {
        Self::read_from(stage, 1).await
    }

    /// Reads it from this position on.
    pub async fn read_from(stage: &Stage, position: u64) -> Result<Self, StageError> {
        let (program, config) = stage.log_reader();
        let mut command = Command::new(program);
        command.args(["log", "show", "--json", "--from", &position.to_string(), "--config"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(StageError::io("run countersign log show"))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(stdout).lines();
        let mut logged = Self::default();
        while let Some(line) = lines.next_line().await.map_err(StageError::io("read the log"))? {
            logged.add(&line).map_err(|error| StageError::Program {
                what: "countersign log show",
                said: format!("{error}: {line}"),
            })?;
        }
        let ended = child.wait_with_output().await.map_err(StageError::io("read the log"))?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            return Err(StageError::Program { what: "countersign log show", said });
        }
        Ok(logged)
    }

    /// Adds one line of it.
    pub fn add(&mut self, line: &str) -> Result<(), serde_json::Error> {
        let entry: Entry = serde_json::from_str(line)?;
        for event in entry.events {
            self.events += 1;
            self.opened += u64::from(&*event.r#type == "AccountOpened");
            if let (Some(ending), Some(approval)) = (event.ending(), &event.approval) {
                self.endings.entry(approval.clone()).or_default().push(ending);
            }
        }
        Ok(())
    }

    /// The endings of an approval. There should be one.
    pub fn endings(&self, approval_id: &str) -> &[OutcomeKind] {
        self.endings.get(approval_id).map_or(&[], Vec::as_slice)
    }

    /// How many accounts were opened.
    pub fn accounts_opened(&self) -> u64 {
        self.opened
    }

    /// How many events were read.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl Event {
    fn ending(&self) -> Option<OutcomeKind> {
        Some(match &*self.r#type {
            "ApprovalApproved" => OutcomeKind::Approved,
            "ApprovalDenied" if self.reported => OutcomeKind::Reported,
            "ApprovalDenied" => OutcomeKind::Denied,
            "NumberWrong" => OutcomeKind::WrongNumber,
            "ApprovalExpired" => OutcomeKind::Expired,
            "ApprovalCancelled" => OutcomeKind::Cancelled,
            "ApprovalSuperseded" => OutcomeKind::Superseded,
            "ApprovalRefused" if self.because.as_deref() == Some("unreachable") => OutcomeKind::Unreachable,
            "ApprovalRefused" => OutcomeKind::Refused,
            _ => return None,
        })
    }
}
