//! Chance, from the seed alone. Everybody has their own, so that what one draws does not depend on who drew before.

use std::{ops::RangeInclusive, sync::Mutex, time::Duration};

use countersign::entropy::Entropy;
use countersign_envelope::sha256;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};

/// One's own chance.
#[derive(Debug)]
pub(crate) struct Chance(StdRng);

impl Chance {
    /// That of whoever has this name, in the run of this seed.
    pub(crate) fn of(name: &str, seed: u64) -> Self {
        Self(StdRng::from_seed(sha256(format!("{seed}/{name}").as_bytes())))
    }

    /// Whether something happens that does so in so many cases of a hundred.
    pub(crate) fn happens(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    pub(crate) fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    pub(crate) fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// One of these, the likelier the larger its weight.
    pub(crate) fn one_of<T: Copy>(&mut self, weighted: &[(u32, T)]) -> T {
        let all = weighted.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.0.random_range(0..all);
        for (weight, one) in weighted {
            match drawn.checked_sub(*weight) {
                Some(rest) => drawn = rest,
                None => return *one,
            }
        }
        unreachable!("what is drawn is less than all weights together")
    }
}

/// Numbers are nearly all drawn from so many: they collide often, and have six digits, which do not stand anywhere by
/// chance.
const NUMBERS: u64 = 64;

/// The randomness of a broker.
#[derive(Debug)]
pub(crate) struct BrokerEntropy(Mutex<Chance>);

/// Whoever else needs some.
#[derive(Debug)]
pub(crate) struct SeededEntropy(Mutex<Chance>);

impl BrokerEntropy {
    pub(crate) fn of(name: &str, seed: u64) -> Self {
        Self(Mutex::new(Chance::of(name, seed)))
    }
}

impl Entropy for BrokerEntropy {
    /// Four bytes are drawn for a number, and for nothing else.
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.lock().expect("drawing does not panic");
        if bytes.len() == 4 && chance.happens(90) {
            let one_of_few = sha256(&chance.number(1..=NUMBERS).to_be_bytes());
            bytes.copy_from_slice(&one_of_few[..4]);
        } else {
            chance.0.fill_bytes(bytes);
        }
    }
}

impl SeededEntropy {
    pub(crate) fn of(name: &str, seed: u64) -> Self {
        Self(Mutex::new(Chance::of(name, seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("drawing does not panic").0.fill_bytes(bytes);
    }
}
