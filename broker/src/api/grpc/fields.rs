//! Parses the fields of requests. All that is wrong is collected, so that one answer names every field.

use std::{net::IpAddr, time::Duration};

use countersign_domain::{
    ApprovalId, AuthenticatorId, CredentialId, RelyingPartyId,
    event::{Context, Idempotency, Identity},
    limits,
    text::{DisplayText, Realm},
};
use countersign_envelope::sha256;
use countersign_proto::v1;
use prost::Message;
use tonic::Status;
use tonic_types::FieldViolation;

use super::status;
use crate::{api::auth::Caller, log::StreamId};

/// What is told to whoever sends something else.
pub(super) trait Named {
    /// With its article.
    const NAME: &str;
}

impl Named for RelyingPartyId {
    const NAME: &str = "a relying party's id";
}

impl Named for CredentialId {
    const NAME: &str = "a credential's id";
}

impl Named for ApprovalId {
    const NAME: &str = "an approval's id";
}

impl Named for AuthenticatorId {
    const NAME: &str = "an authenticator's id";
}

impl Named for StreamId {
    const NAME: &str = "a stream of the log, such as account/ and 26 characters";
}

/// Collects what is wrong. Each problem reads on behind the field's name: "is ...", "must ...".
#[derive(Debug, Default)]
pub(super) struct Fields {
    violations: Vec<FieldViolation>,
}

impl Fields {
    /// The value, or what is wrong with the field.
    pub(super) fn take<T, E: ToString>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(problem) => {
                self.violations.push(FieldViolation::new(field, problem.to_string()));
                None
            }
        }
    }

    /// What was made of the fields, unless one of them was wrong.
    pub(super) fn done<T>(self, made: Option<T>) -> Result<T, Status> {
        match made {
            Some(made) if self.violations.is_empty() => Ok(made),
            _ => Err(status::invalid(self.violations)),
        }
    }

    /// Something that is parsed from its text.
    pub(super) fn parse<T: std::str::FromStr + Named>(&mut self, field: &str, text: &str) -> Option<T> {
        self.take(field, text.parse().map_err(|_| format!("is not {}", T::NAME)))
    }

    /// A text to show.
    pub(super) fn display(&mut self, field: &str, text: &str, most: usize) -> Option<DisplayText> {
        self.take(field, DisplayText::parse(text, most))
    }

    /// The account that a relying party asks for; its realm is checked apart, since that is no matter of form.
    pub(super) fn account(&mut self, caller: &Caller, account: Option<&v1::AccountName>) -> Option<Identity> {
        let Some(account) = account else {
            self.take::<(), _>("account", Err("is missing"));
            return None;
        };
        let name = self.display("account.name", &account.name, limits::ACCOUNT_NAME_CHARACTERS_MAX);
        let realm = if account.realm.is_empty() {
            Some(caller.registration.realm.clone())
        } else {
            self.take("account.realm", Realm::parse(&account.realm))
        };
        Some(Identity { realm: realm?, name: name? })
    }

    /// One of the applications that the relying party is registered with.
    pub(super) fn application(&mut self, caller: &Caller, name: &str) -> Option<DisplayText> {
        let known = caller.registration.applications.iter().find(|one| one.as_str() == name.trim());
        self.take(
            "application",
            known.cloned().ok_or("is not one that this relying party is registered with"),
        )
    }

    /// Where an attempt comes from.
    pub(super) fn context(&mut self, context: Option<&v1::Context>, free_text: bool) -> Option<Context> {
        let Some(context) = context else { return Some(Context::default()) };
        let source_ip = match context.source_ip.as_str() {
            "" => None,
            text => self.take(
                "context.source_ip",
                text.parse::<IpAddr>().map_err(|_| "is not an IPv4 or IPv6 address"),
            ),
        };
        let place = self.free_text("context.place", &context.place, free_text);
        let browser = self.free_text("context.browser", &context.browser, free_text);
        Some(Context { source_ip, place, browser })
    }

    fn free_text(&mut self, field: &str, text: &str, allowed: bool) -> Option<DisplayText> {
        if !text.is_empty() && !allowed {
            return self.take(
                field,
                Err("is free text, which this broker's configuration does not allow (approvals.free_text)"),
            );
        }
        self.take(field, DisplayText::parse_optional(text, limits::CONTEXT_CHARACTERS_MAX)).flatten()
    }

    /// The login server's value for the session that waits.
    pub(super) fn session_binding(&mut self, binding: &bytes::Bytes) -> Option<bytes::Bytes> {
        let allowed = limits::SESSION_BINDING_BYTES;
        let problem =
            format!("must have {} to {} bytes, not {}", allowed.start(), allowed.end(), binding.len());
        self.take("session_binding", allowed.contains(&binding.len()).then(|| binding.clone()).ok_or(problem))
    }

    /// Knows the request again: the key within this relying party, and the body without the key.
    pub(super) fn idempotency(
        &mut self,
        caller: &Caller,
        request: &v1::RequestApprovalRequest,
    ) -> Option<Option<Idempotency>> {
        let key = &request.idempotency_key;
        if key.is_empty() {
            return Some(None);
        }
        let allowed = limits::IDEMPOTENCY_KEY_CHARACTERS;
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        let problem = format!("must have {} to {} visible ASCII characters", allowed.start(), allowed.end());
        self.take("idempotency_key", (allowed.contains(&key.len()) && visible).then_some(()).ok_or(problem))?;
        let key_hash = sha256(&[caller.id.as_bytes().as_slice(), key.as_bytes()].concat());
        let body = v1::RequestApprovalRequest { idempotency_key: String::new(), ..request.clone() };
        Some(Some(Idempotency { key_hash, request_hash: sha256(&body.encode_to_vec()) }))
    }

    /// How long the phone has, if the caller says.
    pub(super) fn lifetime(&mut self, lifetime: Option<&prost_types::Duration>) -> Option<Option<Duration>> {
        let Some(lifetime) = lifetime else { return Some(None) };
        let allowed = limits::APPROVAL_LIFETIME;
        let problem = format!("must be {} s to {} s", allowed.start().as_secs(), allowed.end().as_secs());
        let lifetime = duration(lifetime).filter(|one| allowed.contains(one));
        self.take("lifetime", lifetime.ok_or(problem)).map(Some)
    }
}

/// Whether the relying party may ask for accounts of this realm.
pub(super) fn allowed_realm(caller: &Caller, identity: &Identity) -> Result<(), Status> {
    let own = &caller.registration.realm;
    if identity.realm == *own { Ok(()) } else { Err(status::realm_not_allowed(own.as_str())) }
}

/// A wait of 0 to 60 seconds; 30 if absent.
pub(super) fn max_wait(wait: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    const LONGEST: Duration = Duration::from_secs(60);
    let Some(wait) = wait else { return Ok(Duration::from_secs(30)) };
    let mut fields = Fields::default();
    let wait = duration(wait).filter(|wait| *wait <= LONGEST);
    let wait = fields.take("max_wait", wait.ok_or("must be 0 s to 60 s"));
    fields.done(wait)
}

/// A span of time, where it is none into the past. prost-types' own conversion negates what came, and i64::MIN has no
/// opposite.
fn duration(message: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(message.seconds).ok()?;
    let nanos = u32::try_from(message.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_span_of_time_that_a_message_can_hold_is_more_than_refused() {
        let odd = [i64::MIN, i64::MIN + 1, -1, 0, 1, 59, 60, 61, i64::MAX];
        for seconds in odd {
            for nanos in [i32::MIN, -1, 0, 999_999_999, 1_000_000_000, i32::MAX] {
                let wait = prost_types::Duration { seconds, nanos };
                let taken = max_wait(Some(&wait)).is_ok();
                let fits = (0..60).contains(&seconds) && (0..1_000_000_000).contains(&nanos)
                    || seconds == 60 && nanos == 0;
                assert_eq!(taken, fits, "{wait:?}");
                assert!(
                    Fields::default().lifetime(Some(&wait)).is_none_or(|_| (15..=300).contains(&seconds))
                );
            }
        }
    }
}
