//! The broker at an earlier time: in this process, on the stopped broker's own files, port and socket, by a clock that
//! is behind. What takes ten minutes, or a day, has then happened by the time that the program starts.

use std::{sync::Arc, time::Duration};

use countersign::{
    broker::{self, Foundations},
    clock::{Clock, SystemClock},
    config::Config,
    entropy::OsEntropy,
    keys,
    log::{EventLog, LocalLog, LogConfig},
};
use countersign_domain::Timestamp;
use countersign_tests::{Broker, Result};

/// A broker that runs in the past.
#[derive(Debug)]
pub(crate) struct Past(broker::Broker);

#[derive(Debug)]
struct Behind(Duration);

impl Clock for Behind {
    fn now(&self) -> Timestamp {
        SystemClock.now().minus(self.0)
    }
}

impl Past {
    /// Starts what `stopped` would be, so long ago.
    pub(crate) async fn start(stopped: &Broker, ago: Duration) -> Result<Self> {
        let config = Config::load(&stopped.config_file())?;
        let keys = keys::folder::load(&config.keys.folder)?;
        let clock = Arc::new(Behind(ago));
        let log: Arc<dyn EventLog> = Arc::new(open_log(stopped)?);
        keys::identity::introduce(&*log, &keys, &*clock).await?;
        let entropy = Arc::new(OsEntropy);
        Ok(Self(
            broker::Broker::start(&config, Foundations { log, keys: Arc::new(keys), clock, entropy }).await?,
        ))
    }

    /// Stops it: the program may be started.
    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }
}

/// The log of a broker that does not run.
pub(crate) fn open_log(stopped: &Broker) -> Result<LocalLog> {
    let config = Config::load(&stopped.config_file())?;
    let config = LogConfig { segment_bytes: config.log.segment_bytes, ..LogConfig::new(&config.log.folder) };
    Ok(LocalLog::open(&config, [0; 16])?)
}
