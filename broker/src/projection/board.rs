//! Who waits for what. A waiting login is woken by the event that it waits for, whichever path wrote it: it costs no
//! poll and no timer, only its place on the board.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

const SHARDS: usize = 16;

/// What is live, each with what happened to it so far.
#[derive(Debug)]
pub struct Board<K, P> {
    shards: Vec<Mutex<HashMap<K, Arc<Place<P>>>>>,
    hasher: RandomState,
}

/// One thing that is waited for.
#[derive(Debug)]
pub struct Place<P> {
    story: Mutex<Story<P>>,
    changed: Notify,
}

#[derive(Debug)]
struct Story<P> {
    steps: Vec<P>,
    /// It is live, whether or not anybody waits: its steps are kept until its end.
    begun: bool,
    ended: bool,
}

/// What there is to tell to somebody who knows the first so many steps.
#[derive(Debug, PartialEq, Eq)]
pub enum News<P> {
    /// The next step.
    Step(P),
    /// No more steps: it has ended.
    Ended,
}

impl<K: Copy + Eq + Hash, P: Clone> Board<K, P> {
    /// An empty board.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// It is live from now on: its place stays, whoever comes and goes, until its end.
    pub fn begin(&self, key: K) {
        self.expect(key).story().begun = true;
    }

    /// The place of what is, or is about to become, live.
    pub fn expect(&self, key: K) -> Arc<Place<P>> {
        Arc::clone(self.shard(key).entry(key).or_insert_with(|| Arc::new(Place::new())))
    }

    /// Gives back a place by somebody who has nothing to wait for there. It is taken down when nobody else waits there
    /// and what it is for is not live: what ends while somebody waits, ends for him too.
    pub fn release(&self, key: K, place: Arc<Place<P>>) {
        let mut shard = self.shard(key);
        drop(place);
        if shard.get(&key).is_some_and(|place| Arc::strong_count(place) == 1 && !place.story().begun) {
            shard.remove(&key);
        }
    }

    /// The place, if there is one.
    pub fn find(&self, key: K) -> Option<Arc<Place<P>>> {
        self.shard(key).get(&key).cloned()
    }

    /// Something happened to it. What is not live has no story any more.
    pub fn step(&self, key: K, step: P) {
        if let Some(place) = self.find(key) {
            place.story().steps.push(step);
            place.changed.notify_waiters();
        }
    }

    /// It has ended: whoever waits is told, and the place is taken down.
    pub fn end(&self, key: K) {
        let place = self.shard(key).remove(&key);
        if let Some(place) = place {
            place.story().ended = true;
            place.changed.notify_waiters();
        }
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether nothing is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: K) -> MutexGuard<'_, HashMap<K, Arc<Place<P>>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).expect("less than SHARDS");
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash, P: Clone> Default for Board<K, P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Clone> Place<P> {
    fn new() -> Self {
        Self {
            story: Mutex::new(Story { steps: Vec::new(), begun: false, ended: false }),
            changed: Notify::new(),
        }
    }

    /// Waits for what comes after the first `known` steps.
    pub async fn after(&self, known: usize) -> News<P> {
        loop {
            // Before looking, so that what happens in between wakes us.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let story = self.story();
                if let Some(step) = story.steps.get(known) {
                    return News::Step(step.clone());
                }
                if story.ended {
                    return News::Ended;
                }
            }
            changed.await;
        }
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<P> {
        self.story().steps.clone()
    }

    fn story(&self) -> MutexGuard<'_, Story<P>> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_each_step_once_and_then_the_end() {
        let board = Arc::new(Board::new());
        let place = board.expect(1);
        let waiting = tokio::spawn(async move {
            let mut told = Vec::new();
            while let News::Step(step) = place.after(told.len()).await {
                told.push(step);
            }
            told
        });
        for step in 0..100 {
            board.step(1, step);
            tokio::task::yield_now().await;
        }
        board.end(1);
        assert_eq!(waiting.await.unwrap(), (0..100).collect::<Vec<_>>());
        assert!(board.is_empty());
    }

    #[test]
    fn a_place_is_taken_down_by_the_last_who_found_nothing_there() {
        let board: Board<u8, ()> = Board::new();
        let (first, second) = (board.expect(1), board.expect(1));
        board.release(1, first);
        assert!(board.find(1).is_some());
        board.release(1, second);
        assert!(board.is_empty());
    }

    #[test]
    fn what_is_live_keeps_its_story_whoever_looks_in() {
        let board = Board::new();
        board.begin(1);
        board.step(1, "first");
        board.release(1, board.expect(1));
        board.step(1, "second");
        assert_eq!(board.expect(1).steps(), ["first", "second"]);
        board.end(1);
        assert!(board.is_empty());
    }

    #[tokio::test]
    async fn who_came_before_the_end_is_told_of_it_whenever_he_looks() {
        let board = Board::new();
        let place = board.expect(1);
        board.step(1, "step");
        board.end(1);
        assert_eq!(place.after(0).await, News::Step("step"));
        assert_eq!(place.after(1).await, News::Ended);
    }
}
