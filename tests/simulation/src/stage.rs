//! What all who take part share, and outlives each of them: the disk, the keys, the clock, what pages show.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign::{
    config::Config,
    decider::{Decider, codec::AccountCodec},
    keys::{Keys, folder},
    log::{Crash, MemoryLog},
    projection::Index,
};
use tokio::sync::watch;

use crate::{
    chance::{Chance, SeededEntropy},
    clock::SimClock,
    ledger::Ledger,
    mutation::{Captured, Mutation},
    push::Post,
    witness::Witness,
};

/// The broker's name in the network.
pub(crate) const BROKER: &str = "broker";
pub(crate) const REALM: &str = "example.org";
pub(crate) const APPLICATION: &str = "Webmail";

/// See above.
pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) config: Config,
    pub(crate) witness: Witness,
    pub(crate) post: Arc<Post>,
    pub(crate) captured: Captured,
    log: Mutex<MemoryLog>,
    /// How often a broker has started.
    starts: AtomicUsize,
    credentials: watch::Sender<Option<Credentials>>,
    /// The number of each approval, as its page shows it.
    pages: Mutex<BTreeMap<String, String>>,
    enrolled: AtomicUsize,
    begun: AtomicBool,
    served: Mutex<Option<Served>>,
}

/// What the broker that runs knows.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) accounts: Arc<Decider<AccountCodec>>,
    pub(crate) index: Arc<Index>,
}

/// What a relying party calls with.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) sign_in: String,
    pub(crate) enrolment: String,
}

impl Stage {
    pub(crate) fn set(seed: u64, mutation: Option<Mutation>) -> anyhow::Result<Arc<Self>> {
        let (keys, config) = keys_and_configuration(seed)?;
        let keys = Arc::new(keys);
        let flush_time = Chance::of("the disk", seed).millis(2..=200);
        let log = MemoryLog::with_flush_time(flush_time);
        let entropy = Arc::new(SeededEntropy::of("the witness", seed));
        let clock: Arc<SimClock> = Arc::default();
        let codec = AccountCodec::new(Arc::clone(&keys), entropy);
        let witness = Witness::new(Ledger::new(codec, Arc::clone(&keys), Arc::clone(&clock)), log.clone());
        Ok(Arc::new(Self {
            seed,
            mutation,
            post: Post::new(seed, witness.clone(), mutation),
            keys,
            clock,
            config,
            witness,
            captured: Captured::default(),
            log: Mutex::new(log),
            starts: AtomicUsize::new(0),
            credentials: watch::Sender::new(None),
            pages: Mutex::default(),
            enrolled: AtomicUsize::new(0),
            begun: AtomicBool::new(false),
            served: Mutex::default(),
        }))
    }

    pub(crate) fn log(&self) -> MemoryLog {
        lock(&self.log).clone()
    }

    /// The machine of the broker has crashed: this is its disk now.
    pub(crate) fn crash_log(&self, crash: Crash) {
        let mut log = lock(&self.log);
        *log = log.crash(crash);
        self.witness.look_at(log.clone());
    }

    pub(crate) fn next_start(&self) -> usize {
        self.starts.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn issue(&self, credentials: Credentials) {
        self.credentials.send_replace(Some(credentials));
    }

    pub(crate) async fn credentials(&self) -> Credentials {
        let mut there = self.credentials.subscribe();
        let there = there.wait_for(Option::is_some).await.expect("the stage has the other end");
        there.clone().expect("it was waited for")
    }

    pub(crate) fn show(&self, approval: &str, number: &str) {
        lock(&self.pages).insert(approval.to_owned(), number.to_owned());
    }

    /// The number that a person sees, if the page has it.
    pub(crate) fn seen(&self, approval: &str) -> Option<String> {
        lock(&self.pages).get(approval).cloned()
    }

    pub(crate) fn has_enrolled(&self) {
        self.enrolled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn enrolled(&self) -> usize {
        self.enrolled.load(Ordering::Relaxed)
    }

    /// Everybody is enrolled: people sign in from now on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn serves(&self, accounts: Arc<Decider<AccountCodec>>, index: Arc<Index>) {
        *lock(&self.served) = Some(Served { accounts, index });
    }

    pub(crate) fn served(&self) -> Option<Served> {
        lock(&self.served).clone()
    }
}

/// A pause in somebody's life.
pub(crate) async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both come from files. They are gone when they are read.
fn keys_and_configuration(seed: u64) -> anyhow::Result<(Keys, Config)> {
    let memory = std::path::Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("countersign-simulation-{}-{seed}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let made = (|| {
        folder::create(&folder.join("keys"), &SeededEntropy::of("the keys", seed))?;
        let file = folder.join("countersign.toml");
        std::fs::write(&file, CONFIGURATION)?;
        Ok((folder::load(&folder.join("keys"))?, Config::load(&file)?))
    })();
    let _ = std::fs::remove_dir_all(&folder);
    made
}

/// Six digits: see `BrokerEntropy`. Nothing listens there: the network is simulated.
const CONFIGURATION: &str = "
    public_url = 'http://broker:8443'
    server.listen = '127.0.0.1:0'
    admin.socket = 'admin.sock'
    keys.folder = 'keys'
    log.folder = 'log'
    approvals.digits = 6
";
