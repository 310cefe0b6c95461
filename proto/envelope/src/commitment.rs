//! What a challenge says of the match number without giving it away.

use aws_lc_rs::digest;

const TAG: &[u8] = b"countersign-match-number-v1";

/// SHA-256 over the domain tag, `id` (the approval's or enrolment's, as text), the salt and the number as
/// zero-padded ASCII digits, each length-prefixed.
///
/// The salt has 256 random bits, so the commitment hides the number although there are only a hundred of them;
/// it binds, so salt and number prove afterwards what was asked for.
///
/// ```
/// let salt = [7; 32];
/// let asked = countersign_envelope::commitment("an-approval", &salt, "42");
/// assert_eq!(asked, countersign_envelope::commitment("an-approval", &salt, "42"));
/// assert_ne!(asked, countersign_envelope::commitment("an-approval", &salt, "43"));
/// ```
pub fn commitment(id: &str, salt: &[u8; 32], number: &str) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    crate::length_prefixed([TAG, id.as_bytes(), salt, number.as_bytes()], |part| hash.update(part));
    hash.finish().as_ref().try_into().expect("SHA-256 is 32 bytes")
}
