//! The nonces that phones' reads carry. Nothing is stored: a nonce is a MAC over the minute in which it was made,
//! and that minute and the one before it count (the way of DPoP's nonces, RFC 9449 section 8).

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use bytes::Bytes;
use countersign_domain::Timestamp;

const EPOCH_MILLIS: u64 = 60_000;
const MAC_LENGTH: usize = 16;

/// Makes and knows nonces.
pub struct Nonces(hmac::Key);

impl Nonces {
    /// With this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A nonce that is good from now for 60 to 120 seconds.
    pub fn next(&self, now: Timestamp) -> Bytes {
        let epoch = now.as_millis() / EPOCH_MILLIS;
        let mut nonce = epoch.to_be_bytes().to_vec();
        nonce.extend_from_slice(&self.mac(epoch)[..MAC_LENGTH]);
        nonce.into()
    }

    /// Whether a nonce is good now.
    pub fn is_good(&self, nonce: &[u8], now: Timestamp) -> bool {
        let Some((epoch, mac)) = nonce.split_first_chunk() else { return false };
        let epoch = u64::from_be_bytes(*epoch);
        let current = now.as_millis() / EPOCH_MILLIS;
        let in_time = epoch == current || epoch.checked_add(1) == Some(current);
        verify_slices_are_equal(&self.mac(epoch)[..MAC_LENGTH], mac).is_ok() && in_time
    }

    fn mac(&self, epoch: u64) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(b"countersign-read-nonce-v1");
        mac.update(&epoch.to_be_bytes());
        mac.sign().as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_minute_and_the_next() {
        let nonces = Nonces::new(&[1; 32]);
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
        let nonce = nonces.next(at(119));
        for (seconds, good) in [(60, true), (119, true), (179, true), (180, false), (59, false), (0, false)] {
            assert_eq!(nonces.is_good(&nonce, at(seconds)), good, "at {seconds} s");
        }
    }

    #[test]
    fn nobody_else_makes_nonces() {
        let now = Timestamp::from_millis(90_000);
        let forged = Nonces::new(&[2; 32]).next(now);
        let nonces = Nonces::new(&[1; 32]);
        assert!(!nonces.is_good(&forged, now));
        assert!(!nonces.is_good(&[], now));
        assert!(!nonces.is_good(&nonces.next(now)[..23], now));
        assert!(!nonces.is_good(&[&u64::MAX.to_be_bytes()[..], &[0; 16]].concat(), now));
    }
}
