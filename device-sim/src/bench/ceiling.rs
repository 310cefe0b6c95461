//! The broker beside its ceilings: a table of figures, and what they are to each other.

use std::{fmt, path::Path, time::Duration};

use serde::Serialize;

use super::{
    BenchError,
    calls::{BareServer, Calls},
    inside::Buckets,
    parts::{Appends, Keys, Parts, Pushes},
    whole::{self, Whole},
};
use crate::{
    load::{Pace, People, Progress, Stage, StageError},
    push_services::Service,
};

/// Calls of one approval: RequestApproval, AcknowledgeDelivery twice, FetchChallenge, SubmitAnswer.
const CALLS: f64 = 5.0;
/// The challenge, to one phone.
const PUSHES: f64 = 1.0;
/// The challenge.
const SIGNATURES: f64 = 1.0;
/// The call that fetches the challenge, and the answer.
const CHECKS: f64 = 2.0;
/// The number; what is personal in the request; what the phone has signed.
const SEALS: f64 = 3.0;

/// Bare pushes go to so many phones in turn.
const TARGETS: usize = 100;

/// The broker's own name for it.
const ANSWER_TO_OUTCOME: &str = "countersign_answer_to_outcome_duration_seconds";
/// The same.
const LOG_FLUSH: &str = "countersign_log_flush_duration_seconds";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many phones.
    pub phones: usize,
    /// How many approvals in each round.
    pub approvals: u64,
    /// How many are under way at a time.
    pub in_flight: usize,
    /// Everything takes its turn so often.
    pub rounds: u32,
    /// For how long each part is measured in a round.
    pub round: Duration,
}

/// What was measured. As JSON, `docs/performance.md` describes it.
#[derive(Debug, Serialize)]
pub struct Ceiling {
    /// What counts: the middle one of all rounds.
    pub ratios: Ratios,
    /// Bare pushes: once, since Apple refuses whoever makes a new provider token each time.
    pub pushes: Pushes,
    /// Each round by itself.
    pub rounds: Vec<Round>,
    /// At half of the highest rate.
    pub half: Half,
}

/// Approvals in open loop, at a rate that the broker can bear.
#[derive(Debug, Serialize)]
pub struct Half {
    /// As logins saw them.
    #[serde(flatten)]
    pub whole: Whole,
    /// One durable flush of a record to a plain file, in microseconds: the mean, right before.
    pub flush_us: f64,
    /// Inside the broker, from an answer's arrival to the outcome on the login's stream, in microseconds: the middle one.
    pub outcome_p50_us: f64,
    /// The same, of 99 in 100.
    pub outcome_p99_us: f64,
    /// What the log's own flushes took meanwhile, on a machine that had much else to do, in microseconds: the middle one.
    pub log_flush_p50_us: f64,
    /// The same, of 99 in 100.
    pub log_flush_p99_us: f64,
}

/// Everything once, one after the other.
#[derive(Debug, Serialize)]
pub struct Round {
    /// Bare gRPC calls.
    pub calls: Calls,
    /// Signatures, checks and seals.
    pub keys: Keys,
    /// Whole approvals, as many as go.
    pub whole: Whole,
    /// Appends with 1, 64 and 1,024 waiting.
    pub appends: Vec<Appends>,
}

/// The broker, divided by its ceilings.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// CPU time of an approval, by that of the bare calls, pushes, signatures, checks and seals in it.
    pub cpu_per_approval: f64,
    /// Appends through the log by those to a plain file, one waiting.
    pub append_1: f64,
    /// 64 waiting.
    pub append_64: f64,
    /// 1,024 waiting.
    pub append_1024: f64,
    /// From an answer's arrival to the outcome on the login's stream at half of the highest rate, in durable flushes.
    pub outcome_p50_flushes: f64,
    /// The same, of 99 in 100.
    pub outcome_p99_flushes: f64,
}

/// Measures. `step` is told what is going on.
pub async fn measure(plan: &Plan, program: &Path, step: impl Fn(&str)) -> Result<Ceiling, BenchError> {
    let parts = Parts { program: program.to_owned() };
    step("starting a broker, push services, and a server of bare calls");
    let mut stage = Stage::make(program).await?;
    let bare = BareServer::start(&parts).await?;
    step("enrolling phones");
    let people = People::enrol(&stage, plan.phones, &Progress::default()).await?;
    let targets = targets(&stage)?;
    let config = stage.config_file().to_owned();
    let disk = config.parent().unwrap_or(Path::new(".")).to_owned();
    step("bare pushes");
    let count = u32::try_from(plan.approvals).unwrap_or(u32::MAX);
    let pushes = parts.pushes(&config, &targets, count).await?;
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let say = |what: &str| step(&format!("round {number} of {}: {what}", plan.rounds));
        say("bare calls");
        let calls = bare.measure(plan.in_flight, plan.round).await?;
        say("signatures and seals");
        let keys = parts.keys(plan.round / 4).await?;
        say("whole approvals");
        let pace = Pace::InFlight(plan.in_flight);
        let whole = whole::measure(&mut stage, &people, plan.approvals, pace).await?;
        say("appends");
        let appends = parts.appends(&disk, plan.round).await?;
        rounds.push(Round { calls, keys, whole, appends });
    }
    step("one durable flush");
    let flush = parts.appends(&disk, plan.round).await?;
    let flush_us =
        flush.iter().find(|one| one.waiting == 1).map_or(f64::NAN, |one| 1e6 / one.bare_per_second);
    step("whole approvals at half of the highest rate");
    step_back().await?;
    let rate = middle(rounds.iter().map(|round| round.whole.per_second));
    let metrics = stage.metrics().unwrap_or_default();
    let times = async || {
        let read = async |name| Buckets::read(&metrics, name).await;
        Ok::<_, BenchError>((read(ANSWER_TO_OUTCOME).await?, read(LOG_FLUSH).await?))
    };
    let before = times().await?;
    let whole = whole::measure(&mut stage, &people, plan.approvals, Pace::Rate(rate / 2.0)).await?;
    let after = times().await?;
    let (outcome, log_flush) = (after.0.since(&before.0), after.1.since(&before.1));
    let half = Half {
        whole,
        flush_us,
        outcome_p50_us: outcome.quantile(0.5),
        outcome_p99_us: outcome.quantile(0.99),
        log_flush_p50_us: log_flush.quantile(0.5),
        log_flush_p99_us: log_flush.quantile(0.99),
    };
    Ok(Ceiling { ratios: Ratios::of(&rounds, &pushes, &half), pushes, rounds, half })
}

/// Lets the broker go first where both want the CPU, as if it had a machine of its own: how fast it is below its limit
/// must not depend on whether the generator of its load has a core to itself. (At its limit, the two share the machine
/// as they come.) A lower nice value would not do: Linux lets a running thread finish its slice of some milliseconds,
/// unless it is idle work.
async fn step_back() -> Result<(), StageError> {
    let mut chrt = tokio::process::Command::new("chrt");
    chrt.args(["--all-tasks", "--idle", "--pid", "0", &std::process::id().to_string()]);
    let done = chrt.output().await.map_err(StageError::io("run chrt (of util-linux)"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(StageError::Program { what: "chrt", said })
}

/// Phones that are only pushed to.
fn targets(stage: &Stage) -> Result<Vec<(Service, String)>, BenchError> {
    let one = |number: usize| {
        let service = if number.is_multiple_of(2) { Service::Apns } else { Service::Fcm };
        let device = stage.push.new_device(service);
        let device = device.map_err(|error| StageError::Push(error.to_string()))?;
        Ok((service, device.target().to_owned()))
    };
    (0..TARGETS).map(one).collect()
}

/// What an approval is made of: one of its bare parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// In full.
    name: &'static str,
    /// In a word.
    pub(super) short: &'static str,
    /// CPU time of one, in microseconds.
    each: f64,
    /// How many there are in an approval.
    pub(super) times: f64,
}

impl Part {
    /// CPU time of all of them, in microseconds.
    pub(super) fn us(&self) -> f64 {
        self.each * self.times
    }
}

impl Round {
    /// The bare parts that an approval is made of.
    fn parts(&self, pushes: &Pushes) -> [Part; 5] {
        let keys = &self.keys;
        let check = f64::midpoint(keys.ed25519_verify_us, keys.es256_verify_us);
        let part = |name, short, each, times| Part { name, short, each, times };
        [
            part("gRPC calls, bare", "calls", self.calls.cpu_us, CALLS),
            part("pushes, bare", "push", pushes.cpu_us, PUSHES),
            part("signatures, Ed25519", "signature", keys.ed25519_sign_us, SIGNATURES),
            part("checks, Ed25519 and ES256", "checks", check, CHECKS),
            part("seals, AES-256-GCM", "seals", keys.seal_us, SEALS),
        ]
    }

    /// CPU time of all of them, in microseconds.
    fn parts_us(&self, pushes: &Pushes) -> f64 {
        self.parts(pushes).iter().map(Part::us).sum()
    }

    /// With so many waiting.
    fn append(&self, waiting: usize) -> Option<&Appends> {
        self.appends.iter().find(|appends| appends.waiting == waiting)
    }
}

impl Ratios {
    fn of(rounds: &[Round], pushes: &Pushes, half: &Half) -> Self {
        let append = |waiting| middle(rounds.iter().filter_map(|round| Some(round.append(waiting)?.ratio)));
        Self {
            cpu_per_approval: middle(rounds.iter().map(|round| round.whole.cpu_us / round.parts_us(pushes))),
            append_1: append(1),
            append_64: append(64),
            append_1024: append(1_024),
            outcome_p50_flushes: half.outcome_p50_us / half.flush_us,
            outcome_p99_flushes: half.outcome_p99_us / half.flush_us,
        }
    }
}

/// The middle one: what one busy moment does not move.
fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = figures.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Ceiling {
    /// The bare parts, each the middle one of all rounds.
    pub(super) fn parts(&self) -> [Part; 5] {
        let rounds: Vec<_> = self.rounds.iter().map(|round| round.parts(&self.pushes)).collect();
        std::array::from_fn(|part| Part {
            each: middle(rounds.iter().map(|parts| parts[part].each)),
            ..rounds[0][part]
        })
    }

    /// The broker's CPU time for an approval, in microseconds.
    pub(super) fn whole_us(&self) -> f64 {
        middle(self.rounds.iter().map(|round| round.whole.cpu_us))
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |figure: &dyn Fn(&Round) -> f64| middle(self.rounds.iter().map(figure));
        writeln!(f, "an approval is made of                each      times     CPU")?;
        for part in self.parts() {
            writeln!(
                f,
                "  {:<32} {:>7.1} µs {:>5}  {:>7.1} µs",
                part.name,
                part.each,
                part.times,
                part.us()
            )?;
        }
        writeln!(f, "  {:<52} {:>7.1} µs", "together", self.parts().iter().map(Part::us).sum::<f64>())?;
        writeln!(f, "  {:<52} {:>7.1} µs", "the broker, for a whole one", self.whole_us())?;
        writeln!(f, "  {:<52} {:>7.2}\n", "ratio", self.ratios.cpu_per_approval)?;

        writeln!(f, "appends a second     bare file   plain file      the log   ratio")?;
        for waiting in [1, 64, 1_024] {
            let of = |figure: &dyn Fn(&Appends) -> f64| {
                middle(self.rounds.iter().filter_map(|round| round.append(waiting)).map(figure))
            };
            writeln!(
                f,
                "  {waiting:>5} waiting     {:>10.0}   {:>10.0}   {:>10.0}   {:>5.2}",
                of(&|one| one.bare_per_second),
                of(&|one| one.plain_per_second),
                of(&|one| one.log_per_second),
                of(&|one| one.ratio)
            )?;
        }
        let (half, ratios) = (&self.half, &self.ratios);
        writeln!(
            f,
            "\nanswer to outcome, inside the broker, at {:.0} approvals a second",
            half.whole.per_second
        )?;
        for (part, us, flushes, log) in [
            ("p50", half.outcome_p50_us, ratios.outcome_p50_flushes, half.log_flush_p50_us),
            ("p99", half.outcome_p99_us, ratios.outcome_p99_flushes, half.log_flush_p99_us),
        ] {
            let flush = half.flush_us;
            writeln!(
                f,
                "  {part}     {us:>8.0} µs, {flushes:>5.2} flushes of {flush:.0} µs; the log's own meanwhile: {log:.0} µs"
            )?;
        }
        writeln!(f, "\nwhole approvals a second     {:>8.0}", of(&|round| round.whole.per_second))?;
        writeln!(f, "bare calls a second          {:>8.0}", of(&|round| round.calls.per_second))?;
        writeln!(f, "bare pushes a second         {:>8.0}", self.pushes.per_second)
    }
}
