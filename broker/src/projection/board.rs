//! Who waits for what. A waiting login is woken by the event that it waits for, whichever path wrote it: it costs no
//! poll and no timer, only its place on the board.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::telemetry::Stopwatch;

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
    /// Steps that somebody is about to record, or has recorded: nobody else need.
    claimed: Vec<P>,
    /// It is live, whether or not anybody waits: its steps are kept until its end.
    begun: bool,
    /// When the last answer came that was good.
    answered: Option<Stopwatch>,
    /// How long ago it ended.
    ended: Option<Stopwatch>,
    /// So many have a seat here.
    seats: usize,
}

/// What can happen to what is waited for.
pub trait Step: Clone {
    /// Whether it says no more than an earlier one: said twice, it is one step.
    fn repeats(&self, earlier: &Self) -> bool;
}

/// Somebody's seat at a place. Who leaves, however that comes about, gives it back: the place is taken down when nobody
/// else sits there and what it is for is not live.
#[derive(Debug)]
pub struct Seat<K: Copy + Eq + Hash, P> {
    board: Arc<Board<K, P>>,
    key: K,
    place: Arc<Place<P>>,
}

/// The right to record a step. It goes back when it is dropped, unless it was kept: another may try then.
#[derive(Debug)]
pub struct Claim<P: Step> {
    place: Arc<Place<P>>,
    step: P,
    kept: bool,
}

/// What there is to tell to somebody who knows the first so many steps.
#[derive(Debug, PartialEq, Eq)]
pub enum News<P> {
    /// The next step.
    Step(P),
    /// No more steps: it has ended.
    Ended,
}

impl<K: Copy + Eq + Hash, P> Board<K, P> {
    /// An empty board.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// It is live from now on: its place stays, whoever comes and goes, until its end.
    pub fn begin(&self, key: K) {
        // Under the shard's lock, so that nobody who leaves takes it down in between.
        self.shard(key).entry(key).or_default().story().begun = true;
    }

    /// A seat at the place of what is, or is about to become, live. What ends while somebody sits there, ends for him
    /// too.
    pub fn expect(self: &Arc<Self>, key: K) -> Seat<K, P> {
        let place = {
            let mut shard = self.shard(key);
            let place = shard.entry(key).or_default();
            place.story().seats += 1;
            Arc::clone(place)
        };
        Seat { board: Arc::clone(self), key, place }
    }

    /// The place, if there is one.
    pub fn find(&self, key: K) -> Option<Arc<Place<P>>> {
        self.shard(key).get(&key).cloned()
    }

    /// Something happened to it. What is not live has no story any more, and what it knows is no news.
    pub fn step(&self, key: K, step: P)
    where
        P: Step,
    {
        if let Some(place) = self.find(key) {
            {
                let mut story = place.story();
                if !story.steps.iter().any(|earlier| step.repeats(earlier)) {
                    story.steps.push(step);
                }
            }
            place.changed.notify_waiters();
        }
    }

    /// It has ended: whoever waits is told, and the place is taken down.
    pub fn end(&self, key: K) {
        let place = self.shard(key).remove(&key);
        if let Some(place) = place {
            place.story().ended = Some(Stopwatch::start());
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

impl<K: Copy + Eq + Hash, P> Default for Board<K, P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Eq + Hash, P> Drop for Seat<K, P> {
    fn drop(&mut self) {
        let mut shard = self.board.shard(self.key);
        let abandoned = {
            let mut story = self.place.story();
            story.seats -= 1;
            story.seats == 0 && !story.begun
        };
        if abandoned && shard.get(&self.key).is_some_and(|place| Arc::ptr_eq(place, &self.place)) {
            shard.remove(&self.key);
        }
    }
}

impl<K: Copy + Eq + Hash, P> Deref for Seat<K, P> {
    type Target = Place<P>;

    fn deref(&self) -> &Place<P> {
        &self.place
    }
}

impl<P> Default for Place<P> {
    fn default() -> Self {
        let story = Story {
            steps: Vec::new(),
            claimed: Vec::new(),
            begun: false,
            answered: None,
            ended: None,
            seats: 0,
        };
        Self { story: Mutex::new(story), changed: Notify::new() }
    }
}

impl<P> Place<P> {
    /// The right to record this step; none where it is known, or somebody has that right already.
    pub fn claim(self: Arc<Self>, step: P) -> Option<Claim<P>>
    where
        P: Step,
    {
        {
            let mut story = self.story();
            if story.steps.iter().chain(&story.claimed).any(|earlier| step.repeats(earlier)) {
                return None;
            }
            story.claimed.push(step.clone());
        }
        Some(Claim { place: self, step, kept: false })
    }

    /// Waits for what comes after the first `known` steps.
    pub async fn after(&self, known: usize) -> News<P>
    where
        P: Clone,
    {
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
                if story.ended.is_some() {
                    return News::Ended;
                }
            }
            changed.await;
        }
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<P>
    where
        P: Clone,
    {
        self.story().steps.clone()
    }

    /// An answer that came then is good, and about to end it, unless something else does first.
    pub fn answer_came(&self, then: Stopwatch) {
        self.story().answered = Some(then);
    }

    /// How long ago such an answer came.
    pub fn answered_ago(&self) -> Option<Duration> {
        self.story().answered.map(Stopwatch::elapsed)
    }

    /// How long ago it ended, if it has.
    pub fn ended_ago(&self) -> Option<Duration> {
        self.story().ended.map(Stopwatch::elapsed)
    }

    fn story(&self) -> MutexGuard<'_, Story<P>> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each of them only wakes who waits, and each does.
impl Step for () {
    fn repeats(&self, (): &Self) -> bool {
        false
    }
}

impl<P: Step> Claim<P> {
    /// It is recorded: it comes to the place by way of the log, and nobody need record it again.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl<P: Step> Drop for Claim<P> {
    fn drop(&mut self) {
        if !self.kept {
            self.place.story().claimed.retain(|claimed| !claimed.repeats(&self.step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Step for u8 {
        fn repeats(&self, earlier: &Self) -> bool {
            self == earlier
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_each_step_once_and_then_the_end() {
        let board: Arc<Board<u8, u8>> = Arc::default();
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
    fn a_place_is_taken_down_by_the_last_who_leaves_it() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        let (first, second) = (board.expect(1), board.expect(1));
        // Somebody who only looks in keeps nothing up.
        let glance = board.find(1);
        drop(first);
        assert!(board.find(1).is_some());
        drop(second);
        assert!(board.is_empty());
        drop(glance);
    }

    #[test]
    fn a_seat_at_what_has_ended_takes_nothing_from_its_successor() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        let old = board.expect(1);
        board.end(1);
        let new = board.expect(1);
        drop(old);
        assert!(board.find(1).is_some());
        drop(new);
        assert!(board.is_empty());
    }

    #[test]
    fn what_is_live_keeps_its_story_whoever_looks_in() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        board.begin(1);
        board.step(1, 1);
        drop(board.expect(1));
        board.step(1, 2);
        assert_eq!(board.expect(1).steps(), [1, 2]);
        board.end(1);
        assert!(board.is_empty());
    }

    #[test]
    fn a_step_that_comes_twice_is_one_step() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        board.begin(1);
        for step in [1, 2, 1, 2] {
            board.step(1, step);
        }
        assert_eq!(board.expect(1).steps(), [1, 2]);
    }

    #[test]
    fn one_may_record_a_step_and_another_if_he_fails() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        board.begin(1);
        let claim = |step| board.find(1).unwrap().claim(step);
        let first = claim(1).unwrap();
        assert!(claim(1).is_none() && claim(2).is_some(), "one for each step");
        drop(first);
        claim(1).unwrap().keep();
        assert!(claim(1).is_none(), "it is recorded, and on its way");
        board.step(1, 1);
        assert!(claim(1).is_none());
    }

    #[tokio::test]
    async fn who_came_before_the_end_is_told_of_it_whenever_he_looks() {
        let board: Arc<Board<u8, u8>> = Arc::default();
        let place = board.expect(1);
        board.step(1, 7);
        board.end(1);
        assert_eq!(place.after(0).await, News::Step(7));
        assert_eq!(place.after(1).await, News::Ended);
    }
}
