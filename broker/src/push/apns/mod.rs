//! Apple Push Notification service: HTTP/2 with token authentication.
//!
//! Sources: Apple, 'Sending notification requests to APNs', 'Establishing a token-based connection to APNs',
//! 'Handling notification responses from APNs'.

mod client;
mod error;
mod settings;
mod token;

use std::{sync::Arc, time::Duration};

use countersign_domain::event::{PushServiceKind, PushTarget};

pub use self::{
    client::Apns,
    settings::{Endpoint, KeyId, Settings, TeamId, Topic},
};
use super::{
    Clock, Probe, PushKind, PushMessage, PushService, Service, SetupError,
    connection::{Connection, Protocol, Recipe},
};
use token::ProviderTokens;

/// Reads the key and sets up the connections, which share one provider token. Nothing is sent yet.
pub fn connect(settings: &Settings) -> Result<Service, SetupError> {
    let tokens = Arc::new(ProviderTokens::new(settings)?);
    let recipe = Recipe::new(Protocol::Http2, settings.ca_file.as_deref())?;
    let connect = |_| {
        let connection = Connection::new(&recipe)?;
        Ok(Arc::new(Apns::new(connection, tokens.clone(), settings)) as Arc<dyn PushService>)
    };
    Ok(Service {
        kind: PushServiceKind::Apns,
        connections: (0..settings.connections.get()).map(connect).collect::<Result<_, SetupError>>()?,
        queue: settings.queue.clone(),
    })
}

/// Asks whether Apple is there and takes our credentials. Apple looks at the provider token first; that the topic is
/// the app's shows only with a phone's device token.
pub async fn probe(settings: &Settings, clock: &Clock) -> Result<Probe, SetupError> {
    let now = clock();
    let tokens = Arc::new(ProviderTokens::new(settings)?);
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

/// A device token of the right form that APNs has given to no phone.
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
