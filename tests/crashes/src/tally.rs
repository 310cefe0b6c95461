//! How often each kind of moment was chosen, and came: a kind that never comes proves nothing.

use std::{collections::BTreeMap, fmt};

/// A kind that was chosen so often must have come.
const CHOSEN_MAX: u32 = 5;

/// How often each kind of moment was chosen, and came.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, Times>);

#[derive(Debug, Default)]
struct Times {
    chosen: u32,
    came: u32,
}

impl Tally {
    /// A moment of this kind was chosen.
    pub fn add(&mut self, kind: &'static str, came: bool) {
        let times = self.0.entry(kind).or_default();
        times.chosen += 1;
        times.came += u32::from(came);
    }

    /// The kinds that were chosen often and never came.
    pub fn never_came(&self) -> Vec<&'static str> {
        let never = self.0.iter().filter(|(_, times)| times.came == 0 && times.chosen >= CHOSEN_MAX);
        never.map(|(kind, _)| *kind).collect()
    }
}

/// `sync 3 of 4, write 2 of 2`: came of chosen.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, Times { chosen, came })) in self.0.iter().enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{kind} {came} of {chosen}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_chosen_five_times_must_come_once() {
        let mut tally = Tally::default();
        for _ in 0..4 {
            tally.add("write", false);
            tally.add("sync", true);
        }
        assert!(tally.never_came().is_empty(), "{tally}");
        tally.add("write", false);
        assert_eq!(tally.never_came(), ["write"]);
        assert_eq!(tally.to_string(), "sync 4 of 4, write 0 of 5");
        tally.add("write", true);
        assert!(tally.never_came().is_empty(), "{tally}");
    }
}
