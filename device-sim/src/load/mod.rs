//! Monday morning: many people sign in at once.
//!
//! In the order of a run: [`stage`] (a broker, push services, a login server) → [`people`] (phones, enrolled through the
//! public interface) → [`mix`] (who answers how, and how long people think) → [`pace`] (when the next one signs in) →
//! `attempt` (one sign-in, at the page and at the phone) → [`record`] (what both saw) → [`logged`] (what the log says)
//! → [`compare`] (whether all three agree) → [`report`] and [`plot`], on a [`canvas`].
//!
//! A sign-in's time counts from the moment at which it was due, not from when this process got round to it: a stall is
//! in the figures, for whoever waited behind it too.

mod attempt;
mod broker;
pub mod canvas;
pub mod compare;
pub mod logged;
pub mod mix;
pub mod pace;
pub mod people;
pub mod plot;
pub mod record;
pub mod report;
pub mod stage;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};

use self::{attempt::Attempt, pace::Gate, record::Records};
pub use self::{
    broker::{Broker, Past, Usage},
    compare::Mismatch,
    mix::Mix,
    pace::{Pace, now},
    people::People,
    record::{Outage, Record},
    report::Report,
    stage::{Size, Stage, StageError},
};
use crate::{clock::Clock, entropy::SplitMix64, login::LoginServer, wire::Refusal};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many sign-ins.
    pub approvals: u64,
    /// When each begins.
    pub pace: Pace,
    /// Who answers how.
    pub mix: Mix,
    /// How long each phone has. Sign-ins that nobody answers last so long.
    pub lifetime: Duration,
    /// How often the broker is killed and started again meanwhile.
    pub kills: u32,
    /// Whether phones go on through a broker that is away, or sends them away for now, as long as their challenge lasts.
    /// Pages do in any case.
    pub survives: bool,
    /// Whether pages give up when the broker does not take their request, instead of asking again.
    pub gives_up: bool,
    /// Where chance begins.
    pub seed: u64,
}

impl Plan {
    /// These sign-ins and nothing else: the broker is left alone, and chance begins at the same place each time.
    pub fn of(approvals: u64, pace: Pace, mix: Mix, lifetime: Duration) -> Self {
        Self { approvals, pace, mix, lifetime, kills: 0, survives: false, gives_up: false, seed: 1 }
    }
}

/// How far it has come. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    enrolled: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    kills: AtomicU64,
    one_has_ended: Notify,
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    sent_away: Mutex<BTreeMap<String, u64>>,
}

impl Progress {
    /// Phones that are enrolled.
    pub fn enrolled(&self) -> u64 {
        self.0.enrolled.load(Ordering::Relaxed)
    }

    /// Sign-ins that have begun.
    pub fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Sign-ins that are over.
    pub fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// How often the broker was killed.
    pub fn kills(&self) -> u64 {
        self.0.kills.load(Ordering::Relaxed)
    }

    /// Sign-ins by how they ended so far.
    pub fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let outcomes = self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(name, count)| (*name, *count)).collect()
    }

    /// How often pages and phones were sent away for now, or lost the broker, by the reason that they were given.
    pub fn sent_away(&self) -> BTreeMap<String, u64> {
        self.0.sent_away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn one_sent_away(&self, whom: &str, refusal: &Refusal) {
        let mut sent_away = self.0.sent_away.lock().unwrap_or_else(PoisonError::into_inner);
        *sent_away.entry(report::reason(whom, refusal)).or_default() += 1;
    }

    fn one_enrolled(&self) {
        self.0.enrolled.fetch_add(1, Ordering::Relaxed);
    }

    fn one_begun(&self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn one_killed(&self) {
        self.0.kills.fetch_add(1, Ordering::Relaxed);
    }

    fn one_ended(&self, outcome: &'static str) {
        let mut outcomes = self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        *outcomes.entry(outcome).or_default() += 1;
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        self.0.one_has_ended.notify_one();
    }

    /// Waits until so many sign-ins are over.
    async fn until_ended(&self, count: u64) {
        while self.ended() < count {
            self.0.one_has_ended.notified().await;
        }
    }
}

/// Why a load could not be carried to its end. What the broker does wrong under it is no error but in the report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The broker cannot be started, stopped or asked.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Only a broker that this program has started can be killed by it.
    #[error("a broker that was running before cannot be killed: let this program start one")]
    NotOurs,
}

/// Carries out a plan with these people; what became of each sign-in.
pub async fn run(
    plan: &Plan,
    stage: &mut Stage,
    people: &People,
    progress: &Progress,
) -> Result<Records, LoadError> {
    if plan.kills > 0 && !stage.is_ours() {
        return Err(LoadError::NotOurs);
    }
    let entrance = Entrance { login: stage.login.clone(), application: stage.application.clone() };
    // People come while the broker is away, too.
    let (mut records, outages) =
        tokio::join!(sign_in(plan, &entrance, people, progress), kill(plan, stage, progress));
    records.end(outages?);
    Ok(records)
}

/// Where people sign in.
struct Entrance {
    login: LoginServer,
    application: Arc<str>,
}

/// Everybody signs in, until the last one is over.
async fn sign_in(plan: &Plan, entrance: &Entrance, people: &People, progress: &Progress) -> Records {
    let mut random = SplitMix64::new(plan.seed);
    let clock = Clock::new();
    let (mut gate, mut roster) = (Gate::new(plan.pace), mix::Roster::new(&plan.mix, people.len()));
    let mut under_way = JoinSet::new();
    let mut records = Records::begin();
    for number in 0..plan.approvals {
        let due = gate.next(&mut under_way, &mut records, &mut roster, progress).await;
        let part = roster.cast(number, &mut random);
        let attempt = Attempt {
            part,
            due,
            lifetime: plan.lifetime,
            survives: plan.survives,
            gives_up: plan.gives_up,
            account: people.account(part.who),
            login: entrance.login.clone(),
            application: entrance.application.clone(),
            desk: people.desk.clone(),
            clock: clock.clone(),
            progress: progress.clone(),
        };
        progress.one_begun();
        under_way.spawn(attempt.run());
    }
    while let Some(over) = under_way.join_next().await {
        pace::settle(over, &mut records, &mut roster, progress);
    }
    records
}

/// The broker is killed after so many sign-ins each time: spread evenly, none at the very beginning or end.
async fn kill(plan: &Plan, stage: &mut Stage, progress: &Progress) -> Result<Vec<Outage>, StageError> {
    let (kills, mut outages) = (u64::from(plan.kills), Vec::new());
    for kill in 1..=kills {
        progress.until_ended(plan.approvals * kill / (kills + 1)).await;
        let from = now();
        stage.restart_broker().await?;
        outages.push(Outage { from, until: now() });
        progress.one_killed();
    }
    Ok(outages)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sign-ins, {}", self.approvals, self.pace)?;
        match self.kills {
            0 => Ok(()),
            kills => write!(f, ", the broker killed {kills} times"),
        }
    }
}
