//! Puts the rooms together, and takes them apart again in the right order.

use std::{sync::Arc, time::Duration};

use countersign_domain::account::Effect;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        auth::Authenticator,
        grpc::{Administration, Services},
        listen::{self, Server, Tls},
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
    log::EventLog,
    projection::Follower,
    push::{self, Pusher, SetupError, apns, fcm},
    signin::{
        SignIn,
        dispatch::{Dispatcher, Reports},
        expiry,
    },
};

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
    pusher: Arc<Pusher<crate::signin::dispatch::Push>>,
    servers: Vec<JoinHandle<()>>,
    follower: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    patience: Duration,
    /// The public address, with the port that was chosen where the configuration leaves it open.
    pub public: std::net::SocketAddr,
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// A push service's settings.
    #[error(transparent)]
    Push(#[from] SetupError),
    /// The log.
    #[error(transparent)]
    Log(#[from] decider::Error),
}

impl Broker {
    /// Starts everything: what was live is taken up, then callers are let in.
    pub async fn start(config: &Config, on: Foundations) -> Result<Self, Error> {
        let stopping = CancellationToken::new();
        let patience = Duration::from_secs(config.limits.drain_s);
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

        let sign_in = SignIn::new(
            accounts,
            models.clone(),
            keys,
            Arc::clone(&entropy),
            Arc::clone(&clock),
            config.approvals.policy(),
            config.limits.live_approvals.get(),
        );
        let (reports, told) = Reports::new(sign_in.clone());
        let pusher = Arc::new(pusher(config, reports, &clock, &entropy)?);
        let (expire, due) = mpsc::channel(EFFECTS_WAITING_MAX);
        let dispatcher = 
            Dispatcher::new(sign_in.clone(), Arc::clone(&pusher), expire.clone(), pushes_max(config));

        let services = Services {
            enrol: Enrol::new(sign_in.clone(), config.public_url.trim_end_matches('/').to_owned()),
            authenticator: Authenticator::new(Arc::clone(&relying_parties), Arc::clone(&models.index)),
            sign_in: sign_in.clone(),
            free_text: config.approvals.free_text,
            stopping: stopping.clone(),
        };
        let administration = Administration {
            relying_parties,
            index: Arc::clone(&models.index),
            log: Arc::clone(&log),
            entropy,
            clock,
            stopping: stopping.clone(),
        };
        // All that can fail has been done before the first caller is let in.
        let tls = config.server.tls.as_ref().map(|tls| listen::tls(&Tls::from(tls))).transpose()?;
        let public = listen::tcp(config.server.listen).await?;
        let address = public.local_addr().unwrap_or(config.server.listen);
        let admin = admin_listener(config).await?;

        let connections = config.limits.connections.get();
        let server = Server::new(services.public().await, connections, stopping.clone());
        let servers = vec![
            tokio::spawn(server.tcp(public, tls, patience)),
            tokio::spawn(admin.serve(administration.router(), stopping.clone(), patience)),
        ];
        let follower = tokio::spawn(async move {
            if let Err(error) = follower.run().await {
                tracing::error!(%error, "the log cannot be followed");
            }
        });
        let others =
            vec![tokio::spawn(dispatcher.run(to_do, told)), tokio::spawn(expiry::run(sign_in, due, expire))];
        Ok(Self { stopping, log, pusher, servers, follower, others, patience, public: address })
    }

    /// Takes no new approvals, tells waiting streams to go on elsewhere, sends what waits to be pushed, and leaves the
    /// log so that the next start knows that nothing is torn.
    pub async fn stop(self) {
        self.stopping.cancel();
        for server in self.servers {
            let _ = server.await;
        }
        let given_up = self.pusher.drain(self.patience).await;
        if given_up > 0 {
            tracing::warn!(
                given_up,
                "pushes were not sent in time; those of approvals that still wait are sent at the next start"
            );
        }
        self.log.close().await;
        let _ = self.follower.await;
        for other in self.others {
            other.abort();
        }
    }
}

/// As many pushes as the queues hold, and no more that have left them and are not recorded.
fn pushes_max(config: &Config) -> usize {
    let apns = config.push.apns.as_ref().map(|apns| apns.queue.capacity);
    let fcm = config.push.fcm.as_ref().map(|fcm| fcm.queue.capacity);
    let capacities = apns.into_iter().chain(fcm).map(|capacity| capacity.get() as usize);
    // Without a push service there is nothing to push to, and that is what is recorded.
    capacities.fold(0, usize::saturating_add).max(1)
}

enum AdminListener {
    Unix(tokio::net::UnixListener, std::path::PathBuf),
    Tcp(tokio::net::TcpListener, tokio_rustls::TlsAcceptor),
}

/// Connections of operators: a handful.
const ADMIN_CONNECTIONS_MAX: usize = 64;

impl AdminListener {
    async fn serve(self, router: axum::Router, stopping: CancellationToken, patience: Duration) {
        let server = Server::new(router, ADMIN_CONNECTIONS_MAX, stopping);
        match self {
            Self::Tcp(listener, tls) => server.tcp(listener, Some(tls), patience).await,
            Self::Unix(listener, path) => {
                server.unix(listener, patience).await;
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

async fn admin_listener(config: &Config) -> Result<AdminListener, listen::Error> {
    match (&config.admin.socket, config.admin.listen, &config.admin.tls) {
        (None, Some(listen), Some(tls)) => {
            Ok(AdminListener::Tcp(listen::tcp(listen).await?, listen::tls(&Tls::from(tls))?))
        }
        (socket, ..) => {
            let path = socket.clone().unwrap_or_default();
            Ok(AdminListener::Unix(listen::unix(&path).await?, path))
        }
    }
}

fn pusher(
    config: &Config,
    reports: Arc<Reports>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Pusher<crate::signin::dispatch::Push>, SetupError> {
    let apns = config.push.apns.as_ref().map(apns::connect).transpose()?;
    let fcm = config.push.fcm.as_ref().map(fcm::connect).transpose()?;
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let reports: Arc<dyn push::Report<_>> = reports;
    let now: push::Clock = Arc::new(move || clock.now());
    let random: push::Random = Arc::new(move || u64::from_be_bytes(entropy.bytes()));
    Ok(Pusher::start(apns.into_iter().chain(fcm), &reports, &now, &random))
}
