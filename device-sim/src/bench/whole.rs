//! Whole approvals: everybody approves at once, and nobody thinks.

use serde::Serialize;

use super::BenchError;
use crate::{
    load::{
        self, Mix, Pace, People, Plan, Progress, Report, Stage, compare::compare, logged::Logged,
        report::Latencies,
    },
    phone::Profile,
};

/// How long a phone has, in the plan: nobody needs it.
const LIFETIME: std::time::Duration = std::time::Duration::from_secs(60);

/// What approvals come to.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// How many.
    pub approvals: u64,
    /// How many a second.
    pub per_second: f64,
    /// The broker's CPU time for each, in microseconds: its process alone.
    pub cpu_us: f64,
    /// The broker's greatest resident memory so far, in bytes.
    pub peak_bytes: u64,
    /// As logins saw it, in microseconds.
    pub latency_us: Latencies,
}

/// So many approvals at this pace. All of them must be approved, and page, phone and log agree about each.
pub async fn measure(
    stage: &mut Stage,
    people: &People,
    approvals: u64,
    pace: Pace,
) -> Result<Whole, BenchError> {
    let plan = Plan::of(approvals, pace, Mix::only(Profile::Approve), LIFETIME);
    let (before, progress) = (stage.usage(), Progress::default());
    let records = load::run(&plan, stage, people, &progress).await?;
    let used = before.zip(stage.usage()).map(|(before, after)| after.since(before));
    let compared = compare(records.all(), &Logged::read(stage).await?, &[]);
    if let Some(first) = compared.mismatches.first() {
        return Err(BenchError::Mismatches { count: compared.mismatches.len(), first: first.to_string() });
    }
    let report = Report::new(&records, &compared, used, progress.sent_away());
    let broker = report.broker.expect("the broker is ours");
    Ok(Whole {
        approvals,
        per_second: report.rate,
        cpu_us: broker.cpu_us_per_approval,
        peak_bytes: broker.peak_bytes,
        latency_us: report.latency_us,
    })
}
