//! How many have been taken of what there is only so much of, in all and by each: nobody can take all of it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// For all together.
    pub in_all: usize,
    /// For each.
    pub of_one: usize,
}

/// There is none left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All together have so many.
    #[error("all together have {0}, as many as there may be")]
    InAll(usize),
    /// Who asked has so many.
    #[error("this one has {0}, as many as one may have")]
    OfOne(usize),
}

/// Who has how many.
#[derive(Debug)]
pub struct Shares<K> {
    in_all: usize,
    of: HashMap<K, usize>,
}

impl<K: Eq + Hash> Shares<K> {
    /// One more, if there is one left.
    pub fn take(&mut self, by: K, most: Most) -> Result<(), Full> {
        if self.in_all >= most.in_all {
            return Err(Full::InAll(self.in_all));
        }
        let of_one = self.of(&by);
        if of_one >= most.of_one {
            return Err(Full::OfOne(of_one));
        }
        self.has(by);
        Ok(())
    }

    /// One more, which is there already.
    pub fn has(&mut self, by: K) {
        self.in_all += 1;
        *self.of.entry(by).or_default() += 1;
    }

    /// One that was taken is not needed any more.
    pub fn give_back(&mut self, by: &K) {
        let Some(of_one) = self.of.get_mut(by) else { return };
        self.in_all -= 1;
        *of_one -= 1;
        if *of_one == 0 {
            self.of.remove(by);
        }
    }

    fn of(&self, one: &K) -> usize {
        self.of.get(one).copied().unwrap_or_default()
    }
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { in_all: 0, of: HashMap::new() }
    }
}

/// Shares that go back by themselves.
#[derive(Debug)]
pub struct Pool<K> {
    most: Most,
    shares: Mutex<Shares<K>>,
}

/// One of a pool's, until it is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    pool: Arc<Pool<K>>,
    by: K,
}

impl<K: Eq + Hash + Clone> Pool<K> {
    /// There are so many.
    pub fn of(most: Most) -> Arc<Self> {
        Arc::new(Self { most, shares: Mutex::default() })
    }

    /// One more, if there is one left.
    pub fn take(self: &Arc<Self>, by: K) -> Result<Share<K>, Full> {
        self.shares().take(by.clone(), self.most)?;
        Ok(Share { pool: Arc::clone(self), by })
    }
}

impl<K> Pool<K> {
    fn shares(&self) -> MutexGuard<'_, Shares<K>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.pool.shares().give_back(&self.by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { in_all: 5, of_one: 3 };

    #[test]
    fn nobody_takes_more_than_his_share_and_all_together_no_more_than_there_is() {
        let mut shares = Shares::default();
        assert!((0..3).all(|_| shares.take('a', MOST).is_ok()));
        assert_eq!(shares.take('a', MOST), Err(Full::OfOne(3)));
        assert!((0..2).all(|_| shares.take('b', MOST).is_ok()));
        assert_eq!(shares.take('b', MOST), Err(Full::InAll(5)));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_who_has_none_is_forgotten() {
        let mut shares = Shares::default();
        for _ in 0..100 {
            assert!((0..3).all(|_| shares.take('a', MOST).is_ok()));
            (0..3).for_each(|_| shares.give_back(&'a'));
        }
        shares.give_back(&'a');
        assert_eq!((shares.in_all, shares.of.len()), (0, 0));
    }

    #[test]
    fn a_share_goes_back_when_it_is_dropped() {
        let pool = Pool::of(MOST);
        let held: Vec<_> = (0..3).map(|_| pool.take('a').unwrap()).collect();
        assert_eq!(pool.take('a').unwrap_err(), Full::OfOne(3));
        drop(held);
        assert!(pool.take('a').is_ok());
    }

    #[test]
    fn what_was_there_before_counts_even_if_it_is_more_than_there_may_be() {
        let mut shares = Shares::default();
        (0..7).for_each(|_| shares.has('a'));
        assert_eq!(shares.take('b', MOST), Err(Full::InAll(7)));
        (0..3).for_each(|_| shares.give_back(&'a'));
        assert_eq!(shares.take('a', MOST), Err(Full::OfOne(4)));
        assert_eq!(shares.take('b', MOST), Ok(()));
    }
}
