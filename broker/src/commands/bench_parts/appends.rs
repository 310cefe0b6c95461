//! The log, against a plain file on the same disk.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use countersign::log::bench::{AppendRates, appends};

use super::{seconds, stopwatch};

/// `countersign bench-parts appends`
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A folder on the disk that is to be measured; what is written there goes away again
    #[arg(long, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// How many appends wait at a time; can be given again
    #[arg(long, value_name = "N", default_values_t = [1, 64, 1_024], value_parser = waiting)]
    waiting: Vec<usize>,
    /// For how long each is measured in a round, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    round: Duration,
    /// Plain file and log take turns so often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

fn waiting(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|waiting| (1..=16_384).contains(waiting)).ok_or("1 to 16384".to_owned())
}

pub(super) fn run(options: &Options) -> anyhow::Result<Vec<AppendRates>> {
    let one = |waiting: &usize| {
        let folder = tempfile::tempdir_in(&options.folder)
            .with_context(|| format!("{}: cannot be written to", options.folder.display()))?;
        Ok(appends(folder.path(), *waiting, options.rounds, options.round, &stopwatch::now)?)
    };
    options.waiting.iter().map(one).collect()
}
