//! Where a round ends the broker: counted by what is going on there.

use std::{fmt, time::Duration};

use crashfs::{CutMode, DirOrder, Kind, Trigger};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

/// What is going on when the broker is ended.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What it is called.
    pub name: &'static str,
    /// The broker is ended while it starts, or recovers from the last end.
    pub while_starting: bool,
    kind: Kind,
    path: &'static str,
    nth: u64,
    before: bool,
}

/// Name, kind of operation, path, the most of them that are waited for, while starting.
const MOMENTS: [(&str, Kind, &str, u64, bool); 12] = [
    ("write", Kind::Write, "log/journal/*", 400, false),
    ("sync", Kind::Sync, "log/journal/*", 400, false),
    ("roll-over: a segment made", Kind::Create, "log/journal/*", 12, false),
    ("roll-over: a segment named", Kind::Rename, "log/journal/*", 12, false),
    ("roll-over: the folder synced", Kind::SyncDir, "log/journal", 12, false),
    ("archiving: a segment written anew", Kind::Any, "log/journal/*.arc.new", 20, false),
    ("archiving: it gets its name", Kind::Rename, "log/journal/*.arc", 8, false),
    ("archiving: the plain one removed", Kind::Unlink, "log/journal/*.seg", 8, false),
    // sled writes what it has been given every five seconds, and then little.
    ("putting into sled", Kind::Write, "log/store/**", 2, false),
    ("starting", Kind::Any, "log/**", 12, true),
    ("recovering the journal", Kind::Any, "log/journal/*", 8, true),
    ("recovering sled", Kind::Any, "log/store/**", 10, true),
];

/// A moment that has not come by then is not waited for: the broker is ended as it stands. Longer than what sled takes
/// until its next write, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(15);

impl Moment {
    /// A moment by chance.
    pub fn choose(random: &mut StdRng) -> Self {
        let (name, kind, path, most, while_starting) =
            MOMENTS.choose(random).copied().expect("there are moments");
        Self { name, while_starting, kind, path, nth: random.random_range(1..=most), before: random.random() }
    }

    /// To arm.
    pub fn trigger(&self) -> Trigger {
        if self.before {
            Trigger::before(self.nth, self.kind, self.path)
        } else {
            Trigger::after(self.nth, self.kind, self.path)
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.before { "before" } else { "after" };
        write!(f, "{side} {} number {}", self.name, self.nth)
    }
}

/// A power cut by chance: everything forgotten, pages kept at random, or the last write torn.
pub fn choose_cut(random: &mut StdRng) -> CutMode {
    *[
        CutMode::ForgetAll,
        CutMode::KeepRandomPages(DirOrder::InOrder),
        CutMode::KeepRandomPages(DirOrder::InOrder),
        CutMode::TornWrite,
    ]
    .choose(random)
    .expect("there are cuts")
}
