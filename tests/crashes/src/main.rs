//! `tests/crash`: rounds of load, an end, a start, and a comparison of what was told with what is logged.

use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use crashes::{
    Ledger, Stage, Tally,
    load::Load,
    moment::{Moment, PATIENCE, choose_cut},
};
use crashfs::{Crash, CrashFs};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};

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
    let (mut told, mut moments) = (BTreeMap::new(), Tally::default());
    for number in 1..=options.rounds {
        if number > 1 && number % ROUNDS_PER_LOG == 1 {
            add(&mut told, &ledger);
            stage = Stage::new().await?;
            ledger = Arc::new(Ledger::default());
        }
        let round = round(&mut stage, &ledger, options.mode, &mut random).await.with_context(|| {
            format!("round {number}, seed {seed}; the broker said:\n{}", tail(&stage.world.broker.said()))
        })?;
        moments.add(round.moment, round.came);
        let wrong = ledger.compare(stage.world.broker.administration().await?).await?;
        println!(
            "{number:>4}  {:<70}  {:>5} outcomes  {}",
            round.what,
            round.outcomes,
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
    add(&mut told, &ledger);
    let things: usize = told.values().sum();
    let told: Vec<_> = told.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
    println!("told: {}", told.join(", "));
    println!("moments that came, of those that were chosen: {moments}");
    let never = moments.never_came();
    ensure!(never.is_empty(), "these moments were chosen often and never came: {}", never.join(", "));
    println!(
        "{} rounds, {:?}, seed {seed}: {things} things told, nothing lost",
        options.rounds, options.mode
    );
    Ok(())
}

fn add(told: &mut BTreeMap<String, usize>, ledger: &Ledger) {
    for (kind, times) in ledger.counts() {
        *told.entry(kind).or_default() += times;
    }
}

/// What a round was.
struct Round {
    /// The kind of moment that was chosen.
    moment: &'static str,
    came: bool,
    /// All of it, in words.
    what: String,
    /// How many logins had their outcome.
    outcomes: usize,
}

/// Load, an end, a start.
async fn round(stage: &mut Stage, ledger: &Arc<Ledger>, mode: Mode, random: &mut StdRng) -> Result<Round> {
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
    let came = stage.wait_frozen(PATIENCE).is_some();
    if !came {
        stage.fs.freeze();
    }
    let cut = end(stage, mode, random)?;
    let damage = if random.random_ratio(1, 5) { damage_store(stage, random)? } else { "" };
    let what = format!("{moment}{}; {cut}{damage}", if came { "" } else { " (did not come)" });
    stage.broker().start().with_context(|| what.clone())?;
    let outcomes = load.finish().await.with_context(|| what.clone())?;
    Ok(Round { moment: moment.name, came, what, outcomes })
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
    let parts = std::fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let parts = parts.into_iter().map(|part| part.path()).filter(|part| part.is_dir());
    let files = parts.map(std::fs::read_dir).collect::<std::io::Result<Vec<_>>>()?;
    for entry in files.into_iter().flatten() {
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

/// With fsync that does nothing, a power cut must be noticed: else these rounds prove nothing. Noticed is what the
/// comparison finds, and a broker that does not start because it sees that its log has lost something; any other failure
/// of a round is one of the control run.
async fn control(options: &Options, random: &mut StdRng) -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.fs.sync_all();
    stage.fs.faults().ignore_syncs(true);
    let ledger = Arc::new(Ledger::default());
    for number in 1..=options.rounds {
        let noticed = if let Err(error) = round(&mut stage, &ledger, Mode::Power, random).await {
            let Some(loss) = loss_in(&format!("{error:#}")).map(str::to_owned) else {
                return Err(error.context(format!("round {number} failed, and not for a loss")));
            };
            Some(format!("the broker does not start: {loss}"))
        } else {
            let wrong = ledger.compare(stage.world.broker.administration().await?).await?;
            wrong.first().map(|first| format!("{} differences, such as {first}", wrong.len()))
        };
        if let Some(noticed) = noticed {
            println!("round {number}: without fsync, noticed: {noticed}");
            return Ok(());
        }
        println!("round {number}: without fsync, nothing noticed");
    }
    bail!("without fsync, {} power cuts went unnoticed: these rounds prove nothing", options.rounds)
}

/// The line in which a broker that does not start says that its log has lost something.
fn loss_in(error: &str) -> Option<&str> {
    let refused = error.split_once("the broker does not start")?.1;
    let losses = ["it has lost entries", "cannot read on from position", "is empty, but"];
    refused.lines().find(|line| losses.iter().any(|loss| line.contains(loss))).map(str::trim)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_is_refused_for_a_loss_counts_as_noticed() {
        let lost = "after sync number 1; ForgetAll: the broker does not start (exit status: 1): countersign: the log \
                    does not start: log/journal/1.seg, byte 0: the header of the segment is damaged; cannot read on \
                    from position 76\n";
        assert!(loss_in(lost).is_some_and(|loss| loss.contains("position 76")));
        let behind = "the broker does not start (exit status: 1): heads knows of position 9, but the journal ends at \
                      position 7: it has lost entries";
        assert!(loss_in(behind).is_some());
        for other in
            ["a login waits for ever", "the broker does not start (exit status: 1): address in use", ""]
        {
            assert_eq!(loss_in(other), None, "{other}");
        }
    }
}
