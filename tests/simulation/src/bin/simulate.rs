//! `tests/simulate`: many seeds of the simulation, each in a process of its own.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, ExitCode, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum as _};
use simulation::Mutation;

/// Of so many seeds one is run twice: it must go the same way.
const TWICE_EVERY: u64 = 50;

/// Simulates broker, phones and logins with delays, loss, partitions, restarts and clock jumps, and holds what happened
/// against the rules of the design.
#[derive(Debug, Parser)]
#[command(name = "tests/simulate")]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many at a time; as many as there are cores if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// Breaks a rule on purpose, and looks for the first seed that shows it. Succeeds only if there is one
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Does that with each rule in turn
    #[arg(long, conflicts_with = "mutation")]
    mutations: bool,
    /// Runs the first seed alone and prints what happened in it
    #[arg(long)]
    trace: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.trace {
        let mut one = one_seed(options.from, options.mutation)?;
        let done = one.arg("--trace").status()?;
        return Ok(if done.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mutations: Vec<_> =
        if options.mutations { Mutation::all().to_vec() } else { options.mutation.into_iter().collect() };
    if mutations.is_empty() {
        every_seed(&options)?;
    }
    for mutation in mutations {
        find(&options, mutation)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// No seed may break a rule.
fn every_seed(options: &Options) -> Result<()> {
    let outcomes = Mutex::new(BTreeMap::<String, u64>::new());
    let failed = in_parallel(options, |seed| {
        let said = said(&one_seed(seed, None)?.output()?);
        if !said.good {
            return Ok(Some(said.text));
        }
        if seed % TWICE_EVERY == 0 {
            let again = self::said(&one_seed(seed, None)?.output()?);
            if again.text != said.text {
                return Ok(Some(format!("went another way the second time:\n{}\n{}", said.text, again.text)));
            }
        }
        add(&mut outcomes.lock().unwrap_or_else(PoisonError::into_inner), &said.text);
        Ok(None)
    })?;
    if let Some((seed, text)) = failed {
        bail!("seed {seed}:\n{text}\nwhat happened in it: tests/simulate --from {seed} --trace");
    }
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let told: Vec<_> = outcomes.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
    println!("seeds {} to {}: every rule kept", options.from, options.from + options.seeds - 1);
    println!("outcomes: {}", told.join(", "));
    // A simulation in which something never happens shows nothing about it.
    let kinds = ["Approved", "Denied", "Reported", "WrongNumber", "Expired", "Cancelled", "Superseded"];
    for kind in kinds.into_iter().chain(["Unreachable", "Refused"]) {
        ensure!(
            options.seeds < 100 || outcomes.contains_key(kind),
            "in all of these seeds nothing was {kind}"
        );
    }
    Ok(())
}

/// Some seed must show it.
fn find(options: &Options, mutation: Mutation) -> Result<()> {
    let name = mutation.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let found = in_parallel(options, |seed| {
        let said = said(&one_seed(seed, Some(mutation))?.output()?);
        Ok((!said.good).then_some(said.text))
    })?;
    let Some((seed, text)) = found else {
        bail!(
            "{name}: {} seeds, and nobody noticed: these runs prove nothing about that rule",
            options.seeds
        );
    };
    println!("{name}: seed {seed}: {}", text.lines().next().unwrap_or_default());
    Ok(())
}

/// Tries the seeds in order, several at a time, until one gives something: of those that did, the first.
fn in_parallel<T: Send>(
    options: &Options,
    try_one: impl Fn(u64) -> Result<Option<T>> + Sync,
) -> Result<Option<(u64, T)>> {
    let next = AtomicU64::new(options.from);
    let end = AtomicU64::new(options.from + options.seeds);
    let found = Mutex::new(Vec::new());
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        if let Some(one) = try_one(seed).with_context(|| format!("seed {seed}"))? {
                            end.fetch_min(seed, Ordering::Relaxed);
                            found.lock().unwrap_or_else(PoisonError::into_inner).push((seed, one));
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("nothing here panics"))
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(found.into_iter().min_by_key(|(seed, _)| *seed))
}

struct Said {
    good: bool,
    text: String,
}

fn said(output: &Output) -> Said {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat();
    Said { good: output.status.success(), text }
}

fn one_seed(seed: u64, mutation: Option<Mutation>) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name("one-seed");
    ensure_there(&program)?;
    let mut command = Command::new(program);
    command.arg(seed.to_string());
    if let Some(value) = mutation.and_then(|mutation| mutation.to_possible_value()) {
        command.args(["--mutation", value.get_name()]);
    }
    Ok(command)
}

fn ensure_there(program: &Path) -> Result<()> {
    ensure!(program.exists(), "{}: is not there: build all programs of the crate", program.display());
    Ok(())
}

fn add(outcomes: &mut BTreeMap<String, u64>, text: &str) {
    let line = text.lines().find_map(|line| line.strip_prefix("outcomes: ")).unwrap_or_default();
    for (times, kind) in line.split(", ").filter_map(|one| one.split_once(' ')) {
        *outcomes.entry(kind.to_owned()).or_default() += times.parse::<u64>().unwrap_or_default();
    }
}
