//! `countersign serve`: the broker, until it is told to stop, or cannot go on.

use std::{io::Write as _, sync::Arc};

use anyhow::{Context as _, bail};
use countersign::{
    broker::{
        Broker, Ended, Foundations,
        setup::{Ports, Setup},
    },
    clock::SystemClock,
    config::Config,
    entropy::{Entropy, OsEntropy},
    keys::{self, Keys},
    log::{EventLog, Fault, LocalLog, LogConfig},
    telemetry::{
        self,
        traces::{self, Traces},
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::open_files;
use crate::ConfigFile;

pub(crate) async fn run(file: &ConfigFile) -> anyhow::Result<()> {
    let mut config = file.load()?;
    let traces = config.traces.as_ref().map(Traces::new).transpose()?;
    telemetry::start(&config.telemetry, traces);
    open_files::fit(&mut config.limits)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    // Whatever is wrong with the configuration is found before the log is touched.
    let Setup { keys, edge } = Setup::read(&config)?;
    let ports = Ports::take(&config).await?;
    let foundations = tokio::select! {
        started = on_keys(&config, keys) => started.map_err(|error| super::log::with_hint(error, file))?,
        // A rebuild of the store can take minutes. Nothing that is durable is lost by not waiting for it.
        _ = terminate.recv() => std::process::exit(0),
        _ = interrupt.recv() => std::process::exit(0),
    };
    let log = Arc::clone(&foundations.log);
    let mut broker = Broker::start_at(&config, foundations, edge, ports).await?;
    if config.push.apns.is_none() && config.push.fcm.is_none() {
        tracing::info!("no push service is configured: phones must ask for what waits");
    }
    announce(&config, &broker);

    let why = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break Why::Told,
            _ = interrupt.recv() => break Why::Told,
            // With the log everything else ends: this is the reason.
            fault = log.stopped() => break Why::LogStopped(fault),
            ended = broker.ended() => break Why::BrokerEnded(ended),
            _ = hangup.recv() => reload(&broker).await,
        }
    };
    let ended = end(broker, why).await;
    traces::end().await;
    ended
}

async fn end(broker: Broker, why: Why) -> anyhow::Result<()> {
    match why {
        Why::Told => {
            tracing::info!("stopping");
            broker.stop().await;
            tracing::info!("stopped");
            Ok(())
        }
        // Nothing more can be acknowledged, and only a new start finds out what is on disk: no goodbyes.
        Why::LogStopped(fault) => {
            bail!("the log can acknowledge nothing more: {fault}; start again when the cause is mended")
        }
        Why::BrokerEnded(ended) => {
            tracing::error!(%ended, "stopping: nobody would be told any more what happens");
            broker.stop().await;
            bail!("{ended}; what is acknowledged is in the log: start again")
        }
    }
}

/// What has changed is said where it is read.
async fn reload(broker: &Broker) {
    if broker.reload().await.is_empty() {
        tracing::info!(
            "SIGHUP reads TLS and push services' keys again, and there are none: the configuration is read at a start alone"
        );
    }
}

/// Why the broker ends.
enum Why {
    Told,
    LogStopped(Fault),
    BrokerEnded(Ended),
}

/// Keys and log, which belong together.
pub(crate) async fn foundations(config: &Config) -> anyhow::Result<Foundations> {
    let keys = keys::folder::load(&config.keys.folder)?;
    on_keys(config, keys).await
}

/// The log as it is configured.
pub(crate) fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        segment_bytes: config.log.segment_bytes,
        store_entries: config.log.retention_entries,
        ..LogConfig::new(&config.log.folder)
    }
}

async fn on_keys(config: &Config, keys: Keys) -> anyhow::Result<Foundations> {
    let log_config = log_config(config);
    let new_id = (&OsEntropy as &dyn Entropy).bytes();
    let log = tokio::task::spawn_blocking(move || LocalLog::open(&log_config, new_id))
        .await?
        .context("the log does not start")?;
    let log: Arc<dyn EventLog> = Arc::new(log);
    keys::identity::introduce(&*log, &keys, &SystemClock).await?;
    Ok(Foundations { log, keys: Arc::new(keys), clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) })
}

/// One line on standard output for whoever started us: from now on callers are let in.
fn announce(config: &Config, broker: &Broker) {
    let at = if broker.public.ip().is_unspecified() {
        // Nobody can call 0.0.0.0.
        format!("{} on {}", config.public_url, broker.public)
    } else {
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", broker.public)
    };
    // Whoever has closed standard output does not want to know.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "countersign serves {at}");
    let _ = stdout.flush();
}
