//! Puts the rooms together, and takes them apart again in the right order.

mod archiver;
mod seen;
pub mod setup;

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use countersign_domain::{AccountId, account::Effect};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinSet, unconstrained},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        auth::Authenticator,
        grpc::{Administration, Services},
        http::metrics_router,
        listen::{self, Server},
        tls::LiveTls,
    },
    clock::Clock,
    config::Config,
    decider::{
        self, Decider,
        codec::{AccountCodec, RelyingPartyCodec},
    },
    enrol::Enrol,
    entropy::Entropy,
    keys::Keys,
    live::{AllLive, Reload, Reloaded},
    log::{EventLog, ReadError},
    projection::Follower,
    push::{self, Pusher},
    rates::Rates,
    shares::Pool,
    signin::{
        SignIn,
        dispatch::{Dispatcher, Push, Reports},
        expiry::{self, Alarm},
    },
    telemetry::metrics::labels::Listener,
};

use archiver::Archiver;
use setup::{Edge, Ports};

/// What waits to be done about events: beyond that the follower waits, and with it those whom it would wake.
const EFFECTS_WAITING_MAX: usize = 65_536;

/// Relying parties are few, and asked for at every call.
const RELYING_PARTIES_CACHED: usize = 4_096;

/// What the broker runs on: the real ones, or those of a test.
#[derive(Debug, Clone)]
pub struct Foundations {
    /// The log, open.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<Keys>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    stopping: CancellationToken,
    log: Arc<dyn EventLog>,
    pusher: Arc<Pusher<Push>>,
    servers: Tasks<Infallible>,
    workers: Tasks<ReadError>,
    follower: AbortHandle,
    patience: Duration,
    live: AllLive,
    /// The public address, with the port that was chosen where the configuration leaves it open.
    pub public: std::net::SocketAddr,
}

/// A broker without its doors: the services that callers reach through them, and the work that goes on behind. What a
/// simulation runs, too, with doors of its own.
#[derive(Debug)]
pub struct Assembled {
    /// For login servers, phones and enrolling pages.
    pub services: Services,
    /// For operators.
    pub administration: Administration,
    /// The accounts as the services see them.
    pub accounts: Arc<Decider<AccountCodec>>,
    /// What follows the log.
    pub work: Work,
}

/// The tasks of a broker that nobody has called yet.
#[derive(Debug)]
pub struct Work {
    follower: Follower,
    dispatcher: Dispatcher,
    to_do: mpsc::Receiver<(AccountId, Effect)>,
    told: mpsc::UnboundedReceiver<(Push, push::Outcome)>,
    due: mpsc::Receiver<Alarm>,
    sign_in: SignIn,
    pusher: Arc<Pusher<Push>>,
}

/// The tasks of a broker, at work. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    tasks: Tasks<ReadError>,
    follower: AbortHandle,
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// What the configuration names.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] decider::Error),
}

/// Why a broker does not go on by itself: somebody who waits at a login would wait in vain.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Nobody is told any more what happens.
    #[error("the log cannot be followed: {0}")]
    Unfollowed(ReadError),
    /// A mistake in the program.
    #[error("{task}: {problem}")]
    Panicked {
        /// What it did.
        task: &'static str,
        /// What it said.
        problem: String,
    },
    /// What should go on as long as the broker does has come to its end.
    #[error("the broker's tasks have ended")]
    Finished,
}

/// Tasks that go on as long as the broker does, each with its name.
#[derive(Debug)]
struct Tasks<E> {
    running: JoinSet<Result<(), E>>,
    names: HashMap<Id, &'static str>,
}

impl Broker {
    /// Reads what the configuration names, and starts everything.
    pub async fn start(config: &Config, on: Foundations) -> Result<Self, Error> {
        let edge = Edge::read(config)?;
        Self::start_at(config, on, edge, Ports::take(config).await?).await
    }

    /// Starts everything: what was live is taken up, then callers are let in.
    pub async fn start_at(config: &Config, on: Foundations, edge: Edge, ports: Ports) -> Result<Self, Error> {
        let stopping = CancellationToken::new();
        let patience = Duration::from_secs(config.limits.drain_s);
        let tls = [&edge.tls, &edge.admin_tls].into_iter().flatten();
        let tls = tls.map(|tls| Arc::clone(tls) as Arc<dyn Reload>);
        let credentials = edge.push.iter().filter_map(|service| service.credentials.clone());
        let live = AllLive::new(tls.chain(credentials));
        let (log, clock) = (Arc::clone(&on.log), Arc::clone(&on.clock));
        let Assembled { services, administration, work, .. } =
            Assembled::new(config, on, edge.push, live.clone(), stopping.clone()).await?;
        let pusher = Arc::clone(&work.pusher);
        let look = seen::look(config, &services.sign_in.models.index, &pusher);
        let admission = Arc::clone(&services.admission);
        // All that can fail has been done before the first caller is let in.
        let limits = config.limits.of_listener();
        let few = listen::Limits { connections: FEW_CONNECTIONS, ..limits };
        let admin = admin_listener(config, ports.admin, edge.admin_tls).await?;
        let metrics = ports.metrics.map(|port| listen::listen(port, "metrics.listen")).transpose()?;
        let public = listen::listen(ports.public, "server.listen")?;
        let address = public.local_addr().unwrap_or(config.server.listen);

        let server = Server::new(services.public().await, limits, Listener::Public, stopping.clone());
        let admin_server = Server::new(administration.router(), few, Listener::Admin, stopping.clone());
        let mut servers = Tasks::default();
        servers.spawn("the public listener", going_on(server.tcp(public, edge.tls, patience)));
        servers.spawn("the listener of administration", going_on(admin.serve(admin_server, patience)));
        if let Some(metrics) = metrics {
            let server = Server::new(metrics_router(look), few, Listener::Metrics, stopping.clone());
            servers.spawn("the listener of metrics", going_on(server.tcp(metrics, None, patience)));
        }
        servers.spawn("the watch over files that may change", going_on(live.clone().watch(stopping.clone())));
        let Workers { tasks: mut workers, follower } = work.begin();
        workers.spawn("the door for new work", going_on(admission.watch(stopping.clone())));
        let archiver = Archiver::new(Arc::clone(&log), clock, config.log.retention());
        let every = Duration::from_secs(config.log.archive_every_s);
        workers.spawn("the archiver of the log", going_on(archiver.run(every)));
        Ok(Self { stopping, log, pusher, servers, workers, follower, patience, live, public: address })
    }

    /// Waits until the broker does not go on any more, and says why. It should be stopped then.
    pub async fn ended(&mut self) -> Ended {
        tokio::select! {
            why = self.workers.ended() => why.unwrap_or_else(Ended::Unfollowed),
            why = self.servers.ended() => why.unwrap_or_else(|never| match never {}),
        }
    }

    /// Reads certificates, their keys, authorities of clients and push services' credentials again, if their files have
    /// changed: each section of the configuration that names some, and what came of it.
    pub async fn reload(&self) -> Vec<(&'static str, Reloaded)> {
        self.live.reload().await
    }

    /// Takes no new approvals, tells waiting streams to go on elsewhere, sends what waits to be pushed, and leaves the
    /// log so that the next start knows that nothing is torn.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        while self.servers.running.join_next().await.is_some() {}
        let given_up = self.pusher.drain(self.patience).await;
        if given_up > 0 {
            tracing::warn!(
                given_up,
                "pushes were not sent in time; those of approvals that still wait, or ended lately, are sent at the next start"
            );
        }
        self.log.close().await;
        // It keeps what it knows. The others end with the broker.
        while !self.follower.is_finished() && self.workers.running.join_next().await.is_some() {}
    }
}

impl Assembled {
    /// Puts the rooms together on these foundations, and takes up what was live. Nobody is let in yet, and nothing is
    /// pushed: that begins with [`Work::begin`].
    pub async fn new(
        config: &Config,
        on: Foundations,
        push: Vec<push::Service>,
        live: AllLive,
        stopping: CancellationToken,
    ) -> Result<Self, decider::Error> {
        let Foundations { log, keys, clock, entropy } = on;
        let accounts = Arc::new(Decider::new(
            Arc::clone(&log),
            Arc::clone(&clock),
            AccountCodec::new(Arc::clone(&keys), Arc::clone(&entropy)),
            config.limits.cached_accounts,
        ));
        let relying_parties = Arc::new(Decider::new(
            Arc::clone(&log),
            Arc::clone(&clock),
            RelyingPartyCodec,
            RELYING_PARTIES_CACHED.try_into().expect("not zero"),
        ));
        let (effects, to_do) = mpsc::channel::<(_, Effect)>(EFFECTS_WAITING_MAX);
        let (follower, models) = Follower::catch_up(
            Arc::clone(&log),
            Arc::clone(&accounts),
            Arc::clone(&relying_parties),
            effects,
        )
        .await?;

        let rates = Arc::new(Rates::new(config.limits.of_calls(), &clock));
        let sign_in = SignIn::new(
            Arc::clone(&accounts),
            models.clone(),
            keys,
            Arc::clone(&entropy),
            Arc::clone(&clock),
            config.approvals.policy(),
            config.limits.of_approvals(),
        )
        .limited(Arc::clone(&rates));
        let (reports, told) = Reports::new(sign_in.clone());
        let pushes_max = pushes_max(&push);
        let pusher = Arc::new(pusher(push, reports, &clock, &entropy));
        let (expire, due) = mpsc::channel(EFFECTS_WAITING_MAX);
        let dispatcher = Dispatcher::new(sign_in.clone(), Arc::clone(&pusher), expire, pushes_max);

        let services = Services {
            enrol: Enrol::new(sign_in.clone(), config.public_url.trim_end_matches('/').to_owned()),
            authenticator: Authenticator::new(Arc::clone(&relying_parties), Arc::clone(&models.index)),
            sign_in: sign_in.clone(),
            admission: Arc::new(config.limits.admission()),
            rates,
            waiting: Pool::of(config.limits.of_waiting()),
            free_text: config.approvals.free_text,
            stopping: stopping.clone(),
        };
        let administration = Administration {
            live,
            relying_parties,
            index: Arc::clone(&models.index),
            log,
            entropy,
            clock,
            issuing: Arc::default(),
            retention: config.log.retention(),
            stopping,
        };
        let work = Work { follower, dispatcher, to_do, told, due, sign_in, pusher };
        Ok(Self { services, administration, accounts, work })
    }
}

impl Work {
    /// Follows the log, pushes and expires from now on.
    pub fn begin(self) -> Workers {
        let Self { follower, dispatcher, to_do, told, due, sign_in, .. } = self;
        let mut tasks = Tasks::default();
        // Everybody waits for what these two do: they go on as long as there is something to do, and do not stand behind
        // the thousands that each do a little.
        let follower = tasks.spawn("the follower of the log", unconstrained(follower.run()));
        tasks.spawn("the dispatcher of pushes", going_on(unconstrained(dispatcher.run(to_do, told))));
        tasks.spawn("the expiry", going_on(expiry::run(sign_in, due, expiry::CONCURRENT_MAX)));
        Workers { tasks, follower }
    }
}

impl Workers {
    /// Waits until one of them does not go on, and says why.
    pub async fn ended(&mut self) -> Ended {
        self.tasks.ended().await.unwrap_or_else(Ended::Unfollowed)
    }
}

impl<E: Send + 'static> Tasks<E> {
    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> AbortHandle {
        let task = self.running.spawn(task);
        self.names.insert(task.id(), name);
        task
    }

    /// Waits for the first that fails. One that ends without a word ended because another did, which is waited for.
    async fn ended(&mut self) -> Result<Ended, E> {
        while let Some(ended) = self.running.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(error) => {
                    let task = self.names.get(&error.id()).copied().unwrap_or_default();
                    return Ok(Ended::Panicked { task, problem: error.to_string() });
                }
            }
        }
        Ok(Ended::Finished)
    }
}

impl<E: 'static> Default for Tasks<E> {
    fn default() -> Self {
        Self { running: JoinSet::new(), names: HashMap::new() }
    }
}

/// A task that cannot fail.
async fn going_on<E>(task: impl Future<Output = ()>) -> Result<(), E> {
    task.await;
    Ok(())
}

/// As many pushes as the queues hold, and no more that have left them and are not recorded.
fn pushes_max(services: &[push::Service]) -> usize {
    let capacities = services.iter().map(|service| service.queue.capacity.get() as usize);
    // Without a push service there is nothing to push to, and that is what is recorded.
    capacities.fold(0, usize::saturating_add).max(1)
}

enum AdminListener {
    Unix(tokio::net::UnixListener, std::path::PathBuf),
    Tcp(tokio::net::TcpListener, Arc<LiveTls>),
}

/// Connections of operators, and of what asks for metrics: a handful.
const FEW_CONNECTIONS: usize = 64;

impl AdminListener {
    async fn serve(self, server: Server<axum::Router>, patience: Duration) {
        match self {
            Self::Tcp(listener, tls) => server.tcp(listener, Some(tls), patience).await,
            Self::Unix(listener, path) => {
                server.unix(listener, patience).await;
                listen::remove_socket(&path);
            }
        }
    }
}

async fn admin_listener(
    config: &Config,
    port: Option<tokio::net::TcpSocket>,
    tls: Option<Arc<LiveTls>>,
) -> Result<AdminListener, listen::Error> {
    if let (Some(port), Some(tls)) = (port, tls) {
        return Ok(AdminListener::Tcp(listen::listen(port, "admin.listen")?, tls));
    }
    let path = config.admin.socket.clone().unwrap_or_default();
    Ok(AdminListener::Unix(listen::unix(&path).await?, path))
}

fn pusher(
    services: Vec<push::Service>,
    reports: Arc<Reports>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Pusher<Push> {
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let reports: Arc<dyn push::Report<_>> = reports;
    let now: push::Clock = Arc::new(move || clock.now());
    let random: push::Random = Arc::new(move || u64::from_be_bytes(entropy.bytes()));
    Pusher::start(services, &reports, &now, &random)
}

#[cfg(test)]
mod tests;
