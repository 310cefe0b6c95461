//! Provider tokens: who may push over a connection.
//!
//! Source: Apple, 'Establishing a token-based connection to APNs'.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
use http::{HeaderMap, HeaderValue, header};

use super::reply::Reason;
use crate::{
    clock::Timestamp,
    push_services::{
        Environment,
        identity::{KeyScope, ProviderKey},
        jwt::Unverified,
    },
};

/// A token older than this is refused; one from further ahead than this as well.
const AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// A connection takes a new token once in this time.
const RENEWAL_MIN: Duration = Duration::from_secs(20 * 60);

/// What one connection remembers of the tokens that came over it.
#[derive(Debug)]
pub(crate) struct ConnectionAuth {
    environment: Environment,
    /// The key of the first push that had a valid token: it binds the connection to its team.
    bound_to: Option<Arc<ProviderKey>>,
    current: Option<CurrentToken>,
}

/// The token that was last found good; the same one again costs no signature check.
#[derive(Debug)]
struct CurrentToken {
    authorization: HeaderValue,
    key: Arc<ProviderKey>,
    issued_at: Timestamp,
    taken_up_at: Timestamp,
}

impl ConnectionAuth {
    pub(crate) fn new(environment: Environment) -> Self {
        Self { environment, bound_to: None, current: None }
    }

    /// Whether a valid token has been seen, so that more than one stream is allowed.
    pub(crate) fn is_established(&self) -> bool {
        self.bound_to.is_some()
    }

    /// Checks a request's token against `keys` and against what this connection has seen before; gives the key
    /// that signed it.
    pub(crate) fn authorize(
        &mut self,
        headers: &HeaderMap,
        keys: &[Arc<ProviderKey>],
        now: Timestamp,
    ) -> Result<Arc<ProviderKey>, Reason> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = given.next().ok_or(Reason::MissingProviderToken)?;
        if given.next().is_some() {
            return Err(Reason::DuplicateHeaders);
        }
        if let Some(current) = self.current.as_ref().filter(|current| current.authorization == authorization)
        {
            check_age(current.issued_at, now)?;
            return Ok(Arc::clone(&current.key));
        }

        let token = bearer(authorization).ok_or(Reason::MissingProviderToken)?;
        let (key, issued_at) = verify(token, keys)?;
        check_age(issued_at, now)?;
        self.check_binding(&key)?;
        if let Some(current) = &self.current
            && now.since(current.taken_up_at) < RENEWAL_MIN
        {
            return Err(Reason::TooManyProviderTokenUpdates);
        }

        self.bound_to.get_or_insert_with(|| Arc::clone(&key));
        let mut authorization = authorization.clone();
        authorization.set_sensitive(true);
        self.current =
            Some(CurrentToken { authorization, key: Arc::clone(&key), issued_at, taken_up_at: now });
        Ok(key)
    }

    /// 'Team and bundle ID mapping': what the connection's first push decides for the later ones. Apple does not
    /// say which reason another team's token gets; `Forbidden` is the only one that fits.
    fn check_binding(&self, key: &ProviderKey) -> Result<(), Reason> {
        if key.environment.is_some_and(|only| only != self.environment) {
            return Err(Reason::BadEnvironmentKeyIdInToken);
        }
        let Some(first) = &self.bound_to else { return Ok(()) };
        if first.team_id != key.team_id {
            return Err(Reason::Forbidden);
        }
        let related = match (&first.scope, &key.scope) {
            (KeyScope::Team, KeyScope::Team) => true,
            (KeyScope::Topics { related: from_first, .. }, KeyScope::Topics { related: from_key, .. }) => {
                first.key_id == key.key_id
                    || from_first.as_ref() == Some(&key.key_id)
                    || from_key.as_ref() == Some(&first.key_id)
            }
            _ => false,
        };
        if related { Ok(()) } else { Err(Reason::UnrelatedKeyIdInToken) }
    }
}

/// The token of `bearer <token>`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Finds the key by `kid`, then checks signature, `iss` and `iat`.
fn verify(token: &str, keys: &[Arc<ProviderKey>]) -> Result<(Arc<ProviderKey>, Timestamp), Reason> {
    let token = Unverified::parse(token).ok_or(Reason::InvalidProviderToken)?;
    let key = token
        .header("kid")
        .and_then(|kid| keys.iter().find(|key| key.key_id == kid))
        .ok_or(Reason::InvalidProviderToken)?;
    if !token.verify("ES256", &ECDSA_P256_SHA256_FIXED, &key.public_key)
        || token.claim("iss") != Some(&key.team_id)
    {
        return Err(Reason::InvalidProviderToken);
    }
    let issued_at = token.seconds("iat").ok_or(Reason::InvalidProviderToken)?;
    Ok((Arc::clone(key), Timestamp::from_seconds(issued_at)))
}

/// 'The value must be no more than one hour from the current time': the past has a reason of its own.
fn check_age(issued_at: Timestamp, now: Timestamp) -> Result<(), Reason> {
    if now.since(issued_at) > AGE_MAX {
        Err(Reason::ExpiredProviderToken)
    } else if issued_at.since(now) > AGE_MAX {
        Err(Reason::InvalidProviderToken)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn key(team_id: &str) -> ProviderKey {
        ProviderKey::generate(team_id).expect("a key")
    }

    fn headers(key: &ProviderKey, issued_at: Timestamp) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let authorization = format!("bearer {}", key.token(issued_at));
        headers.insert(header::AUTHORIZATION, authorization.parse().expect("ASCII"));
        headers
    }

    fn reason(result: Result<Arc<ProviderKey>, Reason>) -> Option<Reason> {
        result.err()
    }

    #[test]
    fn a_token_is_good_for_an_hour_and_no_longer() {
        let keys = [Arc::new(key("TEAM"))];
        let headers = headers(&keys[0], NOW);
        let mut auth = ConnectionAuth::new(Environment::Sandbox);
        assert_eq!(reason(auth.authorize(&headers, &keys, NOW)), None);
        assert_eq!(reason(auth.authorize(&headers, &keys, NOW.plus(60 * MINUTE))), None);
        assert_eq!(
            reason(auth.authorize(&headers, &keys, NOW.plus(61 * MINUTE))),
            Some(Reason::ExpiredProviderToken)
        );
        assert_eq!(
            reason(ConnectionAuth::new(Environment::Sandbox).authorize(
                &headers,
                &keys,
                NOW.plus(61 * MINUTE)
            )),
            Some(Reason::ExpiredProviderToken),
            "on a new connection too"
        );
    }

    #[test]
    fn a_token_from_more_than_an_hour_ahead_is_invalid() {
        let keys = [Arc::new(key("TEAM"))];
        let mut auth = ConnectionAuth::new(Environment::Sandbox);
        let ahead = headers(&keys[0], NOW.plus(61 * MINUTE));
        assert_eq!(reason(auth.authorize(&ahead, &keys, NOW)), Some(Reason::InvalidProviderToken));
    }

    #[test]
    fn a_connection_takes_a_new_token_once_in_twenty_minutes() {
        let keys = [Arc::new(key("TEAM"))];
        let mut auth = ConnectionAuth::new(Environment::Sandbox);
        assert_eq!(reason(auth.authorize(&headers(&keys[0], NOW), &keys, NOW)), None);
        let soon = NOW.plus(19 * MINUTE);
        assert_eq!(
            reason(auth.authorize(&headers(&keys[0], soon), &keys, soon)),
            Some(Reason::TooManyProviderTokenUpdates)
        );
        let later = NOW.plus(20 * MINUTE);
        assert_eq!(reason(auth.authorize(&headers(&keys[0], later), &keys, later)), None);
    }

    #[test]
    fn an_expired_token_may_be_replaced_at_once() {
        let keys = [Arc::new(key("TEAM"))];
        let mut auth = ConnectionAuth::new(Environment::Sandbox);
        let old = headers(&keys[0], Timestamp(NOW.0 - 61 * 60_000));
        assert_eq!(reason(auth.authorize(&old, &keys, NOW)), Some(Reason::ExpiredProviderToken));
        assert_eq!(reason(auth.authorize(&headers(&keys[0], NOW), &keys, NOW)), None);
    }

    #[test]
    fn another_teams_key_id_or_signature_is_invalid() {
        let known = key("TEAM");
        let keys = [Arc::new(known.clone())];
        let mut wrong_team = known.clone();
        wrong_team.team_id = "OTHER".to_owned();
        let mut wrong_key_id = known.clone();
        wrong_key_id.key_id = "NOSUCHKEY1".to_owned();
        let mut wrong_signature = known.clone();
        wrong_signature.p8_pem = key("TEAM").p8_pem;
        for wrong in [wrong_team, wrong_key_id, wrong_signature] {
            let mut auth = ConnectionAuth::new(Environment::Sandbox);
            let answer = reason(auth.authorize(&headers(&wrong, NOW), &keys, NOW));
            assert_eq!(answer, Some(Reason::InvalidProviderToken), "{wrong:?}");
            assert!(!auth.is_established());
        }
    }

    #[test]
    fn a_connection_stays_with_the_team_and_scope_of_its_first_push() {
        let team = key("TEAM");
        let second = key("TEAM");
        let topical = key("TEAM").only_for(&["a"]);
        let related = key("TEAM").only_for(&["b"]).related_to(&topical);
        let unrelated = key("TEAM").only_for(&["c"]);
        let foreign = key("OTHER");
        let keys =
            [&team, &second, &topical, &related, &unrelated, &foreign].map(|key| Arc::new(key.clone()));
        let next = NOW.plus(20 * MINUTE);
        for (first, then, expected) in [
            (&team, &second, None),
            (&team, &topical, Some(Reason::UnrelatedKeyIdInToken)),
            (&team, &foreign, Some(Reason::Forbidden)),
            (&topical, &related, None),
            (&related, &topical, None),
            (&topical, &unrelated, Some(Reason::UnrelatedKeyIdInToken)),
            (&topical, &team, Some(Reason::UnrelatedKeyIdInToken)),
        ] {
            let mut auth = ConnectionAuth::new(Environment::Sandbox);
            assert_eq!(reason(auth.authorize(&headers(first, NOW), &keys, NOW)), None);
            assert_eq!(
                reason(auth.authorize(&headers(then, next), &keys, next)),
                expected,
                "{first:?} {then:?}"
            );
        }
    }

    #[test]
    fn a_key_for_production_is_refused_in_the_sandbox() {
        let keys = [Arc::new(key("TEAM").only_in(Environment::Production))];
        let headers = headers(&keys[0], NOW);
        let mut sandbox = ConnectionAuth::new(Environment::Sandbox);
        assert_eq!(reason(sandbox.authorize(&headers, &keys, NOW)), Some(Reason::BadEnvironmentKeyIdInToken));
        let mut production = ConnectionAuth::new(Environment::Production);
        assert_eq!(reason(production.authorize(&headers, &keys, NOW)), None);
    }

    #[test]
    fn a_request_without_a_bearer_token_is_missing_it() {
        for value in ["", "bearer", "bearer ", "basic abc"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("ASCII"));
            let mut auth = ConnectionAuth::new(Environment::Sandbox);
            assert_eq!(
                reason(auth.authorize(&headers, &[], NOW)),
                Some(Reason::MissingProviderToken),
                "{value:?}"
            );
        }
    }
}
