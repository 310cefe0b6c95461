//! What Countersign signs and how it is checked. Broker and phones both need exactly this and no more, so it
//! knows no message and does no I/O: it signs and checks bytes.
//!
//! In the order of the story:
//!
//! - [`enrolment_code`]: the code that a person scans or types, and the MAC that proves knowledge of its secret;
//! - [`key`]: the keys of phones (Ed25519, ES256) and of the broker (Ed25519), DSSE's pre-authentication encoding;
//! - [`commitment`](mod@commitment): what a challenge says of the match number without giving it away;
//! - [`payload_type`]: the names of what stands in an envelope.
//!
//! Test vectors for other languages are in `vectors/`; `tests/vectors.rs` holds this crate to them.

pub mod commitment;
pub mod enrolment_code;
pub mod key;
pub mod payload_type;

pub use commitment::commitment;
pub use enrolment_code::{EnrolmentCode, EnrolmentUri};
pub use key::{Algorithm, PublicKey, SigningKey, pre_authentication_encoding, sha256};

/// Hashes or MACs parts one after another so that no part can pass for the end of its neighbour: each is
/// preceded by its length as 4 bytes, big-endian.
fn length_prefixed<'a>(parts: impl IntoIterator<Item = &'a [u8]>, mut update: impl FnMut(&[u8])) {
    for part in parts {
        let length =
            u32::try_from(part.len()).expect("no part is near 4 GiB: every input is bounded by its reader");
        update(&length.to_be_bytes());
        update(part);
    }
}
