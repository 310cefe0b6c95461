//! A soak as it runs: the load, the faults, whoever starts the broker again, and a look each second. All of them are one
//! task, and take turns.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use crashfs::{CrashFs, Options};
use device_sim::load::{
    self, Broker, Mix, Pace, People, Plan, Progress, Size, Stage, StageError, logged::Logged,
};
use tokio::time::{sleep, sleep_until, timeout};

use super::{
    report::{Report, SERVES_AGAIN_MAX},
    schedule::{self, Ill, Planned, There},
    seen::{Fault, Look, Watch},
};

/// How long a phone has at least, as brokers have it, ...
const LIFETIME_MIN: Duration = Duration::from_secs(15);
/// ... and beside what two faults may take: most sign-ins that wait for the end of one can still be approved.
const LIFETIME_BESIDE: Duration = Duration::from_secs(6);
/// Whoever runs a broker has it started again so soon (systemd's RestartSec).
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// A fault that nothing has met stays a little longer: sled writes every five seconds.
const MET_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether something has met it.
const MET_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at the process.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Small segments, so that as many begin, are full and are archived in minutes as else in days.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The broker's program.
    pub program: PathBuf,
    /// For how long sign-ins begin.
    pub lasts: Duration,
    /// How many people, with a phone each.
    pub phones: usize,
    /// So many sign-ins begin each second.
    pub rate: f64,
    /// Where chance begins.
    pub seed: u64,
}

/// What is told while it runs.
#[derive(Debug)]
pub enum News<'a> {
    /// So many phones are enrolled.
    Enrolled(u64),
    /// A second has passed since the beginning, or more.
    Looked(Duration, &'a Look, &'a Progress),
    /// A fault is over; the first moment is how long ago the load began.
    Over(Duration, &'a Fault),
    /// The load is over, and the log is read.
    Comparing,
}

/// Runs it: what was seen, and what the broker said.
pub async fn run(order: &Order, told: impl Fn(News<'_>)) -> Result<(Report, String)> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    let fs = CrashFs::mount(&disk, Options::default())?;
    let log = format!(
        "folder = {}\nsegment_bytes = {SEGMENT_BYTES}\narchive_every_s = 1",
        toml::Value::from(fs.dir().join("log").display().to_string())
    );
    let size = Size { log: Some(log), ..Size::default() };
    let mut stage = Stage::sized(&order.program, size).await?;
    let progress = Progress::default();
    let people = {
        let enrolling = People::enrol(&stage, order.phones, &progress);
        tokio::select! {
            people = enrolling => people?,
            never = each(LOOK_EVERY / 10, || told(News::Enrolled(progress.enrolled()))) => match never {},
        }
    };
    let mut broker = stage.take_broker().context("the stage has made a broker")?;

    let watch = Watch::begin();
    let process = std::cell::Cell::new(broker.process());
    let look =
        || told(News::Looked(watch.begun().elapsed(), &watch.look(process.get(), &progress), &progress));
    let planned = schedule::faults(order.lasts, order.seed);
    let afflicting = async {
        for one in &planned {
            let fault = afflict(one, &fs, &watch, &progress).await;
            told(News::Over(watch.begun().elapsed(), &fault));
        }
        std::future::pending::<Infallible>().await
    };
    let plan = plan(order);
    let records = tokio::select! {
        records = load::run(&plan, &mut stage, &people, &progress) => records?,
        failed = keep_up(&mut broker, &process, &watch) => match failed? {},
        never = each(LOOK_EVERY, look) => match never {},
        never = afflicting => match never {},
    };

    told(News::Comparing);
    fs.faults().clear_all();
    fs.faults().set_capacity(None);
    if broker.process().is_none() {
        broker.start().await?;
    }
    let logged = Logged::read(&stage).await?;
    let (mut seen, said) = (watch.into_seen(), broker.said());
    seen.unforeseen.extend(panics(&said));
    Ok((Report::new(order, &records, &logged, &seen), said))
}

/// Where the broker has panicked. sled does, on what a failing disk leaves, and is guarded.
fn panics(said: &str) -> impl Iterator<Item = String> {
    let panics = said.lines().filter(|line| line.contains(" panicked at ") && !line.contains("/sled-"));
    panics.map(|line| format!("the broker has panicked: {}", line.trim()))
}

fn plan(order: &Order) -> Plan {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions at most")]
    let approvals = (order.rate * order.lasts.as_secs_f64()).ceil() as u64;
    Plan {
        approvals,
        pace: Pace::Rate(order.rate),
        mix: Mix::default(),
        lifetime: LIFETIME_MIN.max(schedule::longest(order.lasts) * 2 + LIFETIME_BESIDE),
        kills: 0,
        survives: true,
        gives_up: false,
        seed: order.seed,
    }
}

async fn each(period: Duration, act: impl Fn()) -> Infallible {
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        act();
    }
}

/// Starts the broker again whenever it has ended.
async fn keep_up(
    broker: &mut Broker,
    process: &std::cell::Cell<Option<u32>>,
    watch: &Watch,
) -> Result<Infallible> {
    loop {
        broker.ended().await?;
        process.set(None);
        watch.has_ended(&broker.said());
        loop {
            sleep(RESTART_AFTER).await;
            match broker.start().await {
                Ok(()) => break,
                Err(StageError::Program { said, .. }) => watch.does_not_start(&said),
                Err(other) => return Err(other.into()),
            }
        }
        process.set(broker.process());
        watch.serves();
    }
}

/// Has the disk fail as planned, at least until something has met it, and waits until the broker serves again.
async fn afflict(planned: &Planned, fs: &CrashFs, watch: &Watch, progress: &Progress) -> Fault {
    sleep_until(watch.begun() + planned.at).await;
    let before = (watch.ends(), sent_away_for_room(progress));
    let there = planned.ill.begin(fs);
    watch.falls_ill(planned);
    sleep(planned.lasts).await;
    let met = async {
        while !has_come(planned.ill, &there, fs, (watch.ends(), sent_away_for_room(progress)), before) {
            sleep(MET_EVERY).await;
        }
    };
    let has_come = timeout(MET_MAX, met).await.is_ok();
    there.end(fs);
    let fault = watch.is_well(has_come).expect("it fell ill above");
    // Two faults at a time would hide each other. What does not come back is in the report.
    let outcomes = progress.ended();
    let serves = async {
        while progress.ended() == outcomes {
            sleep(MET_EVERY).await;
        }
    };
    let _ = timeout(SERVES_AGAIN_MAX, serves).await;
    fault
}

/// Whether something has met the fault: the broker has ended, if it should; somebody was sent away from a full disk;
/// an operation has failed.
fn has_come(ill: Ill, there: &There, fs: &CrashFs, now: (u32, u64), before: (u32, u64)) -> bool {
    if ill.ends_the_broker() {
        return now.0 > before.0;
    }
    there.strikes(fs).map_or(now.1 > before.1, |strikes| strikes > 0)
}

/// How often pages and phones were told that the disk is full.
fn sent_away_for_room(progress: &Progress) -> u64 {
    let sent_away = progress.sent_away();
    sent_away.iter().filter(|(reason, _)| reason.ends_with("DISK_FULL")).map(|(_, times)| times).sum()
}
