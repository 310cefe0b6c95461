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

/// How far ahead of the clock a recorded moment may lie: clocks are slewed, and those of brokers differ a little. One
/// that lies further ahead was recorded by a clock that has been set right since: it counts for nothing, and what was
/// to last from then on is over.
pub const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Approvals that ended are remembered so long at least, for repeated answers...
pub const APPROVALS_ENDED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// ... but no more of them than this; older ones are in the log.
pub const APPROVALS_ENDED_KEPT_MAX: usize = 256;
/// The same for those that were refused at once.
pub const APPROVALS_REFUSED_KEPT_MAX: usize = 64;
/// Whoever asks is told of an approval or an enrolment for so long after it began; then the log alone knows it. So what
/// an id costs that nobody was given is bounded.
pub const TOLD_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Requests of one account that are refused with an outcome, and so with an event, within `REFUSALS_WINDOW`. Those
/// beyond are told when to ask again, and leave nothing behind.
pub const REFUSALS_RECORDED_MAX: usize = 10;
/// See `REFUSALS_RECORDED_MAX`.
pub const REFUSALS_WINDOW: Duration = Duration::from_secs(5 * 60);
/// A request's idempotency key is known for so long.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Idempotency keys of one account that are known at a time: what the limits of the default policy let in within
/// `IDEMPOTENCY_KEPT`, at 20 requests and 10 refusals in each five minutes. Where a policy lets in more, a request
/// with a new key is refused while there are as many: no key is forgotten before its time. One takes 72 bytes: an
/// account that is signed in to five times a day takes some 400, one that is attacked all day 624,000.
pub const IDEMPOTENCY_KEYS_MAX: usize = (24 * 60 / 5 + 1) * (20 + REFUSALS_RECORDED_MAX);
/// A number is not shown again for the same account until so long after its approval ended.
pub const NUMBER_REST: Duration = Duration::from_secs(10 * 60);
/// Numbers of trials that rest at a time: whoever enrols again and again must not use up those of sign-ins.
pub const TRIAL_NUMBERS_RESTING_MAX: usize = 10;
/// New push targets of one authenticator within `PUSH_TARGET_CHANGES_WINDOW`: a phone has a new one rarely.
pub const PUSH_TARGET_CHANGES_MAX: usize = 10;
/// See `PUSH_TARGET_CHANGES_MAX`.
pub const PUSH_TARGET_CHANGES_WINDOW: Duration = Duration::from_secs(60 * 60);
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
