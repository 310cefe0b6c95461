//! How many operations there were.

use std::collections::HashMap;

use super::{Kind, Match, Subject};

/// Operations since the mount, by kind and path. Counted is what a trigger could have stopped at, whether
/// it then failed or not; what was only held by a freeze is not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    counts: HashMap<(Kind, Subject), u64>,
}

impl Counters {
    /// How many operations of a kind there were on any path.
    pub fn of(&self, kind: Kind) -> u64 {
        self.matching(&Match::new(kind, "**"))
    }

    /// How many operations of a kind there were on paths that fit a pattern.
    pub fn matching(&self, wanted: &Match) -> u64 {
        let fits = |((kind, subject), count): (&(Kind, Subject), &u64)| {
            wanted.fits(*kind, subject).then_some(*count)
        };
        self.counts.iter().filter_map(fits).sum()
    }

    /// What came after an earlier count, such as one taken when a process was started.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let later = |(key, count): (&(Kind, Subject), &u64)| {
            let before = earlier.counts.get(key).copied().unwrap_or_default();
            (*count > before).then(|| (key.clone(), count - before))
        };
        Self { counts: self.counts.iter().filter_map(later).collect() }
    }

    pub(super) fn count(&mut self, kind: Kind, subject: &Subject) {
        *self.counts.entry((kind, subject.clone())).or_default() += 1;
    }
}
