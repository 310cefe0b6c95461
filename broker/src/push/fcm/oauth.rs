//! Access tokens for FCM: an assertion signed with the service account's key, exchanged at its token endpoint
//! (RFC 7523 section 2.1).

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_domain::Timestamp;
use jsonwebtoken::{Algorithm, Header};
use reqwest::{
    Client, StatusCode,
    header::{HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize};

use super::settings::ServiceAccount;
use crate::{
    push::{
        Error,
        connection::{Unanswered, body, printable, unanswered},
        payload::seconds,
        retry::{is_recent, retry_after},
    },
    telemetry::metrics::{
        labels::{Renewed, Service},
        metrics,
    },
};

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Google takes no longer one.
const ASSERTION_LIFE_SECONDS: u64 = 60 * 60;
/// A new token is asked for so long before the old one ends; meanwhile the old one is used.
const RENEWED_AHEAD: Duration = Duration::from_secs(5 * 60);
/// An old token is used until shortly before its end, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// Tokens that FCM refuses are replaced, but no more often than this: then it is not the token.
const REPLACED_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// A token that is said to live for less is used for so long all the same, or each push would ask for another.
const LIFE_MIN: Duration = Duration::from_secs(60);
/// The token endpoint is left alone so long after a failure, if it does not say how long.
const PAUSE: Duration = Duration::from_secs(2);
/// The same after a refusal, which an operator must mend first.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// An exchange takes no longer, so that an attempt to push is not used up by it.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(8);
/// Error codes are single words; a longer one is cut.
const CODE_BYTES_MAX: usize = 64;

/// The access token that all connections use.
pub(super) struct AccessTokens {
    account: ServiceAccount,
    client: Client,
    current: Mutex<Option<Current>>,
    /// Held during an exchange, so that one is under way at a time.
    exchanges: Arc<tokio::sync::Mutex<Exchanges>>,
}

/// What is remembered of exchanges.
#[derive(Default)]
struct Exchanges {
    /// What the last one failed with, and until when that holds.
    failure: Option<Failure>,
    /// When a token was last replaced because FCM did not take it.
    replaced_at: Option<Timestamp>,
}

#[derive(Clone)]
struct Current {
    bearer: HeaderValue,
    issued_at: Timestamp,
    life: Duration,
}

struct Failure {
    error: Error,
    at: Timestamp,
    pause: Duration,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Serialize)]
struct Form<'a> {
    grant_type: &'a str,
    assertion: &'a str,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
struct Denied {
    error: String,
}

impl AccessTokens {
    pub(super) fn new(account: ServiceAccount, client: Client) -> Self {
        Self { account, client, current: Mutex::new(None), exchanges: Arc::default() }
    }

    /// The token to use now. While one is still good, nobody waits for the next.
    pub(super) async fn current(self: &Arc<Self>, now: Timestamp) -> Result<HeaderValue, Error> {
        if let Some(current) = self.usable(now) {
            if current.is_due(now) {
                self.renew_meanwhile(now);
            }
            return Ok(current.bearer);
        }
        let mut exchanges = self.exchanges.lock().await;
        match self.usable(now) {
            Some(current) => Ok(current.bearer),
            None => self.renew(&mut exchanges, now).await,
        }
    }

    /// Renews the token in a task of its own, unless that is under way, or failed a moment ago.
    fn renew_meanwhile(self: &Arc<Self>, now: Timestamp) {
        let Ok(mut exchanges) = Arc::clone(&self.exchanges).try_lock_owned() else { return };
        if exchanges.failure.as_ref().is_some_and(|failure| failure.holds(now)) {
            return;
        }
        let tokens = Arc::clone(self);
        tokio::spawn(async move {
            let was_in_order = exchanges.failure.is_none();
            if let Err(error) = tokens.renew(&mut exchanges, now).await
                && was_in_order
            {
                tracing::warn!(%error, "the FCM access token cannot be renewed; it is still good for minutes");
            }
        });
    }

    /// The token to use after FCM did not take `used`: one that was made since, or a new one, unless one was
    /// replaced for the same reason a moment ago.
    pub(super) async fn after_refused(
        &self,
        used: &HeaderValue,
        now: Timestamp,
    ) -> Result<HeaderValue, Error> {
        let mut exchanges = self.exchanges.lock().await;
        let current = self.lock().clone();
        if let Some(current) = current.filter(|current| current.bearer != used) {
            return Ok(current.bearer);
        }
        if exchanges.replaced_at.is_some_and(|at| is_recent(at, REPLACED_AT_MOST_EVERY, now)) {
            return Err(token_not_taken());
        }
        *self.lock() = None;
        exchanges.replaced_at = Some(now);
        self.renew(&mut exchanges, now).await
    }

    /// Exchanges an assertion for a token, unless an exchange failed a moment ago.
    async fn renew(&self, exchanges: &mut Exchanges, now: Timestamp) -> Result<HeaderValue, Error> {
        if let Some(failure) = exchanges.failure.as_ref().filter(|failure| failure.holds(now)) {
            return Err(failure.again(now));
        }
        match self.exchange(now).await {
            Ok(current) => {
                tracing::debug!("new FCM access token");
                metrics().push.tokens.count((Service::Fcm, Renewed::Made));
                exchanges.failure = None;
                let bearer = current.bearer.clone();
                *self.lock() = Some(current);
                Ok(bearer)
            }
            Err(error) => {
                metrics().push.tokens.count((Service::Fcm, Renewed::Failed));
                let pause = match &error {
                    Error::Retry { after, .. } => after.unwrap_or(PAUSE),
                    _ => PAUSE_AFTER_REFUSAL,
                };
                exchanges.failure = Some(Failure { error: error.clone(), at: now, pause });
                Err(error)
            }
        }
    }

    async fn exchange(&self, now: Timestamp) -> Result<Current, Error> {
        let form = Form { grant_type: GRANT_TYPE, assertion: &self.assertion(now)? };
        let request = self.client.post(self.account.token_uri().url().clone());
        let answer = request.form(&form).timeout(EXCHANGE_TIMEOUT).send().await;
        let response = answer.map_err(|error| unreachable(unanswered(error)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body(response).await.map_err(unreachable)?;
        let (bearer, life) = granted(status, &headers, &body, now)?;
        Ok(Current { bearer, issued_at: now, life })
    }

    /// Audience and issuer as Google asks: the token endpoint's address as the file spells it, and the account.
    fn assertion(&self, now: Timestamp) -> Result<String, Error> {
        let iat = seconds(now);
        let claims = Claims {
            iss: self.account.client_email(),
            scope: SCOPE,
            aud: self.account.audience(),
            iat,
            exp: iat + ASSERTION_LIFE_SECONDS,
        };
        let mut header = Header::new(Algorithm::RS256);
        header.kid = self.account.private_key_id().map(ToOwned::to_owned);
        jsonwebtoken::encode(&header, &claims, self.account.key()).map_err(|_| Error::Refused {
            reason: "no access token: the service account's key does not sign".to_owned(),
        })
    }

    fn usable(&self, now: Timestamp) -> Option<Current> {
        self.lock().clone().filter(|current| current.is_usable(now))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn is_usable(&self, now: Timestamp) -> bool {
        is_recent(self.issued_at, self.life.saturating_sub(MARGIN), now)
    }

    /// A token of a short life is renewed at the middle of it.
    fn is_due(&self, now: Timestamp) -> bool {
        let ahead = RENEWED_AHEAD.min(self.life / 2);
        !is_recent(self.issued_at, self.life.saturating_sub(ahead), now)
    }
}

impl Failure {
    fn holds(&self, now: Timestamp) -> bool {
        is_recent(self.at, self.pause, now)
    }

    /// What the failure means for a push at `now`.
    fn again(&self, now: Timestamp) -> Error {
        match &self.error {
            Error::Retry { reason, .. } => {
                let left = self.pause.saturating_sub(self.at.until(now));
                Error::Retry { reason: reason.clone(), after: Some(left) }
            }
            error => error.clone(),
        }
    }
}

/// What the token endpoint's answer grants: the value of the header `Authorization`, and for how long it is good.
pub fn granted(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(HeaderValue, Duration), Error> {
    if status == StatusCode::OK {
        let refused = |reason: &str| Error::Refused { reason: reason.to_owned() };
        let granted: Granted = serde_json::from_slice(body)
            .map_err(|_| refused("the token endpoint answered something else than an access token"))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", granted.access_token))
            .map_err(|_| refused("the token endpoint answered a token that fits no header"))?;
        bearer.set_sensitive(true);
        return Ok((bearer, Duration::from_secs(granted.expires_in).max(LIFE_MIN)));
    }
    let code = serde_json::from_slice(body)
        .map_or_else(|_| status.as_u16().to_string(), |Denied { error }| printable(&error, CODE_BYTES_MAX));
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Err(Error::Retry {
            reason: format!("no access token: {code}"),
            after: retry_after(headers, now),
        });
    }
    Err(Error::Refused {
        reason: format!(
            "no access token: {code}: check the service account, its key, and this machine's clock"
        ),
    })
}

/// FCM does not take a new token either.
pub(super) fn token_not_taken() -> Error {
    Error::Refused {
        reason: "UNAUTHENTICATED: for a new access token: may the service account send messages?".to_owned(),
    }
}

/// The token endpoint's silence says nothing about the connection to FCM.
fn unreachable(Unanswered(reason): Unanswered) -> Error {
    Error::Retry { reason: format!("no access token: {reason}"), after: None }
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokens").field("account", &self.account).finish_non_exhaustive()
    }
}
