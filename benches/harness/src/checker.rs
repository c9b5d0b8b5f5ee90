//! What every contender is checked for while it is measured: one holder at a
//! time, fences that only grow, releases in time.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One entry per key.
#[derive(Debug)]
pub(crate) struct Checker {
    seats: Box<[Seat]>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Seat {
    /// The holder of the key; zero if there is none.
    holder: AtomicU64,
    /// The highest fence so far.
    fence: AtomicU64,
    grants: AtomicU32,
}

/// What must never happen, counted; each is an error of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Two clients held one key at the same time.
    pub overlaps: u64,
    /// A fence that is not higher than an earlier one.
    pub reversals: u64,
    /// Releases that came too late or found another holder's lock.
    pub late_releases: u64,
    /// Describes the first of them.
    pub first: Option<String>,
}

impl Faults {
    /// Whether there are none.
    pub fn is_clean(&self) -> bool {
        self.overlaps + self.reversals + self.late_releases == 0
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.overlaps += other.overlaps;
        self.reversals += other.reversals;
        self.late_releases += other.late_releases;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }

    fn overlap(&mut self, what: impl FnOnce() -> String) {
        self.overlaps += 1;
        self.first.get_or_insert_with(what);
    }

    fn reversal(&mut self, what: impl FnOnce() -> String) {
        self.reversals += 1;
        self.first.get_or_insert_with(what);
    }

    fn late(&mut self, what: impl FnOnce() -> String) {
        self.late_releases += 1;
        self.first.get_or_insert_with(what);
    }
}

impl Checker {
    pub(crate) fn new(keys: usize) -> Self {
        Self {
            seats: (0..keys).map(|_| Seat::default()).collect(),
            faults: Mutex::default(),
        }
    }

    /// Records that `holder`, not zero, was granted `key`.
    pub(crate) fn enter(&self, key: usize, holder: u64, fence: Option<u64>) {
        let seat = &self.seats[key];
        seat.grants.fetch_add(1, Relaxed);
        let before = seat.holder.swap(holder, SeqCst);
        if before != 0 {
            let what = || format!("key {key}: {holder} was granted it while {before} held it");
            self.faults.lock().overlap(what);
        }
        if let Some(fence) = fence {
            let highest = seat.fence.fetch_max(fence, SeqCst);
            if highest >= fence {
                let what = || format!("key {key}: fence {fence} after {highest}");
                self.faults.lock().reversal(what);
            }
        }
    }

    /// Records that `holder` is about to release `key`.
    pub(crate) fn leave(&self, key: usize, holder: u64) {
        let found = self.seats[key].holder.swap(0, SeqCst);
        if found != holder {
            let what = || format!("key {key}: {holder} held it, but {found} stood there");
            self.faults.lock().overlap(what);
        }
    }

    /// Records that a release of `key` was reported as too late.
    pub(crate) fn late(&self, key: usize) {
        let what = || format!("key {key}: its release was not in time");
        self.faults.lock().late(what);
    }

    /// The grants so far, summed by owner: `owners` has a number for each key.
    pub(crate) fn grants(&self, owners: &[u8]) -> Vec<u64> {
        let nodes = owners
            .iter()
            .max()
            .map_or(0, |&owner| usize::from(owner) + 1);
        let mut grants = vec![0; nodes];
        for (seat, &owner) in self.seats.iter().zip(owners) {
            grants[usize::from(owner)] += u64::from(seat.grants.load(Relaxed));
        }
        grants
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults.lock().clone()
    }
}

/// One lease on the one key of a crowd, as its holder saw it. Times are
/// nanoseconds of a clock that all processes of the machine share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tenure {
    pub(crate) holder: u64,
    pub(crate) asked: u64,
    /// Read after the grant.
    pub(crate) from: u64,
    /// Read before the release.
    pub(crate) to: u64,
    pub(crate) fence: Option<u64>,
    pub(crate) was_late: bool,
}

/// Sorts tenures by their start and checks them by the same rules.
pub(crate) fn check_history(history: &mut [Tenure]) -> Faults {
    let mut faults = Faults::default();
    history.sort_unstable_by_key(|tenure| tenure.from);
    for pair in history.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if after.from < before.to {
            faults.overlap(|| format!("{after:?} began before the end of {before:?}"));
        }
        if before.fence.is_some() && after.fence <= before.fence {
            faults.reversal(|| format!("{after:?} follows {before:?}"));
        }
    }
    for tenure in history.iter().filter(|tenure| tenure.was_late) {
        faults.late(|| format!("{tenure:?} was released too late"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_holders_pass() {
        let checker = Checker::new(2);
        for fence in 1..5 {
            checker.enter(1, 7, Some(fence));
            checker.leave(1, 7);
        }
        assert!(checker.faults().is_clean());
    }

    #[test]
    fn an_overlap_is_seen() {
        let checker = Checker::new(1);
        checker.enter(0, 1, None);
        checker.enter(0, 2, None);
        assert_eq!(checker.faults().overlaps, 1);
        checker.leave(0, 1);
        assert_eq!(checker.faults().overlaps, 2, "another stood there");
    }

    #[test]
    fn a_fence_that_goes_back_or_stands_still_is_seen() {
        let checker = Checker::new(1);
        for fence in [5, 5, 4, 6] {
            checker.enter(0, 1, Some(fence));
            checker.leave(0, 1);
        }
        assert_eq!(checker.faults().reversals, 2);
    }

    #[test]
    fn a_late_release_is_seen() {
        let checker = Checker::new(1);
        checker.late(0);
        assert!(!checker.faults().is_clean());
    }

    fn tenure(from: u64, to: u64, fence: u64) -> Tenure {
        Tenure {
            holder: from,
            asked: 0,
            from,
            to,
            fence: Some(fence),
            was_late: false,
        }
    }

    #[test]
    fn a_history_is_held_to_the_same() {
        let faults = |mut history: Vec<Tenure>| check_history(&mut history);
        let fine = vec![tenure(20, 30, 2), tenure(0, 10, 1), tenure(30, 31, 3)];
        assert!(faults(fine).is_clean());
        let overlapping = vec![tenure(0, 10, 1), tenure(9, 20, 2)];
        assert_eq!(faults(overlapping).overlaps, 1);
        let reversed = vec![tenure(0, 10, 2), tenure(10, 20, 1)];
        assert_eq!(faults(reversed).reversals, 1);
        let late = Tenure {
            was_late: true,
            ..tenure(0, 1, 1)
        };
        assert_eq!(faults(vec![late]).late_releases, 1);
    }
}
