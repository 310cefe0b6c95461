//! The clients of APNs and FCM against the simulated services, over real sockets and TLS. What happens in the queue
//! alone is tested there, on paused time.

mod apns;
mod fcm;
mod hostile;
mod pusher;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use device_sim::push_services::{self, Config, Identity, PushServices};
use tempfile::TempDir;

use super::{Clock, PushKind, PushMessage, Random, apns as apns_client, fcm as fcm_client};

/// Making an RSA key takes a while: all tests are pushed to by the same account.
static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate("countersign-test").unwrap());

/// Both simulated services, and the files that a provider needs.
struct Simulated {
    services: PushServices,
    folder: TempDir,
    files: push_services::identity::SavedFiles,
}

impl Simulated {
    async fn start() -> Self {
        let services = PushServices::start(Config::with_identity(IDENTITY.clone())).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = IDENTITY.save(&folder.path().join("push"), &services.token_uri()).unwrap();
        Self { services, folder, files }
    }

    /// The section `[push.apns]` as an operator would write it, with `more`.
    fn apns(&self, more: &str) -> apns_client::Settings {
        let key = self.services.provider_key();
        toml::from_str(&format!(
            "endpoint = {:?}\ntopic = {:?}\nkey_file = {:?}\nkey_id = {:?}\nteam_id = {:?}\nca_file = {:?}\n{more}",
            self.services.apns_url(),
            self.services.topic(),
            self.files.p8,
            key.key_id(),
            key.team_id(),
            self.files.ca,
        ))
        .unwrap()
    }

    /// The section `[push.fcm]`.
    fn fcm(&self, more: &str) -> fcm_client::Settings {
        toml::from_str(&format!(
            "endpoint = {:?}\nservice_account_file = {:?}\nca_file = {:?}\n{more}",
            self.services.fcm_url(),
            self.files.service_account,
            self.files.ca,
        ))
        .unwrap()
    }

    /// What the services' clock shows.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.services.clock().now().millis())
    }

    /// The services' clock, for a pusher.
    fn clock(&self) -> Clock {
        let clock = self.services.clock().clone();
        Arc::new(move || Timestamp::from_millis(clock.now().millis()))
    }
}

/// A target that the simulated service knows.
fn target(kind: PushServiceKind, token: &str) -> PushTarget {
    PushTarget::recorded(kind, token)
}

/// A message with as much in each field as there ever is, good for a minute.
fn message(kind: PushKind, now: Timestamp) -> PushMessage {
    PushMessage {
        kind,
        id: "0123456789abcdefghjkmnpqrstvwxyz0123456789abcdefghjk".to_owned(),
        authenticator_id: "0123456789abcdefghjkmnpqrstvwxyz0123456".to_owned(),
        expires_at: now.plus(Duration::from_secs(60)),
        acknowledgement_token: "A".repeat(86),
        nonce: "B".repeat(43),
    }
}

/// Jitter that is always the longest, so that a retry never comes at once.
fn no_luck() -> Random {
    Arc::new(|| u64::MAX)
}

/// The longest that a test waits for something that should happen at once.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("in time")
}
