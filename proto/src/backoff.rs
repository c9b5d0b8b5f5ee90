//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with full jitter: a uniformly random share of a bound
/// that doubles with every attempt (Marc Brooker, “Exponential Backoff And
/// Jitter”, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound that no wait exceeds.
    pub cap: Duration,
}

impl Backoff {
    /// For a busy key: short first, since most locks are held briefly.
    pub const CONTENTION: Self = Self {
        base: Duration::from_millis(8),
        cap: Duration::from_millis(256),
    };

    /// For a key of which several clients took a part, and released it.
    pub const SPLIT: Self = Self {
        base: Duration::from_millis(4),
        cap: Duration::from_millis(64),
    };

    /// For overloaded nodes: a retry after a short wait adds to the load.
    pub const OVERLOAD: Self = Self {
        base: Duration::from_millis(128),
        cap: Duration::from_secs(1),
    };

    /// For a server that cannot be reached.
    pub const RECONNECT: Self = Self {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    };

    /// The wait after `attempts` failures, the first being 1; `random` is uniform
    /// over all of `u32`.
    pub fn wait(&self, attempts: u32, random: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        let share = bound.as_secs_f64() * (f64::from(random) / f64::from(u32::MAX));
        // A fraction of the longest duration may be rounded up beyond it.
        Duration::try_from_secs_f64(share).unwrap_or(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_a_doubling_bound() {
        let backoff = Backoff::CONTENTION;
        assert_eq!(backoff.wait(1, 0), Duration::ZERO);
        assert_eq!(backoff.wait(1, u32::MAX), Duration::from_millis(8));
        assert_eq!(backoff.wait(4, u32::MAX), Duration::from_millis(64));
        assert_eq!(backoff.wait(u32::MAX, u32::MAX), Duration::from_millis(256));
    }

    #[test]
    fn no_bound_is_too_short_or_too_long() {
        for span in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let (base, cap) = (span, span);
            let backoff = Backoff { base, cap };
            for (attempts, random) in [(0, 0), (1, u32::MAX), (u32::MAX, u32::MAX)] {
                assert!(backoff.wait(attempts, random) <= span, "{span:?}");
            }
        }
    }
}
