//! The program `countersign`: what can be said on its command line.

mod commands;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// A push-notification approval broker: sign-ins are approved on the phone.
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
    /// Register login servers and enrolling pages (asks the running broker)
    #[command(subcommand)]
    RelyingParty(commands::admin::RelyingPartyCommand),
    /// Issue and revoke their credentials (asks the running broker)
    #[command(subcommand)]
    Credential(commands::admin::CredentialCommand),
    /// Read, check and repair the event log
    #[command(subcommand)]
    Log(commands::log::LogCommand),
    /// Show a whole sign-in on this machine: broker, simulated APNs and FCM, a phone on each
    Demo(commands::demo::Options),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration would be taken, and what is wrong with it otherwise
    Check(ConfigFile),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file; `countersign init` writes one
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
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has installed another one before main");
    let done = match Cli::parse().command {
        Command::Init(options) => commands::init::run(&options),
        Command::Serve(config) => commands::serve::run(&config).await,
        Command::Config(ConfigCommand::Check(config)) => config.load().map(|_| {
            println!("{}: good", config.file.display());
        }),
        Command::RelyingParty(command) => commands::admin::relying_party(command).await,
        Command::Credential(command) => commands::admin::credential(command).await,
        Command::Log(command) => Box::pin(commands::log::run(command)).await,
        Command::Demo(options) => commands::demo::run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign: {error:#}");
            ExitCode::FAILURE
        }
    }
}
