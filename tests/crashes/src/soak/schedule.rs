//! What is wrong with the disk, and when: from a seed.

use std::{fmt, time::Duration};

use crashfs::{CrashFs, Fault, FaultId, Kind, Match};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::Serialize;

/// From the beginning of one fault to that of the next, about: not less, so that something can be served between, ...
const SLOT_MIN: Duration = Duration::from_secs(3);
/// ... and not more, so that a long run has many.
const SLOT_MAX: Duration = Duration::from_secs(40);
/// So many slots are aimed at.
const SLOTS: u32 = 30;
/// Each kind comes so often at least, in a run that is long enough for it.
const EACH_MIN: usize = 2;
/// The part of a slot that a fault takes. The rest is quiet.
const PART: std::ops::Range<f64> = 0.15..0.3;

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ill {
    /// There is no room: everybody is told to come again.
    Full,
    /// fsync of the journal gives EIO: nobody knows what is on disk, and the broker ends.
    Sync,
    /// Writing to the journal gives EIO: the same.
    Write,
    /// Reading the journal gives EIO: sign-ins go on, archiving waits.
    Read,
    /// Writing, syncing and all else in sled's folder gives EIO: the journal serves alone.
    Store,
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub ill: Ill,
    /// When it begins, from the beginning of the load.
    pub at: Duration,
    /// For how long it lasts.
    pub lasts: Duration,
}

/// A fault that is there.
#[derive(Debug)]
pub enum There {
    /// The disk is full.
    Full,
    /// Operations fail.
    Failing(FaultId),
}

impl Ill {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Full, Self::Sync, Self::Write, Self::Read, Self::Store];
    /// Those that the broker lives through.
    const LIVED_THROUGH: [Self; 3] = [Self::Full, Self::Read, Self::Store];

    /// Whether the broker is to end, and to find out at its next start what is on disk.
    pub fn ends_the_broker(self) -> bool {
        !Self::LIVED_THROUGH.contains(&self)
    }

    /// In a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full disk",
            Self::Sync => "EIO at fsync",
            Self::Write => "EIO at write",
            Self::Read => "EIO at read",
            Self::Store => "EIO in sled",
        }
    }

    /// Makes it so.
    pub fn begin(self, fs: &CrashFs) -> There {
        let (kind, path) = match self {
            Self::Full => {
                // Whatever is removed meanwhile makes no room either; what there is can be overwritten, as on any disk.
                fs.faults().set_capacity(Some(0));
                return There::Full;
            }
            Self::Sync => (Kind::Sync, "log/journal/*.seg"),
            Self::Write => (Kind::Write, "log/journal/*.seg"),
            Self::Read => (Kind::Read, "log/journal/*"),
            Self::Store => (Kind::Any, "log/store/**"),
        };
        There::Failing(fs.faults().inject(Fault::until_cleared(Match::new(kind, path))))
    }
}

impl There {
    /// How many operations it has failed; none if nobody counts them.
    pub fn strikes(&self, fs: &CrashFs) -> Option<u64> {
        match self {
            Self::Full => None,
            Self::Failing(id) => Some(fs.faults().strikes(*id)),
        }
    }

    /// The disk is well again.
    pub fn end(self, fs: &CrashFs) {
        match self {
            Self::Full => fs.faults().set_capacity(None),
            Self::Failing(id) => fs.faults().clear(id),
        }
    }
}

impl fmt::Display for Ill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No fault of a run of this length lasts longer.
pub fn longest(of: Duration) -> Duration {
    slot(of).mul_f64(PART.end)
}

fn slot(of: Duration) -> Duration {
    (of / SLOTS).clamp(SLOT_MIN, SLOT_MAX)
}

/// The faults of a run of this length. In its first half all kinds come, so that the broker is also seen to end and to
/// start again; in its second those that it lives through, so that one process grows old enough to be judged.
pub fn faults(of: Duration, seed: u64) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let slot = slot(of);
    let slots = |time: Duration| usize::try_from(time.as_nanos() / slot.as_nanos()).unwrap_or(usize::MAX);
    let count = slots(of);
    let rounds = (slots(of / 2) / Ill::ALL.len()).max(EACH_MIN);
    let mut kinds = Vec::new();
    while kinds.len() < count {
        let round: &[Ill] =
            if kinds.len() < rounds * Ill::ALL.len() { &Ill::ALL } else { &Ill::LIVED_THROUGH };
        let mut next = round.to_vec();
        next.shuffle(&mut random);
        kinds.extend(next);
    }
    kinds.truncate(count);
    let plan = kinds.into_iter().zip(0..).map(|(ill, number)| {
        let lasts = slot.mul_f64(random.random_range(PART));
        // It is over with its slot at the latest, and there is quiet before it.
        let latest = slot.saturating_sub(lasts);
        let within = random.random_range(latest / 2..latest);
        Planned { ill, at: slot * number + within, lasts }
    });
    plan.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20 * 60);

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        assert_eq!(faults(LONG, 7), faults(LONG, 7));
        assert_ne!(faults(LONG, 7), faults(LONG, 8));
    }

    #[test]
    fn every_kind_comes_twice_in_half_a_minute_and_more_often_in_twenty() {
        for (seconds, at_least) in [(31, 2), (20 * 60, 3)] {
            let plan = faults(Duration::from_secs(seconds), 1);
            for ill in Ill::ALL {
                let times = plan.iter().filter(|planned| planned.ill == ill).count();
                assert!(times >= at_least, "{ill}: {times} in {seconds} s");
            }
        }
    }

    #[test]
    fn faults_do_not_overlap_and_the_second_half_is_lived_through() {
        let plan = faults(LONG, 3);
        for pair in plan.windows(2) {
            assert!(pair[0].at + pair[0].lasts < pair[1].at, "{pair:?}");
        }
        assert!(plan.iter().all(|planned| planned.at + planned.lasts <= LONG), "{plan:?}");
        let ending = plan.iter().filter(|planned| planned.ill.ends_the_broker());
        let last = ending.map(|planned| planned.at).max().expect("some end it");
        assert!(last < LONG / 2, "{last:?}");
    }
}
