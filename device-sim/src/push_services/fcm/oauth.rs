//! The token endpoint: a service account's signed assertion in, an access token out (RFC 7523), and the check of
//! that access token later.
//!
//! Source: Google, 'Using OAuth 2.0 for server to server applications'. What it leaves open (order of checks,
//! words of the errors) is as Google's endpoint was seen to answer in September 2026.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac, signature::RSA_PKCS1_2048_8192_SHA256};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::errors::{Refusal, TokenError, json_response};
use crate::{
    clock::Timestamp,
    entropy::{self, Names},
    push_services::{identity::ServiceAccount, jwt::Unverified},
};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// What Google's own libraries sign as audience, whatever `token_uri` says.
const GOOGLE_AUDIENCES: [&str; 2] =
    ["https://oauth2.googleapis.com/token", "https://www.googleapis.com/oauth2/v4/token"];
/// Scopes that allow sending messages: 'Method: projects.messages.send'.
const SENDING_SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];
const SCOPE_PREFIX: &str = "https://www.googleapis.com/auth/";

/// An assertion is good for an hour at most,
const ASSERTION_AGE_MAX_S: u64 = 60 * 60;
/// by a clock that may be this wrong.
const SKEW_MAX_S: u64 = 5 * 60;
/// An access token is good for an hour; Google counts the second that issuing took.
const ACCESS_TOKEN_AGE_MAX: Duration = Duration::from_secs(60 * 60);
const EXPIRES_IN_S: u64 = 3599;

/// Access tokens begin so at Google.
const ACCESS_TOKEN_PREFIX: &str = "ya29.c.";
const MAC_LENGTH: usize = 32;

/// Issues and checks access tokens. They are opaque to clients; inside stand expiry, permission and a MAC, so that
/// none has to be remembered.
#[derive(Debug)]
pub(crate) struct TokenEndpoint {
    account: ServiceAccount,
    /// Where clients that believe their service account file find this endpoint.
    own_audiences: Vec<String>,
    key: hmac::Key,
    names: Names,
}

impl TokenEndpoint {
    pub(crate) fn new(account: ServiceAccount, own_audiences: Vec<String>) -> Self {
        let mut key = [0; MAC_LENGTH];
        entropy::fill(&mut key);
        Self { account, own_audiences, key: hmac::Key::new(hmac::HMAC_SHA256, &key), names: Names::new() }
    }

    /// The project whose messages the service account may send.
    pub(crate) fn project_id(&self) -> &str {
        &self.account.project_id
    }

    /// The form of a token request, and the token or why there is none.
    pub(crate) fn grant(&self, form: &[u8], now: Timestamp) -> Result<Response<Full<Bytes>>, TokenError> {
        const BAD_REQUEST: TokenError = TokenError { error: "invalid_request", description: "Bad Request" };
        match form_field(form, "grant_type").as_deref() {
            Some(GRANT_TYPE) => {}
            Some(_) => {
                return Err(TokenError {
                    error: "unsupported_grant_type",
                    description: "Invalid grant_type",
                });
            }
            None => return Err(BAD_REQUEST),
        }
        let assertion = form_field(form, "assertion").ok_or(BAD_REQUEST)?;
        let assertion = Unverified::parse(&assertion).ok_or(BAD_REQUEST)?;
        let may_send = self.check(&assertion, now)?;
        Ok(json_response(
            StatusCode::OK,
            &json!({
                "access_token": self.access_token(may_send, now.plus(ACCESS_TOKEN_AGE_MAX)),
                "expires_in": EXPIRES_IN_S,
                "token_type": "Bearer",
            }),
        ))
    }

    /// Signature, account, times, scope, audience, in Google's order; whether the scope allows sending.
    fn check(&self, assertion: &Unverified<'_>, now: Timestamp) -> Result<bool, TokenError> {
        let refuse = |description| Err(TokenError { error: "invalid_grant", description });
        // Google tries all keys of the account if there is no kid.
        let is_other_key = assertion.header("kid").is_some_and(|kid| kid != self.account.private_key_id);
        if is_other_key || !assertion.verify("RS256", &RSA_PKCS1_2048_8192_SHA256, &self.account.public_key) {
            return refuse("Invalid JWT Signature.");
        }
        if assertion.claim("iss") != Some(&self.account.client_email) {
            return refuse("Invalid grant: account not found");
        }
        let Some(issued_at) = assertion.seconds("iat") else {
            return refuse("Invalid JWT: iat (issued at) is not set.");
        };
        let Some(expires_at) = assertion.seconds("exp") else {
            return refuse("Invalid JWT: exp (expiration time) is not set.");
        };
        if !is_short_lived(issued_at, expires_at, now.seconds()) {
            return refuse(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check \
                 your iat and exp values in the JWT claim.",
            );
        }
        let scopes: Vec<&str> = assertion.claim("scope").unwrap_or_default().split_whitespace().collect();
        if scopes.is_empty() || scopes.iter().any(|scope| !scope.starts_with(SCOPE_PREFIX)) {
            return Err(TokenError {
                error: "invalid_scope",
                description: "Invalid OAuth scope or ID token audience provided.",
            });
        }
        let audience = assertion.claim("aud").unwrap_or_default();
        if !GOOGLE_AUDIENCES.contains(&audience) && !self.own_audiences.iter().any(|own| own == audience) {
            return refuse("Invalid JWT: Failed audience check.");
        }
        Ok(scopes.iter().any(|scope| SENDING_SCOPES.contains(scope)))
    }

    /// An access token that is good until `expires_at`.
    pub(crate) fn access_token(&self, may_send: bool, expires_at: Timestamp) -> String {
        let mut token = Vec::with_capacity(17 + MAC_LENGTH);
        token.extend(expires_at.millis().to_be_bytes());
        token.extend(self.names.next().to_be_bytes());
        token.push(u8::from(may_send));
        let mac = hmac::sign(&self.key, &token);
        token.extend(mac.as_ref());
        format!("{ACCESS_TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&token))
    }

    /// Whether an access token is good for sending now.
    pub(crate) fn authorize(&self, authorization: Option<&str>, now: Timestamp) -> Result<(), Refusal> {
        let (scheme, token) =
            authorization.and_then(|value| value.split_once(' ')).ok_or(Refusal::CredentialsMissing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::CredentialsMissing);
        }
        let (expires_at, may_send) = self.open(token.trim()).ok_or(Refusal::TokenInvalid)?;
        if expires_at <= now {
            Err(Refusal::TokenExpired)
        } else if may_send {
            Ok(())
        } else {
            Err(Refusal::ScopeInsufficient)
        }
    }

    fn open(&self, token: &str) -> Option<(Timestamp, bool)> {
        let token = BASE64URL_NOPAD.decode(token.strip_prefix(ACCESS_TOKEN_PREFIX)?.as_bytes()).ok()?;
        let (content, mac) = token.split_last_chunk::<MAC_LENGTH>()?;
        let expected = hmac::sign(&self.key, content);
        constant_time::verify_slices_are_equal(expected.as_ref(), mac).ok()?;
        let (expires_at, rest) = content.split_first_chunk::<8>()?;
        Some((Timestamp(u64::from_be_bytes(*expires_at)), rest.last() == Some(&1)))
    }
}

fn is_short_lived(issued_at: u64, expires_at: u64, now: u64) -> bool {
    issued_at <= now.saturating_add(SKEW_MAX_S)
        && expires_at.saturating_add(SKEW_MAX_S) > now
        && expires_at > issued_at
        && expires_at - issued_at <= ASSERTION_AGE_MAX_S
}

/// A field of `application/x-www-form-urlencoded`.
fn form_field(form: &[u8], name: &str) -> Option<String> {
    form.split(|byte| *byte == b'&').find_map(|field| {
        let mut parts = field.splitn(2, |byte| *byte == b'=');
        let is_named = decode(parts.next()?)? == name;
        if is_named { decode(parts.next().unwrap_or_default()) } else { None }
    })
}

fn decode(encoded: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter().copied();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push_services::Identity;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn endpoint() -> TokenEndpoint {
        let account = Identity::generate("demo").expect("keys").service_account;
        TokenEndpoint::new(account, vec!["https://localhost:1/token".to_owned()])
    }

    #[test]
    fn an_access_token_is_good_for_an_hour_and_only_here() {
        let endpoint = endpoint();
        let until = NOW.plus(ACCESS_TOKEN_AGE_MAX);
        let bearer = format!("Bearer {}", endpoint.access_token(true, until));
        assert_eq!(endpoint.authorize(Some(&bearer), NOW), Ok(()));
        assert_eq!(endpoint.authorize(Some(&bearer), until), Err(Refusal::TokenExpired));
        let elsewhere = TokenEndpoint::new(endpoint.account.clone(), Vec::new());
        assert_eq!(elsewhere.authorize(Some(&bearer), NOW), Err(Refusal::TokenInvalid));
    }

    #[test]
    fn a_token_without_the_scope_may_not_send() {
        let endpoint = endpoint();
        let bearer = format!("Bearer {}", endpoint.access_token(false, NOW.plus(ACCESS_TOKEN_AGE_MAX)));
        assert_eq!(endpoint.authorize(Some(&bearer), NOW), Err(Refusal::ScopeInsufficient));
    }

    #[test]
    fn no_credentials_and_garbage_are_told_apart() {
        let endpoint = endpoint();
        for (given, refusal) in [
            (None, Refusal::CredentialsMissing),
            (Some("Basic abc"), Refusal::CredentialsMissing),
            (Some("Bearer abc"), Refusal::TokenInvalid),
            (Some("Bearer ya29.c.AAAA"), Refusal::TokenInvalid),
        ] {
            assert_eq!(endpoint.authorize(given, NOW), Err(refusal), "{given:?}");
        }
    }

    #[test]
    fn an_assertion_lives_an_hour_at_most_by_a_clock_a_little_wrong() {
        let now = 1_700_000_000;
        for (issued_at, expires_at, good) in [
            (now, now + 3600, true),
            (now, now + 3601, false),
            (now + 300, now + 3900, true),
            (now + 301, now + 3901, false),
            (now - 3600, now, true),
            (now - 7200, now - 3600, false),
            (now, now, false),
        ] {
            assert_eq!(is_short_lived(issued_at, expires_at, now), good, "{issued_at} to {expires_at}");
        }
    }

    #[test]
    fn form_fields_are_decoded() {
        let form = b"a=1&grant_type=urn%3Aietf%3Ax+y&empty=&bad=%zz";
        assert_eq!(form_field(form, "grant_type").as_deref(), Some("urn:ietf:x y"));
        assert_eq!(form_field(form, "empty").as_deref(), Some(""));
        assert_eq!(form_field(form, "bad"), None);
        assert_eq!(form_field(form, "missing"), None);
    }
}
