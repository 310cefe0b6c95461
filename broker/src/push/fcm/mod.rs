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
    Clock, Probe, PushService, Service, SetupError,
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

/// Asks whether Google is there and takes our credentials: at the token endpoint, then at FCM, which is asked to
/// validate a push to nobody, and not to send it.
pub async fn probe(settings: &Settings, clock: &Clock) -> Result<Probe, SetupError> {
    let account = ServiceAccount::read(&settings.service_account_file)?;
    let (project_id, token_endpoint) = (account.project_id().to_owned(), account.token_uri().to_string());
    let ca_file = settings.ca_file.as_deref();
    let (any, http2) = (Recipe::new(Protocol::Any, ca_file)?, Recipe::new(Protocol::Http2, ca_file)?);
    let tokens = Arc::new(AccessTokens::new(account, any.client()?));
    let fcm = Fcm::new(Connection::new(&http2)?, tokens, &settings.endpoint, &project_id);
    let addresses = [(token_endpoint, &any), (settings.endpoint.to_string(), &http2)];
    Probe::of(addresses, fcm.validate(NOBODY, clock()), clock).await
}

/// No registration token.
const NOBODY: &str = "countersign-doctor";
