//! An APNs and an FCM on this machine, that speak Apple's and Google's documented protocols to whoever believes
//! their certificate, and fail on demand.
//!
//! ```
//! use device_sim::push_services::{Config, Effect, Fault, PushServices, Service};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let services = PushServices::start(Config::new()?).await?;
//! let iphone = services.new_device(Service::Apns)?;
//! println!("push to {}/3/device/{}", services.apns_url(), iphone.target());
//! services.faults().arm(Fault::new(Effect::Status(503)).times(2))?;
//! // Now a provider pushes, and the phone waits: `iphone.next_push().await`.
//! services.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! In the order of a push: `listener` (TCP, TLS) → `apns` or `fcm` → [`faults`] → `devices` and `store` (what
//! a device gets, now or later) → [`tally`] (what was counted and kept for tests). Beside it: [`identity`] (keys and
//! certificate), [`scenario`] (faults from a file), [`control`] (all of it over HTTP).

mod apns;
pub mod control;
mod devices;
pub mod faults;
mod fcm;
pub mod identity;
mod jwt;
mod listener;
pub mod scenario;
mod store;
pub mod tally;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    apns::Apns,
    devices::Registry,
    fcm::{Fcm, TokenEndpoint},
    identity::SavedFiles,
    store::Window,
    tally::{Log, Tally},
};
pub use self::{
    apns::Reason,
    devices::{DeadSince, Death, Device, Push, TargetState, TooManyTargets},
    faults::{ArmedFault, Effect, Fault, FaultId, Faults, Place, TooManyFaults},
    fcm::ErrorCode,
    identity::{Identity, ProviderKey},
    listener::TlsError,
    tally::{Counters, Received},
};
use crate::{
    clock::{Clock, Timestamp},
    entropy::Names,
};

/// FCM's default quota: 'FCM throttling and quotas'.
const QUOTA_PER_MINUTE: u32 = 600_000;
/// How many requests are kept for tests to look at.
const RECEIVED_MAX: usize = 10_000;
/// How long [`PushServices::shutdown`] waits for connections to end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);
/// The app that pushes are for unless a [`Config`] names others.
const APP: &str = "dev.countersign.demo";
/// The Google project unless a [`Config`] has an identity of another.
const PROJECT: &str = "countersign-demo";

/// A push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging.
    Fcm,
}

/// Which of Apple's two APNs is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// `api.sandbox.push.apple.com`, for development: gives `apns-unique-id`.
    Sandbox,
    /// `api.push.apple.com`.
    Production,
}

/// How to start [`PushServices`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where APNs listens. Port 0 takes any free one.
    pub apns_listen: SocketAddr,
    /// Where FCM and its token endpoint listen.
    pub fcm_listen: SocketAddr,
    /// Where the control API listens: a loopback address, since it asks nobody who they are. `None`: nowhere.
    pub control_listen: Option<SocketAddr>,
    /// Which APNs is played.
    pub environment: Environment,
    /// Keys and certificate.
    pub identity: Identity,
    /// Bundle identifiers (iOS) and package name (Android: the first) of the apps that may be pushed to.
    pub apps: Vec<String>,
    /// Faults that are armed from the start.
    pub faults: Vec<Fault>,
    /// The time. The services follow a clock that is moved forward.
    pub clock: Clock,
    /// How many of the latest requests are kept for [`PushServices::received`]. 0 keeps none, and costs nothing.
    pub received_max: usize,
    /// FCM's quota of one project: messages in a minute. `None` takes any number.
    pub fcm_quota_per_minute: Option<u32>,
}

impl Config {
    /// Free ports of the loopback interface, the sandbox, new keys, no control API, no faults.
    pub fn new() -> Result<Self, identity::Error> {
        Ok(Self::with_identity(Identity::generate(PROJECT)?))
    }

    /// The same with keys that exist already.
    pub fn with_identity(identity: Identity) -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            apns_listen: any_port,
            fcm_listen: any_port,
            control_listen: None,
            environment: Environment::Sandbox,
            identity,
            apps: vec![APP.to_owned()],
            faults: Vec::new(),
            clock: Clock::new(),
            received_max: RECEIVED_MAX,
            fcm_quota_per_minute: Some(QUOTA_PER_MINUTE),
        }
    }
}

/// Why the services did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not this machine's.
    #[error(
        "cannot listen on {address} for {what}: {source}; choose another address, or port 0 for any free port"
    )]
    Listen {
        /// Which service.
        what: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The control API would be open to the network.
    #[error(
        "the control API asks nobody who they are: {0} is not a loopback address; take 127.0.0.1 or [::1]"
    )]
    ControlNotLoopback(SocketAddr),
    /// There is no app to push to.
    #[error("no app: Config::apps needs one bundle identifier at least")]
    NoApp,
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Too many faults.
    #[error(transparent)]
    Faults(#[from] TooManyFaults),
}

/// What both services share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    pub(crate) registry: Registry,
    pub(crate) tally: Arc<Tally>,
    pub(crate) log: Log,
    pub(crate) names: Names,
}

/// Both services, running. Dropping it stops them at once; [`PushServices::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct PushServices {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the handle and the control API both know.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Arc<Core>,
    fcm: Arc<Fcm>,
    identity: Identity,
    apps: Vec<String>,
    apns_address: SocketAddr,
    fcm_address: SocketAddr,
    control_address: Option<SocketAddr>,
}

impl PushServices {
    /// Starts both services, and the control API if it is wanted.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let package_name = config.apps.first().ok_or(StartError::NoApp)?.clone();
        if let Some(address) = config.control_listen.filter(|address| !address.ip().is_loopback()) {
            return Err(StartError::ControlNotLoopback(address));
        }
        let (apns_listener, apns_address) = listen("APNs", config.apns_listen).await?;
        let (fcm_listener, fcm_address) = listen("FCM", config.fcm_listen).await?;
        let control = match config.control_listen {
            Some(address) => Some(listen("the control API", address).await?),
            None => None,
        };
        let apns_tls = listener::acceptor(&config.identity.server, &[b"h2"])?;
        let fcm_tls = listener::acceptor(&config.identity.server, &[b"h2", b"http/1.1"])?;

        let tally = Arc::new(Tally::default());
        let core = Arc::new(Core {
            faults: Faults::new(config.clock.clone()),
            registry: Registry::new(config.clock.clone(), Arc::clone(&tally)),
            clock: config.clock,
            tally,
            log: Log::new(config.received_max),
            names: Names::new(),
        });
        for fault in config.faults {
            core.faults.arm(fault)?;
        }
        let apns = Arc::new(Apns {
            core: Arc::clone(&core),
            environment: config.environment,
            keys: config.identity.provider_keys.iter().cloned().map(Arc::new).collect(),
            topics: config.apps.clone(),
        });
        let own_audiences = ["localhost", "127.0.0.1", "[::1]"]
            .map(|host| format!("https://{host}:{}/token", fcm_address.port()))
            .to_vec();
        let quota = config.fcm_quota_per_minute;
        let fcm = Arc::new(Fcm {
            core: Arc::clone(&core),
            tokens: TokenEndpoint::new(config.identity.service_account.clone(), own_audiences),
            package_name,
            quota: quota.map(|max| Mutex::new(Window::new(Duration::from_secs(60), max))),
        });

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(listener::accept(apns_listener, apns_tls, apns, stop.clone(), tasks.clone()));
        tasks.spawn(listener::accept(fcm_listener, fcm_tls, Arc::clone(&fcm), stop.clone(), tasks.clone()));
        let shared = Arc::new(Shared {
            core,
            fcm,
            identity: config.identity,
            apps: config.apps,
            apns_address,
            fcm_address,
            control_address: control.as_ref().map(|(_, address)| *address),
        });
        if let Some((listener, _)) = control {
            tasks.spawn(control::serve(listener, Arc::clone(&shared), stop.clone()));
        }
        Ok(Self { shared, stop, tasks })
    }

    /// Where APNs is, as an URL without a path. Its certificate is good for `localhost`, `127.0.0.1` and `[::1]`.
    pub fn apns_url(&self) -> String {
        self.shared.apns_url()
    }

    /// Where FCM is, as an URL without a path.
    pub fn fcm_url(&self) -> String {
        self.shared.fcm_url()
    }

    /// FCM's token endpoint.
    pub fn token_uri(&self) -> String {
        self.shared.token_uri()
    }

    /// Where the control API is, if it runs.
    pub fn control_url(&self) -> Option<String> {
        self.shared.control_url()
    }

    /// The certificate authority that clients have to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.shared.identity.ca_pem()
    }

    /// The provider key that tokens for APNs are signed with: key id, team id, PEM.
    pub fn provider_key(&self) -> &ProviderKey {
        self.shared.identity.provider_key()
    }

    /// The app that devices are made for unless another is named: the `apns-topic` of pushes.
    pub fn topic(&self) -> &str {
        self.shared.topic()
    }

    /// FCM's project.
    pub fn project_id(&self) -> &str {
        &self.shared.identity.service_account.project_id
    }

    /// The service account that FCM knows, as Google's console gives it; its `token_uri` is [`Self::token_uri`].
    pub fn service_account_json(&self) -> String {
        self.shared.identity.service_account.json(&self.token_uri())
    }

    /// The sections of a broker's configuration, TOML, that lead here instead of to Apple and Google. The files are
    /// those of [`Identity::save`].
    pub fn broker_configuration(&self, files: &SavedFiles) -> String {
        let text = |text: &str| toml::Value::from(text);
        let path = |path: &Path| toml::Value::from(path.display().to_string());
        format!(
            "[push.apns]\nendpoint = {}\ntopic = {}\nkey_file = {}\nkey_id = {}\nteam_id = {}\nca_file = {ca}\n\n\
             [push.fcm]\nendpoint = {}\nservice_account_file = {}\nca_file = {ca}\n",
            text(&self.apns_url()),
            text(self.topic()),
            path(&files.p8),
            text(self.provider_key().key_id()),
            text(self.provider_key().team_id()),
            text(&self.fcm_url()),
            path(&files.service_account),
            ca = path(&files.ca),
        )
    }

    /// Makes a push target with a device that is connected. Dropping the device takes it offline.
    pub fn new_device(&self, service: Service) -> Result<Device, TooManyTargets> {
        let target = self.shared.register(service, None)?;
        Ok(self.shared.core.registry.connect(target))
    }

    /// Makes a push target whose device is away. `app` is a bundle identifier (APNs) or a project (FCM); `None` takes
    /// the ones that may be pushed to.
    pub fn new_target(&self, service: Service, app: Option<&str>) -> Result<Arc<str>, TooManyTargets> {
        Ok(Arc::clone(&self.shared.register(service, app)?.token))
    }

    /// Makes a push target of an earlier run again; its device is away.
    pub fn restore_target(
        &self,
        service: Service,
        app: Option<&str>,
        target: &str,
    ) -> Result<(), TooManyTargets> {
        let app = app.unwrap_or_else(|| self.shared.app_of(service));
        self.shared.core.registry.restore(service, app, target).map(|_| ())
    }

    /// Connects the device of a target: it gets what waited, then what comes. `None` if there is no such target. A
    /// connection that the device had before ends.
    pub fn connect(&self, target: &str) -> Option<Device> {
        let target = self.shared.core.registry.find(target)?;
        Some(self.shared.core.registry.connect(target))
    }

    /// Makes a target dead, as when its app is removed; whether there is such a target.
    pub fn kill(&self, target: &str, death: Death) -> bool {
        self.shared.kill(target, death)
    }

    /// What a target looks like.
    pub fn target(&self, target: &str) -> Option<TargetState> {
        Some(self.shared.core.registry.find(target)?.state())
    }

    /// The faults that are armed, and the way to arm more.
    pub fn faults(&self) -> &Faults {
        &self.shared.core.faults
    }

    /// The latest requests for pushes, refused ones included, the oldest first.
    pub fn received(&self) -> Vec<Arc<Received>> {
        self.shared.core.log.latest()
    }

    /// How often what happened.
    pub fn counters(&self) -> Counters {
        self.shared.core.tally.counters()
    }

    /// The clock that the services go by.
    pub fn clock(&self) -> &Clock {
        &self.shared.core.clock
    }

    /// A provider token that is good now, for trying by hand; a provider makes its own.
    pub fn provider_token(&self) -> String {
        self.shared.provider_token()
    }

    /// Tells clients that the services go away (APNs: GOAWAY, `Shutdown`), and ends within seconds.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(SHUTDOWN_MAX, self.tasks.wait()).await;
    }
}

impl Drop for PushServices {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn apns_url(&self) -> String {
        url(self.apns_address)
    }

    fn fcm_url(&self) -> String {
        url(self.fcm_address)
    }

    fn token_uri(&self) -> String {
        self.fcm_url() + "/token"
    }

    fn control_url(&self) -> Option<String> {
        self.control_address.map(|address| format!("http://{address}"))
    }

    fn topic(&self) -> &str {
        &self.apps[0]
    }

    fn app_of(&self, service: Service) -> &str {
        match service {
            Service::Apns => self.topic(),
            Service::Fcm => &self.identity.service_account.project_id,
        }
    }

    fn register(&self, service: Service, app: Option<&str>) -> Result<Arc<devices::Target>, TooManyTargets> {
        self.core.registry.register(service, app.unwrap_or_else(|| self.app_of(service)))
    }

    fn kill(&self, target: &str, death: Death) -> bool {
        let found = self.core.registry.find(target);
        if let Some(target) = &found {
            target.kill(death, self.now());
        }
        found.is_some()
    }

    fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    fn provider_token(&self) -> String {
        self.identity.provider_key().token(self.now())
    }

    fn access_token(&self) -> String {
        self.fcm.tokens.access_token(true, self.now().plus(Duration::from_secs(3600)))
    }
}

/// `localhost` for the loopback interface of IPv4, since some clients know no certificates for addresses.
fn url(address: SocketAddr) -> String {
    if address.ip() == Ipv4Addr::LOCALHOST || address.ip().is_unspecified() {
        format!("https://localhost:{}", address.port())
    } else {
        format!("https://{address}")
    }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
