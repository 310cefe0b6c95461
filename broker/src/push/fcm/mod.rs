//! Firebase Cloud Messaging: Google's HTTP v1 API.
//!
//! Sources: Google, 'Method: projects.messages.send', 'FCM error codes', 'Best practices when sending FCM messages
//! at scale', 'Using OAuth 2.0 for server to server applications'.

mod client;
mod error;
mod oauth;
mod settings;

use std::sync::Arc;

use countersign_domain::{Timestamp, event::PushServiceKind};
use reqwest::{StatusCode, header::HeaderMap};

pub use self::{
    client::Fcm,
    settings::{ServiceAccount, Settings},
};
use super::{
    Again, Clock, Error, Probe, PushService, Service, SetupError,
    connection::{Connection, Protocol, Recipe},
    same,
};
use crate::live::{self, Fingerprint, Live, Source};
use oauth::AccessTokens;

/// Reads the service account and sets up the connections, which share one access token. Nothing is sent yet.
pub fn connect(settings: &Settings) -> Result<Service, SetupError> {
    connect_live(settings, same(settings))
}

/// The same, with a service account whose key can be replaced: `again` gives the settings as they are then. Of those, only
/// the account's file counts; the account must be of the same project.
pub fn connect_live(settings: &Settings, again: Again<Settings>) -> Result<Service, SetupError> {
    let project_id = ServiceAccount::read(&settings.service_account_file)?.project_id().to_owned();
    let tokens = Arc::new(LiveTokens::read(Credentials::new(&project_id, settings, again)?)?);
    let recipe = Recipe::new(Protocol::Http2, settings.ca_file.as_deref())?;
    let connect = |_| {
        let connection = Connection::new(&recipe)?;
        Ok(Arc::new(Fcm::new(connection, tokens.clone(), &settings.endpoint, &project_id))
            as Arc<dyn PushService>)
    };
    Ok(Service {
        kind: PushServiceKind::Fcm,
        connections: (0..settings.connections.get()).map(connect).collect::<Result<_, SetupError>>()?,
        queue: settings.queue.clone(),
        credentials: Some(tokens),
    })
}

/// The access token that all connections use, of the service account that was read last.
type LiveTokens = Live<Credentials>;

/// Where the service account is.
struct Credentials {
    project_id: String,
    client: reqwest::Client,
    settings: Again<Settings>,
}

impl Credentials {
    fn new(project_id: &str, settings: &Settings, again: Again<Settings>) -> Result<Self, SetupError> {
        // The token endpoint is whoever the service account names: it may not speak HTTP/2.
        let client = Recipe::new(Protocol::Any, settings.ca_file.as_deref())?.client()?;
        Ok(Self { project_id: project_id.to_owned(), client, settings: again })
    }
}

impl Source for Credentials {
    type Made = AccessTokens;
    type Error = SetupError;

    fn section(&self) -> &'static str {
        "push.fcm"
    }

    fn fingerprint(&self) -> Fingerprint {
        match (self.settings)() {
            Err(problem) => live::fingerprint([], &problem),
            Ok(Settings { service_account_file: file, .. }) => {
                live::fingerprint([file.as_path()], &file.display().to_string())
            }
        }
    }

    fn read(&self) -> Result<AccessTokens, SetupError> {
        let file = (self.settings)().map_err(SetupError::configuration)?.service_account_file;
        let account = ServiceAccount::read(&file)?;
        if account.project_id() != self.project_id {
            let problem = "is a service account of another project: start the broker anew to push to that";
            return Err(SetupError::unusable(&file, problem));
        }
        Ok(AccessTokens::new(account, self.client.clone()))
    }
}

/// Asks whether Google is there and takes our credentials: at the token endpoint, then at FCM, which is asked to
/// validate a push to nobody, and not to send it.
pub async fn probe(settings: &Settings, clock: &Clock) -> Result<Probe, SetupError> {
    let account = ServiceAccount::read(&settings.service_account_file)?;
    let (project_id, token_endpoint) = (account.project_id().to_owned(), account.token_uri().to_string());
    let ca_file = settings.ca_file.as_deref();
    let (any, http2) = (Recipe::new(Protocol::Any, ca_file)?, Recipe::new(Protocol::Http2, ca_file)?);
    let credentials = Credentials::new(&project_id, settings, same(settings))?;
    let tokens = Arc::new(LiveTokens::read(credentials)?);
    let fcm = Fcm::new(Connection::new(&http2)?, tokens, &settings.endpoint, &project_id);
    let addresses = [(token_endpoint, &any), (settings.endpoint.to_string(), &http2)];
    Probe::of(addresses, fcm.validate(NOBODY, clock()), clock).await
}

/// What an answer with this status, not 200, means for a push; none if it is offered again with a new access token.
/// For the fuzzer, which meets what Google's servers answer here.
#[doc(hidden)]
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Option<Error> {
    match error::verdict(status, headers, body, now) {
        error::Verdict::Final(error) => Some(error),
        error::Verdict::TokenRefused => None,
    }
}

#[doc(hidden)]
pub use oauth::granted;

/// No registration token.
const NOBODY: &str = "countersign-doctor";
