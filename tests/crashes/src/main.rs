//! `tests/crash`: rounds of load, an end, a start, and a comparison of what was told with what is logged.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use crashes::{
    Ledger, Stage,
    load::Load,
    moment::{Moment, choose_cut},
};
use crashfs::{Crash, CrashFs};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};

/// A moment that has not come by then is not waited for: the broker is ended as it stands.
const MOMENT_MAX: Duration = Duration::from_secs(6);

/// After so many rounds on one log a new one is begun: each round reads all of it.
const ROUNDS_PER_LOG: u32 = 30;

/// Ends the broker under load, again and again, at moments that are counted by what is going on in its log, starts it
/// again, and compares what its clients were told with what is in the log.
#[derive(Debug, Parser)]
#[command(name = "tests/crash")]
struct Options {
    /// How often
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// How the broker is ended
    #[arg(long, default_value = "power")]
    mode: Mode,
    /// Where chance begins; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// The control run: fsync does nothing. Succeeds only if losses are found
    #[arg(long)]
    control: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// kill -9: what was written is there afterwards
    Kill,
    /// The power goes: what was not synced is forgotten, kept page by page, or torn
    Power,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    CrashFs::available()
        .map_err(|reason| anyhow::anyhow!("the tests' file system cannot be mounted: {reason}"))?;
    let seed = options.seed.unwrap_or_else(|| rand::rng().next_u64());
    println!("{} rounds, {:?}, seed {seed}", options.rounds, options.mode);
    let mut random = StdRng::seed_from_u64(seed);
    if options.control {
        return control(&options, &mut random).await;
    }
    let mut stage = Stage::new().await?;
    let mut ledger = Arc::new(Ledger::default());
    let (mut outcomes, mut things) = (0, 0);
    for number in 1..=options.rounds {
        if number > 1 && number % ROUNDS_PER_LOG == 1 {
            things += ledger.len();
            stage = Stage::new().await?;
            ledger = Arc::new(Ledger::default());
        }
        let (end, told) = round(&mut stage, &ledger, options.mode, &mut random).await.with_context(|| {
            format!("round {number}; the broker said:\n{}", tail(&stage.world.broker.said()))
        })?;
        outcomes += told;
        let wrong = ledger.compare(stage.world.broker.administration().await?).await?;
        println!(
            "{number:>4}  {end:<70}  {told:>5} outcomes  {}",
            if wrong.is_empty() { "good" } else { "WRONG" }
        );
        if !wrong.is_empty() {
            let kept = keep(&mut stage, seed, number)?;
            bail!(
                "round {number}, seed {seed}:\n{}\nthe log is kept in {}",
                wrong.join("\n"),
                kept.display()
            );
        }
    }
    things += ledger.len();
    println!("{} rounds, {outcomes} outcomes, {things} things told: nothing lost", options.rounds);
    Ok(())
}

/// Load, an end, a start: how it ended, and how many logins had their outcome.
async fn round(
    stage: &mut Stage,
    ledger: &Arc<Ledger>,
    mode: Mode,
    random: &mut StdRng,
) -> Result<(String, usize)> {
    let moment = Moment::choose(random);
    let load = Load::start(stage, ledger);
    if moment.while_starting {
        // Something to recover from, first.
        tokio::time::sleep(Duration::from_millis(random.random_range(100..600))).await;
        stage.fs.freeze();
        end(stage, mode, random)?;
        stage.fs.freeze_at(moment.trigger());
        stage.broker().launch()?;
    } else {
        stage.fs.freeze_at(moment.trigger());
    }
    let came = stage.wait_frozen(MOMENT_MAX).is_some();
    if !came {
        stage.fs.freeze();
    }
    let cut = end(stage, mode, random)?;
    let damage = if random.random_ratio(1, 5) { damage_store(stage, random)? } else { "" };
    let came = if came { "" } else { " (did not come)" };
    let what = format!("{moment}{came}; {cut}{damage}");
    stage.broker().start().with_context(|| what.clone())?;
    let outcomes = load.finish().await.with_context(|| what.clone())?;
    Ok((what, outcomes))
}

fn end(stage: &mut Stage, mode: Mode, random: &mut StdRng) -> Result<String> {
    let (crash, said) = match mode {
        Mode::Kill => (Crash::Kill, "killed".to_owned()),
        Mode::Power => {
            let mode = choose_cut(random);
            (Crash::PowerCut { mode, seed: random.next_u64() }, format!("{mode:?}"))
        }
    };
    let Stage { world, fs, .. } = stage;
    world.broker.end_by(|child| fs.crash(child, crash))?;
    Ok(said)
}

/// sled is a cache: deleted or damaged, it costs a rebuild and nothing else.
fn damage_store(stage: &Stage, random: &mut StdRng) -> Result<&'static str> {
    let folder = stage.store_folder();
    if !folder.exists() {
        return Ok("");
    }
    if random.random() {
        std::fs::remove_dir_all(&folder)?;
        return Ok("; sled deleted");
    }
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.is_file() {
            let mut bytes = std::fs::read(&path)?;
            if !bytes.is_empty() {
                let at = random.random_range(0..bytes.len());
                let until = (at + 512).min(bytes.len());
                random.fill_bytes(&mut bytes[at..until]);
                std::fs::write(&path, bytes)?;
            }
        }
    }
    Ok("; sled damaged")
}

/// With fsync that does nothing, a power cut must be noticed: else these rounds prove nothing.
async fn control(options: &Options, random: &mut StdRng) -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.fs.sync_all();
    stage.fs.faults().ignore_syncs(true);
    let ledger = Arc::new(Ledger::default());
    for number in 1..=options.rounds {
        let noticed = if let Err(error) = round(&mut stage, &ledger, Mode::Power, random).await {
            Some(format!("{error:#}"))
        } else {
            ledger.compare(stage.world.broker.administration().await?).await?.first().cloned()
        };
        if let Some(noticed) = noticed {
            println!(
                "round {number}: without fsync, noticed: {}",
                noticed.lines().next().unwrap_or_default()
            );
            return Ok(());
        }
    }
    bail!("without fsync, {} power cuts went unnoticed: these rounds prove nothing", options.rounds)
}

/// The broker's folder as it is, for somebody to look at.
fn keep(stage: &mut Stage, seed: u64, round: u32) -> Result<PathBuf> {
    let kept = std::env::current_dir()?.join(format!("target/crashes/{seed}-{round}"));
    std::fs::create_dir_all(&kept)?;
    for folder in [stage.fs.dir().join("log"), stage.broker().home()] {
        let copied = Command::new("cp").arg("-r").arg(folder).arg(&kept).status()?;
        ensure!(copied.success(), "the log cannot be kept");
    }
    Ok(kept)
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
