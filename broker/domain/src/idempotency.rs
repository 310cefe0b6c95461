//! The keys of requests: the same request again is the same approval, although that may be forgotten by then.

use std::time::Duration;

use crate::{ApprovalId, Timestamp, event::Idempotency, kept::kept_fields, limits};

/// The keys that an account knows, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys(Vec<KnownKey>);

kept_fields!(Keys { 0: keys });

/// A key that came lately. It keeps half of each hash: 128 bits in which nobody but the relying party itself could make
/// two requests meet, to its own harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    key: [u8; 16],
    request: [u8; 16],
    approval: ApprovalId,
    at: Timestamp,
}

kept_fields!(KnownKey { key, request, approval, at });

impl KnownKey {
    /// The approval that its request made.
    pub fn approval(&self) -> ApprovalId {
        self.approval
    }

    /// Whether the body is the one that came with it.
    pub fn is_of(&self, request: &Idempotency) -> bool {
        self.request == half(&request.request_hash)
    }

    /// One from ahead of the clock is: better too long than too short.
    fn is_kept(&self, now: Timestamp) -> bool {
        now < self.at.plus(limits::IDEMPOTENCY_KEPT)
    }
}

impl Keys {
    pub(crate) fn find(&self, key_hash: &[u8; 32]) -> Option<&KnownKey> {
        let key = half(key_hash);
        self.0.iter().find(|known| known.key == key)
    }

    /// How long until there is room for another, if there is none.
    pub(crate) fn full(&self, now: Timestamp) -> Option<Duration> {
        let kept = || self.0.iter().filter(|known| known.is_kept(now));
        if kept().count() < limits::IDEMPOTENCY_KEYS_MAX {
            return None;
        }
        let oldest = kept().map(|known| known.at.settled(now)).min()?;
        Some(now.until(oldest.plus(limits::IDEMPOTENCY_KEPT)))
    }

    /// The first request with a key stands. Whatever was recorded, there are never more than may be.
    pub(crate) fn remember(&mut self, request: &Idempotency, approval: ApprovalId, at: Timestamp) {
        if self.find(&request.key_hash).is_some() {
            return;
        }
        if self.0.len() >= limits::IDEMPOTENCY_KEYS_MAX {
            self.0.remove(0);
        }
        let (key, request) = (half(&request.key_hash), half(&request.request_hash));
        self.0.push(KnownKey { key, request, approval, at });
    }

    /// Those of yesterday are forgotten; those from ahead of the clock are kept from now on. They stand in the order in
    /// which they came: what is in the middle need not be looked at.
    pub(crate) fn see_clock(&mut self, now: Timestamp) {
        for known in self.0.iter_mut().rev().take_while(|known| known.at.is_ahead_of(now)) {
            known.at = now;
        }
        let old = self.0.iter().take_while(|known| !known.is_kept(now)).count();
        self.0.drain(..old);
    }
}

fn half(hash: &[u8; 32]) -> [u8; 16] {
    let (half, _) = hash.split_first_chunk().expect("32 bytes begin with 16");
    *half
}
