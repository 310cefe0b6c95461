//! An account's state as bytes, to be kept beside its events so that it need not be folded from all of them. It is no
//! source of anything: what cannot be read is folded anew.
//!
//! A field that is added to a state does not compile before it is added here. What a fold makes of events can change
//! without that: [`FORMAT`] says which fold it is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use countersign_envelope::{Algorithm, EnrolmentCode, PublicKey, enrolment_code::EnrolmentSecret};
use zeroize::Zeroizing;

use crate::{
    Account, ApprovalId, AuthenticatorId, EnrolmentId, RelyingPartyId, Timestamp,
    approval::Outcome,
    event::{
        EnrolmentEnd, Idempotency, Identity, Platform, PushServiceKind, PushTarget, Question, RefusedBecause,
        SignedMessage,
    },
    number::Salt,
    text::{DisplayText, Realm},
};

/// Which states these are: what is in them, and what `evolve` makes of an event. Whoever changes one of the two counts
/// this up; states of before are not read then.
pub const FORMAT: u32 = 1;

impl Account {
    /// Its bytes, to be sealed: secrets are among them.
    pub fn to_kept(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_USUAL));
        self.keep(&mut bytes);
        bytes
    }

    /// The account of these bytes, if they are those of one of this [`FORMAT`].
    pub fn from_kept(mut bytes: &[u8]) -> Option<Self> {
        let account = Self::kept(&mut bytes)?;
        bytes.is_empty().then_some(account)
    }
}

/// More than most accounts take, so that secrets are not left behind where the bytes were before they grew.
const BYTES_USUAL: usize = 8 * 1024;

/// What can be kept.
pub(crate) trait Kept: Sized {
    /// Puts it behind these bytes.
    fn keep(&self, bytes: &mut Vec<u8>);
    /// Takes it off the front of these bytes.
    fn kept(bytes: &mut &[u8]) -> Option<Self>;
}

/// Keeps a struct: all of its fields, in this order.
macro_rules! kept_fields {
    ($type:ident { $($field:tt $(: $name:ident)?),* $(,)? }) => {
        impl $crate::kept::Kept for $type {
            fn keep(&self, bytes: &mut Vec<u8>) {
                // All of them: one that is missing does not compile.
                let Self { $($field $(: $name)?),* } = self;
                $($crate::kept::Kept::keep($crate::kept::kept_fields!(@name $field $($name)?), bytes);)*
            }

            fn kept(bytes: &mut &[u8]) -> Option<Self> {
                $(let $crate::kept::kept_fields!(@name $field $($name)?) = $crate::kept::Kept::kept(bytes)?;)*
                Some(Self { $($field $(: $name)?),* })
            }
        }
    };
    (@name $field:tt $name:ident) => { $name };
    (@name $field:ident) => { $field };
}
pub(crate) use kept_fields;

/// Keeps an enum: the number of its variant, then that one's fields. Never give a number to another variant without
/// counting [`FORMAT`] up.
macro_rules! kept_variants {
    ($type:ident { $($number:literal => $variant:ident $({ $($field:ident),* })?),* $(,)? }) => {
        impl $crate::kept::Kept for $type {
            fn keep(&self, bytes: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        bytes.push($number);
                        $($($crate::kept::Kept::keep($field, bytes);)*)?
                    })*
                }
            }

            fn kept(bytes: &mut &[u8]) -> Option<Self> {
                match <u8 as $crate::kept::Kept>::kept(bytes)? {
                    $($number => {
                        $($(let $field = $crate::kept::Kept::kept(bytes)?;)*)?
                        Some(Self::$variant $({ $($field),* })?)
                    })*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use kept_variants;

kept_variants!(Platform { 1 => Ios, 2 => Android });
kept_variants!(PushServiceKind { 1 => Apns, 2 => Fcm });
kept_variants!(EnrolmentEnd {
    1 => CodeRefused,
    2 => Expired,
    3 => WrongNumber,
    4 => Declined,
    5 => Cancelled,
    6 => Revoked,
});
kept_variants!(RefusedBecause {
    1 => Unreachable,
    2 => TooManyWaiting,
    3 => PushPaused,
    4 => NumbersExhausted,
    5 => TooManyRequests,
});
kept_fields!(Identity { realm, name });
kept_fields!(Idempotency { key_hash, request_hash });
kept_fields!(Question { number, salt, commitment, challenge });
kept_fields!(SignedMessage { payload, signature, key_id });

impl Kept for Outcome {
    fn keep(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Approved { user_verified } => {
                bytes.push(1);
                user_verified.keep(bytes);
            }
            Self::Denied => bytes.push(2),
            Self::Reported => bytes.push(3),
            Self::WrongNumber => bytes.push(4),
            Self::Expired => bytes.push(5),
            Self::Cancelled => bytes.push(6),
            Self::Superseded => bytes.push(7),
            Self::Refused(because) => {
                bytes.push(8);
                because.keep(bytes);
            }
        }
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        Some(match u8::kept(bytes)? {
            1 => Self::Approved { user_verified: Kept::kept(bytes)? },
            2 => Self::Denied,
            3 => Self::Reported,
            4 => Self::WrongNumber,
            5 => Self::Expired,
            6 => Self::Cancelled,
            7 => Self::Superseded,
            8 => Self::Refused(Kept::kept(bytes)?),
            _ => return None,
        })
    }
}

impl Kept for PublicKey {
    fn keep(&self, bytes: &mut Vec<u8>) {
        bytes.push(match self.algorithm() {
            Algorithm::Ed25519 => 1,
            Algorithm::Es256 => 2,
        });
        keep_slice(self.as_bytes(), bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        let algorithm = match u8::kept(bytes)? {
            1 => Algorithm::Ed25519,
            2 => Algorithm::Es256,
            _ => return None,
        };
        Self::parse(algorithm, kept_slice(bytes)?).ok()
    }
}

impl Kept for EnrolmentCode {
    fn keep(&self, bytes: &mut Vec<u8>) {
        keep_slice(self.locator().as_bytes(), bytes);
        keep_slice(self.secret().expose().as_bytes(), bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        let locator = kept_str(bytes)?;
        Some(Self::recorded(locator, EnrolmentSecret::from_text(kept_str(bytes)?)?))
    }
}

impl Kept for PushTarget {
    fn keep(&self, bytes: &mut Vec<u8>) {
        self.service().keep(bytes);
        keep_slice(self.token().as_bytes(), bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        let service = Kept::kept(bytes)?;
        Some(Self::recorded(service, kept_str(bytes)?))
    }
}

impl Kept for Salt {
    fn keep(&self, bytes: &mut Vec<u8>) {
        self.expose().keep(bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        Kept::kept(bytes).map(Self::from_bytes)
    }
}

impl Kept for Timestamp {
    fn keep(&self, bytes: &mut Vec<u8>) {
        self.as_millis().keep(bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        u64::kept(bytes).map(Self::from_millis)
    }
}

impl Kept for Duration {
    fn keep(&self, bytes: &mut Vec<u8>) {
        self.as_secs().keep(bytes);
        self.subsec_nanos().keep(bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        let (seconds, nanos) = (u64::kept(bytes)?, u32::kept(bytes)?);
        (nanos < 1_000_000_000).then(|| Self::new(seconds, nanos))
    }
}

macro_rules! kept_ids {
    ($($id:ident),*) => {
        $(impl Kept for $id {
            fn keep(&self, bytes: &mut Vec<u8>) {
                self.as_bytes().keep(bytes);
            }

            fn kept(bytes: &mut &[u8]) -> Option<Self> {
                Kept::kept(bytes).map(Self::from_bytes)
            }
        })*
    };
}
kept_ids!(ApprovalId, AuthenticatorId, EnrolmentId, RelyingPartyId);

macro_rules! kept_numbers {
    ($($number:ident),*) => {
        $(impl Kept for $number {
            fn keep(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_be_bytes());
            }

            fn kept(bytes: &mut &[u8]) -> Option<Self> {
                Kept::kept(bytes).map(Self::from_be_bytes)
            }
        })*
    };
}
kept_numbers!(u8, u32, u64);

impl<const N: usize> Kept for [u8; N] {
    fn keep(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*first)
    }
}

impl Kept for bool {
    fn keep(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        match u8::kept(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Kept> Kept for Option<T> {
    fn keep(&self, bytes: &mut Vec<u8>) {
        self.is_some().keep(bytes);
        if let Some(there) = self {
            there.keep(bytes);
        }
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        if bool::kept(bytes)? { T::kept(bytes).map(Some) } else { Some(None) }
    }
}

impl<T: Kept> Kept for Vec<T> {
    fn keep(&self, bytes: &mut Vec<u8>) {
        keep_length(self.len(), bytes);
        for one in self {
            one.keep(bytes);
        }
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        // Each takes a byte at least: a length that is none ends with the bytes.
        (0..u32::kept(bytes)?).map(|_| T::kept(bytes)).collect()
    }
}

impl<T: Kept> Kept for Arc<T> {
    fn keep(&self, bytes: &mut Vec<u8>) {
        (**self).keep(bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        T::kept(bytes).map(Self::new)
    }
}

impl Kept for Bytes {
    fn keep(&self, bytes: &mut Vec<u8>) {
        keep_slice(self, bytes);
    }

    fn kept(bytes: &mut &[u8]) -> Option<Self> {
        kept_slice(bytes).map(Self::copy_from_slice)
    }
}

macro_rules! kept_texts {
    ($($text:ident from $recorded:path),* $(,)?) => {
        $(impl Kept for $text {
            fn keep(&self, bytes: &mut Vec<u8>) {
                keep_slice(self.as_str().as_bytes(), bytes);
            }

            fn kept(bytes: &mut &[u8]) -> Option<Self> {
                kept_str(bytes).map($recorded)
            }
        })*
    };
}
kept_texts!(String from String::from, DisplayText from Self::recorded, Realm from Self::recorded);

fn keep_slice(slice: &[u8], bytes: &mut Vec<u8>) {
    keep_length(slice.len(), bytes);
    bytes.extend_from_slice(slice);
}

fn keep_length(length: usize, bytes: &mut Vec<u8>) {
    u32::try_from(length).expect("what an account holds is bounded, far below that").keep(bytes);
}

fn kept_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u32::kept(bytes)?).ok()?;
    let (slice, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(slice)
}

fn kept_str<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(kept_slice(bytes)?).ok()
}
