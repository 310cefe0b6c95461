//! What it costs the broker that somebody waits: memory, and nothing else.

use std::{fmt, path::Path, time::Duration};

use serde::Serialize;

use super::BenchError;
use crate::{
    load::{self, Mix, Pace, People, Progress, Size, Stage, Usage, compare::compare, logged::Logged},
    phone::Profile,
};

/// As long as an approval can live.
const LIFETIME: Duration = Duration::from_secs(300);
/// Logins that one connection has room for.
const LOGINS_PER_CONNECTION: usize = 1_000;
/// How often the broker's memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many logins wait at a time.
    pub logins: usize,
    /// How many people they are.
    pub phones: usize,
    /// So many come each second. All of them must have come before the first phone answers.
    pub rate: f64,
    /// Each phone answers after so long, half of an approval's longest life at most.
    pub think: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Waiting {
    /// Logins that waited at a time.
    pub logins: usize,
    /// The connections that they came by.
    pub connections: usize,
    /// The broker's resident memory after a start with all phones enrolled, when nobody waited, in bytes.
    pub before_bytes: u64,
    /// While all waited, in bytes: the most that was seen.
    pub waiting_bytes: u64,
    /// The difference for each of them.
    pub bytes_per_login: u64,
    /// The broker's CPU time while everybody waited and nothing happened, in microseconds for each second and login.
    pub idle_cpu_us: f64,
    /// Logins that were told that the person has approved.
    pub approved: u64,
}

/// Lets them come, wait, and be told. `step` is told what is going on.
pub async fn measure(plan: &Plan, program: &Path, step: impl Fn(&str)) -> Result<Waiting, BenchError> {
    let connections = plan.logins.div_ceil(LOGINS_PER_CONNECTION);
    step("starting a broker and push services");
    let size = Size { login_connections: connections, waiting_max: plan.logins + 1, ..Size::default() };
    let mut stage = Stage::sized(program, size).await?;
    step(&format!("enrolling {} phones", plan.phones));
    let people = People::enrol(&stage, plan.phones, &Progress::default()).await?;
    // Memory that enrolling has left free would be taken by those who wait, and not be seen.
    stage.stop_broker().await?;
    stage.start_broker().await?;
    let before = stage.usage().unwrap_or_default();
    let load = load::Plan::of(
        plan.logins as u64,
        Pace::Rate(plan.rate),
        Mix::after(plan.think, Profile::Approve),
        LIFETIME,
    );
    step(&format!("{} logins come, {} a second, and wait until their phones answer", plan.logins, plan.rate));
    let progress = Progress::default();
    let broker = stage.process();
    let mut seen = Seen::default();
    let records = {
        let running = load::run(&load, &mut stage, &people, &progress);
        tokio::pin!(running);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                records = &mut running => break records?,
                _ = look.tick() => if let Some(usage) = broker.and_then(|id| Usage::of(id).ok()) {
                    seen.look(usage, &progress, load.approvals);
                },
            }
        }
    };
    step("reading the log");
    let compared = compare(records.all(), &Logged::read(&stage).await?, &[]);
    if let Some(first) = compared.mismatches.first() {
        return Err(BenchError::Mismatches { count: compared.mismatches.len(), first: first.to_string() });
    }
    let more = seen.most.saturating_sub(before.resident_bytes);
    Ok(Waiting {
        logins: plan.logins,
        connections,
        before_bytes: before.resident_bytes,
        waiting_bytes: seen.most,
        bytes_per_login: more / load.approvals.max(1),
        idle_cpu_us: seen.idle_cpu_us(plan.logins),
        approved: records.all().len() as u64,
    })
}

/// What was seen of the broker meanwhile.
#[derive(Debug, Default)]
struct Seen {
    most: u64,
    /// The first and the last look while all waited and nobody answered, and how many were between.
    idle: Option<(Usage, Usage, u32)>,
}

impl Seen {
    fn look(&mut self, usage: Usage, progress: &Progress, all: u64) {
        self.most = self.most.max(usage.resident_bytes);
        if progress.begun() == all && progress.ended() == 0 {
            let (first, _, looks) = self.idle.unwrap_or((usage, usage, 0));
            self.idle = Some((first, usage, looks + 1));
        }
    }

    fn idle_cpu_us(&self, logins: usize) -> f64 {
        let Some((first, last, looks)) = self.idle.filter(|(.., looks)| *looks > 1) else { return f64::NAN };
        #[allow(clippy::cast_precision_loss, reason = "a figure of two digits")]
        let logins = logins as f64;
        last.since(first).cpu.as_secs_f64() * 1e6 / (LOOK * (looks - 1)).as_secs_f64() / logins
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "a figure of three digits")]
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        #[allow(clippy::cast_precision_loss, reason = "a figure of three digits")]
        let kib = self.bytes_per_login as f64 / 1024.0;
        writeln!(
            f,
            "{} logins waited at a time, on {} connections; all were approved",
            self.logins, self.connections
        )?;
        writeln!(
            f,
            "the broker's memory: {:.0} MiB before, {:.0} MiB while they waited: {kib:.1} KiB each",
            mib(self.before_bytes),
            mib(self.waiting_bytes),
        )?;
        writeln!(f, "its CPU time while they waited: {:.2} µs a second for each", self.idle_cpu_us)
    }
}
