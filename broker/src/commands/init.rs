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
    /// The broker's address as phones reach it; where it listens, if not given
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where it listens; anything but loopback needs TLS, which the configuration explains
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let public_url = public_url_of(options.public_url.as_deref(), options.listen)?;
    let file = make(&options.dir, &public_url, options.listen)?;
    println!("Made {} and the keys in {}.", file.display(), options.dir.join("keys").display());
    println!();
    println!("The keys and the log are all that this broker is: back up both, the keys apart from the log.");
    println!();
    println!("Next:");
    for (number, step) in steps(options, &public_url, &file).iter().enumerate() {
        println!("  {}. {step}", number + 1);
    }
    Ok(())
}

/// As given; else where the broker listens, if that is an address that somebody can reach.
fn public_url_of(public_url: Option<&str>, listen: SocketAddr) -> anyhow::Result<String> {
    match public_url {
        Some(url) => Ok(url.to_owned()),
        None if listen.ip().is_unspecified() => bail!(
            "{listen} is no address that a phone could reach: say with --public-url which one is, such as \
             https://countersign.example.org"
        ),
        None if listen.ip().is_loopback() => Ok(format!("http://{listen}")),
        None => Ok(format!("https://{listen}")),
    }
}

/// From here to a sign-in.
fn steps(options: &Options, url: &str, file: &Path) -> Vec<String> {
    let shown = file.display();
    let mut steps = Vec::new();
    if !options.listen.ip().is_loopback() {
        steps.push(format!(
            "Say in {shown} where certificate and key are: [server.tls]. Only loopback is served without."
        ));
    }
    let issue = format!("countersign credential issue --config {shown} --relying-party ID");
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
    fn the_public_address_is_where_the_broker_listens_unless_nobody_could_reach_it() {
        let url = |public_url: Option<&str>, listen: &str| {
            let listen = listen.parse().unwrap();
            public_url_of(public_url, listen).map_err(|error| error.to_string())
        };
        assert_eq!(url(None, "127.0.0.1:18443").as_deref(), Ok("http://127.0.0.1:18443"));
        assert_eq!(url(None, "192.0.2.1:443").as_deref(), Ok("https://192.0.2.1:443"));
        assert_eq!(url(Some("https://x.test"), "0.0.0.0:443").as_deref(), Ok("https://x.test"));
        assert!(url(None, "0.0.0.0:443").unwrap_err().contains("--public-url"));
    }

    #[test]
    fn the_steps_lead_to_a_sign_in_and_begin_with_tls_where_that_is_needed() {
        let steps = |listen: &str| {
            let options = Options { dir: "b".into(), public_url: None, listen: listen.parse().unwrap() };
            steps(&options, "https://x.test", Path::new("b/countersign.toml"))
        };
        let local = steps("127.0.0.1:1");
        assert!(local[0].contains("[push.apns]") && local.last().unwrap().contains("device-sim login"));
        assert!(
            local.iter().filter(|step| step.contains("credential issue")).all(|step| step.contains("--out "))
        );
        assert!(steps("0.0.0.0:1")[0].contains("[server.tls]"));
    }
}
