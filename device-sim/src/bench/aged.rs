//! What a long past costs: a broker whose log has many events beside one with few, of the same accounts, which are those that
//! sign in. The two run at the same time and take turns, so that a machine that is busy is so for both.

use std::{fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{BenchError, inside};
use crate::{
    load::{
        self, Mix, Pace, Past, People, Progress, Size, Stage, compare::compare, logged::Logged, pace::now,
        record::Records,
    },
    phone::Profile,
};

/// How long a phone has.
const LIFETIME: Duration = Duration::from_secs(60);
/// Sign-ins at a time.
const IN_FLIGHT: usize = 64;
/// Where the broker counts how it came by the state of an account before a decision.
const LOOKUPS: &str = "countersign_state_cache_lookups_total";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Accounts that have a past.
    pub accounts: u64,
    /// Events of the one broker.
    pub young: u64,
    /// Events of the other.
    pub old: u64,
    /// How many of them sign in.
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
    /// The same where each account signs in for the first time since the start: its past has to be read.
    pub rate_cold: f64,
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
    /// How many states were made of what was kept of them beside the log, or of all their events, when each account signed
    /// in for the first time since that start: the accounts', and the relying party's.
    pub states_read: u64,
    /// Approvals a second then.
    pub cold_per_second: f64,
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
    /// The position of the last of them.
    pub last_position: u64,
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
    step("each signs in for the first time");
    for age in &mut ages {
        age.sign_in_cold().await?;
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
    states_read: u64,
    cold_per_second: f64,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    records: Vec<Records>,
}

impl Ageing {
    async fn begin(plan: &Plan, program: &Path, events: u64) -> Result<Self, BenchError> {
        let past = Past { accounts: plan.accounts, events, people: plan.phones };
        let mut stage = Stage::sized(program, Size { past: Some(past), ..Size::default() }).await?;
        let seeded = serde_json::from_slice(stage.seeded())
            .map_err(|source| BenchError::Malformed { what: "countersign bench-parts seed", source })?;
        // The first start has read all of it once, which no other has to. The second has no account in memory.
        stage.stop_broker().await?;
        let start_seconds = timed_start(&mut stage).await?;
        let people = People::of_the_past(&stage)?;
        Ok(Self {
            stage,
            people,
            seeded,
            start_seconds,
            states_read: 0,
            cold_per_second: 0.0,
            per_second: Vec::new(),
            cpu_us: Vec::new(),
            records: Vec::new(),
        })
    }

    /// Each once, who was in no memory before.
    async fn sign_in_cold(&mut self) -> Result<(), BenchError> {
        let before = self.count_states_read().await?;
        (self.cold_per_second, _) = self.approve(self.people.len() as u64).await?;
        self.states_read = self.count_states_read().await? - before;
        Ok(())
    }

    async fn sign_in(&mut self, approvals: u64) -> Result<(), BenchError> {
        let (per_second, cpu_us) = self.approve(approvals).await?;
        self.per_second.push(per_second);
        self.cpu_us.push(cpu_us);
        Ok(())
    }

    async fn count_states_read(&self) -> Result<u64, BenchError> {
        let metrics = self.stage.metrics().unwrap_or_default();
        inside::counted(&metrics, LOOKUPS, &[r#"result="kept""#, r#"result="miss""#]).await
    }

    /// Everybody approves at once: how many a second, and the broker's CPU time for each in microseconds.
    async fn approve(&mut self, approvals: u64) -> Result<(f64, f64), BenchError> {
        let plan =
            load::Plan::of(approvals, Pace::InFlight(IN_FLIGHT), Mix::only(Profile::Approve), LIFETIME);
        let before = self.stage.usage().unwrap_or_default();
        let records = load::run(&plan, &mut self.stage, &self.people, &Progress::default()).await?;
        let used = self.stage.usage().unwrap_or_default().since(before);
        let figures = (per(approvals, records.took()), 1e6 / per(approvals, used.cpu));
        self.records.push(records);
        Ok(figures)
    }

    async fn end(self) -> Result<Age, BenchError> {
        let resident_bytes = self.stage.usage().unwrap_or_default().resident_bytes;
        self.check().await?;
        let Self { mut stage, people, seeded, start_seconds, .. } = self;
        let Self { states_read, cold_per_second, per_second, cpu_us, .. } = self;
        stage.stop_broker().await?;
        drop(people);
        stage.archive().await?;
        let log = stage.log_folder().unwrap_or_default();
        let disk_bytes = room_taken(&log)?;
        fs::remove_dir_all(log.join("store"))?;
        let rebuild_seconds = timed_start(&mut stage).await?;
        Ok(Age {
            seeded,
            start_seconds,
            rebuild_seconds,
            states_read,
            cold_per_second,
            per_second,
            cpu_us,
            resident_bytes,
            disk_bytes,
        })
    }

    /// All were approved, page, phone and log agree about each, and nobody is of today.
    async fn check(&self) -> Result<(), BenchError> {
        let logged = Logged::read_from(&self.stage, self.seeded.last_position + 1).await?;
        let compared = compare(self.records.iter().flat_map(Records::all), &logged, &[]);
        if let Some(first) = compared.mismatches.first() {
            return Err(BenchError::Mismatches {
                count: compared.mismatches.len(),
                first: first.to_string(),
            });
        }
        match logged.accounts_opened() {
            0 => Ok(()),
            opened => Err(BenchError::Newcomers(opened)),
        }
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
            rate_cold: old.cold_per_second / young.cold_per_second,
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
        let text = |age: &Age| format!("{:.0}", age.cold_per_second);
        row("of each account the first", text(young), text(old), format!("{:.2}", ratios.rate_cold))?;
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
        row("disk after archiving", text(young), text(old), format!("{:.2}", ratios.disk))?;
        let text = |age: &Age| mebibytes(age.seeded.event_bytes);
        row("bytes of the events", text(young), text(old), String::new())
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
