//! Apple Push Notification service: HTTP/2 with token authentication.
//!
//! Sources: Apple, 'Sending notification requests to APNs', 'Establishing a token-based connection to APNs',
//! 'Handling notification responses from APNs'.

mod client;
mod error;
mod settings;
mod token;

use std::{sync::Arc, time::Duration};

use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use reqwest::{StatusCode, header::HeaderMap};

pub use self::{
    client::Apns,
    settings::{Endpoint, KeyId, Settings, TeamId, Topic},
};
use super::{
    Again, Clock, Error, Probe, PushKind, PushMessage, PushService, Service, SetupError,
    connection::{Connection, Protocol, Recipe},
    same,
};
use crate::live::{self, Fingerprint, Live, Source};
use token::ProviderTokens;

/// Reads the key and sets up the connections, which share one provider token. Nothing is sent yet.
pub fn connect(settings: &Settings) -> Result<Service, SetupError> {
    connect_live(settings, same(settings))
}

/// The same, with a key that can be replaced: `again` gives the settings as they are then, since another key has another
/// id. Of those, only key, key id and team count.
pub fn connect_live(settings: &Settings, again: Again<Settings>) -> Result<Service, SetupError> {
    let tokens = Arc::new(LiveTokens::read(Credentials { settings: again })?);
    let recipe = Recipe::new(Protocol::Http2, settings.ca_file.as_deref())?;
    let connect = |_| {
        let connection = Connection::new(&recipe)?;
        Ok(Arc::new(Apns::new(connection, tokens.clone(), settings)) as Arc<dyn PushService>)
    };
    Ok(Service {
        kind: PushServiceKind::Apns,
        connections: (0..settings.connections.get()).map(connect).collect::<Result<_, SetupError>>()?,
        queue: settings.queue.clone(),
        credentials: Some(tokens),
    })
}

/// The provider token that all connections use, of the key that was read last.
type LiveTokens = Live<Credentials>;

/// Where the key is, and what Apple knows it by.
struct Credentials {
    settings: Again<Settings>,
}

impl Source for Credentials {
    type Made = ProviderTokens;
    type Error = SetupError;

    fn section(&self) -> &'static str {
        "push.apns"
    }

    fn fingerprint(&self) -> Fingerprint {
        match (self.settings)() {
            Err(problem) => live::fingerprint([], &problem),
            Ok(Settings { key_file, key_id, team_id, .. }) => {
                let named = format!("{} {} {}", key_file.display(), key_id.as_str(), team_id.as_str());
                live::fingerprint([key_file.as_path()], &named)
            }
        }
    }

    fn read(&self) -> Result<ProviderTokens, SetupError> {
        ProviderTokens::new(&(self.settings)().map_err(SetupError::configuration)?)
    }
}

/// Asks whether Apple is there and takes our credentials. Apple looks at the provider token first; that the topic is
/// the app's shows only with a phone's device token.
pub async fn probe(settings: &Settings, clock: &Clock) -> Result<Probe, SetupError> {
    let now = clock();
    let tokens = Arc::new(LiveTokens::read(Credentials { settings: same(settings) })?);
    let recipe = Recipe::new(Protocol::Http2, settings.ca_file.as_deref())?;
    let apns = Apns::new(Connection::new(&recipe)?, tokens, settings);
    let nobody = PushTarget::recorded(PushServiceKind::Apns, NOBODY);
    let message = PushMessage {
        kind: PushKind::Notice,
        id: "countersign-doctor".to_owned(),
        authenticator_id: String::new(),
        expires_at: now.plus(Duration::from_secs(60)),
        acknowledgement_token: String::new(),
        nonce: String::new(),
    };
    let address = settings.endpoint.address().to_owned();
    Probe::of([(address, &recipe)], apns.send(&nobody, &message, now), clock).await
}

/// What an answer with this status, not 200, means for a push; none if it is offered again with a new provider token.
/// For the fuzzer, which meets what Apple's servers answer here.
#[doc(hidden)]
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Option<Error> {
    match error::verdict(status, headers, body, now) {
        error::Verdict::Final(error) => Some(error),
        error::Verdict::TokenExpired => None,
    }
}

/// A device token of the right form that APNs has given to no phone.
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
