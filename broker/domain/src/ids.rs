//! Identifiers. What belongs to an account contains the account's id, so that no index from one to the other
//! grows for ever. As text they are lower-case Crockford base32 without padding: nothing in them needs escaping
//! in a URL, a header or a shell, and a double click selects them whole.

use std::{fmt, str::FromStr, sync::LazyLock};

use data_encoding::{Encoding, Specification};

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut alphabet = Specification::new();
    alphabet.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    alphabet.encoding().expect("32 symbols, no padding: a valid encoding")
});

/// The text of an id's bytes.
pub fn to_text(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// The bytes of an id's text; none if it is not what [`to_text`] makes of so many bytes.
pub fn from_text<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Only the length of this kind's text is decoded: the input is somebody else's.
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    BASE32.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// A text that is no identifier of the kind that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id")]
pub struct InvalidId {
    /// What it should have named, such as "approval".
    pub kind: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Its length in bytes.
            pub const LENGTH: usize = $bytes;

            /// The id of these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The id of these bytes, if they are as many as they should be.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId { kind: $kind })
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_text(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                from_text(text).map(Self).ok_or(InvalidId { kind: $kind })
            }
        }
    };
}

macro_rules! inside {
    ($name:ident, $owner:ident, $owner_bytes:literal, $rest:literal, $accessor:ident) => {
        impl $name {
            /// A new one inside its owner, of random bytes.
            pub fn new(owner: $owner, random: [u8; $rest]) -> Self {
                let mut bytes = [0; Self::LENGTH];
                bytes[..$owner_bytes].copy_from_slice(owner.as_bytes());
                bytes[$owner_bytes..].copy_from_slice(&random);
                Self(bytes)
            }

            /// What it belongs to.
            pub fn $accessor(&self) -> $owner {
                let (owner, _) = self.0.split_first_chunk().expect("an id begins with its owner's");
                $owner::from_bytes(*owner)
            }
        }
    };
}

id!(
    /// An account: HMAC-SHA-256 of realm and normalised name under the lookup key, cut to 128 bits. Two requests at
    /// once cannot make two accounts of one name, and there is no name in it.
    AccountId, "account", 16
);
id!(
    /// One sign-in attempt that waits, or waited, for an answer.
    ApprovalId, "approval", 32
);
id!(
    /// An enrolled app with its key.
    AuthenticatorId, "authenticator", 24
);
id!(
    /// The binding of one authenticator, from its code to its trial.
    EnrolmentId, "enrolment", 24
);
id!(
    /// A login server or an enrolling page that calls us.
    RelyingPartyId, "relying party", 16
);
id!(
    /// One credential of a relying party.
    CredentialId, "credential", 24
);

inside!(ApprovalId, AccountId, 16, 16, account);
inside!(AuthenticatorId, AccountId, 16, 8, account);
inside!(EnrolmentId, AccountId, 16, 8, account);
inside!(CredentialId, RelyingPartyId, 16, 8, relying_party);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_knows_its_account() {
        let account = AccountId::from_bytes([7; 16]);
        let approval = ApprovalId::new(account, [9; 16]);
        assert_eq!(approval.to_string().len(), 52);
        assert_eq!(approval.to_string().parse(), Ok(approval));
        assert_eq!(approval.account(), account);
    }

    #[test]
    fn one_id_has_one_text() {
        let approval = ApprovalId::new(AccountId::from_bytes([7; 16]), [9; 16]);
        let text = approval.to_string();
        assert!(text.to_uppercase().parse::<ApprovalId>().is_err());
        // The last character carries bits that no byte uses: they must be zero.
        let (head, last) = text.split_at(51);
        for other in "0123456789abcdefghjkmnpqrstvwxyz".chars().filter(|c| !last.starts_with(*c)) {
            if let Ok(id) = format!("{head}{other}").parse::<ApprovalId>() {
                assert_ne!(id, approval);
            }
        }
        assert!("".parse::<ApprovalId>().is_err());
        assert!(text[..51].parse::<ApprovalId>().is_err());
        assert!("u".repeat(52).parse::<ApprovalId>().is_err());
    }
}
