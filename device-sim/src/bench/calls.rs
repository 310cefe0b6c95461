//! gRPC calls that do nothing, between two processes.

use std::{process::Stdio, time::Duration};

use countersign_proto::v1;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use super::{BenchError, parts::Parts};
use crate::{
    load::{StageError, Usage, pace::now},
    wire::Transport,
};

/// As many connections as a load's phones have.
const CONNECTIONS: usize = 32;
/// As long as an approval's id.
const REQUEST: &str = "0123456789abcdef0123456789abcdef.0123456789abcdef";

/// What bare calls come to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Calls {
    /// How many were made.
    pub calls: u64,
    /// How many a second.
    pub per_second: f64,
    /// The server's CPU time for each, in microseconds.
    pub cpu_us: f64,
}

/// A process that answers them.
#[derive(Debug)]
pub struct BareServer {
    child: Child,
    transport: Transport,
}

impl BareServer {
    /// Starts it.
    pub async fn start(parts: &Parts) -> Result<Self, BenchError> {
        let mut command = parts.command("calls");
        // It serves until its standard input is closed, which happens when this is dropped.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(StageError::io("run countersign bench-parts calls"))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut address = String::new();
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut address).await.map_err(StageError::io("start the bare server"))?;
        let transport =
            Transport::to(address.trim()).connections(CONNECTIONS).open().map_err(StageError::from)?;
        Ok(Self { child, transport })
    }

    /// Calls for so long, so many at a time.
    pub async fn measure(&self, in_flight: usize, round: Duration) -> Result<Calls, BenchError> {
        let id = self.child.id().unwrap_or_default();
        let usage = || Usage::of(id).map_err(StageError::io("read the bare server's CPU time"));
        let (before, started) = (usage()?, now());
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let mut client = self.transport.approvals();
            callers.spawn(async move {
                let mut calls = 0u64;
                while started.elapsed() < round {
                    let request = v1::GetApprovalRequest { approval_id: REQUEST.to_owned() };
                    client.get_approval(request).await?;
                    calls += 1;
                }
                Ok::<_, tonic::Status>(calls)
            });
        }
        let mut calls = 0;
        while let Some(called) = callers.join_next().await {
            let called = called.map_err(|error| BenchError::Calls(error.to_string()))?;
            calls += called.map_err(|status| BenchError::Calls(status.to_string()))?;
        }
        let (took, used) = (started.elapsed(), usage()?.since(before));
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
        let count = calls.max(1) as f64;
        Ok(Calls {
            calls,
            per_second: count / took.as_secs_f64(),
            cpu_us: used.cpu.as_secs_f64() * 1e6 / count,
        })
    }
}
