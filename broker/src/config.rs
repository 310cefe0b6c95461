//! The configuration: TOML, read strictly, then the environment over it. What is wrong is said with key and line.
//!
//! A variable `COUNTERSIGN__SECTION__KEY` takes the place of `key` in `[section]`. Relative paths are relative to the
//! folder of the file.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_domain::{limits, policy::Policy};
use serde::Deserialize;

use crate::{
    api::listen::Tls,
    push::{apns, fcm},
};

/// A configuration that has been checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker's address as phones reach it: what enrolment codes lead to.
    pub public_url: String,
    /// The public listener.
    pub server: Server,
    /// The listener of administration.
    pub admin: Admin,
    /// Where the keys are.
    pub keys: Keys,
    /// Where the log is.
    pub log: Log,
    /// What holds for approvals.
    #[serde(default)]
    pub approvals: Approvals,
    /// What bounds the process.
    #[serde(default)]
    pub limits: Limits,
    /// How phones are reached.
    #[serde(default)]
    pub push: Push,
    /// How the broker tells what it does.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port. Anything but loopback needs TLS.
    pub listen: SocketAddr,
    /// TLS.
    pub tls: Option<ServerTls>,
}

/// `[server.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// The certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities of relying parties' client certificates (PEM), where those authenticate so.
    pub client_ca_file: Option<PathBuf>,
}

/// `[admin]`: a Unix socket, or TCP with client certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The Unix socket. Whoever may open it may do everything: its mode is 0600.
    pub socket: Option<PathBuf>,
    /// Address and port; needs `tls`.
    pub listen: Option<SocketAddr>,
    /// TLS with client certificates.
    pub tls: Option<AdminTls>,
}

/// `[admin.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// The certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities of operators' client certificates (PEM). Whoever has one of those may do everything.
    pub client_ca_file: PathBuf,
}

/// `[keys]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The folder of keys.
    pub folder: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The folder of the log.
    pub folder: PathBuf,
    /// Bytes after which a journal segment is followed by the next: 4 KiB to 1 GiB.
    #[serde(default = "segment_bytes")]
    pub segment_bytes: u64,
}

fn segment_bytes() -> u64 {
    64 * 1024 * 1024
}

/// `[approvals]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// Digits of the match number: 2 to 6.
    pub digits: u8,
    /// Seconds that the phone has, where the login server does not say: 15 to 300.
    pub lifetime_s: u64,
    /// Approvals of one account that may wait at a time: 1 to 20.
    pub waiting_max: u32,
    /// Requests for one account within five minutes: 1 to 1,000.
    pub requests_per_5_min: u32,
    /// Whether login servers may send place and browser as free text to phones.
    pub free_text: bool,
}

impl Default for Approvals {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            digits: policy.digits,
            lifetime_s: policy.lifetime.as_secs(),
            waiting_max: policy.waiting_max,
            requests_per_5_min: policy.requests_max,
            free_text: false,
        }
    }
}

impl Approvals {
    /// As the domain has it.
    pub fn policy(&self) -> Policy {
        Policy {
            digits: self.digits,
            lifetime: Duration::from_secs(self.lifetime_s),
            waiting_max: self.waiting_max,
            requests_max: self.requests_per_5_min,
            requests_window: Duration::from_secs(5 * 60),
            ..Policy::default()
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections to the public listener at a time.
    pub connections: NonZeroUsize,
    /// Approvals that may wait at a time, of all accounts.
    pub live_approvals: NonZeroUsize,
    /// Accounts whose state is kept in memory; the others are read from the log when they are needed.
    pub cached_accounts: NonZeroUsize,
    /// Seconds that a stop may take: for streams to end and pushes to be sent.
    pub drain_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let count = |count| NonZeroUsize::new(count).expect("not zero");
        Self {
            connections: count(10_000),
            live_approvals: count(200_000),
            cached_accounts: count(100_000),
            drain_s: 10,
        }
    }
}

/// `[push]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// `[push.apns]`
    pub apns: Option<apns::Settings>,
    /// `[push.fcm]`
    pub fcm: Option<fcm::Settings>,
}

/// `[telemetry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// `text` or `json`.
    pub format: LogFormat,
    /// What is logged, such as `info` or `countersign=debug,info`.
    pub filter: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration is not taken.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not TOML, or has a key or value that there is not.
    Form {
        /// Which file.
        file: PathBuf,
        /// What is wrong, with line, column and the line itself.
        problem: String,
    },
    /// A variable of the environment has a key or value that there is not.
    Environment {
        /// What is wrong.
        problem: String,
    },
    /// A value makes no sense.
    Value {
        /// Which file.
        file: PathBuf,
        /// Its line, if it stands in the file.
        line: Option<usize>,
        /// Which key.
        key: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => write!(f, "{}: cannot be read: {source}", file.display()),
            Self::Form { file, problem } => write!(f, "{}: {}", file.display(), problem.trim_end()),
            Self::Environment { problem } => write!(f, "environment (COUNTERSIGN__...): {problem}"),
            Self::Value { file, line: Some(line), key, problem } => {
                write!(f, "{}:{line}: {key}: {problem}", file.display())
            }
            Self::Value { file, line: None, key, problem } => {
                write!(f, "{}: {key}: {problem}", file.display())
            }
        }
    }
}

impl std::error::Error for Error {}

impl Config {
    /// Reads a file, and the environment over it.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text =
            fs::read_to_string(file).map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
        Self::parse(&text, file, config::Environment::with_prefix("COUNTERSIGN"))
    }

    fn parse(text: &str, file: &Path, environment: config::Environment) -> Result<Self, Error> {
        // Strictly first: these errors know line and column.
        let _: Self = toml::from_str(text)
            .map_err(|error| Error::Form { file: file.to_owned(), problem: error.to_string() })?;
        let environment = environment.prefix_separator("__").separator("__").try_parsing(true);
        let mut config: Self = config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| Error::Environment { problem: error.to_string() })?;
        config.check().map_err(|(key, problem)| Error::Value {
            file: file.to_owned(),
            line: line_of(text, key),
            key,
            problem,
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        config.paths_mut().into_iter().for_each(|path| *path = folder.join(&*path));
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let rule = |fits: bool, key: &'static str, problem: &str| {
            if fits { Ok(()) } else { Err((key, problem.to_owned())) }
        };
        let url = self.public_url.as_str();
        rule(
            url.strip_prefix("https://").or(url.strip_prefix("http://")).is_some_and(|rest| !rest.is_empty()),
            "public_url",
            "must be an address such as https://approve.example.org:8443",
        )?;
        rule(
            self.server.tls.is_some() || self.server.listen.ip().is_loopback(),
            "server.listen",
            "is not loopback, and there is no [server.tls]: without TLS anybody on the way could read and change what \
             is sent; add [server.tls] with certificate_file and key_file, or listen on 127.0.0.1",
        )?;
        rule(
            !url.starts_with("http://") || self.server.listen.ip().is_loopback(),
            "public_url",
            "must begin with https:// where the broker does not listen on loopback",
        )?;
        rule(
            self.admin.socket.is_some() != self.admin.listen.is_some(),
            "admin",
            "needs either a socket, or listen with [admin.tls]",
        )?;
        rule(
            self.admin.listen.is_none() || self.admin.tls.is_some(),
            "admin.listen",
            "needs [admin.tls] with client_ca_file: operators are known by their certificates",
        )?;
        rule(
            (4_096..=1 << 30).contains(&self.log.segment_bytes),
            "log.segment_bytes",
            "must be 4,096 to 1,073,741,824",
        )?;
        let approvals = &self.approvals;
        rule(limits::MATCH_NUMBER_DIGITS.contains(&approvals.digits), "approvals.digits", "must be 2 to 6")?;
        rule(
            limits::APPROVAL_LIFETIME.contains(&Duration::from_secs(approvals.lifetime_s)),
            "approvals.lifetime_s",
            "must be 15 to 300",
        )?;
        rule((1..=20).contains(&approvals.waiting_max), "approvals.waiting_max", "must be 1 to 20")?;
        rule(
            (1..=1_000).contains(&approvals.requests_per_5_min),
            "approvals.requests_per_5_min",
            "must be 1 to 1,000",
        )?;
        rule(
            self.telemetry.filter.parse::<tracing_subscriber::EnvFilter>().is_ok(),
            "telemetry.filter",
            "must be levels such as info, or countersign=debug,info",
        )
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.keys.folder, &mut self.log.folder];
        paths.extend(&mut self.admin.socket);
        if let Some(tls) = &mut self.server.tls {
            paths.extend([&mut tls.certificate_file, &mut tls.key_file]);
            paths.extend(&mut tls.client_ca_file);
        }
        if let Some(tls) = &mut self.admin.tls {
            paths.extend([&mut tls.certificate_file, &mut tls.key_file, &mut tls.client_ca_file]);
        }
        if let Some(apns) = &mut self.push.apns {
            paths.push(&mut apns.key_file);
            paths.extend(&mut apns.ca_file);
        }
        if let Some(fcm) = &mut self.push.fcm {
            paths.push(&mut fcm.service_account_file);
            paths.extend(&mut fcm.ca_file);
        }
        paths
    }
}

impl From<&ServerTls> for Tls {
    fn from(tls: &ServerTls) -> Self {
        Self {
            certificate_file: tls.certificate_file.clone(),
            key_file: tls.key_file.clone(),
            client_ca_file: tls.client_ca_file.clone(),
            client_certificate_required: false,
        }
    }
}

impl From<&AdminTls> for Tls {
    fn from(tls: &AdminTls) -> Self {
        Self {
            certificate_file: tls.certificate_file.clone(),
            key_file: tls.key_file.clone(),
            client_ca_file: Some(tls.client_ca_file.clone()),
            client_certificate_required: true,
        }
    }
}

/// The line of a key such as `server.listen`, if it stands in the text.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut offset = None;
    for part in key.split('.') {
        let Some((name, value)) = table.get_key_value(part) else { break };
        offset = Some(name.span().start);
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    Some(text[..offset?].lines().count().max(1) + usize::from(text[..offset?].ends_with('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
public_url = "http://127.0.0.1:8443"
[server]
listen = "127.0.0.1:8443"
[admin]
socket = "admin.sock"
[keys]
folder = "keys"
[log]
folder = "/var/lib/countersign/log"
"#;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment = config::Environment::with_prefix("COUNTERSIGN").source(Some(variables));
        Config::parse(text, Path::new("/etc/countersign/countersign.toml"), environment)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let config = parse(GOOD, &[]).unwrap();
        assert_eq!(config.keys.folder, Path::new("/etc/countersign/keys"));
        assert_eq!(config.log.folder, Path::new("/var/lib/countersign/log"));
        assert_eq!(config.admin.socket.unwrap(), Path::new("/etc/countersign/admin.sock"));
    }

    #[test]
    fn the_environment_stands_above_the_file() {
        let variables =
            [("COUNTERSIGN__SERVER__LISTEN", "127.0.0.1:1"), ("COUNTERSIGN__APPROVALS__DIGITS", "4")];
        let config = parse(GOOD, &variables).unwrap();
        assert_eq!(config.server.listen.port(), 1);
        assert_eq!(config.approvals.digits, 4);
    }

    #[test]
    fn a_typo_is_named_with_its_line() {
        let typo = GOOD.replace("listen =", "lisen =");
        let error = parse(&typo, &[]).unwrap_err();
        assert!(
            error.contains("line 4") && error.contains("unknown field `lisen`") && error.contains('^'),
            "{error}"
        );
        let error = parse(GOOD, &[("COUNTERSIGN__SERVER__LISEN", "x")]).unwrap_err();
        assert!(error.contains("environment") && error.contains("lisen"), "{error}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named_with_its_line_and_what_to_do() {
        let open = GOOD.replace("listen = \"127.0.0.1:8443\"", "listen = \"0.0.0.0:8443\"");
        let error = parse(&open, &[]).unwrap_err();
        assert!(
            error.contains("countersign.toml:4: server.listen") && error.contains("[server.tls]"),
            "{error}"
        );
        let error = parse(&format!("{GOOD}[approvals]\nlifetime_s = 5\n"), &[]).unwrap_err();
        assert!(error.contains(":12: approvals.lifetime_s: must be 15 to 300"), "{error}");
        let error = parse(&GOOD.replace("socket = \"admin.sock\"", ""), &[]).unwrap_err();
        assert!(error.contains(":5: admin: needs either a socket"), "{error}");
    }
}
