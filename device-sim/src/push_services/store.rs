//! What a service keeps for one device, and how much of it.
//!
//! Sources: Apple, 'Sending notification requests to APNs' (one notification per bundle identifier, in most cases
//! the latest; 30 days at most). Google, 'FCM throttling and quotas' (rates of one device, collapsible messages),
//! 'Collapsible and non-collapsible messages' (four keys), 'Lifetime of a message' (100 messages).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Service, devices::Push, tally::Tally};
use crate::clock::Timestamp;

/// A connected device that does not read has at most this many pushes on their way to it; then they wait as if it
/// were away.
const ON_THE_WAY_MAX: usize = 256;
/// FCM keeps messages of this many collapse keys for one device.
const COLLAPSE_KEYS_MAX: usize = 4;
/// FCM keeps this many messages without a collapse key; one more, and it drops them all.
const PLAIN_MAX: usize = 100;
/// FCM delivers this many collapsible messages to a device at once,
const COLLAPSIBLE_BURST: u32 = 20;
/// and then one in this time.
const COLLAPSIBLE_REFILL: Duration = Duration::from_secs(3 * 60);
/// What FCM takes for one device in a minute,
const MINUTE_MAX: u32 = 240;
/// and in an hour.
const HOUR_MAX: u32 = 5000;
/// What an app is told when its messages were dropped: the SDK calls `onDeletedMessages`.
const DELETED_MESSAGES: &[u8] = br#"{"data":{"message_type":"deleted_messages"}}"#;

/// How long a push is kept for a device that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Tried once and not stored.
    Not,
    /// Stored until then.
    Until(Timestamp),
}

/// A push at the service.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) push: Push,
    pub(crate) keep: Keep,
    /// FCM: the collapse key. APNs needs none here: it keeps one notification whatever its identifier is.
    pub(crate) collapse_key: Option<Box<str>>,
}

/// What one service holds for one device.
#[derive(Debug)]
pub(crate) struct Shelf {
    service: Service,
    waiting: VecDeque<Waiting>,
    /// FCM dropped messages, and the app has not been told.
    deleted: Option<Push>,
    collapsible: Pace,
    rate: Rate,
}

#[derive(Debug)]
struct Waiting {
    held: Held,
    /// FCM holds collapsible messages back when there are too many.
    not_before: Timestamp,
}

impl Shelf {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            service,
            waiting: VecDeque::new(),
            deleted: None,
            collapsible: Pace::default(),
            rate: Rate::default(),
        }
    }

    /// How many pushes wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.deleted.is_some())
    }

    /// Forgets everything: the target is dead.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.deleted = None;
    }

    /// FCM's limits for one device: how long to wait, if they are exceeded.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Result<(), Duration> {
        self.rate.admit(now)
    }

    /// Takes a push over: to be taken by the device at once if it is connected, else kept as documented.
    pub(crate) fn put(&mut self, held: Held, is_connected: bool, now: Timestamp, tally: &Tally) {
        let Some(waiting) = self.pace(held, now, tally) else { return };
        if is_connected && self.waiting.len() < ON_THE_WAY_MAX {
            self.waiting.push_back(waiting);
        } else {
            self.shelve(waiting, tally);
        }
    }

    /// The next push that is due, or else the moment when one will be.
    pub(crate) fn take(&mut self, now: Timestamp, tally: &Tally) -> Result<Push, Option<Timestamp>> {
        if let Some(deleted) = self.deleted.take() {
            return Ok(deleted);
        }
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.held.keep != Keep::Not || waiting.not_before <= now);
        tally.not_stored.add((before - self.waiting.len()) as u64);
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !matches!(waiting.held.keep, Keep::Until(moment) if moment <= now));
        tally.expired.add((before - self.waiting.len()) as u64);

        let due = self.waiting.iter().position(|waiting| waiting.not_before <= now);
        let Some(waiting) = due.and_then(|at| self.waiting.remove(at)) else {
            return Err(self.waiting.iter().map(|waiting| waiting.not_before).min());
        };
        tally.delivered.one();
        Ok(waiting.held.push)
    }

    /// The device is away: what was on its way to it is kept as if it came now.
    pub(crate) fn device_left(&mut self, now: Timestamp, tally: &Tally) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            waiting.not_before = waiting.not_before.max(now);
            self.shelve(waiting, tally);
        }
    }

    /// FCM's throttle of collapsible messages. `None` if the message has taken the place of one held back.
    fn pace(&mut self, held: Held, now: Timestamp, tally: &Tally) -> Option<Waiting> {
        let Some(key) = held.collapse_key.as_deref() else {
            return Some(Waiting { held, not_before: now });
        };
        let held_back = self
            .waiting
            .iter_mut()
            .find(|waiting| waiting.not_before > now && waiting.held.collapse_key.as_deref() == Some(key));
        if let Some(held_back) = held_back {
            held_back.held = held;
            tally.replaced.one();
            return None;
        }
        let not_before = self.collapsible.next(now);
        Some(Waiting { held, not_before })
    }

    fn shelve(&mut self, mut waiting: Waiting, tally: &Tally) {
        if waiting.held.keep == Keep::Not {
            tally.not_stored.one();
            return;
        }
        waiting.held.push.was_stored = true;
        let room = match self.service {
            Service::Apns => self.make_room_for_the_only_one(tally),
            Service::Fcm => match &waiting.held.collapse_key {
                Some(key) => self.make_room_for_key(&key.clone(), tally),
                None => self.make_room_for_plain(&waiting.held.push, tally),
            },
        };
        if room {
            tally.stored.one();
            self.waiting.push_back(waiting);
        }
    }

    fn make_room_for_the_only_one(&mut self, tally: &Tally) -> bool {
        tally.replaced.add(self.waiting.len() as u64);
        self.waiting.clear();
        true
    }

    fn make_room_for_key(&mut self, key: &str, tally: &Tally) -> bool {
        let same = |waiting: &Waiting| waiting.held.collapse_key.as_deref() == Some(key);
        if let Some(at) = self.waiting.iter().position(same) {
            self.waiting.remove(at);
            tally.replaced.one();
            return true;
        }
        let keys = self.waiting.iter().filter(|waiting| waiting.held.collapse_key.is_some()).count();
        let oldest = self.waiting.iter().position(|waiting| waiting.held.collapse_key.is_some());
        if keys >= COLLAPSE_KEYS_MAX
            && let Some(at) = oldest
        {
            // Which four keys FCM keeps it does not say.
            self.waiting.remove(at);
            tally.discarded.one();
        }
        true
    }

    fn make_room_for_plain(&mut self, push: &Push, tally: &Tally) -> bool {
        let plain = self.waiting.iter().filter(|waiting| waiting.held.collapse_key.is_none()).count();
        if plain < PLAIN_MAX && self.deleted.is_none() {
            return true;
        }
        self.waiting.retain(|waiting| waiting.held.collapse_key.is_some());
        tally.discarded.add(plain as u64 + 1);
        self.deleted.get_or_insert_with(|| Push {
            id: Arc::clone(&push.id),
            body: Bytes::from_static(DELETED_MESSAGES),
            ..push.clone()
        });
        false
    }
}

/// A burst, then one at a time: the generic cell rate algorithm, which needs one moment to remember.
#[derive(Clone, Copy, Debug)]
struct Pace {
    spent_until: Timestamp,
}

impl Default for Pace {
    fn default() -> Self {
        Self { spent_until: Timestamp(0) }
    }
}

impl Pace {
    /// When the next message may go.
    fn next(&mut self, now: Timestamp) -> Timestamp {
        self.spent_until = self.spent_until.max(now).plus(COLLAPSIBLE_REFILL);
        let burst = COLLAPSIBLE_REFILL * COLLAPSIBLE_BURST;
        let ahead = self.spent_until.since(now).saturating_sub(burst);
        now.plus(ahead)
    }
}

/// How many messages came in this minute and this hour.
#[derive(Clone, Copy, Debug)]
struct Rate {
    minute: Window,
    hour: Window,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            minute: Window::new(Duration::from_secs(60), MINUTE_MAX),
            hour: Window::new(Duration::from_secs(60 * 60), HOUR_MAX),
        }
    }
}

impl Rate {
    fn admit(&mut self, now: Timestamp) -> Result<(), Duration> {
        self.minute.check(now)?;
        self.hour.check(now)?;
        self.minute.count += 1;
        self.hour.count += 1;
        Ok(())
    }
}

/// So many in a span of time, which begins with the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    length: Duration,
    max: u32,
    began: Timestamp,
    count: u32,
}

impl Window {
    pub(crate) fn new(length: Duration, max: u32) -> Self {
        Self { length, max, began: Timestamp(0), count: 0 }
    }

    /// Counts one, or says how long until the window is over.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Result<(), Duration> {
        self.check(now)?;
        self.count += 1;
        Ok(())
    }

    fn check(&mut self, now: Timestamp) -> Result<(), Duration> {
        if now.since(self.began) >= self.length {
            self.began = now;
            self.count = 0;
        }
        if self.count < self.max { Ok(()) } else { Err(self.length.saturating_sub(now.since(self.began))) }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    const FOREVER: Keep = Keep::Until(Timestamp(u64::MAX));

    fn held(service: Service, id: &str, keep: Keep, collapse_key: Option<&str>) -> Held {
        Held {
            push: Push {
                service,
                id: id.into(),
                headers: Arc::new(HeaderMap::new()),
                body: Bytes::new(),
                accepted_at: NOW,
                was_stored: false,
            },
            keep,
            collapse_key: collapse_key.map(Into::into),
        }
    }

    fn ids(shelf: &mut Shelf, now: Timestamp) -> Vec<String> {
        let tally = Tally::default();
        std::iter::from_fn(|| shelf.take(now, &tally).ok()).map(|push| push.id.to_string()).collect()
    }

    #[test]
    fn apns_keeps_the_latest_notification_only() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Apns);
        for id in ["1", "2", "3"] {
            shelf.put(held(Service::Apns, id, FOREVER, None), false, NOW, &tally);
        }
        assert_eq!(ids(&mut shelf, NOW), ["3"]);
        assert_eq!(tally.counters().replaced, 2);
    }

    #[test]
    fn what_is_not_to_be_stored_reaches_a_connected_device_only() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Apns);
        shelf.put(held(Service::Apns, "away", Keep::Not, None), false, NOW, &tally);
        assert_eq!(ids(&mut shelf, NOW), [""; 0]);
        shelf.put(held(Service::Apns, "here", Keep::Not, None), true, NOW, &tally);
        assert_eq!(ids(&mut shelf, NOW), ["here"]);
        assert_eq!(tally.counters().not_stored, 1);
    }

    #[test]
    fn a_stored_push_is_gone_when_it_expires() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        let until = NOW.plus(MINUTE);
        shelf.put(held(Service::Fcm, "1", Keep::Until(until), None), false, NOW, &tally);
        assert_eq!(ids(&mut shelf, until), [""; 0]);
    }

    #[test]
    fn what_a_device_did_not_read_before_it_left_waits_for_it() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        for id in ["1", "2"] {
            shelf.put(held(Service::Fcm, id, FOREVER, None), true, NOW, &tally);
        }
        shelf.device_left(NOW, &tally);
        let first = shelf.take(NOW, &tally).expect("it waits");
        assert!(first.was_stored);
        assert_eq!(ids(&mut shelf, NOW), ["2"]);
    }

    #[test]
    fn fcm_keeps_the_latest_of_each_of_four_collapse_keys() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        for (id, key) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c"), ("5", "d"), ("6", "e")] {
            shelf.put(held(Service::Fcm, id, FOREVER, Some(key)), false, NOW, &tally);
        }
        assert_eq!(ids(&mut shelf, NOW), ["3", "4", "5", "6"]);
    }

    #[test]
    fn fcm_drops_everything_when_a_hundred_messages_wait_and_tells_the_app() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        for id in 0..=PLAIN_MAX {
            shelf.put(held(Service::Fcm, &id.to_string(), FOREVER, None), false, NOW, &tally);
        }
        let told = shelf.take(NOW, &tally).expect("the app is told");
        assert_eq!(told.body, DELETED_MESSAGES);
        assert_eq!(ids(&mut shelf, NOW), [""; 0]);
        assert_eq!(tally.counters().discarded, 101);
    }

    #[test]
    fn fcm_delivers_twenty_collapsible_messages_at_once_and_then_one_in_three_minutes() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        for id in 0..22 {
            let key = format!("key {id}");
            shelf.put(held(Service::Fcm, &id.to_string(), FOREVER, Some(&key)), true, NOW, &tally);
        }
        assert_eq!(ids(&mut shelf, NOW).len(), 20);
        assert_eq!(shelf.take(NOW, &tally).err(), Some(Some(NOW.plus(3 * MINUTE))));
        assert_eq!(ids(&mut shelf, NOW.plus(3 * MINUTE)), ["20"]);
        assert_eq!(ids(&mut shelf, NOW.plus(6 * MINUTE)), ["21"]);
    }

    #[test]
    fn a_message_that_is_held_back_is_replaced_by_a_later_one_of_its_key() {
        let tally = Tally::default();
        let mut shelf = Shelf::new(Service::Fcm);
        for id in 0..22 {
            shelf.put(held(Service::Fcm, &id.to_string(), FOREVER, Some("news")), true, NOW, &tally);
        }
        assert_eq!(ids(&mut shelf, NOW).len(), 20);
        assert_eq!(ids(&mut shelf, NOW.plus(3 * MINUTE)), ["21"]);
    }

    #[test]
    fn fcm_takes_240_messages_a_minute_for_one_device() {
        let mut shelf = Shelf::new(Service::Fcm);
        for _ in 0..240 {
            assert_eq!(shelf.admit(NOW), Ok(()));
        }
        assert_eq!(shelf.admit(NOW), Err(MINUTE));
        assert_eq!(shelf.admit(NOW.plus(MINUTE)), Ok(()));
    }

    #[test]
    fn a_device_that_does_not_read_cannot_fill_the_memory() {
        let tally = Tally::default();
        for service in [Service::Apns, Service::Fcm] {
            let mut shelf = Shelf::new(service);
            for id in 0..10_000 {
                shelf.put(held(service, &id.to_string(), FOREVER, None), true, NOW, &tally);
            }
            assert!(shelf.len() <= ON_THE_WAY_MAX + PLAIN_MAX);
        }
    }
}
