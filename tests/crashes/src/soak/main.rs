//! `tests/soak`: a broker under load for a long time, on a disk that is full and fails, and is well again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use countersign_tests::programs;
use crashes::soak::{self, Order, plot, run::News, seen::Look};
use crashfs::CrashFs;
use indicatif::{ProgressBar, ProgressStyle};
use rand::RngCore as _;

/// Puts a load on a broker whose disk is full and fails now and then, checks every sign-in from three sides, and says
/// whether memory, open files, threads and latency stay what they were.
///
/// The status is 0 if all is well, 1 if anything is not, 2 if the soak could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "tests/soak")]
struct Options {
    /// For how many minutes people sign in; below 5 it is not judged what has grown
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    minutes: f64,
    /// How many people, each with one phone
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    phones: u32,
    /// So many sign-ins begin each second, whatever becomes of them
    #[arg(long, value_name = "R", default_value_t = 50.0)]
    rate: f64,
    /// Where chance begins: the faults, and who does what; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the report here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws memory, open files and latency over time here, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Writes what the broker said here
    #[arg(long, value_name = "FILE")]
    said: Option<PathBuf>,
    /// The broker's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    countersign: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match soak(&Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tests/soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn soak(options: &Options) -> Result<ExitCode> {
    ensure!((0.5..=1440.0).contains(&options.minutes), "--minutes must be 0.5 to 1440");
    ensure!((0.1..=10_000.0).contains(&options.rate), "--rate must be 0.1 to 10000");
    CrashFs::available()
        .map_err(|reason| anyhow::anyhow!("the tests' file system cannot be mounted: {reason}"))?;
    let order = Order {
        program: options.countersign.clone().unwrap_or_else(programs::countersign),
        lasts: Duration::from_secs_f64(options.minutes * 60.0),
        phones: usize::try_from(options.phones)?,
        rate: options.rate,
        seed: options.seed.unwrap_or_else(|| rand::rng().next_u64()),
    };
    println!(
        "{} minutes, {} phones, {} sign-ins a second, seed {}",
        options.minutes, options.phones, options.rate, order.seed
    );
    let (report, said) = soak::run(&order, tell(&order)?).await?;
    println!("\n{report}");
    write(options.json.as_deref(), || Ok(serde_json::to_string_pretty(&report)? + "\n"))?;
    write(options.plot.as_deref(), || Ok(plot::svg(&report)))?;
    write(options.said.as_deref(), || Ok(said))?;
    Ok(if report.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A bar while it runs, and a line for each fault.
fn tell(order: &Order) -> Result<impl Fn(News<'_>) + use<>> {
    let bar = ProgressBar::new(order.lasts.as_secs());
    let enrolling = format!("enrolling {{msg}} of {} phones {{spinner}}", order.phones);
    bar.set_style(ProgressStyle::with_template(&enrolling)?);
    let running = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {eta} left\n{msg}")?
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let begun = std::cell::Cell::new(false);
    Ok(move |news: News<'_>| match news {
        News::Enrolled(count) => {
            bar.set_message(count.to_string());
            bar.tick();
        }
        News::Looked(elapsed, look, progress) => {
            if !begun.replace(true) {
                bar.set_style(running.clone());
                bar.reset_elapsed();
            }
            bar.set_position(elapsed.as_secs());
            let (begun, ended) = (progress.begun(), progress.ended());
            bar.set_message(format!("{ended} sign-ins, {} wait; {}", begun - ended, at_a_glance(look)));
        }
        News::Over(elapsed, fault) => bar.suspend(|| {
            let lasted = fault.to.duration_since(fault.from).as_secs_f64();
            let met = if fault.has_come { "" } else { " (nothing has met it)" };
            let seconds = elapsed.as_secs();
            println!("{:>3}:{:02}  {:<14} for {lasted:>4.1} s{met}", seconds / 60, seconds % 60, fault.ill);
        }),
        News::Comparing => {
            bar.finish_and_clear();
            println!("reading the log …");
        }
    })
}

fn at_a_glance(look: &Look) -> String {
    let need = look.need.map_or_else(
        || "no broker".to_owned(),
        |need| {
            let mebibytes = need.resident_bytes / (1024 * 1024);
            format!(
                "broker {}: {mebibytes} MiB, {} files, {} threads",
                look.life, need.open_files, need.threads
            )
        },
    );
    look.ill.map_or_else(|| need.clone(), |ill| format!("{need}; {ill}"))
}

fn write(file: Option<&Path>, content: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    fs::write(file, content()?).with_context(|| format!("{}: cannot be written", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}
