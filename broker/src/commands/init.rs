//! `countersign init`: a new broker's configuration and keys, and what to do next.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use countersign::{entropy::OsEntropy, keys};

/// What a new broker is made with.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder to make it in; made if it is not there
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The broker's address as phones reach it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8443")]
    public_url: String,
    /// Where it listens; anything but loopback needs TLS, which the configuration explains
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let file = make(&options.dir, &options.public_url, options.listen)?;
    let shown = file.display();
    println!("Made {shown} and the keys in {}.", options.dir.join("keys").display());
    println!();
    println!("The keys and the log are all that this broker is: back up both, the keys apart from the log.");
    println!();
    println!("Next:");
    println!("  1. Say in {shown} how phones are reached: [push.apns], [push.fcm].");
    println!("  2. countersign config check --config {shown}");
    println!("  3. countersign serve --config {shown}");
    println!("  4. countersign relying-party register --config {shown} \\");
    println!("       --name 'My login' --application 'Webmail' --realm example.org");
    Ok(())
}

/// Writes configuration and keys; neither takes the place of another.
pub(crate) fn make(dir: &Path, public_url: &str, listen: SocketAddr) -> anyhow::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("{}: cannot be made", dir.display()))?;
    let file = dir.join("countersign.toml");
    if file.exists() {
        bail!("{}: is there already; a new broker needs a folder of its own", file.display());
    }
    keys::folder::create(&dir.join("keys"), &OsEntropy)?;
    let mut options = fs::OpenOptions::new();
    let mut written = options
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&file)
        .with_context(|| format!("{}: cannot be written", file.display()))?;
    written.write_all(template(public_url, listen).as_bytes())?;
    written.sync_all()?;
    Ok(file)
}

fn template(public_url: &str, listen: SocketAddr) -> String {
    include_str!("countersign.toml")
        .replace("http://127.0.0.1:8443", public_url)
        .replace("127.0.0.1:8443\"  # listen", &format!("{listen}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_a_good_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("broker");
        let file = make(&dir, "http://127.0.0.1:9999", "127.0.0.1:9999".parse().unwrap()).unwrap();
        let config = countersign::config::Config::load(&file).unwrap();
        assert_eq!(config.server.listen.port(), 9999);
        assert_eq!(config.public_url, "http://127.0.0.1:9999");
        assert!(keys::folder::load(&config.keys.folder).is_ok());
    }

    #[test]
    fn init_never_writes_over_a_broker() {
        let folder = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:9999".parse().unwrap();
        let file = make(folder.path().join("b").as_path(), "http://127.0.0.1:9999", listen).unwrap();
        let before = fs::read(&file).unwrap();
        assert!(make(folder.path().join("b").as_path(), "http://127.0.0.1:1", listen).is_err());
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}
