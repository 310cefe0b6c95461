//! Apple Push Notification service: HTTP/2 with token authentication.
//!
//! Sources: Apple, 'Sending notification requests to APNs', 'Establishing a token-based connection to APNs',
//! 'Handling notification responses from APNs'.

mod client;
mod error;
mod settings;
mod token;

use std::sync::Arc;

use countersign_domain::event::PushServiceKind;

pub use self::{
    client::Apns,
    settings::{Endpoint, KeyId, Settings, TeamId, Topic},
};
use super::{
    PushService, Service, SetupError,
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
