//! What a load needs round it: push services, a broker that pushes to them, a login server and an enrolling page.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_proto::v1::{self, administration_client::AdministrationClient};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::broker::{Broker, Past, Usage};
use crate::{
    login::{ApiKey, EnrollingPage, LoginServer},
    phone::{Phone, StoreError},
    push_services::{Config, PushServices},
    wire::{AddressError, Transport},
};

/// What the login server calls itself, and its application.
const RELYING_PARTY: &str = "Load";
const APPLICATION: &str = "Webmail";
const REALM: &str = "load.example";
/// Connections of all phones together.
const PHONE_CONNECTIONS: usize = 32;

/// What a stage is made for.
#[derive(Clone, Debug)]
pub struct Size {
    /// Connections of login servers. Each has room for 1,000 logins that wait.
    pub login_connections: usize,
    /// Approvals that may wait at a time.
    pub waiting_max: usize,
    /// What stands in `[log]` of the broker's configuration, as TOML; what `countersign init` writes there if none.
    pub log: Option<String>,
    /// What the broker has behind it.
    pub past: Option<Past>,
}

impl Default for Size {
    fn default() -> Self {
        Self { login_connections: 8, waiting_max: 200_000, log: None, past: None }
    }
}

/// Everything that a load needs.
#[derive(Debug)]
pub struct Stage {
    pub(crate) push: PushServices,
    pub(super) login: LoginServer,
    pub(super) page: EnrollingPage,
    /// The phones' way to the broker.
    pub(super) phones: Transport,
    pub(super) application: Arc<str>,
    program: PathBuf,
    config_file: PathBuf,
    broker: Option<Broker>,
    /// The process of a broker that is not ours.
    process: Option<u32>,
    seeded: Vec<u8>,
    _folder: Option<TempDir>,
}

/// A broker that runs already, and is configured to push to these services.
#[derive(Debug)]
pub struct Running {
    /// Its program, to read its log with.
    pub program: PathBuf,
    /// Its configuration, for the same.
    pub config_file: PathBuf,
    /// The login servers' way to it, and the phones'.
    pub transport: Transport,
    /// A key of the scope sign-in.
    pub sign_in: ApiKey,
    /// A key of the scope enrolment, of the same relying party.
    pub enrolment: ApiKey,
    /// An application of that relying party.
    pub application: String,
    /// Its process, if it is on this machine.
    pub process: Option<u32>,
    /// The push services that it pushes to: these are started.
    pub push: Config,
}

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The operating system says no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The broker's program says no.
    #[error("{what} failed: {}", said.trim_end())]
    Program {
        /// Which command.
        what: &'static str,
        /// What it said.
        said: String,
    },
    /// The push services do not start.
    #[error("the push services do not start: {0}")]
    Push(String),
    /// The broker's address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The broker does not take the login server.
    #[error("the broker does not register the login server: {0}")]
    Administration(String),
    /// Somebody cannot be enrolled.
    #[error("{account} cannot be enrolled: {what}")]
    Enrolment {
        /// Who.
        account: String,
        /// Why.
        what: String,
    },
    /// The phones of those who have a past cannot be read.
    #[error(transparent)]
    Phones(#[from] StoreError),
}

impl StageError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl Stage {
    /// Starts push services and a broker of its own, by this program, in a folder that goes away.
    pub async fn make(program: &Path) -> Result<Self, StageError> {
        Self::sized(program, Size::default()).await
    }

    /// The same for so many.
    pub async fn sized(program: &Path, size: Size) -> Result<Self, StageError> {
        let folder = tempfile::tempdir().map_err(StageError::io("make a folder"))?;
        let push = quiet(Config::new().map_err(|error| StageError::Push(error.to_string()))?);
        let identity = push.identity.clone();
        let push = started(push).await?;
        let saved = identity
            .save(&folder.path().join("push"), &push.token_uri())
            .map_err(|error| StageError::Push(error.to_string()))?;
        let more = push.broker_configuration(&saved);
        let home = folder.path().join("broker");
        let mut broker = Broker::make(program, &home, size.log.as_deref(), &more).await?;
        broker.limit("COUNTERSIGN__LIMITS__LIVE_APPROVALS", size.waiting_max);
        broker.limit("COUNTERSIGN__LIMITS__LIVE_APPROVALS_OF_RELYING_PARTY", size.waiting_max);
        let seeded = match size.past {
            Some(past) => broker.seed(past, REALM).await?,
            None => Vec::new(),
        };
        broker.start().await?;
        let (sign_in, enrolment) = register(&broker).await?;
        let logins = Transport::to(broker.address()).connections(size.login_connections).open()?;
        let phones = Transport::to(broker.address()).connections(PHONE_CONNECTIONS).open()?;
        Ok(Self {
            push,
            login: LoginServer::new(&logins, Some(sign_in)),
            page: EnrollingPage::new(&logins, Some(enrolment)),
            phones,
            application: APPLICATION.into(),
            program: program.to_owned(),
            config_file: broker.config_file(),
            broker: Some(broker),
            process: None,
            seeded,
            _folder: Some(folder),
        })
    }

    /// Starts the push services for a broker that runs already.
    pub async fn join(running: Running) -> Result<Self, StageError> {
        Ok(Self {
            push: started(quiet(running.push)).await?,
            login: LoginServer::new(&running.transport, Some(running.sign_in)),
            page: EnrollingPage::new(&running.transport, Some(running.enrolment)),
            phones: running.transport,
            application: running.application.into(),
            program: running.program,
            config_file: running.config_file,
            broker: None,
            process: running.process,
            seeded: Vec::new(),
            _folder: None,
        })
    }

    /// The broker's configuration.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Where the broker tells its metrics, if it is ours.
    pub fn metrics(&self) -> Option<String> {
        self.broker.as_ref().map(Broker::metrics)
    }

    /// Hands over its broker, if it is ours, to who watches over it while the load runs.
    pub fn take_broker(&mut self) -> Option<Broker> {
        self.broker.take()
    }

    /// Whether the broker is one that this program has started.
    pub fn is_ours(&self) -> bool {
        self.broker.is_some()
    }

    /// What the broker has used of the machine, if it is ours, or its process is known.
    pub fn usage(&self) -> Option<Usage> {
        let of_another = || Usage::of(self.process?).ok();
        self.broker.as_ref().map(Broker::usage).or_else(of_another)
    }

    /// The id of the broker's process, if it is ours.
    pub fn process(&self) -> Option<u32> {
        self.broker.as_ref().and_then(Broker::process)
    }

    /// What the program said of the broker's past, if it was given one.
    pub fn seeded(&self) -> &[u8] {
        &self.seeded
    }

    /// The phones of the first accounts of the broker's past, if it was given one: those of an account one after the other.
    pub(super) fn phones_of_the_past(&self) -> Result<Vec<Phone>, StageError> {
        match &self.broker {
            Some(broker) => Ok(Phone::load_all(&broker.phones_of_the_past())?),
            None => Ok(Vec::new()),
        }
    }

    /// The folder of the broker's log, if it is ours.
    pub fn log_folder(&self) -> Option<PathBuf> {
        self.broker.as_ref().map(Broker::log_folder)
    }

    /// Ends the broker in order, if it is ours.
    pub async fn stop_broker(&mut self) -> Result<(), StageError> {
        match &mut self.broker {
            Some(broker) => broker.stop().await,
            None => Ok(()),
        }
    }

    /// Starts it again.
    pub async fn start_broker(&mut self) -> Result<(), StageError> {
        match &mut self.broker {
            Some(broker) => broker.start().await,
            None => Ok(()),
        }
    }

    /// Archives the log of a broker that has ended.
    pub async fn archive(&self) -> Result<(), StageError> {
        match &self.broker {
            Some(broker) => broker.command(&["log", "archive"], &[]).await.map(drop),
            None => Ok(()),
        }
    }

    /// Kills the broker (kill -9) and starts it again, if it is ours.
    pub async fn restart_broker(&mut self) -> Result<(), StageError> {
        if let Some(broker) = &mut self.broker {
            broker.kill().await?;
            broker.start().await?;
        }
        Ok(())
    }

    /// The broker's program and its configuration: what reads its log.
    pub(super) fn log_reader(&self) -> (&Path, &Path) {
        (&self.program, &self.config_file)
    }
}

/// Takes what comes, and remembers nothing of it: the phones do.
fn quiet(push: Config) -> Config {
    Config { received_max: 0, fcm_quota_per_minute: None, ..push }
}

async fn started(push: Config) -> Result<PushServices, StageError> {
    PushServices::start(push).await.map_err(|error| StageError::Push(error.to_string()))
}

/// A relying party with a key for each thing that it does.
async fn register(broker: &Broker) -> Result<(ApiKey, ApiKey), StageError> {
    let said = |error: &dyn std::fmt::Display| StageError::Administration(error.to_string());
    let mut administration = administration(broker.admin_socket()).await.map_err(|error| said(&error))?;
    let request = v1::RegisterRelyingPartyRequest {
        name: RELYING_PARTY.to_owned(),
        applications: vec![APPLICATION.to_owned()],
        realm: REALM.to_owned(),
    };
    let registered = administration.register_relying_party(request).await.map_err(|error| said(&error))?;
    let id = registered.into_inner().relying_party_id;
    let mut issue = async |scope: v1::CredentialScope| {
        let request = v1::IssueCredentialRequest {
            relying_party_id: id.clone(),
            scope: scope.into(),
            client_certificate: bytes::Bytes::new(),
        };
        let issued = administration.issue_credential(request).await.map_err(|error| said(&error))?;
        Ok::<_, StageError>(ApiKey::new(issued.into_inner().api_key))
    };
    Ok((issue(v1::CredentialScope::SignIn).await?, issue(v1::CredentialScope::Enrolment).await?))
}

async fn administration(socket: PathBuf) -> Result<AdministrationClient<Channel>, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is for show: the connector knows the way.
    let endpoint = Endpoint::from_static("http://administration");
    Ok(AdministrationClient::new(endpoint.connect_with_connector(connector).await?))
}
