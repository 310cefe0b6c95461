//! The match number: shown where the person signs in, typed on the phone.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{Timestamp, kept::kept_fields, limits};

/// A match number. It prints as nothing: it goes to the page that asked and to nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MatchNumber {
    value: u32,
    digits: u8,
}

kept_fields!(MatchNumber { value, digits });

/// A number that was live, and is not shown again for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) number: MatchNumber,
    /// When it ceased to be live.
    pub(crate) since: Timestamp,
    /// It was a trial's.
    pub(crate) of_trial: bool,
}

kept_fields!(Resting { number, since, of_trial });

impl Resting {
    /// One from ahead of the clock still does: from the next event on it rests as one that ceased to be live then.
    pub(crate) fn rests(&self, now: Timestamp) -> bool {
        now < self.since.plus(limits::NUMBER_REST)
    }
}

/// Hides the number in its commitment. It prints as nothing.
#[derive(Clone, PartialEq, Eq, Zeroize)]
#[zeroize(drop)]
pub struct Salt([u8; 32]);

impl MatchNumber {
    /// The number of this value, if it has no more than so many digits.
    pub fn new(value: u32, digits: u8) -> Option<Self> {
        (value < Self::count(digits)).then_some(Self { value, digits })
    }

    /// How many numbers of so many digits there are.
    pub fn count(digits: u8) -> u32 {
        10u32.pow(u32::from(digits.min(9)))
    }

    /// Draws a number, uniformly among all that are free. `random` gives 32 uniform random bits at each call.
    /// At least half of all numbers must be free (the account refuses before), so this ends: it takes two draws on
    /// average at the worst.
    pub fn draw(digits: u8, is_taken: impl Fn(Self) -> bool, mut random: impl FnMut() -> u32) -> Self {
        let count = Self::count(digits);
        // The largest multiple of `count`: values above it would make the low numbers likelier.
        let fair = u32::MAX - u32::MAX % count;
        loop {
            let bits = random();
            let number = Self { value: bits % count, digits };
            if bits < fair && !is_taken(number) {
                return number;
            }
        }
    }

    /// Whether this is what was typed. Takes the same time whatever digits were typed.
    pub fn matches(self, typed: &str) -> bool {
        self.to_text().as_bytes().ct_eq(typed.as_bytes()).into()
    }

    /// The number to show: decimal digits, zero-padded.
    pub fn to_text(self) -> String {
        format!("{:0width$}", self.value, width = usize::from(self.digits))
    }

    /// The number itself, to seal it.
    pub fn value(self) -> u32 {
        self.value
    }

    /// How many digits it has.
    pub fn digits(self) -> u8 {
        self.digits
    }
}

impl Salt {
    /// The salt of 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to seal it or to make the commitment.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MatchNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatchNumber({} digits)", self.digits)
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(secret)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_shown_with_all_its_zeros_and_only_so_it_matches() {
        let number = MatchNumber::new(7, 2).unwrap();
        assert_eq!(number.to_text(), "07");
        assert!(number.matches("07"));
        for wrong in ["7", "007", "70", "", " 07", "०७"] {
            assert!(!number.matches(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_number_does_not_print_itself() {
        assert!(!format!("{:?}", MatchNumber::new(42, 2).unwrap()).contains("42"));
    }

    #[test]
    fn every_number_is_equally_likely_at_the_edges_of_the_random_range() {
        // 4,294,967,295 is not a multiple of 100: the last 95 values would favour 00 to 94.
        let mut bits = [u32::MAX, u32::MAX - 95, 199].into_iter();
        let number = MatchNumber::draw(2, |_| false, || bits.next().unwrap());
        assert_eq!(number.to_text(), "99");
        let mut bits = [u32::MAX - u32::MAX % 100 - 1].into_iter();
        assert_eq!(MatchNumber::draw(2, |_| false, || bits.next().unwrap()).to_text(), "99");
    }

    proptest! {
        #[test]
        fn a_taken_number_is_never_drawn(taken in proptest::collection::hash_set(0u32..100, 0..50), seed: u32) {
            let mut state = seed;
            let number = MatchNumber::draw(2, |number| taken.contains(&number.value()), || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.rotate_left(7)
            });
            prop_assert!(!taken.contains(&number.value()));
        }
    }
}
