//! Who answers how, and how long people think before they do.

use std::{collections::BTreeMap, collections::VecDeque, str::FromStr as _, time::Duration};

use serde::Deserialize;

use crate::{entropy::SplitMix64, phone::Profile};

/// A third wrong number within a quarter of an hour pauses push for its account: that is another story than a sign-in.
const WRONG_NUMBERS_MAX: u8 = 2;

/// Profiles by weight, and think times.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    weights: Vec<(Profile, u32)>,
    think: Think,
}

/// Think times are log-normal: most people answer soon, some much later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Think {
    median_ms: f64,
    p95_ms: f64,
}

/// As a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profiles: Option<BTreeMap<String, u32>>,
    think: Option<ThinkFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThinkFile {
    median_ms: u32,
    p95_ms: u32,
}

/// Why a file is no mix.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// It is not TOML, or has other keys.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A profile is unknown.
    #[error("[profiles]: {0}")]
    Profile(#[from] crate::phone::profile::UnknownProfile),
    /// Nobody would do anything.
    #[error("[profiles]: at least one weight must be more than 0")]
    Empty,
    /// The weights add up to more than can be counted.
    #[error("[profiles]: the weights must add up to at most 1,000,000")]
    TooHeavy,
    /// The distribution is none.
    #[error("[think]: 0 < median_ms < p95_ms <= 600000")]
    Think,
}

impl Default for Mix {
    /// A college's Monday: almost everybody approves, a few deny, forget or mistype, and somebody always tries.
    fn default() -> Self {
        let weights = vec![
            (Profile::Approve, 880),
            (Profile::Deny, 30),
            (Profile::Report, 10),
            (Profile::Ignore, 20),
            (Profile::WrongNumber, 20),
            (Profile::Late, 10),
            (Profile::Twice, 10),
            (Profile::Replayed, 10),
            (Profile::Forged, 10),
        ];
        Self { weights, think: Think { median_ms: 1_500.0, p95_ms: 5_000.0 } }
    }
}

impl Mix {
    /// Everybody does the same, at once.
    pub fn only(profile: Profile) -> Self {
        Self { weights: vec![(profile, 1)], think: Think { median_ms: 0.0, p95_ms: 0.0 } }
    }

    /// Everybody does the same, and thinks for so long.
    pub fn after(think: Duration, profile: Profile) -> Self {
        let median_ms = think.as_secs_f64() * 1_000.0;
        Self { weights: vec![(profile, 1)], think: Think { median_ms, p95_ms: median_ms } }
    }

    /// Reads a mix:
    ///
    /// ```
    /// let mix = device_sim::load::Mix::parse(
    ///     "[profiles]\napprove = 90\nwrong-number = 10\n[think]\nmedian_ms = 800\np95_ms = 3000",
    /// );
    /// assert!(mix.is_ok());
    /// ```
    pub fn parse(text: &str) -> Result<Self, MixError> {
        let file: File = toml::from_str(text)?;
        let weights = match file.profiles {
            None => Self::default().weights,
            Some(profiles) => profiles
                .iter()
                .filter(|(_, weight)| **weight > 0)
                .map(|(name, weight)| Ok((Profile::from_str(name)?, *weight)))
                .collect::<Result<Vec<_>, MixError>>()?,
        };
        match weights.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() {
            0 => return Err(MixError::Empty),
            1..=1_000_000 => {}
            _ => return Err(MixError::TooHeavy),
        }
        let think = match file.think {
            None => Self::default().think,
            Some(ThinkFile { median_ms, p95_ms })
                if 0 < median_ms && median_ms < p95_ms && p95_ms <= 600_000 =>
            {
                Think { median_ms: median_ms.into(), p95_ms: p95_ms.into() }
            }
            Some(_) => return Err(MixError::Think),
        };
        Ok(Self { weights, think })
    }

    /// Its profiles and their weights.
    pub fn weights(&self) -> &[(Profile, u32)] {
        &self.weights
    }

    fn draw(&self, random: &mut SplitMix64) -> Profile {
        let all: u64 = self.weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random.draw() % all;
        for (profile, weight) in &self.weights {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return *profile,
            }
        }
        unreachable!("less than the sum of the weights was drawn")
    }
}

impl Think {
    /// One person's time.
    pub fn draw(self, random: &mut SplitMix64) -> Duration {
        // The 95th percentile of the normal distribution.
        const Z95: f64 = 1.644_853_626_951_472_2;
        if self.median_ms <= 0.0 {
            return Duration::ZERO;
        }
        let sigma = (self.p95_ms / self.median_ms).ln() / Z95;
        Duration::from_secs_f64(self.median_ms / 1_000.0 * (sigma * normal(random)).exp())
    }
}

/// Normally distributed, by Box and Muller.
fn normal(random: &mut SplitMix64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits are as many as an f64 holds exactly")]
    let mut even = || ((random.draw() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    (-2.0 * even().ln()).sqrt() * (std::f64::consts::TAU * even()).cos()
}

/// Who signs in, and what the phone will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of the people.
    pub who: usize,
    /// How the phone answers.
    pub profile: Profile,
    /// How long it takes.
    pub think: Duration,
}

/// Whose turn it is: who has waited longest since the last time, so that nobody signs in twice at once while others
/// have not at all.
#[derive(Debug)]
pub(super) struct Roster {
    mix: Mix,
    idle: VecDeque<usize>,
    /// How many sign-ins each has under way.
    busy: Vec<u32>,
    wrong_numbers: Vec<u8>,
}

impl Roster {
    pub(super) fn new(mix: &Mix, people: usize) -> Self {
        Self {
            mix: mix.clone(),
            idle: (0..people).collect(),
            busy: vec![0; people],
            wrong_numbers: vec![0; people],
        }
    }

    /// The next, and what their phone will do.
    pub(super) fn cast(&mut self, number: u64, random: &mut SplitMix64) -> Part {
        let people = self.wrong_numbers.len();
        // Everybody is busy: some account has two sign-ins at a time.
        let anybody = || usize::try_from(number).unwrap_or(0) % people;
        let who = self.idle.pop_front().unwrap_or_else(anybody);
        self.busy[who] += 1;
        let mut profile = self.mix.draw(random);
        if profile == Profile::WrongNumber {
            let so_far = &mut self.wrong_numbers[who];
            if *so_far < WRONG_NUMBERS_MAX {
                *so_far += 1;
            } else {
                profile = Profile::Approve;
            }
        }
        Part { who, profile, think: self.mix.think.draw(random) }
    }

    /// They have signed in, or not, and may again.
    pub(super) fn is_back(&mut self, who: usize) {
        self.busy[who] -= 1;
        if self.busy[who] == 0 {
            self.idle.push_back(who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_drawn_by_its_weights() {
        let mix = Mix::parse("[profiles]\napprove = 3\ndeny = 1\nlate = 0").unwrap();
        let mut random = SplitMix64::new(7);
        let denied = (0..10_000).filter(|_| mix.draw(&mut random) == Profile::Deny).count();
        assert!((2_300..2_700).contains(&denied), "{denied}");
        assert!((0..10_000).all(|_| mix.draw(&mut random) != Profile::Late));
    }

    #[test]
    fn a_section_that_is_left_out_is_as_it_is_by_default() {
        let mix = Mix::parse("[think]\nmedian_ms = 800\np95_ms = 3000").unwrap();
        assert_eq!(mix.weights(), Mix::default().weights());
        let mix = Mix::parse("[profiles]\napprove = 1").unwrap();
        assert_eq!(mix.think, Mix::default().think);
    }

    #[test]
    fn think_times_have_their_median_and_their_tail() {
        let think = Think { median_ms: 1_000.0, p95_ms: 4_000.0 };
        let mut random = SplitMix64::new(1);
        let mut times: Vec<_> = (0..20_000).map(|_| think.draw(&mut random).as_millis()).collect();
        times.sort_unstable();
        assert!((950..1_050).contains(&times[10_000]), "{}", times[10_000]);
        assert!((3_700..4_300).contains(&times[19_000]), "{}", times[19_000]);
    }

    #[test]
    fn a_wrong_mix_is_refused_with_what_is_wrong() {
        for (text, says) in [
            ("[profiles]\nnobody = 1", "no profile is called \"nobody\""),
            ("[profiles]\napprove = 0", "more than 0"),
            ("[profiles]\napprove = -1", "invalid value"),
            ("[profiles]\napprove = 1000001", "at most 1,000,000"),
            ("[profile]\napprove = 1", "unknown field `profile`"),
            ("[profiles]\napprove = 1\n[think]\nmedian_ms = 5\np95_ms = 5", "median_ms < p95_ms"),
        ] {
            let error = Mix::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn nobody_is_cast_twice_while_others_wait_and_nobody_is_paused() {
        let mut roster = Roster::new(&Mix::only(Profile::WrongNumber), 3);
        let mut random = SplitMix64::new(1);
        let first: Vec<_> = (0..3).map(|number| roster.cast(number, &mut random).who).collect();
        assert_eq!(first, [0, 1, 2]);
        for _ in 0..3 {
            // Whoever is back first is next, however often.
            roster.is_back(1);
            assert_eq!(roster.cast(9, &mut random).who, 1);
        }
        roster.is_back(1);
        assert_eq!(roster.cast(9, &mut random).profile, Profile::Approve);
    }
}
