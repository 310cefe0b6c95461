//! The only file of this crate that asks the operating system for randomness.
#![allow(
    clippy::disallowed_methods,
    reason = "everything else takes its randomness from here or from a seed that a person chose"
)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Fills `bytes` from the operating system.
///
/// # Panics
/// If the operating system has no randomness to give: nothing can be simulated without keys.
pub fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the operating system gives randomness");
}

/// Names that need to be different from each other, not secret: message ids, device tokens.
///
/// One atomic addition each, so that thousands of pushes a second do not ask the operating system for theirs.
#[derive(Debug)]
pub struct Names(AtomicU64);

impl Names {
    /// A source of names that starts at a random place.
    pub fn new() -> Self {
        let mut seed = [0; 8];
        fill(&mut seed);
        Self(AtomicU64::new(u64::from_le_bytes(seed)))
    }

    /// 64 bits that this source has not given before.
    pub fn next(&self) -> u64 {
        scramble(self.0.fetch_add(SplitMix64::STEP, Ordering::Relaxed))
    }

    /// A random UUID (RFC 9562 section 5.4), lowercase.
    pub fn uuid(&self) -> String {
        let (high, low) = (self.next(), self.next());
        let version = (high & 0xffff_ffff_ffff_0fff) | 0x4000;
        let variant = (low & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            version >> 32,
            (version >> 16) & 0xffff,
            version & 0xffff,
            variant >> 48,
            variant & 0xffff_ffff_ffff,
        )
    }

    /// `length` characters of `alphabet`, each as likely as the others (to within 1 in 2^58).
    ///
    /// # Panics
    /// If `alphabet` is empty.
    pub fn string(&self, alphabet: &[u8], length: usize) -> String {
        let letters = alphabet.len() as u64;
        (0..length)
            .map(|_| {
                let at = usize::try_from(self.next() % letters).expect("less than the alphabet's length");
                char::from(alphabet[at])
            })
            .collect()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

/// A small random generator with a seed, so that the same scenario goes the same way twice (SplitMix64, by
/// Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The generator that `seed` starts.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        finish(self.0)
    }

    /// Whether something of this probability (0 to 1) happens this time.
    pub fn happens(&mut self, probability: f64) -> bool {
        // The upper 53 bits are as many as an f64 holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let drawn = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        drawn < probability
    }
}

fn scramble(counter: u64) -> u64 {
    finish(counter.wrapping_add(SplitMix64::STEP))
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeded_generator_gives_the_published_sequence() {
        let mut generator = SplitMix64::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| generator.draw()).collect();
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn a_uuid_is_canonical_and_of_version_4() {
        let names = Names::new();
        let uuid = names.uuid();
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
        assert_ne!(uuid, names.uuid());
    }
}
