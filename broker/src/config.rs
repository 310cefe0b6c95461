//! The configuration: TOML, read strictly, then the environment over it. What is wrong is said with key and line.
//!
//! A variable `COUNTERSIGN__SECTION__KEY` takes the place of `key` in `[section]`. Relative paths are relative to the
//! folder of the file.

mod number;

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_domain::policy::Policy;
use serde::{Deserialize, Deserializer, de::Error as _};

use self::number::number;
use crate::{
    api::{admission::Admission, listen, tls::Tls},
    push::{apns, fcm},
    rates::PerSecond,
    shares::Most,
    telemetry::{logs, traces},
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
    pub telemetry: logs::Settings,
    /// Where it is asked how much it does.
    #[serde(default)]
    pub metrics: Metrics,
    /// Where traces go; nowhere without.
    pub traces: Option<traces::Settings>,
    /// Where each value came from.
    #[serde(skip)]
    origin: Origin,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port. Anything but loopback needs TLS.
    #[serde(deserialize_with = "address")]
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
    #[serde(default, deserialize_with = "some_address")]
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
    #[serde(default = "segment_bytes", deserialize_with = "number::<_, u64, 4_096, 1_073_741_824>")]
    pub segment_bytes: u64,
    /// Days for which entries stay in sled; older ones are read from the journal's archive: 0 to 36,500.
    #[serde(default = "retention_days", deserialize_with = "number::<_, u64, 0, 36_500>")]
    pub retention_days: u64,
    /// The newest entries that stay in sled for so long, and at most a quarter more: 256 to 1,000,000,000.
    #[serde(default = "retention_entries", deserialize_with = "number::<_, u64, 256, 1_000_000_000>")]
    pub retention_entries: u64,
    /// Seconds between two looks at what there is to archive: 1 to 86,400.
    #[serde(default = "archive_every_s", deserialize_with = "number::<_, u64, 1, 86_400>")]
    pub archive_every_s: u64,
}

impl Log {
    /// For how long entries stay in sled.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_days * 24 * 60 * 60)
    }
}

fn retention_days() -> u64 {
    90
}

fn retention_entries() -> u64 {
    4_000_000
}

fn archive_every_s() -> u64 {
    60
}

fn segment_bytes() -> u64 {
    64 * 1024 * 1024
}

/// `[approvals]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// Digits of the match number: 2 to 6.
    #[serde(deserialize_with = "number::<_, u8, 2, 6>")]
    pub digits: u8,
    /// Seconds that the phone has, where the login server does not say: 15 to 300.
    #[serde(deserialize_with = "number::<_, u64, 15, 300>")]
    pub lifetime_s: u64,
    /// Approvals of one account that may wait at a time: 1 to 20.
    #[serde(deserialize_with = "number::<_, u32, 1, 20>")]
    pub waiting_max: u32,
    /// Requests for one account within five minutes: 1 to 1,000.
    #[serde(deserialize_with = "number::<_, u32, 1, 1_000>")]
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
    /// Connections to the public listener at a time. Each is an open file; `serve` takes fewer where the operating
    /// system does not allow so many.
    #[serde(deserialize_with = "number::<_, NonZeroUsize, 1, 1_000_000>")]
    pub connections: NonZeroUsize,
    /// Of them, those of one address (of IPv6, of one /64). A load balancer in front of the broker is one address.
    #[serde(deserialize_with = "number::<_, NonZeroUsize, 1, 1_000_000>")]
    pub connections_per_address: NonZeroUsize,
    /// Calls of one connection at a time: a login server keeps one for each login that waits. 1 to 100,000.
    #[serde(deserialize_with = "number::<_, u32, 1, 100_000>")]
    pub streams_per_connection: u32,
    /// Seconds that a caller has for the TLS handshake, then for its first request, and for each request to arrive
    /// whole: 1 to 300.
    #[serde(deserialize_with = "number::<_, u64, 1, 300>")]
    pub request_s: u64,
    /// New approvals and enrolments of one relying party a second, and looks back at those that are over, and ten seconds'
    /// worth of them at once. 0 is no limit, here and of the three that follow; else up to 1,000,000.
    #[serde(deserialize_with = "number::<_, u32, 0, 1_000_000>")]
    pub requests_per_s_of_relying_party: u32,
    /// Phones' calls of one address (of IPv6, of one /64) a second, and ten seconds' worth of them at once; and those that
    /// nobody has to prove anything for (health, reflection, unknown paths).
    #[serde(deserialize_with = "number::<_, u32, 0, 1_000_000>")]
    pub calls_per_s_of_address: u32,
    /// Of one address, calls a second whose caller was not who he said, and ten seconds' worth of them at once. Then none
    /// of its calls that need a proof is taken.
    #[serde(deserialize_with = "number::<_, u32, 0, 1_000_000>")]
    pub failures_per_s_of_address: u32,
    /// Calls of one device a second, and ten seconds' worth of them at once.
    #[serde(deserialize_with = "number::<_, u32, 0, 1_000_000>")]
    pub calls_per_s_of_device: u32,
    /// Approvals that may wait at a time, of all accounts.
    #[serde(deserialize_with = "number::<_, NonZeroUsize, 1, 100_000_000>")]
    pub live_approvals: NonZeroUsize,
    /// Of them, those of one relying party; half of them where nothing is said, so that none alone keeps the others out. More
    /// than `live_approvals` is as many. 1 to 100,000,000.
    #[serde(deserialize_with = "some_count")]
    pub live_approvals_of_relying_party: Option<NonZeroUsize>,
    /// Accounts whose state is kept in memory; the others are read from the log when they are needed.
    #[serde(deserialize_with = "number::<_, NonZeroUsize, 1, 100_000_000>")]
    pub cached_accounts: NonZeroUsize,
    /// Milliseconds of work that may stand before each core, all the time: beyond that some requests for approvals are sent
    /// away (OVERLOADED). 0 is no limit, up to 10,000.
    #[serde(deserialize_with = "number::<_, u64, 0, 10_000>")]
    pub queue_ms: u64,
    /// Seconds that a stop may take: for streams to end and pushes to be sent.
    #[serde(deserialize_with = "number::<_, u64, 0, 3_600>")]
    pub drain_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let count = |count| NonZeroUsize::new(count).expect("not zero");
        Self {
            connections: count(10_000),
            connections_per_address: count(1_000),
            streams_per_connection: 1_000,
            request_s: 10,
            requests_per_s_of_relying_party: 1_000,
            calls_per_s_of_address: 1_000,
            failures_per_s_of_address: 10,
            calls_per_s_of_device: 10,
            live_approvals: count(200_000),
            live_approvals_of_relying_party: None,
            cached_accounts: count(100_000),
            queue_ms: 5,
            drain_s: 10,
        }
    }
}

impl Limits {
    /// Whether there is room for new work.
    pub fn admission(&self) -> Admission {
        match self.queue_ms {
            0 => Admission::of_all(),
            milliseconds => Admission::new(Duration::from_millis(milliseconds)),
        }
    }

    /// Of the public listener.
    pub fn of_listener(&self) -> listen::Limits {
        listen::Limits {
            connections: self.connections.get(),
            connections_per_address: self.connections_per_address.get(),
            streams_per_connection: self.streams_per_connection,
            request_within: Duration::from_secs(self.request_s),
        }
    }

    /// Of approvals that wait.
    pub fn of_approvals(&self) -> Most {
        let in_all = self.live_approvals.get();
        let of_one = self.live_approvals_of_relying_party.map_or(in_all.div_ceil(2), NonZeroUsize::get);
        Most { in_all, of_one }
    }

    /// Of calls that wait for an approval or an enrolment: one for each that waits, and as many again, since who lost his
    /// connection takes them up on another before the broker has noticed.
    pub fn of_waiting(&self) -> Most {
        let Most { in_all, of_one } = self.of_approvals();
        Most { in_all: in_all.saturating_mul(2), of_one: of_one.saturating_mul(2) }
    }

    /// Of calls.
    pub fn of_calls(&self) -> PerSecond {
        PerSecond {
            relying_party: self.requests_per_s_of_relying_party,
            address: self.calls_per_s_of_address,
            failures: self.failures_per_s_of_address,
            device: self.calls_per_s_of_device,
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

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port of a listener of its own that answers `GET /metrics`; none without. Whoever reaches it may read it.
    #[serde(deserialize_with = "some_address")]
    pub listen: Option<SocketAddr>,
}

/// Where the values of a configuration came from: the lines of its file, and variables of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    file: PathBuf,
    lines: BTreeMap<String, usize>,
    variables: Vec<String>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This line of the file; none where the file does not say.
    Line(PathBuf, Option<usize>),
    /// A variable of the environment.
    Variable(String),
}

impl Origin {
    fn of(file: &Path, text: &str, variables: &Variables) -> Self {
        let mut lines = BTreeMap::new();
        if let Ok(document) = toml::de::DeTable::parse(text) {
            lines_of(document.get_ref(), "", text, &mut lines);
        }
        Self { file: file.to_owned(), lines, variables: variables.keys().cloned().collect() }
    }

    /// Where the value of a key such as `server.listen` came from; for a key that nobody gave, where its section is.
    pub fn place(&self, key: &str) -> Place {
        let mut part = key;
        loop {
            if let Some(variable) = self.variables.iter().find(|one| is_or_is_in(&key_of(one), part)) {
                return Place::Variable(variable.clone());
            }
            match (self.lines.get(part), part.rsplit_once('.')) {
                (Some(line), _) => return Place::Line(self.file.clone(), Some(*line)),
                (None, Some((section, _))) => part = section,
                (None, None) => return Place::Line(self.file.clone(), None),
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, Some(line)) => write!(f, "{}:{line}", file.display()),
            Self::Line(file, None) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "the variable {name}"),
        }
    }
}

fn is_or_is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The line of each key and each section.
fn lines_of(table: &toml::de::DeTable<'_>, section: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        lines.insert(key.clone(), text[..name.span().start].matches('\n').count() + 1);
        if let toml::de::DeValue::Table(inner) = value.get_ref() {
            lines_of(inner, &key, text, lines);
        }
    }
}

/// The variables that stand above the file, by name.
type Variables = BTreeMap<String, String>;

const VARIABLE_PREFIX: &str = "COUNTERSIGN__";

/// The variables of this process.
fn variables() -> Variables {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = env::vars_os().map(|(name, value)| (text(name), text(value)));
    all.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect()
}

/// `server.listen` for `COUNTERSIGN__SERVER__LISTEN`.
fn key_of(variable: &str) -> String {
    variable.strip_prefix(VARIABLE_PREFIX).unwrap_or(variable).to_lowercase().replace("__", ".")
}

/// Why a configuration is not taken.
#[derive(Debug)]
pub enum Error {
    /// There is no such file.
    Missing {
        /// Which.
        file: PathBuf,
    },
    /// The file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        reason: io::Error,
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
        /// Which, where it is one alone.
        variable: Option<String>,
        /// What is wrong.
        problem: String,
    },
    /// A value makes no sense.
    Value {
        /// Where it came from.
        place: Place,
        /// Which key.
        key: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { file } => write!(
                f,
                "{} is not there: name the configuration with --config or COUNTERSIGN_CONFIG (`countersign init` \
                 writes one)",
                file.display()
            ),
            Self::Unreadable { file, reason } => write!(f, "{}: cannot be read: {reason}", file.display()),
            Self::Form { file, problem } => write!(f, "{}: {}", file.display(), problem.trim_end()),
            Self::Environment { variable: Some(variable), problem } => {
                write!(f, "the variable {variable}: {problem}")
            }
            Self::Environment { variable: None, problem } => {
                write!(f, "the variables {VARIABLE_PREFIX}...: {problem}")
            }
            Self::Value { place, key, problem } => write!(f, "{place}: {key} {problem}"),
        }
    }
}

impl std::error::Error for Error {}

impl Config {
    /// Reads a file, and the environment over it. Of a folder, its `countersign.toml`.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let file = &if file.is_dir() { file.join(FILE_NAME) } else { file.to_owned() };
        let text = fs::read_to_string(file).map_err(|reason| match reason.kind() {
            io::ErrorKind::NotFound => Error::Missing { file: file.to_owned() },
            _ => Error::Unreadable { file: file.to_owned(), reason },
        })?;
        Self::parse(&text, file, &variables())
    }

    fn parse(text: &str, file: &Path, variables: &Variables) -> Result<Self, Error> {
        // Strictly first: these errors know line and column.
        let _: Self = toml::from_str(text)
            .map_err(|error| Error::Form { file: file.to_owned(), problem: error.to_string() })?;
        let mut config = Self::merged(text, variables).map_err(|error| {
            // The one without which it would be well.
            let guilty = variables.keys().find(|one| {
                let mut others = variables.clone();
                others.remove(*one);
                Self::merged(text, &others).is_ok()
            });
            Error::Environment { variable: guilty.cloned(), problem: error.to_string() }
        })?;
        config.origin = Origin::of(file, text, variables);
        config.check().map_err(|(key, problem)| Error::Value {
            place: config.origin.place(key),
            key,
            problem,
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        config.paths_mut().into_iter().for_each(|(_, path)| *path = folder.join(&*path));
        Ok(config)
    }

    fn merged(text: &str, variables: &Variables) -> Result<Self, config::ConfigError> {
        let variables = variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let environment = config::Environment::with_prefix("COUNTERSIGN")
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .source(Some(variables));
        config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize)
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.origin.file
    }

    /// Where its values came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The key that names this file or folder.
    pub fn key_of_path(&self, path: &Path) -> Option<&'static str> {
        let mut config = self.clone();
        config.paths_mut().into_iter().find(|(_, named)| named.as_path() == path).map(|(key, _)| key)
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
            self.telemetry.filter.parse::<tracing_subscriber::EnvFilter>().is_ok(),
            "telemetry.filter",
            "must be levels such as info, or countersign=debug,info",
        )?;
        let traces = self.traces.as_ref().map_or(Ok(()), traces::Settings::check);
        traces.map_err(|(key, problem)| (key, problem.to_owned()))
    }

    fn paths_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let mut paths = vec![("keys.folder", &mut self.keys.folder), ("log.folder", &mut self.log.folder)];
        paths.extend(self.admin.socket.as_mut().map(|socket| ("admin.socket", socket)));
        if let Some(tls) = &mut self.server.tls {
            paths.push(("server.tls.certificate_file", &mut tls.certificate_file));
            paths.push(("server.tls.key_file", &mut tls.key_file));
            paths.extend(tls.client_ca_file.as_mut().map(|file| ("server.tls.client_ca_file", file)));
        }
        if let Some(tls) = &mut self.admin.tls {
            paths.push(("admin.tls.certificate_file", &mut tls.certificate_file));
            paths.push(("admin.tls.key_file", &mut tls.key_file));
            paths.push(("admin.tls.client_ca_file", &mut tls.client_ca_file));
        }
        if let Some(apns) = &mut self.push.apns {
            paths.push(("push.apns.key_file", &mut apns.key_file));
            paths.extend(apns.ca_file.as_mut().map(|file| ("push.apns.ca_file", file)));
        }
        if let Some(fcm) = &mut self.push.fcm {
            paths.push(("push.fcm.service_account_file", &mut fcm.service_account_file));
            paths.extend(fcm.ca_file.as_mut().map(|file| ("push.fcm.ca_file", file)));
        }
        let collector = self.traces.as_mut().and_then(|traces| traces.ca_file.as_mut());
        paths.extend(collector.map(|file| ("traces.ca_file", file)));
        paths
    }
}

/// The name of the file that `countersign init` writes.
pub const FILE_NAME: &str = "countersign.toml";

/// An address and port; what is something else is said in the configuration's words, not in Rust's.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom("must be ADDRESS:PORT, such as 127.0.0.1:8443"))
}

fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error> {
    number::<_, NonZeroUsize, 1, 100_000_000>(deserializer).map(Some)
}

fn some_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
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
        Config::parse(text, Path::new("/etc/countersign/countersign.toml"), &variables)
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
        assert!(
            error.contains("variable COUNTERSIGN__SERVER__LISEN:") && error.contains("`lisen`"),
            "{error}"
        );
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
        assert!(
            error.contains("line 12")
                && error.contains("lifetime_s = 5")
                && error.contains("must be a number, 15 to 300"),
            "{error}"
        );
        let error = parse(&GOOD.replace("socket = \"admin.sock\"", ""), &[]).unwrap_err();
        assert!(error.contains(":5: admin needs either a socket"), "{error}");
    }

    #[test]
    fn a_value_of_the_environment_is_not_blamed_on_the_file() {
        let error = parse(GOOD, &[("COUNTERSIGN__SERVER__LISTEN", "0.0.0.0:80")]).unwrap_err();
        assert!(
            error.starts_with("the variable COUNTERSIGN__SERVER__LISTEN: server.listen is not"),
            "{error}"
        );
        let error = parse(GOOD, &[("COUNTERSIGN__APPROVALS__DIGITS", "7")]).unwrap_err();
        assert!(
            error.starts_with("the variable COUNTERSIGN__APPROVALS__DIGITS: ")
                && error.contains("must be a number, 2 to 6"),
            "{error}"
        );
        // The file gives a section of the same name, and the variable another key of it.
        let error = parse(
            &GOOD.replace("listen = \"127.0.0.1:8443\"", "listen = \"0.0.0.0:8443\""),
            &[("COUNTERSIGN__LIMITS__DRAIN_S", "1")],
        );
        assert!(error.unwrap_err().contains("countersign.toml:4: server.listen is not"));
    }

    #[test]
    fn a_value_of_the_wrong_form_is_told_what_the_form_is() {
        let number = "must be a number, 2 to 6";
        let address = "must be ADDRESS:PORT, such as 127.0.0.1:8443";
        for (line, says) in [
            ("[approvals]\ndigits = \"four\"", number),
            ("[approvals]\ndigits = 300", number),
            ("[approvals]\ndigits = -1", number),
            ("[approvals]\ndigits = 2.5", number),
            ("[limits]\nconnections = 0", "must be a number, 1 to 1,000,000"),
        ] {
            let error = parse(&format!("{GOOD}{line}\n"), &[]).unwrap_err();
            assert!(error.contains("line 12") && error.contains(says), "{line}: {error}");
        }
        let error = parse(&GOOD.replace("127.0.0.1:8443\"\n[admin]", "8443\"\n[admin]"), &[]).unwrap_err();
        assert!(error.contains("line 4") && error.contains(address), "{error}");
        for (name, value, says) in [
            ("COUNTERSIGN__SERVER__LISTEN", "localhost", address),
            ("COUNTERSIGN__APPROVALS__DIGITS", "four", number),
            ("COUNTERSIGN__APPROVALS__DIGITS", "-4", number),
        ] {
            let error = parse(GOOD, &[(name, value), ("COUNTERSIGN__LIMITS__DRAIN_S", "1")]).unwrap_err();
            assert!(error.starts_with(&format!("the variable {name}: ")) && error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_seen_from_outside_is_off_by_default_and_named_where_it_is_wrong() {
        let config = parse(GOOD, &[]).unwrap();
        assert!(config.metrics.listen.is_none() && config.traces.is_none());
        for (section, says) in [
            ("[metrics]\nlisten = \"9464\"", "line 12"),
            ("[metrics]\nlisten = \"9464\"", "must be ADDRESS:PORT"),
            ("[traces]\nsample_ratio = 1.0", "missing field `endpoint`"),
            ("[traces]\nendpoint = \"collector:4317\"", ":12: traces.endpoint must be an address such as"),
            (
                "[traces]\nendpoint = \"http://c\"\nsample_ratio = 2.0",
                ":13: traces.sample_ratio must be a number, 0 to 1",
            ),
        ] {
            let error = parse(&format!("{GOOD}{section}\n"), &[]).unwrap_err();
            assert!(error.contains(says), "{section}: {error}");
        }
        let traced = parse(&format!("{GOOD}[traces]\nendpoint = \"http://c\"\nca_file = \"ca.pem\"\n"), &[]);
        let traces = traced.unwrap().traces.unwrap();
        assert_eq!(traces.ca_file.unwrap(), Path::new("/etc/countersign/ca.pem"));
    }

    #[test]
    fn one_relying_party_alone_has_half_of_the_approvals_unless_it_is_said_otherwise() {
        for (limits, in_all, of_one) in [
            ("", 200_000, 100_000),
            ("live_approvals = 5", 5, 3),
            ("live_approvals = 1", 1, 1),
            ("live_approvals = 5\nlive_approvals_of_relying_party = 1", 5, 1),
            ("live_approvals_of_relying_party = 1000000", 200_000, 1_000_000),
        ] {
            let config = parse(&format!("{GOOD}[limits]\n{limits}\n"), &[]).unwrap();
            assert_eq!(config.limits.of_approvals(), Most { in_all, of_one }, "{limits}");
        }
    }

    #[test]
    fn each_path_knows_its_key_and_each_key_its_place() {
        let config = parse(GOOD, &[("COUNTERSIGN__LOG__FOLDER", "elsewhere")]).unwrap();
        assert_eq!(config.key_of_path(Path::new("/etc/countersign/keys")), Some("keys.folder"));
        assert_eq!(config.key_of_path(Path::new("/etc/countersign/other")), None);
        assert_eq!(config.origin().place("keys.folder").to_string(), "/etc/countersign/countersign.toml:8");
        assert_eq!(config.origin().place("log.folder").to_string(), "the variable COUNTERSIGN__LOG__FOLDER");
        assert_eq!(config.origin().place("limits.drain_s"), Place::Line(config.file().to_owned(), None));
    }
}
