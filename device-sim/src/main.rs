//! `device-sim`: the other side of Countersign on this machine. One module a subcommand.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

/// As the broker has: what plays its other side must not be the limit.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Plays the other side of Countersign: push services, phones, login servers and enrolling pages.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs an APNs and an FCM on this machine and prints what a client needs to try them.
    PushServices(commands::push_services::Args),
    /// Is one phone: enrols, shows what asks for an answer, and takes the number that is typed.
    Phone(commands::phone::Args),
    /// Is a login server and its page: asks for an approval, shows the number and what comes of it.
    Login(commands::login::Args),
    /// Is the page that enrols a phone: shows the QR code, the code to type, and the trial's number.
    Enrol(commands::enrol::Args),
    /// Many phones and logins at once: puts a load on a broker, checks every outcome, and reports.
    Load(commands::load::Args),
    /// What the broker spends, beside what cannot be avoided.
    #[command(subcommand)]
    Bench(commands::bench::Bench),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let ended = match cli.command {
        Command::PushServices(args) => commands::push_services::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Phone(args) => commands::phone::run(args).await,
        Command::Login(args) => commands::login::run(args).await,
        Command::Enrol(args) => commands::enrol::run(args).await,
        Command::Load(args) => commands::load::run(args).await,
        Command::Bench(bench) => commands::bench::run(bench).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("device-sim: {}", commands::terminal::in_full(&error));
        // 1 is an answer of login and enrol: not approved, not enrolled.
        ExitCode::from(2)
    })
}
