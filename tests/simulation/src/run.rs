//! One run: everybody enrols, then people sign in while everything goes wrong that the seed has in store, then it is
//! quiet, and everybody is asked once more.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use countersign::log::Crash;
use countersign_proto::v1::{self, approvals_client::ApprovalsClient};
use futures::FutureExt as _;
use turmoil::Sim;

use crate::{
    broker,
    calls::{said, with_key},
    chance::Chance,
    login,
    mutation::Mutation,
    phone,
    stage::{BROKER, Stage, pause},
    witness::{Lines, Run},
};

/// Time goes on by so much at once.
const TICK: Duration = Duration::from_millis(25);
/// Enrolling everybody takes no longer.
const ENROLMENTS_MAX: Duration = Duration::from_secs(20);
/// What is live ends within its lifetime (25 s here) and a minute, whatever was done to the clock; and everybody is told
/// of it within the time that it takes to connect again.
const QUIET_MAX: Duration = Duration::from_secs(25 + 60 + 30);

/// Who takes part.
struct Cast {
    accounts: Vec<String>,
    phones: Vec<(String, String)>,
    logins: Vec<String>,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Crash,
    Partition,
    Hold,
    Jump,
    Full,
}

/// Runs the seed. Once in a process: what the standard library and tokio draw from the operating system has to begin
/// anew for each.
pub fn run(seed: u64, mutation: Option<Mutation>) -> anyhow::Result<Run> {
    let stage = Stage::set(seed, mutation)?;
    let lines = Lines(stage.witness.clone());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("countersign=debug")
        .without_time()
        .with_ansi(false)
        .with_writer(move || lines.clone());
    tracing::subscriber::set_global_default(subscriber.finish())?;
    let mut chance = Chance::of("the faults", seed);
    let cast = Cast::of(&mut chance);
    let mut sim = network(seed, &mut chance);
    take_places(&mut sim, &stage, &cast, &mut chance);

    let enrolled = |stage: &Stage, _| stage.enrolled() == cast.phones.len();
    ensure!(
        go_on(&mut sim, &stage, ENROLMENTS_MAX, enrolled)?,
        "not everybody could enrol, without any fault"
    );
    stage.begin();
    trouble(&mut sim, &stage, &cast, &mut chance)?;
    settle(&mut sim, &stage, &cast)?;
    Ok(stage.witness.finish())
}

impl Cast {
    fn of(chance: &mut Chance) -> Self {
        let accounts: Vec<_> =
            ["alice", "bertil"].map(str::to_owned)[..=usize::from(chance.happens(40))].to_vec();
        let per_account = chance.number(1..=2);
        let phones = accounts.iter().flat_map(|account| {
            (0..per_account).map(move |at| (format!("phone-{account}-{at}"), account.clone()))
        });
        let logins = (0..chance.number(1..=2)).map(|at| format!("login-{at}"));
        Self { phones: phones.collect(), logins: logins.collect(), accounts }
    }

    fn names(&self) -> Vec<&str> {
        self.phones
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(self.logins.iter().map(String::as_str))
            .collect()
    }
}

fn network(seed: u64, chance: &mut Chance) -> Sim<'static> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(chance.millis(10..=300))
        .build()
}

fn take_places(sim: &mut Sim<'_>, stage: &Arc<Stage>, cast: &Cast, chance: &mut Chance) {
    let of_broker = Arc::clone(stage);
    sim.host(BROKER, move || broker::run(Arc::clone(&of_broker)));
    for (name, account) in &cast.phones {
        let (stage, name, account) = (Arc::clone(stage), name.clone(), account.clone());
        sim.host(name.clone(), move || phone::run(Arc::clone(&stage), name.clone(), account.clone()));
    }
    for name in &cast.logins {
        let attempts = chance.number(3..=7);
        sim.client(
            name.as_str(),
            login::run(Arc::clone(stage), name.clone(), cast.accounts.clone(), attempts),
        );
    }
}

/// Time passes until something is so, but no longer than this, and not if a rule is broken. Whether it is so.
fn go_on(
    sim: &mut Sim<'_>,
    stage: &Stage,
    at_most: Duration,
    until: impl Fn(&Stage, LoginsDone) -> bool,
) -> anyhow::Result<bool> {
    let end = sim.elapsed() + at_most;
    while sim.elapsed() < end && stage.witness.is_content() {
        stage.clock.see(sim.elapsed());
        stage.witness.passes(TICK);
        let done = sim.step().map_err(|error| anyhow::anyhow!("{error}"))?;
        if until(stage, done) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nobody who is waited for is at work any more.
type LoginsDone = bool;

fn a_while(_: &Stage, _: LoginsDone) -> bool {
    false
}

fn all_done(_: &Stage, done: LoginsDone) -> bool {
    done
}

/// For half a minute, something goes wrong again and again.
fn trouble(sim: &mut Sim<'_>, stage: &Stage, cast: &Cast, chance: &mut Chance) -> anyhow::Result<()> {
    let jumps = chance.happens(40);
    let loss = [0.0, 0.0, 0.001, 0.004][usize::try_from(chance.number(0..=3)).unwrap_or_default()];
    sim.set_fail_rate(loss);
    let mut faults = vec![(4, Fault::Crash), (3, Fault::Partition), (2, Fault::Hold), (1, Fault::Full)];
    if jumps {
        faults.push((3, Fault::Jump));
    }
    let end = sim.elapsed() + Duration::from_secs(30);
    while sim.elapsed() < end && stage.witness.is_content() {
        if go_on(sim, stage, chance.millis(200..=7_000), all_done)? {
            return Ok(());
        }
        let fault = chance.one_of(&faults);
        stage.witness.note(format!("FAULT: {fault:?}"));
        let for_so_long = chance.millis(100..=6_000);
        let names = cast.names();
        let whom = names[usize::try_from(chance.number(0..=names.len() as u64 - 1)).unwrap_or_default()];
        match fault {
            Fault::Crash => {
                sim.crash(BROKER);
                stage.witness.is_at_work(false);
                stage.crash_log(if chance.happens(50) { Crash::Keeps } else { Crash::Forgets });
                go_on(sim, stage, for_so_long, a_while)?;
                sim.bounce(BROKER);
                stage.witness.is_at_work(true);
            }
            Fault::Partition => {
                let one_way = chance.number(0..=2);
                match one_way {
                    0 => sim.partition(whom, BROKER),
                    1 => sim.partition_oneway(whom, BROKER),
                    _ => sim.partition_oneway(BROKER, whom),
                }
                go_on(sim, stage, for_so_long, a_while)?;
                sim.repair(whom, BROKER);
            }
            Fault::Hold => {
                sim.hold(whom, BROKER);
                go_on(sim, stage, for_so_long, a_while)?;
                sim.release(whom, BROKER);
            }
            Fault::Jump => {
                let span = chance.one_of(&[(3, 5_000_u64), (3, 30_000), (2, 90_000), (1, 3_600_000)]);
                let by = chance.number(1..=span).cast_signed();
                let by = if chance.happens(50) { by } else { -by };
                stage.witness.note(format!("the clock is set by {by} ms"));
                stage.clock.set_by(by);
            }
            Fault::Full => {
                stage.log().set_full(true);
                go_on(sim, stage, for_so_long, a_while)?;
                stage.log().set_full(false);
            }
        }
    }
    Ok(())
}

/// Everything works again: everybody comes to an end, and hears the same as before, also after another start.
fn settle(sim: &mut Sim<'_>, stage: &Arc<Stage>, cast: &Cast) -> anyhow::Result<()> {
    sim.set_fail_rate(0.0);
    for name in cast.names() {
        sim.repair(name, BROKER);
    }
    stage.witness.note("it is quiet");
    if !go_on(sim, stage, QUIET_MAX, all_done)? {
        if stage.witness.is_content() {
            stage.witness.wrong("somebody still waits, long after everything should have ended");
        }
        return Ok(());
    }
    // A page that was closed leaves its approval to the clock.
    go_on(sim, stage, QUIET_MAX, |stage, _| all_over(stage))?;
    served_is_folded(stage);
    stage.witness.note("three minutes later");
    stage.clock.set_by(180_000);
    go_on(sim, stage, Duration::from_secs(8), a_while)?;
    ask_again(sim, stage, "asker")?;
    sim.crash(BROKER);
    stage.crash_log(Crash::Keeps);
    sim.bounce(BROKER);
    ask_again(sim, stage, "second-asker")?;
    served_is_folded(stage);
    Ok(())
}

fn all_over(stage: &Stage) -> bool {
    stage.served().is_some_and(|served| served.index.live_approvals_count() == 0)
        && stage.witness.folded().iter().all(|(_, account)| account.live_approvals().next().is_none())
}

/// Rule 5.
fn served_is_folded(stage: &Stage) {
    let Some(served) = stage.served() else { return };
    for (id, folded) in stage.witness.folded() {
        match served.accounts.load(id).now_or_never() {
            Some(Ok(state)) if *state == folded => {}
            Some(Ok(_)) => {
                stage.witness.wrong(format!("account {id}: what is served is not what the log says"));
            }
            other => {
                stage.witness.wrong(format!("account {id} cannot be read: {:?}", other.map(Result::err)));
            }
        }
    }
}

/// Somebody asks for every approval that there ever was, by each call.
fn ask_again(sim: &mut Sim<'_>, stage: &Arc<Stage>, name: &'static str) -> anyhow::Result<()> {
    let of_asker = Arc::clone(stage);
    sim.client(name, async move {
        let stage = of_asker;
        let key = stage.credentials().await.sign_in;
        let mut broker = ApprovalsClient::new(crate::net::to_broker());
        for id in stage.witness.approvals() {
            let get = || v1::GetApprovalRequest { approval_id: id.to_string() };
            let mut tries = 0;
            let approval = loop {
                match broker.get_approval(with_key(get(), &key)).await {
                    Ok(approval) => break approval.into_inner(),
                    // It may just be starting.
                    Err(status) if tries == 20 => {
                        stage.witness.wrong(format!("{id}, asked for again: {}", said(&status)));
                        return Ok(());
                    }
                    Err(_) => tries += 1,
                }
                pause(Duration::from_millis(200)).await;
            };
            for update in &approval.updates {
                stage.witness.update(&id.to_string(), update);
            }
            match approval.outcome {
                Some(outcome) => stage.witness.outcome(name, &outcome),
                None => stage.witness.wrong(format!("{id} has no outcome, and nothing waits")),
            }
        }
        Ok(())
    });
    if !go_on(sim, stage, Duration::from_secs(120), all_done)? && stage.witness.is_content() {
        stage.witness.wrong("who asks again gets no answer");
    }
    Ok(())
}
