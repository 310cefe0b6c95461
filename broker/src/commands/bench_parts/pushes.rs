//! Pushes by the broker's own client, to the services that a configuration names.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use countersign::{
    clock::{Clock as _, SystemClock},
    push::{self, Job, Outcome, PushKind, PushMessage, Pusher, Report},
};
use countersign_domain::event::PushTarget;
use countersign_proto::v1::{self, push_target::Service};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::stopwatch;
use crate::ConfigFile;

/// How long a push is good: longer than any measurement.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// As long as the texts of a push are, about.
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// `countersign bench-parts pushes`
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    config: ConfigFile,
    /// Whom to push to: a file with one target a line, `apns` or `fcm` before it
    #[arg(long, value_name = "FILE")]
    targets: PathBuf,
    /// How many pushes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// How many are under way at a time
    #[arg(long, value_name = "K", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
}

/// What came of them, and what each cost.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    accepted: u64,
    not_accepted: u64,
    per_second: f64,
    cpu_us: f64,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Figures> {
    let config = options.config.load()?;
    let targets = targets(&options.targets)?;
    let apns = config.push.apns.as_ref().map(push::apns::connect).transpose()?;
    let fcm = config.push.fcm.as_ref().map(push::fcm::connect).transpose()?;
    let services = [apns, fcm].into_iter().flatten().collect::<Vec<_>>();
    let told = Arc::new(Told::default());
    let report: Arc<dyn Report<Arc<tokio::sync::OwnedSemaphorePermit>>> = Arc::clone(&told) as _;
    let (clock, random): (push::Clock, push::Random) = (Arc::new(|| SystemClock.now()), Arc::new(|| 4));
    let pusher = Pusher::start(services, &report, &clock, &random);
    let places = Arc::new(Semaphore::new(options.in_flight as usize));
    let push = async |number: u32| {
        let place = Arc::clone(&places).acquire_owned().await.context("it is never closed")?;
        let job = Job {
            id: Arc::new(place),
            target: targets[number as usize % targets.len()].clone(),
            message: message(number),
        };
        pusher.enqueue(job).context("a push was not taken")
    };
    // Connections and tokens are there when the measurement begins.
    for number in 0..options.in_flight {
        push(number).await?;
    }
    let whole = |places: &Arc<Semaphore>| Arc::clone(places).acquire_many_owned(options.in_flight);
    drop(whole(&places).await?);
    told.forget();

    let (started, before) = (stopwatch::now(), stopwatch::cpu());
    for number in 0..options.count {
        push(number).await?;
    }
    drop(whole(&places).await?);
    let (took, cpu) = (stopwatch::now().saturating_sub(started), stopwatch::cpu().saturating_sub(before));
    Ok(Figures {
        accepted: told.accepted.load(Ordering::Relaxed),
        not_accepted: told.not_accepted.load(Ordering::Relaxed),
        per_second: f64::from(options.count) / took.as_secs_f64(),
        cpu_us: stopwatch::each(options.count.into(), cpu),
    })
}

fn targets(file: &std::path::Path) -> anyhow::Result<Vec<PushTarget>> {
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let target = |line: &str| {
        let (service, token) = line.split_once(' ')?;
        let service = match service {
            "apns" => Service::ApnsDeviceToken(token.to_owned()),
            "fcm" => Service::FcmRegistrationToken(token.to_owned()),
            _ => return None,
        };
        PushTarget::parse(Some(&v1::PushTarget { service: Some(service) })).ok()
    };
    let all: Option<Vec<_>> = text.lines().map(target).collect();
    let all =
        all.with_context(|| format!("{}: a line is not `apns TARGET` or `fcm TARGET`", file.display()))?;
    ensure!(!all.is_empty(), "{}: has no target", file.display());
    Ok(all)
}

fn message(number: u32) -> PushMessage {
    PushMessage {
        kind: PushKind::Challenge,
        id: format!("{number:032x}.{number:016x}"),
        authenticator_id: format!("{number:048x}"),
        expires_at: SystemClock.now().plus(GOOD_FOR),
        acknowledgement_token: TOKEN.to_owned(),
        nonce: TOKEN.to_owned(),
    }
}

#[derive(Debug, Default)]
struct Told {
    accepted: AtomicU64,
    not_accepted: AtomicU64,
}

impl Told {
    fn forget(&self) {
        self.accepted.store(0, Ordering::Relaxed);
        self.not_accepted.store(0, Ordering::Relaxed);
    }
}

impl Report<Arc<tokio::sync::OwnedSemaphorePermit>> for Told {
    fn report(&self, _: Arc<tokio::sync::OwnedSemaphorePermit>, outcome: Outcome) {
        let count = match outcome {
            Outcome::Accepted { .. } => &self.accepted,
            _ => &self.not_accepted,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
