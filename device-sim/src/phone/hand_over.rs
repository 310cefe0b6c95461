//! The number goes from the page to the phone in somebody's head, and never through the broker. Here it goes through
//! memory: the login side gives it, the phone waits for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// A match number, as a page shows it. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Number(Zeroizing<String>);

impl Number {
    /// The number of these digits.
    pub fn new(digits: impl Into<String>) -> Self {
        Self(Zeroizing::new(digits.into()))
    }

    /// The digits: to show them, or to type them.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Another number of as many digits: what somebody types who does not see the page.
    #[must_use]
    pub fn other(&self) -> Self {
        let digits = self.0.len().min(9);
        let limit = 10u32.pow(u32::try_from(digits).expect("at most 9"));
        let next = self.0.parse::<u32>().map_or(0, |number| (number + 1) % limit);
        Self::new(format!("{next:0digits$}"))
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Number(secret)")
    }
}

/// From logins to phones, by the id of the approval (or of the enrolment, for a trial): the number, and what else the
/// person in front of both knows. Clones share it.
#[derive(Debug)]
pub struct HandOver<T = Number> {
    places: Arc<Mutex<HashMap<Box<str>, Place<T>>>>,
}

#[derive(Debug)]
struct Place<T> {
    given: Option<T>,
    waiting: Vec<oneshot::Sender<T>>,
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self { given: None, waiting: Vec::new() }
    }
}

impl<T> Default for HandOver<T> {
    fn default() -> Self {
        Self { places: Arc::default() }
    }
}

impl<T> Clone for HandOver<T> {
    fn clone(&self) -> Self {
        Self { places: Arc::clone(&self.places) }
    }
}

impl<T: Clone> HandOver<T> {
    /// Nothing handed over yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The page shows the number.
    pub fn give(&self, id: &str, given: T) {
        let mut places = self.lock();
        let place = places.entry(id.into()).or_default();
        for waiting in place.waiting.drain(..) {
            // Who does not wait any more does not need it.
            let _ = waiting.send(given.clone());
        }
        place.given = Some(given);
    }

    /// The person types the number, as soon as the page shows it. `None` if the page is gone without ([`forget`]).
    ///
    /// [`forget`]: HandOver::forget
    pub async fn take(&self, id: &str) -> Option<T> {
        let waits = {
            let mut places = self.lock();
            let place = places.entry(id.into()).or_default();
            if let Some(given) = &place.given {
                return Some(given.clone());
            }
            let (give, take) = oneshot::channel();
            place.waiting.push(give);
            take
        };
        waits.await.ok()
    }

    /// The page is gone. Call it for each id that was given or waited for: the map holds what was not forgotten.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Place<T>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_handed_over_whoever_comes_first() {
        let hands = HandOver::new();
        hands.give("early", Number::new("42"));
        assert_eq!(hands.take("early").await, Some(Number::new("42")));
        assert_eq!(hands.take("early").await, Some(Number::new("42")), "another phone asks, too");

        let phone = tokio::spawn({
            let hands = hands.clone();
            async move { hands.take("late").await }
        });
        tokio::task::yield_now().await;
        hands.give("late", Number::new("07"));
        assert_eq!(phone.await.expect("no panic"), Some(Number::new("07")));
    }

    #[tokio::test]
    async fn who_waits_for_a_page_that_is_gone_is_let_go() {
        let hands = HandOver::<Number>::new();
        let phone = tokio::spawn({
            let hands = hands.clone();
            async move { hands.take("gone").await }
        });
        tokio::task::yield_now().await;
        hands.forget("gone");
        assert_eq!(phone.await.expect("no panic"), None);
        assert!(hands.lock().is_empty());
    }

    #[test]
    fn another_number_has_as_many_digits() {
        assert_eq!(Number::new("41").other(), Number::new("42"));
        assert_eq!(Number::new("99").other(), Number::new("00"));
        assert_eq!(Number::new("0009").other(), Number::new("0010"));
        assert!(!format!("{:?}", Number::new("42")).contains("42"));
    }
}
