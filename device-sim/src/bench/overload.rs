//! More is asked for than the broker can do. What it does then, beside the most that it can do.
//!
//! The broker is held to a part of one core, so that it and not this process is the limit: it is stopped and let go on
//! many times a second, as a container's limit of CPU time does it.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};
use serde::Serialize;

use super::BenchError;
use crate::{
    load::{
        self, Mix, Pace, People, Progress, Record, Stage, StageError, compare::compare, logged::Logged,
        report::Percentiles,
    },
    phone::Profile,
};

/// How long a phone has.
const LIFETIME: Duration = Duration::from_secs(60);
/// The broker is stopped and let go on so often.
const PERIOD: Duration = Duration::from_millis(10);
/// Sign-ins at a time while the most that it can do is sought.
const IN_FLIGHT: usize = 128;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many phones.
    pub phones: usize,
    /// How many sign-ins to find the most that the broker can do.
    pub approvals: u64,
    /// The part of one core that it has.
    pub share: f64,
    /// So many times that rate is asked for then.
    pub times: f64,
    /// For so long.
    pub lasting: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Overload {
    /// The most approvals a second.
    pub highest_per_second: f64,
    /// Requests a second that came then.
    pub asked_per_second: f64,
    /// Approvals a second.
    pub approved_per_second: f64,
    /// These divided by the most.
    pub goodput: f64,
    /// The broker's CPU time in each second, while the most was sought and while more was asked for, in seconds.
    pub cpu: [f64; 2],
    /// Requests that were sent away at once, with a time to come again.
    pub shed: u64,
    /// Requests that were taken; all of them were approved, and page, phone and log agree.
    pub approved: u64,
    /// Of those that were taken, from when they were due to the number, in microseconds.
    pub request_to_number_us: Percentiles,
}

/// Measures. `step` is told what is going on.
pub async fn measure(plan: &Plan, program: &Path, step: impl Fn(&str)) -> Result<Overload, BenchError> {
    step("starting a broker and push services");
    let mut stage = Stage::make(program).await?;
    step("enrolling phones");
    let people = People::enrol(&stage, plan.phones, &Progress::default()).await?;
    let process = stage.process().and_then(|id| Pid::from_raw(id.cast_signed()));
    let held = process.map(|process| Held::to(process, plan.share)).transpose();
    let _held = held.map_err(StageError::io("hold the broker to a part of a core"))?;

    step("finding the most that the broker can do");
    let most = sign_ins(&mut stage, &people, plan.approvals, Pace::InFlight(IN_FLIGHT)).await?;
    let highest = rate(most.approved.len(), most.took);
    let asked = highest * plan.times;
    step(&format!("{asked:.0} requests a second, where it can do {highest:.0}"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
    let count = (asked * plan.lasting.as_secs_f64()).ceil() as u64;
    let most_asked = sign_ins(&mut stage, &people, count, Pace::Rate(asked)).await?;
    let approved = rate(most_asked.approved.len(), most_asked.took);
    Ok(Overload {
        highest_per_second: highest,
        asked_per_second: asked,
        approved_per_second: approved,
        goodput: approved / highest,
        cpu: [most.cpu, most_asked.cpu],
        shed: most_asked.shed,
        approved: most_asked.approved.len() as u64,
        request_to_number_us: Percentiles::of(most_asked.approved.iter().filter_map(|one| one.to_number)),
    })
}

/// What became of sign-ins.
struct SignIns {
    approved: Vec<Record>,
    shed: u64,
    took: Duration,
    cpu: f64,
}

/// Everybody approves at once. A request that was taken must be approved; one that was not must be sent away.
async fn sign_ins(
    stage: &mut Stage,
    people: &People,
    approvals: u64,
    pace: Pace,
) -> Result<SignIns, BenchError> {
    let plan = load::Plan {
        approvals,
        pace,
        mix: Mix::only(Profile::Approve),
        lifetime: LIFETIME,
        kills: 0,
        survives: false,
        gives_up: true,
        seed: 1,
    };
    let before = stage.usage().unwrap_or_default();
    let records = load::run(&plan, stage, people, &Progress::default()).await?;
    let used = stage.usage().unwrap_or_default().since(before);
    let (shed, taken): (Vec<_>, Vec<_>) = records.all().iter().cloned().partition(Record::is_shed);
    let compared = compare(&taken, &Logged::read(stage).await?, &[]);
    if let Some(first) = compared.mismatches.first() {
        return Err(BenchError::Mismatches { count: compared.mismatches.len(), first: first.to_string() });
    }
    let cpu = used.cpu.as_secs_f64() / records.took().as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(SignIns { approved: taken, shed: shed.len() as u64, took: records.took(), cpu })
}

#[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A process that has a part of one core, until this is dropped: it is stopped and let go on many times a second.
#[derive(Debug)]
pub struct Held {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Held {
    /// Holds it to this part of a core, more than 0 and at most 1.
    pub fn to(process: Pid, share: f64) -> io::Result<Self> {
        let mut one = CpuSet::new();
        one.set(0);
        for task in fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()))? {
            let id = task?.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
            sched_setaffinity(id, &one)?;
        }
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let (on, off) = (PERIOD.mul_f64(share), PERIOD.mul_f64(1.0 - share));
        let thread = thread::Builder::new().name("hold".to_owned()).spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let _ = kill_process(process, Signal::STOP);
                thread::sleep(off);
                let _ = kill_process(process, Signal::CONT);
                thread::sleep(on);
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It ends with the process running.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "the most that the broker can do      {:>8.1} approvals a second",
            self.highest_per_second
        )?;
        writeln!(f, "asked for                            {:>8.1} a second", self.asked_per_second)?;
        writeln!(
            f,
            "approved                             {:>8.1} a second: {:.2} of the most",
            self.approved_per_second, self.goodput
        )?;
        writeln!(
            f,
            "the broker's CPU time in a second    {:>8.2} s, then {:.2} s",
            self.cpu[0], self.cpu[1]
        )?;
        writeln!(
            f,
            "{} requests were taken, and all of them approved; {} were sent away at once",
            self.approved, self.shed
        )?;
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        let times = &self.request_to_number_us;
        writeln!(
            f,
            "from request to number, of those taken: p50 {:.0} ms, p99 {:.0} ms",
            ms(times.p50),
            ms(times.p99)
        )
    }
}
