//! `countersign bench-parts`: what the parts of an approval cost that cannot be avoided, each by itself.
//! `device-sim bench ceiling` runs them beside whole approvals, so that figures are ratios of one run.

mod appends;
mod calls;
mod keys;
mod pushes;
mod seed;
mod stopwatch;

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

/// Measures one part by itself, for `device-sim bench`; prints one JSON object.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Appends of as many bytes as an approval's events: to a plain file, and through the log
    Appends(appends::Options),
    /// A gRPC server that does nothing, until its standard input is closed: prints its address
    Calls(calls::Options),
    /// Sign, verify, seal and open
    Keys(keys::Options),
    /// Pushes by the broker's own client to the services of a configuration
    Pushes(pushes::Options),
    /// Puts accounts and two months of their sign-ins into the log of a broker that does not run, for measuring one that is old
    Seed(seed::Options),
}

pub(crate) async fn run(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Appends(options) => print(&tokio::task::spawn_blocking(move || appends::run(&options)).await??),
        Part::Calls(options) => calls::run(&options).await,
        Part::Keys(options) => print(&keys::run(&options)),
        Part::Pushes(options) => print(&pushes::run(&options).await?),
        Part::Seed(options) => print(&seed::run(&options).await?),
    }
}

fn print(figures: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("seconds, 0.01 to 3600".to_owned()),
    }
}
