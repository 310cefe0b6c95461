//! The program `countersign`: what can be said on its command line.

mod commands;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use mimalloc::MiMalloc;

/// A tenth of an approval's CPU time was glibc's allocator: many small pieces, freed by other threads than their own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Sign-ins approved on the phone.
///
/// A login server asks Countersign over gRPC to have an attempt approved; Countersign shows a number on the login page and
/// sends a signed challenge to the person's phone through APNs or FCM; the person types the number there and approves,
/// or denies.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new broker: a commented configuration and its keys
    Init(commands::init::Options),
    /// Run the broker
    Serve(ConfigFile),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at all that a broker stands on, and say what to do: files, keys, log, clock, push services
    Doctor(commands::doctor::Options),
    /// Register login servers and enrolling pages (asks the running broker)
    #[command(subcommand)]
    RelyingParty(commands::admin::RelyingPartyCommand),
    /// Issue and revoke their credentials (asks the running broker)
    #[command(subcommand)]
    Credential(commands::admin::CredentialCommand),
    /// Have the running broker read certificates and push services' keys again; open connections and streams go on
    ///
    /// The broker finds changed files within 10 seconds by itself, and at once when it is sent SIGHUP. What cannot be used
    /// changes nothing; then the status is 1.
    Reload(ConfigFile),
    /// Read, check and repair the event log
    #[command(subcommand)]
    Log(commands::log::LogCommand),
    /// Copy log and keys, and check the copies
    #[command(subcommand)]
    Backup(commands::backup::BackupCommand),
    /// Put a backup in the place of a log that is not there
    Restore(commands::backup::Restore),
    /// Show a whole sign-in on this machine: broker, simulated APNs and FCM, a phone on each
    Demo(commands::demo::Options),
    /// Measure what an approval is made of, part by part (`device-sim bench` asks for it)
    #[command(subcommand)]
    BenchParts(commands::bench_parts::Part),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration would be taken, and what is wrong with it otherwise
    Check(ConfigFile),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file, or the folder with countersign.toml in it; `countersign init` writes one
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "COUNTERSIGN_CONFIG",
        default_value = "countersign.toml"
    )]
    file: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<countersign::config::Config> {
        Ok(countersign::config::Config::load(&self.file)?)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    end_silently_when_nobody_reads();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has installed another one before main");
    let done = match Cli::parse().command {
        Command::Init(options) => commands::init::run(&options),
        Command::Serve(config) => commands::serve::run(&config).await,
        Command::Config(ConfigCommand::Check(config)) => commands::check::run(&config),
        Command::Doctor(options) => Box::pin(commands::doctor::run(&options)).await,
        Command::RelyingParty(command) => commands::admin::relying_party(command).await,
        Command::Credential(command) => commands::admin::credential(command).await,
        Command::Reload(config) => commands::reload::run(&config).await,
        Command::Log(command) => Box::pin(commands::log::run(command)).await,
        Command::Backup(command) => commands::backup::run(command),
        Command::Restore(options) => commands::backup::restore(&options),
        Command::Demo(options) => commands::demo::run(&options).await,
        Command::BenchParts(part) => commands::bench_parts::run(part).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if nobody_reads(&error) => ExitCode::from(NOBODY_READS),
        Err(error) => {
            eprintln!("countersign: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each said once: many of them say their cause in their own words, and have it as well.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.as_str() {
            "" => cause,
            _ if said.ends_with(&cause) => said,
            _ => format!("{said}: {cause}"),
        }
    })
}

/// What a shell gives for a program that SIGPIPE has ended.
const NOBODY_READS: u8 = 128 + 13;

/// `countersign log show | head -1` is no failure. Rust's programs are not ended by SIGPIPE: `println!` panics instead.
fn end_silently_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        let broken =
            |said: &String| said.starts_with("failed printing to std") && said.contains("Broken pipe");
        if said.is_some_and(broken) {
            std::process::exit(NOBODY_READS.into());
        }
        usual(panic);
    }));
}

/// The same, where a command writes with `writeln!` and hands the error on.
fn nobody_reads(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_that_an_error_has_said_already_is_not_said_again() {
        let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let error =
            Err::<(), _>(gone()).context(format!("key.pem: {}", gone())).context("the key").unwrap_err();
        assert_eq!(in_full(&error), format!("the key: key.pem: {}", gone()));
        let error = Err::<(), _>(gone()).context("key.pem").unwrap_err();
        assert_eq!(in_full(&error), format!("key.pem: {}", gone()));
    }
}
