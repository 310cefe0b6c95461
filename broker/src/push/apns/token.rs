//! Provider tokens: what a connection to APNs shows instead of a certificate.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use countersign_domain::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::HeaderValue;
use serde::Serialize;

use super::settings::Settings;
use crate::{
    push::{
        Error,
        payload::seconds,
        retry::is_recent,
        settings::{SetupError, read_key_file},
    },
    telemetry::metrics::{
        labels::{Renewed, Service},
        metrics,
    },
};

/// Apple refuses a token that is an hour old.
const RENEWED_AT_AGE: Duration = Duration::from_secs(40 * 60);
/// Apple refuses a provider who makes tokens more often than this.
const RENEWED_AT_MOST_EVERY: Duration = Duration::from_secs(20 * 60);

/// Makes provider tokens, one for all connections.
pub(super) struct ProviderTokens {
    key: EncodingKey,
    header: Header,
    team_id: String,
    current: Mutex<Option<Current>>,
}

struct Current {
    bearer: HeaderValue,
    issued_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

impl ProviderTokens {
    /// Reads the key, and signs once with it, so that a key that cannot sign is found now.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let file = &settings.key_file;
        let pem = read_key_file(file)?;
        let not_a_key = || {
            SetupError::unusable(
                file,
                "holds no private key of APNs: it should be the .p8 file from the developer account \
                 (-----BEGIN PRIVATE KEY-----, a P-256 key)",
            )
        };
        let key = EncodingKey::from_ec_pem(&pem).map_err(|_| not_a_key())?;
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(settings.key_id.as_str().to_owned());
        let tokens =
            Self { key, header, team_id: settings.team_id.as_str().to_owned(), current: Mutex::new(None) };
        tokens.sign(Timestamp::default()).map_err(|_| not_a_key())?;
        Ok(tokens)
    }

    /// The token to use now: the one that all connections use, or a new one if that is 40 minutes old.
    pub(super) fn current(&self, now: Timestamp) -> Result<HeaderValue, Error> {
        let mut current = self.lock();
        match &*current {
            Some(current) if is_recent(current.issued_at, RENEWED_AT_AGE, now) => Ok(current.bearer.clone()),
            _ => self.renew(&mut current, now),
        }
    }

    /// The token to use after Apple called `used` expired: the one that was made since, or a new one, unless Apple
    /// does not allow another yet.
    pub(super) fn after_expired(&self, used: &HeaderValue, now: Timestamp) -> Result<HeaderValue, Error> {
        let mut current = self.lock();
        match &*current {
            Some(current) if current.bearer != used => Ok(current.bearer.clone()),
            Some(current) if is_recent(current.issued_at, RENEWED_AT_MOST_EVERY, now) => {
                Err(expired_too_early())
            }
            _ => self.renew(&mut current, now),
        }
    }

    fn renew(&self, current: &mut Option<Current>, now: Timestamp) -> Result<HeaderValue, Error> {
        let signed = self.sign(now);
        let result = if signed.is_ok() { Renewed::Made } else { Renewed::Failed };
        metrics().push.tokens.count((Service::Apns, result));
        let bearer =
            signed.map_err(|reason| Error::Refused { reason: format!("no provider token: {reason}") })?;
        tracing::debug!("new APNs provider token");
        *current = Some(Current { bearer: bearer.clone(), issued_at: now });
        Ok(bearer)
    }

    fn sign(&self, now: Timestamp) -> Result<HeaderValue, &'static str> {
        let claims = Claims { iss: &self.team_id, iat: seconds(now) };
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| "the key does not sign")?;
        let mut bearer =
            HeaderValue::try_from(format!("bearer {token}")).map_err(|_| "the token is no header value")?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Apple calls a token expired that is not. Another may not be made yet, so all that is left is to try again: it may
/// be one server's clock that is wrong. If it is this machine's, somebody must be told.
pub(super) fn expired_too_early() -> Error {
    let reason = "ExpiredProviderToken: for a new provider token: check this machine's clock".to_owned();
    Error::Retry { reason, after: None }
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderTokens")
            .field("team_id", &self.team_id)
            .field("key_id", &self.header.kid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use device_sim::push_services::ProviderKey;
    use serde_json::Value;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn tokens() -> ProviderTokens {
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("key.p8");
        let key = ProviderKey::generate("TEAM456789").unwrap();
        std::fs::write(&key_file, key.p8_pem()).unwrap();
        let settings = toml::from_str(&format!(
            "topic = 'org.example'\nkey_file = {key_file:?}\nkey_id = 'KEY1234567'\nteam_id = 'TEAM456789'"
        ));
        ProviderTokens::new(&settings.unwrap()).unwrap()
    }

    fn after(minutes: u64) -> Timestamp {
        START.plus(Duration::from_secs(minutes * 60))
    }

    #[test]
    fn a_token_says_who_and_when_and_nothing_else() {
        let bearer = tokens().current(START).unwrap();
        let token = bearer.to_str().unwrap().strip_prefix("bearer ").unwrap();
        let part = |index| -> Value {
            let part = token.split('.').nth(index).unwrap();
            serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
        };
        assert_eq!(part(0), serde_json::json!({"alg": "ES256", "kid": "KEY1234567"}));
        assert_eq!(part(1), serde_json::json!({"iss": "TEAM456789", "iat": 1_700_000_000}));
    }

    #[test]
    fn a_token_is_used_for_forty_minutes() {
        let tokens = tokens();
        let first = tokens.current(START).unwrap();
        for minute in 0..40 {
            assert_eq!(tokens.current(after(minute)).unwrap(), first, "{minute}");
        }
        let second = tokens.current(after(40)).unwrap();
        assert_ne!(second, first);
        assert_eq!(tokens.current(after(79)).unwrap(), second);
        assert_ne!(tokens.current(after(80)).unwrap(), second);
    }

    #[test]
    fn an_expired_token_is_renewed_by_the_first_who_says_so() {
        let tokens = tokens();
        let first = tokens.current(START).unwrap();
        let renewed: HashSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| tokens.after_expired(&first, after(20)).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().to_str().unwrap().to_owned()).collect()
        });
        assert_eq!(renewed.len(), 1);
        assert!(!renewed.contains(first.to_str().unwrap()));
    }

    #[test]
    fn no_two_tokens_are_made_within_twenty_minutes() {
        let tokens = tokens();
        let first = tokens.current(START).unwrap();
        assert_eq!(tokens.after_expired(&first, after(19)), Err(expired_too_early()));
        assert_eq!(tokens.current(after(19)).unwrap(), first);
        let second = tokens.after_expired(&first, after(20)).unwrap();
        assert_eq!(tokens.after_expired(&second, after(39)), Err(expired_too_early()));
        assert_eq!(tokens.current(after(39)).unwrap(), second);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_a_new_token() {
        let tokens = tokens();
        let first = tokens.current(after(60)).unwrap();
        let moment_before = after(60).minus(Duration::from_secs(1));
        assert_eq!(tokens.current(moment_before).unwrap(), first, "pushes do not come in order");
        assert_ne!(tokens.current(START).unwrap(), first);
    }

    #[test]
    fn neither_key_nor_token_is_shown() {
        let tokens = tokens();
        let bearer = tokens.current(START).unwrap();
        let shown = format!("{tokens:?} {bearer:?}");
        assert!(shown.contains("KEY1234567") && shown.contains("Sensitive"), "{shown}");
        assert!(!shown.contains("eyJ"), "{shown}");
    }
}
