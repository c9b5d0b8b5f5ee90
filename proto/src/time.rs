//! Time as a value: the protocol never reads a clock, the caller passes the time in.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A reading of a clock that only moves forward and also runs while the
/// machine is suspended (on Linux `CLOCK_BOOTTIME`).
///
/// Nanoseconds since an origin that the clock defines; two readings compare only
/// within one process. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Later than any other reading.
    pub const MAX: Self = Self(u64::MAX);

    /// The reading that lies `nanos` nanoseconds after the clock's origin.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero where `earlier` is the later one.
    #[inline]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    #[inline]
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    #[inline]
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

#[inline]
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What the fixed part of [`drift`] allows for: the granularity of a server's
/// expiry (1 ms) and of the caller's timer (1 ms).
const DRIFT_FLOOR: Duration = Duration::from_millis(2);

/// How far two clocks may diverge over `span`: 1 % of it and 2 ms, the allowance
/// of the Redlock text and of every client that follows it.
#[inline]
pub fn drift(span: Duration) -> Duration {
    span / 100 + DRIFT_FLOOR
}

/// The instant up to which a lease requested at `t0` may be relied upon: the
/// server's entry, created no earlier than `t0`, outlives it even where the
/// clocks differ by [`drift`].
#[inline]
pub fn valid_until(t0: Instant, ttl: Duration) -> Instant {
    t0 + ttl.saturating_sub(drift(ttl))
}

/// How long to wait by the local clock to be sure that `span` has passed by every
/// clock: the span, twice its drift, and a margin for timers.
pub fn outwait(span: Duration) -> Duration {
    span.saturating_add(2 * drift(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_ttl_less_one_percent_and_two_milliseconds() {
        let t0 = Instant::from_nanos(5_000_000_000);
        let end = valid_until(t0, Duration::from_secs(10));
        assert_eq!(end.saturating_since(t0), Duration::from_millis(9_898));
    }

    #[test]
    fn a_ttl_below_its_drift_is_never_valid() {
        let t0 = Instant::from_nanos(7);
        assert_eq!(valid_until(t0, Duration::from_millis(2)), t0);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(
            Instant::from_nanos(3) - Duration::from_secs(1),
            Instant::default()
        );
        assert_eq!(
            (Instant::from_nanos(1) + Duration::MAX).as_nanos(),
            u64::MAX
        );
        assert_eq!(Instant::MAX + Duration::from_nanos(1), Instant::MAX);
        assert_eq!(Instant::MAX - Duration::MAX, Instant::default());
        let since = Instant::default().saturating_since(Instant::MAX);
        assert_eq!(since, Duration::ZERO);
        assert_eq!(outwait(Duration::MAX), Duration::MAX);
        assert_eq!(
            valid_until(Instant::from_nanos(1), Duration::MAX),
            Instant::MAX
        );
    }
}
