//! What the services count, and the latest requests that they keep for tests to look at.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;

use super::Service;
use crate::clock::Timestamp;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// How often what happened since the start, in both services.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)+
        }

        /// The counters while they count.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: Counter,)+
        }

        impl Tally {
            pub(crate) fn counters(&self) -> Counters {
                Counters { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Connections that finished their TLS handshake.
    connections,
    /// Requests for a push, refused ones included.
    requests,
    /// Requests answered with 200.
    accepted,
    /// Requests answered with anything else.
    refused,
    /// Requests that a fault kept from an answer of their own.
    struck_by_faults,
    /// Streams that came before a valid provider token allowed more than one.
    streams_refused,
    /// Access tokens that the token endpoint issued.
    access_tokens,
    /// Pushes that their device got.
    delivered,
    /// Pushes that waited for a device that was away.
    stored,
    /// Pushes that a later one for the same place took the place of.
    replaced,
    /// Pushes that expired before their device came.
    expired,
    /// Pushes for a device that was away, not to be stored.
    not_stored,
    /// Pushes dropped because too many waited, or because the device could not have read them.
    discarded,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }
}

/// A request for a push, and what it was answered.
#[derive(Clone, Debug)]
pub struct Received {
    /// The service that received it.
    pub service: Service,
    /// When.
    pub at: Timestamp,
    /// The device token or registration token it named, if it named one.
    pub target: Option<Arc<str>>,
    /// Its headers, without the credentials.
    pub headers: Arc<HeaderMap>,
    /// Its body, as far as it was read.
    pub body: Bytes,
    /// The status of the answer; `None` if a fault gave none.
    pub status: Option<u16>,
    /// APNs: the reason. FCM: the error code. `None` if it was accepted.
    pub reason: Option<&'static str>,
}

/// The latest requests.
#[derive(Debug)]
pub(crate) struct Log {
    max: usize,
    latest: Mutex<VecDeque<Arc<Received>>>,
}

impl Log {
    /// A log of the latest `max` requests; of none if it is 0.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, latest: Mutex::default() }
    }

    /// Notes what `received` gives; it is not asked if nothing is kept.
    pub(crate) fn note(&self, received: impl FnOnce() -> Received) {
        if self.max == 0 {
            return;
        }
        let received = Arc::new(received());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == self.max {
            latest.pop_front();
        }
        latest.push_back(received);
    }

    /// The latest requests, the oldest first.
    pub(crate) fn latest(&self) -> Vec<Arc<Received>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets them.
    pub(crate) fn clear(&self) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
