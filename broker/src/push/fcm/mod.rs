//! Firebase Cloud Messaging: Google's HTTP v1 API.
//!
//! Sources: Google, 'Method: projects.messages.send', 'FCM error codes', 'Best practices when sending FCM messages
//! at scale', 'Using OAuth 2.0 for server to server applications'.

mod client;
mod error;
mod oauth;
mod settings;

use std::sync::Arc;

use countersign_domain::event::PushServiceKind;

pub use self::{
    client::Fcm,
    settings::{ServiceAccount, Settings},
};
use super::{
    PushService, Service, SetupError,
    connection::{Connection, Protocol, Recipe},
};
use oauth::AccessTokens;

/// Reads the service account and sets up the connections, which share one access token. Nothing is sent yet.
pub fn connect(settings: &Settings) -> Result<Service, SetupError> {
    let account = ServiceAccount::read(&settings.service_account_file)?;
    let project_id = account.project_id().to_owned();
    let ca_file = settings.ca_file.as_deref();
    // The token endpoint is whoever the service account names: it may not speak HTTP/2.
    let client = Recipe::new(Protocol::Any, ca_file)?.client()?;
    let tokens = Arc::new(AccessTokens::new(account, client));
    let recipe = Recipe::new(Protocol::Http2, ca_file)?;
    let connect = |_| {
        let connection = Connection::new(&recipe)?;
        Ok(Arc::new(Fcm::new(connection, tokens.clone(), &settings.endpoint, &project_id))
            as Arc<dyn PushService>)
    };
    Ok(Service {
        kind: PushServiceKind::Fcm,
        connections: (0..settings.connections.get()).map(connect).collect::<Result<_, SetupError>>()?,
        queue: settings.queue.clone(),
    })
}
