//! One connection to APNs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use countersign_envelope::sha256;
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    LiveTokens,
    error::{Verdict, verdict},
    settings::Settings,
    token::{ProviderTokens, expired_too_early},
};
use crate::push::{
    Accepted, Error, PushMessage, PushService,
    connection::{Connection, body, printable},
    payload,
};

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");
const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");

/// At once, with sound and light.
const PRIORITY_NOW: HeaderValue = HeaderValue::from_static("10");
/// When it suits the phone's battery.
const PRIORITY_POWER: HeaderValue = HeaderValue::from_static("5");

/// Longer than any device token that APNs has given out: what a path may hold.
const DEVICE_TOKEN_CHARACTERS_MAX: usize = 512;
/// A UUID is shorter.
const PUSH_ID_BYTES_MAX: usize = 64;
/// Apple's limit.
const COLLAPSE_ID_BYTES_MAX: usize = 64;

/// One connection to APNs.
pub struct Apns {
    connection: Connection,
    tokens: Arc<LiveTokens>,
    /// Those that this connection has shown.
    shown: Mutex<Arc<ProviderTokens>>,
    /// Where device tokens are put behind: `https://<host>/3/device/`.
    devices: String,
    topic: HeaderValue,
}

impl Apns {
    pub(super) fn new(connection: Connection, tokens: Arc<LiveTokens>, settings: &Settings) -> Self {
        let topic = HeaderValue::from_str(settings.topic.as_str())
            .expect("a topic has letters, digits, dots and hyphens only");
        let devices = format!("{}/3/device/", settings.endpoint.address());
        let shown = Mutex::new(tokens.current());
        Self { connection, tokens, shown, devices, topic }
    }

    /// Tokens of the key that was read last. Apple takes a new token on a connection every 20 minutes only, whatever key
    /// it is of: a connection that has shown another key's is left.
    fn tokens(&self) -> Arc<ProviderTokens> {
        let tokens = self.tokens.current();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&shown, &tokens) {
            self.connection.leave();
            *shown = Arc::clone(&tokens);
        }
        tokens
    }

    fn url(&self, target: &PushTarget) -> Result<Url, Error> {
        let token = target.token();
        let fits = target.service() == PushServiceKind::Apns
            && (1..=DEVICE_TOKEN_CHARACTERS_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !fits {
            return Err(Error::Refused { reason: "the target is no APNs device token".to_owned() });
        }
        Url::parse(&format!("{}{token}", self.devices))
            .map_err(|_| Error::Refused { reason: "the endpoint is no address".to_owned() })
    }

    fn headers(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        bearer: &HeaderValue,
    ) -> Result<HeaderMap, Error> {
        if message.id.is_empty() || message.id.len() > COLLAPSE_ID_BYTES_MAX {
            return Err(Error::Refused { reason: "the id is not 1 to 64 bytes long".to_owned() });
        }
        let priority = if message.kind.is_urgent() { PRIORITY_NOW } else { PRIORITY_POWER };
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(AUTHORIZATION, bearer.clone());
        headers.insert(APNS_TOPIC, self.topic.clone());
        headers.insert(APNS_PUSH_TYPE, HeaderValue::from_static("alert"));
        headers.insert(APNS_PRIORITY, priority);
        headers.insert(APNS_EXPIRATION, once(&payload::seconds(message.expires_at).to_string())?);
        headers.insert(APNS_COLLAPSE_ID, once(&message.id)?);
        headers.insert(APNS_ID, once(&apns_id(target, message))?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(headers)
    }

    /// Offers the push with this provider token.
    async fn offer(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        bearer: &HeaderValue,
        now: Timestamp,
    ) -> Result<Accepted, Verdict> {
        let url = self.url(target)?;
        let headers = self.headers(target, message, bearer)?;
        let response = self.connection.post(url, headers, payload::apns(message)).await?;
        let status = response.status();
        if status == StatusCode::OK {
            let id = response.headers().get(APNS_ID).and_then(|id| id.to_str().ok());
            return Ok(Accepted { push_id: printable(id.unwrap_or_default(), PUSH_ID_BYTES_MAX) });
        }
        let headers = response.headers().clone();
        let body = body(response).await?;
        Err(verdict(status, &headers, &body, now))
    }
}

#[async_trait]
impl PushService for Apns {
    async fn send(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        now: Timestamp,
    ) -> Result<Accepted, Error> {
        let tokens = self.tokens();
        let bearer = tokens.current(now)?;
        let answer = match self.offer(target, message, &bearer, now).await {
            Err(Verdict::TokenExpired) => {
                let renewed = tokens.after_expired(&bearer, now)?;
                self.offer(target, message, &renewed, now).await
            }
            answer => answer,
        };
        answer.map_err(|verdict| match verdict {
            Verdict::Final(error) => error,
            Verdict::TokenExpired => expired_too_early(),
        })
    }
}

impl fmt::Debug for Apns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apns")
            .field("devices", &self.devices)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// The value of a header that no other request has: not worth a place in HTTP/2's table of headers.
fn once(value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::Refused { reason: "the id is not visible ASCII".to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The name of a push at APNs: the same for all attempts at one, so that they can be told from others in Apple's
/// console. A UUID of a hash (RFC 9562 section 5.8), in lower case as Apple asks.
fn apns_id(target: &PushTarget, message: &PushMessage) -> String {
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(message.kind.as_str().as_bytes());
    for part in [&message.id, &message.authenticator_id] {
        text.push(0);
        text.extend_from_slice(part.as_bytes());
    }
    text.push(0);
    text.extend_from_slice(target.token().as_bytes());
    let [mut bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = sha256(&text);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
