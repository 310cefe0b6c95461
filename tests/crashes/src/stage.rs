//! Broker, push services, and accounts with a phone each: the broker's log on the crash file system, its keys not.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use anyhow::Result;
use countersign_envelope::Algorithm;
use countersign_tests::{Broker, World};
use crashfs::{CrashFs, Options};
use device_sim::{
    phone::{Phone, PushTarget},
    push_services::Service,
};
use tempfile::TempDir;

/// Accounts of the load. Each decides for its own sign-ins one after the other.
const ACCOUNTS: usize = 12;

/// Everything that a round needs.
#[derive(Debug)]
pub struct Stage {
    /// The broker and what is round it.
    pub world: World,
    /// The file system that its log is on.
    pub fs: CrashFs,
    /// The phones, one for each account that is there from the beginning.
    pub phones: Vec<(String, Arc<Phone>)>,
    /// Push targets for the phones of accounts that begin under the load, and for those that get another.
    pub targets: Vec<PushTarget>,
    /// How many such accounts there were.
    pub newcomers: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl Stage {
    /// Makes a stage. All of it is durable.
    pub async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk)?;
        let fs = CrashFs::mount(&disk, Options::default())?;
        // Small segments, so that they are followed by the next and archived all the time, and a small store, so that
        // what is old leaves it; six digits, so that no account runs out of numbers.
        let world = World::with_edited("", |text| {
            text.replace(
                "[log]\nfolder = \"log\"",
                &format!(
                    "[log]\nfolder = \"{}/log\"\nsegment_bytes = 8192\nretention_days = 0\n\
                     retention_entries = 256\narchive_every_s = 1",
                    disk.display()
                ),
            )
            .replace("digits = 2", "digits = 6")
            .replace("waiting_max = 5", "waiting_max = 20")
            .replace("requests_per_5_min = 20", "requests_per_5_min = 1000")
            .replace("filter = \"info\"", "filter = \"warn\"")
        })
        .await?;
        let mut phones = Vec::new();
        for number in 0..ACCOUNTS {
            let account = format!("account-{number}");
            let (service, algorithm) = match number % 2 {
                0 => (Service::Fcm, Algorithm::Ed25519),
                _ => (Service::Apns, Algorithm::Es256),
            };
            let enrolled = world.enrol(&account, service, algorithm).await?;
            phones.push((account, Arc::new(enrolled.phone)));
        }
        let mut targets = Vec::new();
        for _ in 0..2 {
            targets.push(PushTarget::Fcm(world.push.new_target(Service::Fcm, None)?.to_string()));
            targets.push(PushTarget::Apns(world.push.new_target(Service::Apns, None)?.to_string()));
        }
        Ok(Self { world, fs, phones, targets, newcomers: Arc::default(), _folder: folder })
    }

    /// The broker.
    pub fn broker(&mut self) -> &mut Broker {
        &mut self.world.broker
    }

    /// Where sled is.
    pub fn store_folder(&self) -> PathBuf {
        self.fs.dir().join("log/store")
    }

    /// Waits until the file system is frozen, without holding up the load.
    pub fn wait_frozen(&self, patience: Duration) -> Option<crashfs::Frozen> {
        tokio::task::block_in_place(|| self.fs.wait_frozen(patience))
    }
}
