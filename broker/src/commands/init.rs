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
    println!("Made {} and the keys in {}.", file.display(), options.dir.join("keys").display());
    println!();
    println!("The keys and the log are all that this broker is: back up both, the keys apart from the log.");
    println!();
    println!("Next:");
    for (number, step) in steps(options, &file).iter().enumerate() {
        println!("  {}. {step}", number + 1);
    }
    Ok(())
}

/// From here to a sign-in.
fn steps(options: &Options, file: &Path) -> Vec<String> {
    let shown = file.display();
    let mut steps = Vec::new();
    if !options.listen.ip().is_loopback() {
        steps.push(format!(
            "Say in {shown} where certificate and key are: [server.tls]. Only loopback is served without."
        ));
    }
    let issue = format!("countersign credential issue --config {shown} --relying-party ID");
    let url = &options.public_url;
    steps.extend([
        format!("Say in {shown} how phones are reached: [push.apns], [push.fcm]."),
        format!("countersign config check --config {shown}"),
        format!("countersign serve --config {shown}"),
        format!(
            "countersign relying-party register --config {shown} \\\n       --name 'My login' --application 'Webmail' \
             --realm example.org"
        ),
        format!("{issue} --scope sign-in --out sign-in.key"),
        format!("{issue} --scope enrolment --out enrolment.key"),
        format!(
            "Try it: device-sim enrol --broker {url} --api-key-file enrolment.key --account alice, and device-sim phone \
             with the code that it shows; then\n     device-sim login --broker {url} --api-key-file sign-in.key \
             --application Webmail --account alice"
        ),
    ]);
    steps
}

/// Writes configuration and keys; neither takes the place of another.
pub(crate) fn make(dir: &Path, public_url: &str, listen: SocketAddr) -> anyhow::Result<PathBuf> {
    if dir.exists() && !dir.is_dir() {
        bail!("{}: is a file, not a folder", dir.display());
    }
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
    // As TOML spells it, quotes and all.
    let public_url = toml::Value::from(public_url).to_string();
    include_str!("countersign.toml")
        .replace("\"http://127.0.0.1:8443\"", &public_url)
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

    #[test]
    fn an_address_is_written_as_toml_spells_it() {
        let folder = tempfile::tempdir().unwrap();
        let odd = "https://example.org/a\"b\\c";
        let file = make(&folder.path().join("b"), odd, "127.0.0.1:9999".parse().unwrap()).unwrap();
        assert_eq!(countersign::config::Config::load(&file).unwrap().public_url, odd);
    }

    #[test]
    fn a_file_is_no_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = make(file.path(), "http://127.0.0.1:1", "127.0.0.1:1".parse().unwrap()).unwrap_err();
        assert!(error.to_string().ends_with(": is a file, not a folder"), "{error}");
    }

    #[test]
    fn the_steps_lead_to_a_sign_in_and_begin_with_tls_where_that_is_needed() {
        let steps = |listen: &str| {
            let options = Options {
                dir: "b".into(),
                public_url: "https://x.test".to_owned(),
                listen: listen.parse().unwrap(),
            };
            steps(&options, Path::new("b/countersign.toml"))
        };
        let local = steps("127.0.0.1:1");
        assert!(local[0].contains("[push.apns]") && local.last().unwrap().contains("device-sim login"));
        assert!(
            local.iter().filter(|step| step.contains("credential issue")).all(|step| step.contains("--out "))
        );
        assert!(steps("0.0.0.0:1")[0].contains("[server.tls]"));
    }
}
