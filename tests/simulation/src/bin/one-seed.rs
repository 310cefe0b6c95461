//! One run of the simulation: `tests/simulate` runs this for each seed.

use clap::Parser;
use rand_0_10::{SeedableRng as _, rngs::StdRng};
use simulation::Mutation;

/// Simulates one seed, and says what was wrong. Exits with 0 if nothing was, with 1 if a rule was broken.
#[derive(Debug, Parser)]
#[command(name = "one-seed")]
struct Options {
    /// Which
    seed: u64,
    /// A rule that is broken on purpose
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Print what happened, in order
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // From here on nothing comes from the operating system: neither what hash maps nor what tokio's `select!` draw, nor
    // the time.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(options.seed));
    let clocks = mad_turmoil::time::SimClocksGuard::init();
    // A thread of its own: this one's hash maps may have drawn already.
    let seed = std::thread::Builder::new().name("simulation".to_owned());
    let run = seed.spawn(move || simulation::run(options.seed, options.mutation))?.join();
    drop(clocks);
    let run = run.map_err(|_| anyhow::anyhow!("the simulation panicked"))??;
    if options.trace {
        run.trace.iter().for_each(|line| println!("{line}"));
    }
    for wrong in &run.wrong {
        println!("wrong: {wrong}");
    }
    let outcomes: Vec<_> = run.outcomes.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
    println!("outcomes: {}", outcomes.join(", "));
    println!("fingerprint: {}", run.fingerprint());
    std::process::exit(i32::from(!run.wrong.is_empty()));
}
