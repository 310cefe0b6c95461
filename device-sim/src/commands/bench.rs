//! `device-sim bench`: what the broker spends beyond what cannot be avoided.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use device_sim::bench::{Plan, aged, ceiling, overload, plot, waiting};
use indicatif::ProgressBar;
use serde::Serialize;

use super::load;

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// All logins have come so many seconds before the first phone answers.
const SPARE_S: u32 = 4;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Whole approvals, beside the bare calls, pushes, signatures and appends that they are made of
    Ceiling(Ceiling),
    /// What it costs the broker's memory that many logins wait
    Waiting(Waiting),
    /// What the broker does when more is asked for than it can do, beside the most that it can do
    Overload(Overload),
    /// What a long past costs the broker, beside one with a short one
    Aged(Aged),
}

/// `device-sim bench ceiling`
#[derive(Debug, clap::Args)]
pub(crate) struct Ceiling {
    /// How many people, each with one phone
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    phones: u32,
    /// How many approvals, and how many bare pushes, in each round
    #[arg(long, value_name = "M", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    approvals: u32,
    /// How many approvals, and how many bare calls, are under way at a time
    #[arg(long, value_name = "K", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Everything takes its turn so often; of the ratios, the middle one counts
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// For how long bare calls and appends are measured in a round, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    seconds: u16,
    /// Draws them here, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// `device-sim bench waiting`
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// How many logins wait at a time, at most 1,000 to a connection
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    logins: u32,
    /// How many people they are
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    phones: u32,
    /// How many come each second; all must have come some seconds before the first phone answers
    #[arg(long, value_name = "R", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// After so many seconds each phone answers
    #[arg(long, value_name = "S", default_value_t = 150, value_parser = clap::value_parser!(u32).range(5..=150))]
    think: u32,
    #[command(flatten)]
    output: Output,
}

/// `device-sim bench overload`
#[derive(Debug, clap::Args)]
pub(crate) struct Overload {
    /// How many people, each with one phone
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    phones: u32,
    /// How many sign-ins to find the most that the broker can do
    #[arg(long, value_name = "M", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    approvals: u32,
    /// The part of one core that the broker has, so that it and not this program is the limit
    #[arg(long, value_name = "S", default_value = "0.2", value_parser = share)]
    share: f64,
    /// So many times that rate is asked for
    #[arg(long, value_name = "T", default_value = "3", value_parser = times)]
    times: f64,
    /// For so many seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    seconds: u16,
    #[command(flatten)]
    output: Output,
}

/// `device-sim bench aged`
#[derive(Debug, clap::Args)]
pub(crate) struct Aged {
    /// How many accounts have a past, each with two authenticators
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    accounts: u64,
    /// How many events the one broker has behind it
    #[arg(long, value_name = "M", default_value_t = 100_000)]
    young: u64,
    /// How many the other has
    #[arg(long, value_name = "M", default_value_t = 10_000_000)]
    old: u64,
    /// How many of the accounts sign in, each with one of its two phones; all, if they are fewer
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    phones: u32,
    /// How many approvals in each round
    #[arg(long, value_name = "M", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    approvals: u32,
    /// The two take turns so often; the middle ratio counts
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    output: Output,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.01..=1.0).contains(share)).ok_or("0.01 to 1".to_owned())
}

fn times(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|times| (0.1..=100.0).contains(times)).ok_or("0.1 to 100".to_owned())
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Writes the figures here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The broker's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    countersign: Option<PathBuf>,
}

pub(crate) async fn run(bench: Bench) -> anyhow::Result<std::process::ExitCode> {
    match bench {
        Bench::Ceiling(args) => args.run().await?,
        Bench::Waiting(args) => args.run().await?,
        Bench::Overload(args) => args.run().await?,
        Bench::Aged(args) => args.run().await?,
    }
    Ok(std::process::ExitCode::SUCCESS)
}

impl Ceiling {
    async fn run(self) -> anyhow::Result<()> {
        let program = load::program(self.output.countersign.as_deref())?;
        let plan = Plan {
            phones: usize::try_from(self.phones)?,
            approvals: self.approvals.into(),
            in_flight: usize::try_from(self.in_flight)?,
            rounds: self.rounds,
            round: Duration::from_secs(self.seconds.into()),
        };
        let spinner = spinner();
        let measured = ceiling::measure(&plan, &program, |step| spinner.set_message(step.to_owned())).await;
        spinner.finish_and_clear();
        let measured = measured?;
        self.output.write(&measured)?;
        self.plot.map_or(Ok(()), |file| write(&file, &plot::svg(&measured)))
    }
}

impl Waiting {
    async fn run(self) -> anyhow::Result<()> {
        let program = load::program(self.output.countersign.as_deref())?;
        let (rate, logins, seconds) = (self.rate, self.logins, self.think - SPARE_S);
        ensure!(
            logins <= rate.saturating_mul(seconds),
            "--rate {rate}: in {seconds} seconds {logins} logins cannot have come; take a higher one"
        );
        let plan = waiting::Plan {
            logins: usize::try_from(self.logins)?,
            phones: usize::try_from(self.phones)?,
            rate: self.rate.into(),
            think: Duration::from_secs(self.think.into()),
        };
        let spinner = spinner();
        let measured = waiting::measure(&plan, &program, |step| spinner.set_message(step.to_owned())).await;
        spinner.finish_and_clear();
        self.output.write(&measured?)
    }
}

impl Overload {
    async fn run(self) -> anyhow::Result<()> {
        let program = load::program(self.output.countersign.as_deref())?;
        let plan = overload::Plan {
            phones: usize::try_from(self.phones)?,
            approvals: self.approvals.into(),
            share: self.share,
            times: self.times,
            lasting: Duration::from_secs(self.seconds.into()),
        };
        let spinner = spinner();
        let measured = overload::measure(&plan, &program, |step| spinner.set_message(step.to_owned())).await;
        spinner.finish_and_clear();
        self.output.write(&measured?)
    }
}

impl Aged {
    async fn run(self) -> anyhow::Result<()> {
        let program = load::program(self.output.countersign.as_deref())?;
        let plan = aged::Plan {
            accounts: self.accounts,
            young: self.young,
            old: self.old,
            phones: usize::try_from(self.phones)?,
            approvals: self.approvals.into(),
            rounds: self.rounds,
        };
        let spinner = spinner();
        let measured = aged::measure(&plan, &program, |step| spinner.set_message(step.to_owned())).await;
        spinner.finish_and_clear();
        self.output.write(&measured?)
    }
}

fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(TURN);
    spinner
}

impl Output {
    fn write(&self, figures: &(impl Serialize + Display)) -> anyhow::Result<()> {
        println!("{figures}");
        let Some(file) = &self.json else { return Ok(()) };
        write(file, &(serde_json::to_string_pretty(figures)? + "\n"))
    }
}

fn write(file: &Path, content: &str) -> anyhow::Result<()> {
    fs::write(file, content).with_context(|| format!("{}: cannot be written", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}
