//! Numbers of the configuration. One of the wrong form is told what it must be, in no programming language's words.

use std::{fmt, marker::PhantomData, num::NonZeroUsize};

use serde::{Deserializer, de};

/// What a number of the configuration can be.
pub(super) trait Number: Sized {
    /// The same number, if it is one of these.
    fn from_u64(number: u64) -> Option<Self>;
}

macro_rules! unsigned {
    ($($kind:ty),+) => {$(
        impl Number for $kind {
            fn from_u64(number: u64) -> Option<Self> {
                number.try_into().ok()
            }
        }
    )+};
}

unsigned!(u8, u32, u64);

impl Number for NonZeroUsize {
    fn from_u64(number: u64) -> Option<Self> {
        usize::try_from(number).ok().and_then(Self::new)
    }
}

/// Reads a number from `LEAST` to `MOST`.
pub(super) fn number<'de, D, T, const LEAST: u64, const MOST: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Number,
{
    deserializer.deserialize_any(Visitor::<T, LEAST, MOST>(PhantomData))
}

struct Visitor<T, const LEAST: u64, const MOST: u64>(PhantomData<T>);

impl<T: Number, const LEAST: u64, const MOST: u64> de::Visitor<'_> for Visitor<T, LEAST, MOST> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number, {} to {}", Grouped(LEAST), Grouped(MOST))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        let fits = Some(number).filter(|number| (LEAST..=MOST).contains(number));
        fits.and_then(T::from_u64).ok_or_else(|| Self::wrong())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        u64::try_from(number).map_err(|_| Self::wrong()).and_then(|number| self.visit_u64(number))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(Self::wrong())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<T, E> {
        Err(Self::wrong())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<T, E> {
        Err(Self::wrong())
    }
}

impl<T: Number, const LEAST: u64, const MOST: u64> Visitor<T, LEAST, MOST> {
    fn wrong<E: de::Error>() -> E {
        E::custom(format_args!("must be a number, {} to {}", Grouped(LEAST), Grouped(MOST)))
    }
}

/// With a comma between thousands.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            0 => write!(f, "{}", self.0),
            thousands => write!(f, "{},{:03}", Grouped(thousands), self.0 % 1_000),
        }
    }
}
