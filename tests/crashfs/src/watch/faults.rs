//! Operations that fail with EIO.

use super::{Kind, Match, Subject};

/// Operations that are answered with EIO.
///
/// A failed [`Kind::Sync`] behaves as Linux does: it reports EIO once to everyone who had the file open; what
/// it should have made durable stays readable, counts as clean, so that the next fsync succeeds without it,
/// and is forgotten at the cut, unless it was written again. A failed [`Kind::SyncDir`] loses its directory
/// operations likewise. Anything else that fails has no effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The operations that count.
    pub on: Match,
    /// The first of them that fails, counted from 1 when the fault is set.
    pub nth: u64,
    /// How many fail.
    pub times: Times,
}

/// How often a [`Fault`] strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    /// One operation fails.
    Once,
    /// Every one fails from then on until the fault is cleared; a cut does not clear it.
    UntilCleared,
}

impl Fault {
    /// The next operation of a kind on a path fails.
    pub fn once(on: Match) -> Self {
        Self { on, nth: 1, times: Times::Once }
    }

    /// Every operation of a kind on a path fails.
    pub fn until_cleared(on: Match) -> Self {
        Self { on, nth: 1, times: Times::UntilCleared }
    }

    /// The same from the n-th operation on, counted from 1.
    #[must_use]
    pub fn starting_at(self, nth: u64) -> Self {
        Self { nth, ..self }
    }
}

/// Names a fault that was set.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FaultId(pub(super) u64);

#[derive(Debug)]
pub(super) struct ArmedFault {
    pub(super) id: FaultId,
    pub(super) strikes: u64,
    fault: Fault,
    seen: u64,
}

impl ArmedFault {
    pub(super) fn new(id: FaultId, fault: Fault) -> Self {
        Self { id, strikes: 0, fault, seen: 0 }
    }

    pub(super) fn hits(&mut self, kind: Kind, subject: &Subject) -> bool {
        if !self.fault.on.fits(kind, subject) {
            return false;
        }
        self.seen += 1;
        let hits = match self.fault.times {
            Times::Once => self.seen == self.fault.nth,
            Times::UntilCleared => self.seen >= self.fault.nth,
        };
        self.strikes += u64::from(hits);
        hits
    }
}
