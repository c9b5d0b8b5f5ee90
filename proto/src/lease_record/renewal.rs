//! When a lease that is kept alive is extended next.

use std::time::Duration;

use ringlock_ring::NodeIndex;

use crate::operation::machine::Refusal;
use crate::time::Instant;

/// Renewals that fall due within this time are sent together.
const GRID: Duration = Duration::from_millis(10);

/// When to extend one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RenewalSchedule {
    at: Instant,
    /// The last extend failed because it needs a newer view.
    awaits_view: bool,
}

impl RenewalSchedule {
    /// The schedule of a lease that is granted at `now`, and extended once per
    /// `interval`. `random` is uniform in
    /// [0, 1): many leases are often taken at once, so the first renewal is at a
    /// random point of the second half of the interval.
    pub fn new(interval: Duration, now: Instant, random: f64) -> Self {
        Self {
            at: on_grid(now, interval.mul_f64(1.0 - random / 2.0)),
            awaits_view: false,
        }
    }

    /// Records an extend that succeeded at `now`, in a view that grants `max_ttl`.
    /// The next one is up to a tenth of the interval early, so that renewals that
    /// started together spread out.
    pub fn extended(&mut self, now: Instant, interval: Duration, max_ttl: Duration, random: f64) {
        let interval = interval.min(max_ttl / 3);
        self.at = on_grid(now, interval - interval.mul_f64(random / 10.0));
        self.awaits_view = false;
    }

    /// Records an extend that failed with these answers.
    pub fn failed(&mut self, refusals: &[(NodeIndex, Refusal)]) {
        self.awaits_view |= refusals.iter().any(|(_, refusal)| refusal.is_stale());
    }

    /// Whether a renewal is due at `now`; if so, the following one is not before
    /// `retry`, unless this one succeeds.
    pub fn take_due(&mut self, now: Instant, retry: Instant) -> bool {
        let is_due = self.at <= now;
        if is_due {
            self.at = retry;
        }
        is_due
    }

    /// Handles a newer view: if the last extend failed because it needs one, makes
    /// the next extend due at `now` and returns true.
    pub fn view_changed(&mut self, now: Instant) -> bool {
        if self.awaits_view {
            self.at = now;
        }
        self.awaits_view
    }

    /// When the next extend is due.
    pub fn next(&self) -> Instant {
        self.at
    }
}

/// `interval` from `now`, on a grid: renewals of one moment are sent together.
fn on_grid(now: Instant, interval: Duration) -> Instant {
    let grid = (interval / 64).min(GRID).as_nanos().max(1) as u64;
    Instant::from_nanos((now + interval).as_nanos() / grid * grid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const T0: Instant = Instant::from_nanos(1_000_000_000_000);

    fn secs(schedule: &RenewalSchedule) -> f64 {
        schedule.next().saturating_since(T0).as_secs_f64()
    }

    #[test]
    fn renewals_spread_out_and_stay_on_the_grid() {
        for (random, first, later) in [(0.0, 10.0, 10.0), (0.5, 7.5, 9.5), (0.999_9, 5.0, 9.0)] {
            let mut schedule = RenewalSchedule::new(INTERVAL, T0, random);
            assert!((secs(&schedule) - first).abs() <= 0.011, "{schedule:?}");
            schedule.extended(T0, INTERVAL, Duration::from_secs(60), random);
            assert!((secs(&schedule) - later).abs() <= 0.011, "{schedule:?}");
            assert_eq!(schedule.next().as_nanos() % GRID.as_nanos() as u64, 0);
        }
    }

    #[test]
    fn a_view_with_shorter_leases_is_renewed_more_often() {
        let mut schedule = RenewalSchedule::new(INTERVAL, T0, 0.0);
        schedule.extended(T0, INTERVAL, Duration::from_secs(9), 0.0);
        assert!((secs(&schedule) - 3.0).abs() <= 0.011, "{schedule:?}");
    }

    #[test]
    fn a_renewal_is_taken_once_until_its_retry() {
        let mut schedule = RenewalSchedule::new(INTERVAL, T0, 0.0);
        let (due, retry) = (schedule.next(), T0 + 2 * INTERVAL);
        assert!(!schedule.take_due(T0, retry));
        assert!(schedule.take_due(due, retry));
        assert!(!schedule.take_due(due, retry));
        assert!(schedule.take_due(retry, retry + INTERVAL));
    }

    #[test]
    fn only_an_extend_that_needs_a_newer_view_is_repeated_with_the_view() {
        let node = NodeIndex::new(0);
        for (refusal, is_repeated) in [(Refusal::Busy(None), false), (Refusal::Stale(None), true)] {
            let mut schedule = RenewalSchedule::new(INTERVAL, T0, 0.0);
            schedule.failed(&[(node, refusal)]);
            assert_eq!(schedule.view_changed(T0), is_repeated);
            assert_eq!(schedule.next() == T0, is_repeated);
            schedule.extended(T0, INTERVAL, 3 * INTERVAL, 0.0);
            assert!(!schedule.view_changed(T0));
        }
    }
}
