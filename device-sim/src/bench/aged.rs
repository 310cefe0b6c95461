//! What a long past costs: a broker whose log has many events beside one with few, of the same accounts. The two run at the
//! same time and take turns, so that a machine that is busy is so for both.

use std::{fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use countersign_proto::v1::OutcomeKind;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::BenchError;
use crate::{
    load::{self, Mix, Pace, Past, People, Progress, Size, Stage, pace::now},
    phone::Profile,
};

/// How long a phone has.
const LIFETIME: Duration = Duration::from_secs(60);
/// Sign-ins at a time.
const IN_FLIGHT: usize = 64;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Accounts that have a past.
    pub accounts: u64,
    /// Events of the one broker.
    pub young: u64,
    /// Events of the other.
    pub old: u64,
    /// How many people sign in.
    pub phones: usize,
    /// How many approvals in each round.
    pub approvals: u64,
    /// How often the two take turns.
    pub rounds: u32,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Aged {
    /// The broker with few events.
    pub young: Age,
    /// The one with many.
    pub old: Age,
    /// The one beside the other.
    pub ratios: Ratios,
}

/// The old broker's figures divided by the young one's, and its room by its events.
#[derive(Clone, Debug, Serialize)]
pub struct Ratios {
    /// Approvals a second, in the middle one of the rounds.
    pub rate: f64,
    /// Resident memory, after a start and all rounds.
    pub memory: f64,
    /// Resident memory of a process that has written all those events, by that of one that has written few.
    pub memory_of_writer: f64,
    /// Bytes on disk after archiving, by the bytes of the events.
    pub disk: f64,
}

/// One broker.
#[derive(Clone, Debug, Serialize)]
pub struct Age {
    /// What was put into its log.
    pub seeded: Seeded,
    /// From the start of the program until it serves, in seconds.
    pub start_seconds: f64,
    /// The same when sled has to be made anew.
    pub rebuild_seconds: f64,
    /// Approvals a second in each round.
    pub per_second: Vec<f64>,
    /// The broker's CPU time for each approval in each round, in microseconds.
    pub cpu_us: Vec<f64>,
    /// Its resident memory after them, in bytes.
    pub resident_bytes: u64,
    /// What its log takes on disk after archiving, in bytes.
    pub disk_bytes: u64,
}

/// What `countersign bench-parts seed` says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seeded {
    /// Accounts.
    pub accounts: u64,
    /// Their authenticators.
    pub authenticators: u64,
    /// Events of theirs.
    pub events: u64,
    /// The entries that those are in.
    pub entries: u64,
    /// The bytes of the events.
    pub event_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The writing process's memory on the way.
    pub memory: Vec<Memory>,
}

/// Resident memory after so many events.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Memory {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub resident_bytes: u64,
}

/// Measures. `step` is told what is going on.
pub async fn measure(plan: &Plan, program: &Path, step: impl Fn(&str)) -> Result<Aged, BenchError> {
    let mut ages = Vec::new();
    for events in [plan.young, plan.old] {
        step(&format!("a past of {events} events, and the first start with them"));
        ages.push(Ageing::begin(plan, program, events).await?);
    }
    for round in 1..=plan.rounds {
        step(&format!("approvals, round {round} of {}", plan.rounds));
        for age in &mut ages {
            age.sign_in(plan.approvals).await?;
        }
    }
    step("archiving, and making sled anew");
    let mut measured = Vec::new();
    for age in ages {
        measured.push(age.end().await?);
    }
    let [young, old] = <[Age; 2]>::try_from(measured).expect("two have begun");
    let ratios = Ratios::of(&young, &old);
    Ok(Aged { young, old, ratios })
}

/// A broker while it is measured.
struct Ageing {
    stage: Stage,
    people: People,
    seeded: Seeded,
    start_seconds: f64,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
}

impl Ageing {
    async fn begin(plan: &Plan, program: &Path, events: u64) -> Result<Self, BenchError> {
        let past = Past { accounts: plan.accounts, events };
        let mut stage = Stage::sized(program, Size { past: Some(past), ..Size::default() }).await?;
        let seeded = serde_json::from_slice(stage.seeded())
            .map_err(|source| BenchError::Malformed { what: "countersign bench-parts seed", source })?;
        // The first start has read all of it once, which no other has to.
        stage.stop_broker().await?;
        let start_seconds = timed_start(&mut stage).await?;
        let people = People::enrol(&stage, plan.phones, &Progress::default()).await?;
        Ok(Self { stage, people, seeded, start_seconds, per_second: Vec::new(), cpu_us: Vec::new() })
    }

    /// Everybody approves at once.
    async fn sign_in(&mut self, approvals: u64) -> Result<(), BenchError> {
        let plan = load::Plan {
            approvals,
            pace: Pace::InFlight(IN_FLIGHT),
            mix: Mix::only(Profile::Approve),
            lifetime: LIFETIME,
            kills: 0,
            survives: false,
            gives_up: false,
            seed: 1,
        };
        let before = self.stage.usage().unwrap_or_default();
        let records = load::run(&plan, &mut self.stage, &self.people, &Progress::default()).await?;
        let used = self.stage.usage().unwrap_or_default().since(before);
        let wrong = records.all().iter().filter(|one| !matches!(one.login, Ok(OutcomeKind::Approved)));
        let wrong: Vec<_> = wrong.collect();
        if let Some(first) = wrong.first() {
            return Err(BenchError::Mismatches {
                count: wrong.len(),
                first: first.outcome_name().to_owned(),
            });
        }
        self.per_second.push(per(approvals, records.took()));
        self.cpu_us.push(1e6 / per(approvals, used.cpu));
        Ok(())
    }

    async fn end(self) -> Result<Age, BenchError> {
        let Self { mut stage, people, seeded, start_seconds, per_second, cpu_us } = self;
        let resident_bytes = stage.usage().unwrap_or_default().resident_bytes;
        stage.stop_broker().await?;
        drop(people);
        stage.archive().await?;
        let log = stage.log_folder().unwrap_or_default();
        let disk_bytes = room_taken(&log)?;
        fs::remove_dir_all(log.join("store"))?;
        let rebuild_seconds = timed_start(&mut stage).await?;
        Ok(Age { seeded, start_seconds, rebuild_seconds, per_second, cpu_us, resident_bytes, disk_bytes })
    }
}

async fn timed_start(stage: &mut Stage) -> Result<f64, BenchError> {
    let begun: Instant = now();
    stage.start_broker().await?;
    Ok((now() - begun).as_secs_f64())
}

/// The room that a folder's files take on the disk, in bytes.
fn room_taken(folder: &Path) -> io::Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        let (path, about) = file.and_then(|file| Ok((file.path(), file.metadata()?)))?;
        bytes += if about.is_dir() { room_taken(&path)? } else { about.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}

#[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn per(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

impl Ratios {
    #[allow(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
    fn of(young: &Age, old: &Age) -> Self {
        let mut rates: Vec<_> =
            young.per_second.iter().zip(&old.per_second).map(|(young, old)| old / young).collect();
        rates.sort_unstable_by(f64::total_cmp);
        let ratio = |of: fn(&Age) -> u64| of(old) as f64 / of(young).max(1) as f64;
        Self {
            rate: rates.get(rates.len() / 2).copied().unwrap_or_default(),
            memory: ratio(|age| age.resident_bytes),
            memory_of_writer: ratio(|age| age.seeded.memory.last().map_or(0, |last| last.resident_bytes)),
            disk: old.disk_bytes as f64 / old.seeded.event_bytes.max(1) as f64,
        }
    }
}

impl fmt::Display for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>42} {:>14} {:>8}", "young", "old", "ratio")?;
        let mut row = |name: &str, young: String, old: String, ratio: String| {
            writeln!(f, "{name:<28} {young:>13} {old:>14} {ratio:>8}")
        };
        let (young, old, ratios) = (&self.young, &self.old, &self.ratios);
        let text = |age: &Age| age.seeded.events.to_string();
        row("events", text(young), text(old), String::new())?;
        let text = |age: &Age| format!("{:.0}", middle(&age.per_second));
        row("approvals a second", text(young), text(old), format!("{:.2}", ratios.rate))?;
        let text = |age: &Age| format!("{:.0} us", middle(&age.cpu_us));
        row("the broker's CPU for each", text(young), text(old), String::new())?;
        let text = |age: &Age| mebibytes(age.resident_bytes);
        row("resident memory", text(young), text(old), format!("{:.2}", ratios.memory))?;
        let text = |age: &Age| mebibytes(age.seeded.memory.last().map_or(0, |last| last.resident_bytes));
        row("the same of who wrote them", text(young), text(old), format!("{:.2}", ratios.memory_of_writer))?;
        let text = |age: &Age| format!("{:.1} s", age.start_seconds);
        row("from start to serving", text(young), text(old), String::new())?;
        let text = |age: &Age| format!("{:.1} s", age.rebuild_seconds);
        row("the same without sled", text(young), text(old), String::new())?;
        let text = |age: &Age| mebibytes(age.disk_bytes);
        row("disk after archiving", text(young), text(old), String::new())?;
        let text = |age: &Age| mebibytes(age.seeded.event_bytes);
        row("bytes of the events", text(young), text(old), format!("{:.2}", ratios.disk))
    }
}

fn middle(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / 1024 / 1024)
}
