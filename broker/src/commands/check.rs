//! `countersign config check`: what `countersign serve` would say of this configuration and of the files that it names.

use countersign::{broker::setup::Setup, telemetry};

use crate::ConfigFile;

/// Reads all that a broker reads before it starts; takes no port and no lock, and writes nothing.
pub(crate) fn run(config: &ConfigFile) -> anyhow::Result<()> {
    let config = config.load()?;
    // For what serve only warns of.
    telemetry::start(&config.telemetry, None);
    Setup::read(&config)?;
    println!("{}: good", config.file().display());
    Ok(())
}
