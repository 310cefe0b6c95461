//! What a broker reads before it starts: keys, TLS, push services' credentials. Nothing is written, locked or sent, so
//! that `countersign config check` finds what `countersign serve` would fail at, and finds all of it at once.

use std::{fmt, io, path::Path, sync::Arc};

use tokio::net::TcpSocket;

use crate::{
    api::{
        listen,
        tls::{LiveTls, Tls, TlsFiles},
    },
    config::{Config, Place, Push},
    keys::{self, Keys},
    log::LogConfig,
    push::{self, SetupError, apns, fcm},
    telemetry::traces,
};

/// What the configuration names, read and understood.
#[derive(Debug)]
pub struct Setup {
    /// The broker's own keys.
    pub keys: Keys,
    /// The way to the outside.
    pub edge: Edge,
}

/// TLS and push services.
pub struct Edge {
    pub(super) tls: Option<Arc<LiveTls>>,
    pub(super) admin_tls: Option<Arc<LiveTls>>,
    pub(super) push: Vec<push::Service>,
}

/// Addresses that are this process's, on which nobody is let in yet.
#[derive(Debug)]
pub struct Ports {
    pub(super) public: TcpSocket,
    pub(super) admin: Option<TcpSocket>,
    pub(super) metrics: Option<TcpSocket>,
}

/// All that is wrong.
#[derive(Debug)]
pub struct Error {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// The key of the configuration that led there.
    pub key: &'static str,
    /// Where that key stands.
    pub place: Place,
    /// The file, what is wrong with it, and what to do.
    pub text: String,
}

impl Setup {
    /// Reads all of it.
    pub fn read(config: &Config) -> Result<Self, Error> {
        let mut problems = Problems { config, found: Vec::new() };
        let keys = problems.take("keys.folder", keys_of(config));
        problems.look_at_folders();
        problems.look_at_traces();
        let edge = Edge::read_into(config, &mut problems);
        match (keys, edge) {
            (Some(keys), Some(edge)) if problems.found.is_empty() => Ok(Self { keys, edge }),
            _ => Err(Error { problems: problems.found }),
        }
    }
}

impl Edge {
    /// Reads TLS and push services' credentials.
    pub fn read(config: &Config) -> Result<Self, Error> {
        let mut problems = Problems { config, found: Vec::new() };
        Self::read_into(config, &mut problems).ok_or(Error { problems: problems.found })
    }

    fn read_into(config: &Config, problems: &mut Problems<'_>) -> Option<Self> {
        let tls = config.server.tls.as_ref().map(|tls| problems.tls("server.tls", Tls::from(tls)));
        let admin_tls = config.admin.tls.as_ref().map(|tls| problems.tls("admin.tls", Tls::from(tls)));
        let apns = config.push.apns.as_ref().map(|apns| {
            let again = again(config, "push.apns", |push| push.apns);
            problems.push("push.apns", apns::connect_live(apns, again))
        });
        let fcm = config.push.fcm.as_ref().map(|fcm| {
            let again = again(config, "push.fcm", |push| push.fcm);
            problems.push("push.fcm", fcm::connect_live(fcm, again))
        });
        let push = [apns, fcm].into_iter().flatten().collect::<Option<_>>();
        Some(Self { tls: present(tls)?, admin_tls: present(admin_tls)?, push: push? })
    }
}

/// A section of the configuration as it is when somebody asks.
fn again<T: 'static>(config: &Config, section: &'static str, of: fn(Push) -> Option<T>) -> push::Again<T> {
    let file = config.file().to_owned();
    Arc::new(move || {
        let config = Config::load(&file).map_err(|error| error.to_string())?;
        of(config.push).ok_or_else(|| format!("{}: has no [{section}] any more", file.display()))
    })
}

/// None where something that is configured could not be read.
fn present<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("tls", &self.tls.is_some())
            .field("admin_tls", &self.admin_tls.is_some())
            .field("push", &self.push)
            .finish()
    }
}

impl Ports {
    /// Takes the addresses of the configuration. The socket of administration is only looked at: its place is taken
    /// when the log is this process's, since a broker that is about to stop still has it.
    pub async fn take(config: &Config) -> Result<Self, listen::Error> {
        if let Some(socket) = &config.admin.socket {
            listen::unix_is_free(socket).await?;
        }
        let public = listen::bind(config.server.listen, "server.listen")?;
        let admin = config.admin.listen.map(|at| listen::bind(at, "admin.listen")).transpose()?;
        let metrics = config.metrics.listen.map(|at| listen::bind(at, "metrics.listen")).transpose()?;
        Ok(Self { public, admin, metrics })
    }
}

fn keys_of(config: &Config) -> Result<Keys, String> {
    keys::folder::load(&config.keys.folder).map_err(|error| match error {
        keys::folder::Error::Missing { path } if !log_exists(config) => format!(
            "{}: is not there, and neither is a log: `countersign init DIR` makes a new broker, keys and \
             configuration",
            path.display()
        ),
        error => error.to_string(),
    })
}

/// Whether something has been sealed that only the keys that were there then can open.
fn log_exists(config: &Config) -> bool {
    let journal = LogConfig::new(&config.log.folder).journal_folder();
    journal.read_dir().is_ok_and(|mut entries| entries.next().is_some())
}

struct Problems<'a> {
    config: &'a Config,
    found: Vec<Problem>,
}

impl Problems<'_> {
    fn take<T, E: ToString>(&mut self, key: &'static str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.add(key, error.to_string())).ok()
    }

    fn add(&mut self, key: &'static str, text: String) {
        self.found.push(Problem { key, place: self.config.origin().place(key), text });
    }

    fn tls(&mut self, section: &'static str, tls: Tls) -> Option<Arc<LiveTls>> {
        let read = LiveTls::read(TlsFiles::new(section, tls)).map(Arc::new);
        let key = read.as_ref().err().and_then(listen::Error::file).and_then(|file| self.key_of(file));
        self.take(key.unwrap_or(section), read)
    }

    fn push(
        &mut self,
        section: &'static str,
        read: Result<push::Service, SetupError>,
    ) -> Option<push::Service> {
        let key = read.as_ref().err().and_then(SetupError::file).and_then(|file| self.key_of(file));
        self.take(key.unwrap_or(section), read)
    }

    fn key_of(&self, file: &Path) -> Option<&'static str> {
        self.config.key_of_path(file)
    }

    fn look_at_traces(&mut self) {
        let Some(settings) = &self.config.traces else { return };
        let made = traces::Traces::new(settings);
        let key = made.as_ref().err().and_then(traces::Error::file).and_then(|file| self.key_of(file));
        self.take(key.unwrap_or("traces"), made);
    }

    fn look_at_folders(&mut self) {
        let log = &self.config.log.folder;
        match log.metadata() {
            Ok(there) if !there.is_dir() => {
                self.add("log.folder", format!("{}: is a file, not a folder", log.display()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.add("log.folder", format!("{}: {error}", log.display()));
            }
            _ => {}
        }
        if let Some(socket) = &self.config.admin.socket {
            self.take("admin.socket", listen::is_socket(socket));
            let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                self.add("admin.socket", format!("{}: is not a folder: make it", folder.display()));
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(_, Some(line)) => write!(f, "{} ({}, line {line})", self.text, self.key),
            Place::Line(_, None) => write!(f, "{} ({})", self.text, self.key),
            Place::Variable(name) => write!(f, "{} ({}, from {name})", self.text, self.key),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Error {}
