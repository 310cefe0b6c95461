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
    /// One durable flush of a record to a plain file, in microseconds: the mean, right after.
    pub flush_us: f64,
    /// Inside the broker, from an answer's arrival to the outcome on the login's stream, in microseconds: the middle one.
    pub outcome_p50_us: f64,
    /// The same, of 99 in 100.
    pub outcome_p99_us: f64,
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
    step("whole approvals at half of the highest rate");
    let rate = middle(rounds.iter().map(|round| round.whole.per_second));
    let metrics = stage.metrics().unwrap_or_default();
    let before = Buckets::read(&metrics, ANSWER_TO_OUTCOME).await?;
    let whole = whole::measure(&mut stage, &people, plan.approvals, Pace::Rate(rate / 2.0)).await?;
    let inside = Buckets::read(&metrics, ANSWER_TO_OUTCOME).await?.since(&before);
    step("one durable flush");
    let flush = parts.appends(&disk, plan.round).await?;
    let flush_us =
        flush.iter().find(|one| one.waiting == 1).map_or(f64::NAN, |one| 1e6 / one.bare_per_second);
    let half =
        Half { whole, flush_us, outcome_p50_us: inside.quantile(0.5), outcome_p99_us: inside.quantile(0.99) };
    Ok(Ceiling { ratios: Ratios::of(&rounds, &pushes, &half), pushes, rounds, half })
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

impl Round {
    /// CPU time of the bare parts that an approval is made of, in microseconds.
    pub fn parts_us(&self, pushes: &Pushes) -> f64 {
        let keys = &self.keys;
        let check = f64::midpoint(keys.ed25519_verify_us, keys.es256_verify_us);
        CALLS * self.calls.cpu_us
            + PUSHES * pushes.cpu_us
            + SIGNATURES * keys.ed25519_sign_us
            + CHECKS * check
            + SEALS * keys.seal_us
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

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |figure: &dyn Fn(&Round) -> f64| middle(self.rounds.iter().map(figure));
        let keys =
            |figure: &dyn Fn(&Keys) -> f64| middle(self.rounds.iter().map(|round| figure(&round.keys)));
        writeln!(f, "an approval is made of                each      times     CPU")?;
        let mut row = |what: &str, each: f64, times: f64| {
            writeln!(f, "  {what:<32} {each:>7.1} µs {times:>5}  {:>7.1} µs", each * times)
        };
        row("gRPC calls, bare", of(&|round| round.calls.cpu_us), CALLS)?;
        row("pushes, bare", self.pushes.cpu_us, PUSHES)?;
        row("signatures, Ed25519", keys(&|keys| keys.ed25519_sign_us), SIGNATURES)?;
        let check = |keys: &Keys| f64::midpoint(keys.ed25519_verify_us, keys.es256_verify_us);
        row("checks, Ed25519 and ES256", keys(&check), CHECKS)?;
        row("seals, AES-256-GCM", keys(&|keys| keys.seal_us), SEALS)?;
        writeln!(f, "  {:<52} {:>7.1} µs", "together", of(&|round| round.parts_us(&self.pushes)))?;
        writeln!(f, "  {:<52} {:>7.1} µs", "the broker, for a whole one", of(&|round| round.whole.cpu_us))?;
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
        for (part, us, flushes) in [
            ("p50", half.outcome_p50_us, ratios.outcome_p50_flushes),
            ("p99", half.outcome_p99_us, ratios.outcome_p99_flushes),
        ] {
            writeln!(f, "  {part}     {us:>8.0} µs, {flushes:>5.2} flushes of {:.0} µs", half.flush_us)?;
        }
        writeln!(f, "\nwhole approvals a second     {:>8.0}", of(&|round| round.whole.per_second))?;
        writeln!(f, "bare calls a second          {:>8.0}", of(&|round| round.calls.per_second))?;
        writeln!(f, "bare pushes a second         {:>8.0}", self.pushes.per_second)
    }
}
