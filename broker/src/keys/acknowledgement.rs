//! The tokens that stand for a phone when it says "delivered" or "opened": a MAC over approval, authenticator and
//! expiry under a stored key, so that it holds after a restart. Saying so costs the phone no signature, and proves
//! no more than that it had the push.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use bytes::Bytes;
use countersign_domain::{ApprovalId, AuthenticatorId, Timestamp};

const MAC_LENGTH: usize = 16;

/// Makes and knows tokens.
pub struct Acknowledgements(hmac::Key);

impl Acknowledgements {
    /// With this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The token for one push.
    pub fn token(
        &self,
        approval: ApprovalId,
        authenticator: AuthenticatorId,
        expires_at: Timestamp,
    ) -> Bytes {
        let mut token = expires_at.as_millis().to_be_bytes().to_vec();
        token.extend_from_slice(&self.mac(approval, authenticator, expires_at)[..MAC_LENGTH]);
        token.into()
    }

    /// Whether a token is for this push and not over.
    pub fn is_good(
        &self,
        token: &[u8],
        approval: ApprovalId,
        authenticator: AuthenticatorId,
        now: Timestamp,
    ) -> bool {
        let Some((expires_at, mac)) = token.split_first_chunk() else { return false };
        let expires_at = Timestamp::from_millis(u64::from_be_bytes(*expires_at));
        let expected = self.mac(approval, authenticator, expires_at);
        verify_slices_are_equal(&expected[..MAC_LENGTH], mac).is_ok() && now < expires_at
    }

    fn mac(&self, approval: ApprovalId, authenticator: AuthenticatorId, expires_at: Timestamp) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(b"countersign-acknowledgement-v1");
        mac.update(approval.as_bytes());
        mac.update(authenticator.as_bytes());
        mac.update(&expires_at.as_millis().to_be_bytes());
        mac.sign().as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
    }
}

impl fmt::Debug for Acknowledgements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acknowledgements(secret)")
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::AccountId;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_push_until_its_end() {
        let tokens = Acknowledgements::new(&[1; 32]);
        let account = AccountId::from_bytes([1; 16]);
        let (approval, other) = (ApprovalId::new(account, [1; 16]), ApprovalId::new(account, [2; 16]));
        let (phone, tablet) = (AuthenticatorId::new(account, [1; 8]), AuthenticatorId::new(account, [2; 8]));
        let end = Timestamp::from_millis(1_000);
        let before = Timestamp::from_millis(999);
        let token = tokens.token(approval, phone, end);
        assert!(tokens.is_good(&token, approval, phone, before));
        assert!(!tokens.is_good(&token, approval, phone, end));
        assert!(!tokens.is_good(&token, other, phone, before));
        assert!(!tokens.is_good(&token, approval, tablet, before));
        assert!(!tokens.is_good(
            &Acknowledgements::new(&[2; 32]).token(approval, phone, end),
            approval,
            phone,
            before
        ));
        let mut later = token.to_vec();
        later[0] = 1;
        assert!(!tokens.is_good(&later, approval, phone, before));
    }
}
