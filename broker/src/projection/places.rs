//! Places for approvals that wait. The log tells of an approval only when it is durable, and many can be asked for before
//! that: so a place is taken before anything is decided, and is the approval's from then on, until it ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use countersign_domain::{ApprovalId, RelyingPartyId};

use crate::shares::{Full, Most, Shares};

/// The places that are taken: by approvals that the index knows, and by those that are on their way through the log.
#[derive(Debug, Default)]
pub struct Places {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    shares: Shares<RelyingPartyId>,
    on_their_way: HashMap<ApprovalId, RelyingPartyId>,
}

/// A place for an approval that is about to be decided. Given back when it is dropped, unless it was kept.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    approval: ApprovalId,
    kept: bool,
}

impl Places {
    /// A place for an approval that this relying party asks for.
    pub fn take(
        self: &Arc<Self>,
        approval: ApprovalId,
        by: RelyingPartyId,
        most: Most,
    ) -> Result<Place, Full> {
        let mut taken = self.taken();
        taken.shares.take(by, most)?;
        taken.on_their_way.insert(approval, by);
        Ok(Place { places: Arc::clone(self), approval, kept: false })
    }

    /// The index knows it now. One that was made by another broker, or before the start, has taken no place yet.
    pub(super) fn is_live(&self, approval: ApprovalId, by: RelyingPartyId) {
        let mut taken = self.taken();
        if taken.on_their_way.remove(&approval).is_none() {
            taken.shares.has(by);
        }
    }

    /// One that the index knew is over.
    pub(super) fn has_ended(&self, by: RelyingPartyId) {
        self.taken().shares.give_back(&by);
    }

    /// The same, and its place is the next one's: in between nobody else can take it.
    pub(super) fn is_superseded(&self, by: RelyingPartyId, next: ApprovalId) {
        self.taken().on_their_way.insert(next, by);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The approval is durable: from here on the log says how long the place is needed.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut taken = self.places.taken();
        if let Some(by) = taken.on_their_way.remove(&self.approval) {
            taken.shares.give_back(&by);
        }
    }
}
