//! The only module that reads the clock.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::proto::time::Instant;

/// A clock that also runs while the machine is suspended: a lease that lapsed
/// during a suspend must not look valid afterwards. On Linux `CLOCK_MONOTONIC`
/// stops during a suspend; on macOS it does not.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The longest time that a timer sleeps before the clock is read again: the
/// runtime's timers stop while the machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The current time.
pub(crate) fn now() -> Instant {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
    Instant::from_nanos(tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned())
}

/// The wall clock's time since the beginning of 1970. It is only for comparison
/// with a server's time, never for measuring a lease.
#[cfg(feature = "redis")]
pub(crate) fn wall() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    Duration::new(tv_sec.cast_unsigned(), tv_nsec as u32)
}

/// Sleeps until [`now`] reaches `deadline`.
pub(crate) async fn sleep_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Runs `future` up to `deadline`, if there is one.
pub(crate) async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let Some(deadline) = deadline else {
        return Some(future.await);
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = sleep_until(deadline) => None,
    }
}
