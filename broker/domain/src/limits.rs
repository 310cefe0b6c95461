//! What somebody outside can make grow, and how far. Each bounds an account or a message; the limits of the
//! process (connections, queues, calls at a time) are in the broker's configuration.

use std::time::Duration;

/// Authenticators of one account that are active or on trial.
pub const AUTHENTICATORS_MAX: usize = 10;
/// Revoked authenticators that are still listed; older ones are in the log.
pub const AUTHENTICATORS_REVOKED_KEPT: usize = 16;
/// Enrolments of one account that wait.
pub const ENROLMENTS_WAITING_MAX: usize = 3;
/// Ended enrolments that are remembered for whoever watches them; older ones are in the log.
pub const ENROLMENTS_ENDED_KEPT: usize = 8;
/// How long an enrolment may take, code and trial together.
pub const ENROLMENT_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Wrong secrets after which a code is ended.
pub const ENROLMENT_CODE_ATTEMPTS: u8 = 5;

/// Approvals that ended are remembered so long at least, for idempotency keys and repeated answers...
pub const APPROVALS_ENDED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// ... but no more of them than this; older ones are in the log.
pub const APPROVALS_ENDED_KEPT_MAX: usize = 256;
/// The same for those that were refused at once.
pub const APPROVALS_REFUSED_KEPT_MAX: usize = 64;
/// A number is not shown again for the same account until so long after its approval ended.
pub const NUMBER_REST: Duration = Duration::from_secs(10 * 60);
/// How long a yes is good for: an old yes is no yes.
pub const OUTCOME_VALID: Duration = Duration::from_secs(60);
/// How long a phone is told of other authenticators that came or went.
pub const NOTICE_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The shortest and the longest lifetime of an approval.
pub const APPROVAL_LIFETIME: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(15)..=Duration::from_secs(300);
/// Digits of a match number.
pub const MATCH_NUMBER_DIGITS: std::ops::RangeInclusive<u8> = 2..=6;

/// Characters of an account's name.
pub const ACCOUNT_NAME_CHARACTERS_MAX: usize = 256;
/// Characters of the names of relying parties, applications and devices.
pub const DISPLAY_NAME_CHARACTERS_MAX: usize = 64;
/// Characters of a realm.
pub const REALM_CHARACTERS_MAX: usize = 64;
/// Characters of free text in a challenge's context.
pub const CONTEXT_CHARACTERS_MAX: usize = 80;
/// Bytes of a session binding.
pub const SESSION_BINDING_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// Characters of an idempotency key.
pub const IDEMPOTENCY_KEY_CHARACTERS: std::ops::RangeInclusive<usize> = 1..=64;
/// Bytes of an envelope's payload.
pub const ENVELOPE_PAYLOAD_BYTES_MAX: usize = 16_384;
/// Characters of APNs' device token, in hex.
pub const APNS_DEVICE_TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 64..=200;
/// Characters of FCM's registration token.
pub const FCM_REGISTRATION_TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 1..=4096;
/// Bytes of the nonces that phones make.
pub const NONCE_BYTES: usize = 16;

/// Applications of one relying party.
pub const APPLICATIONS: std::ops::RangeInclusive<usize> = 1..=32;
/// Credentials of one relying party that are not revoked.
pub const CREDENTIALS_MAX: usize = 32;
