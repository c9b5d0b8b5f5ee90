//! How a server's wall clock runs relative to this process's own clock.
//!
//! A server expires entries by its wall clock. When that clock is stepped
//! forward, locks end before their time, and nothing on the server shows it. So
//! the server is asked for its time from time to time, always before it is
//! asked for a lock. When the two clocks have diverged by more than they may,
//! the server is put on hold: it grants nothing for as long as a lock that it
//! forgot may be relied upon.

use std::time::Duration;

use crate::node::redis::resp::error_reply::unexpected;
use crate::node::redis::resp::parser::{Replies, read_text};
use crate::proto::node::message::{NodeError, NodeErrorKind};
use crate::proto::time::{Instant, drift, outwait};

/// How old the last reading may be when a lock is requested: the resolution at
/// which entries expire. Under load, one reading serves dozens of locks.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(1);

/// What is known of one server's wall clock; it outlives the server's
/// connections.
#[derive(Debug, Default)]
pub(crate) struct ClockMonitor {
    /// The incarnation whose clock it is: another server's clock is unrelated.
    incarnation: Vec<u8>,
    bounds: Option<OffsetBounds>,
    hold: Option<ClockHold>,
}

/// Bounds of how far the server's clock is ahead of this process's own, in
/// nanoseconds. The two have different origins: only changes are meaningful.
#[derive(Clone, Copy, Debug)]
struct OffsetBounds {
    least: i128,
    most: i128,
    at: Instant,
}

/// Why and until when a server grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockHold {
    /// The least amount by which its clock was stepped.
    pub(crate) step: Duration,
    pub(crate) until: Instant,
}

/// The result of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The clocks agree, or are compared for the first time.
    Steady,
    /// The server's clock was stepped forward by at least this much.
    Ahead(Duration),
    /// The server's clock was stepped back by at least this much: locks last
    /// longer there, with no other effect.
    Back(Duration),
}

impl ClockMonitor {
    /// Another run of the server has no memory to rely on. That is handled
    /// elsewhere; its clock is compared from the start.
    pub(crate) fn belongs_to(&mut self, incarnation: &[u8]) {
        if self.incarnation != incarnation {
            incarnation.clone_into(&mut self.incarnation);
            self.bounds = None;
        }
    }

    /// The server's clock showed `server` at some time between `sent_at` and
    /// `read_at`. No lock of the server lasts longer than `longest_ttl`.
    pub(crate) fn read(
        &mut self,
        sent_at: Instant,
        read_at: Instant,
        server: Duration,
        longest_ttl: Duration,
    ) -> Verdict {
        let ahead_of = |own: Instant| nanos(server) - i128::from(own.as_nanos());
        let new = OffsetBounds {
            least: ahead_of(read_at),
            most: ahead_of(sent_at),
            at: read_at,
        };
        let Some(known) = self.bounds.replace(new) else {
            return Verdict::Steady;
        };
        let known = known.widened(read_at);
        if new.least > known.most {
            let step = span(new.least - known.most);
            let until = read_at + outwait(longest_ttl);
            self.hold = Some(ClockHold { step, until });
            return Verdict::Ahead(step);
        }
        if new.most < known.least {
            return Verdict::Back(span(known.least - new.most));
        }
        // A slow reading adds little, and does not loosen the known bounds.
        self.bounds = Some(OffsetBounds {
            least: new.least.max(known.least),
            most: new.most.min(known.most),
            at: read_at,
        });
        Verdict::Steady
    }

    pub(crate) fn hold(&self) -> Option<ClockHold> {
        self.hold
    }
}

impl OffsetBounds {
    /// The bounds at a later time: clocks may drift apart.
    fn widened(self, now: Instant) -> Self {
        let apart = nanos(drift(now.saturating_since(self.at)));
        Self {
            least: self.least - apart,
            most: self.most + apart,
            at: now,
        }
    }
}

impl ClockHold {
    /// The error for a lock requested at `now`; `None`: the hold is over.
    pub(crate) fn refusal(&self, now: Instant) -> Option<NodeError> {
        let left = self.until.saturating_since(now);
        (!left.is_zero()).then(|| {
            NodeError::new(
                NodeErrorKind::ClockStepped,
                format!(
                    "its wall clock was stepped forward by {:?}, which may have ended locks too early: it grants nothing for another {:?}",
                    whole_millis(self.step),
                    whole_millis(left),
                ),
            )
        })
    }
}

fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn nanos(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).unwrap_or(i128::MAX)
}

fn span(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

/// The reply of TIME, as the time since the Unix epoch.
pub(crate) fn time(reply: &[u8]) -> Result<Duration, NodeError> {
    let read = || {
        let mut values = Replies::of(reply);
        values.list(2)?;
        let seconds = Duration::from_secs(read_text(values.bulk()?)?);
        seconds.checked_add(Duration::from_micros(read_text(values.bulk()?)?))
    };
    read().ok_or_else(|| unexpected(Replies::of(reply).next(), "TIME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Instant {
        Instant::default() + ms(millis)
    }

    /// A day in 2026 on which this process's own clock is at zero.
    fn wall(millis: u64) -> Duration {
        Duration::from_secs(1_790_000_000) + ms(millis)
    }

    #[test]
    fn a_time_is_two_numbers() {
        let read = super::time(b"*2\r\n$1\r\n5\r\n$1\r\n7\r\n");
        assert_eq!(read, Ok(Duration::from_micros(5_000_007)));
        for reply in [
            "*2\r\n$1\r\n5\r\n:7\r\n",
            "*2\r\n$2\r\n-5\r\n$1\r\n7\r\n",
            "*2\r\n$20\r\n18446744073709551615\r\n$7\r\n1000000\r\n",
            "-ERR no\r\n",
        ] {
            assert!(super::time(reply.as_bytes()).is_err(), "{reply:?}");
        }
    }

    fn steady() -> ClockMonitor {
        let mut monitor = ClockMonitor::default();
        monitor.belongs_to(b"run");
        let first = monitor.read(at(0), at(1), wall(0), TTL);
        assert_eq!(first, Verdict::Steady);
        monitor
    }

    #[test]
    fn a_step_forward_holds_for_the_longest_ttl() {
        let mut clock = steady();
        let verdict = clock.read(at(1_000), at(1_001), wall(3_000), TTL);
        let Verdict::Ahead(step) = verdict else {
            panic!("{verdict:?}");
        };
        assert!(ms(1_980) < step && step < ms(2_000), "{step:?}");
        let hold = clock.hold().unwrap();
        assert_eq!(hold.until, at(1_001) + outwait(TTL));
        let refusal = hold.refusal(at(2_001)).unwrap();
        assert_eq!(refusal.kind(), NodeErrorKind::ClockStepped);
        assert!(refusal.to_string().contains("another 2.064s"), "{refusal}");
        assert_eq!(hold.refusal(hold.until), None);
        // The stepped clock is the new reference.
        let next = clock.read(at(2_000), at(2_001), wall(4_000), TTL);
        assert_eq!(next, Verdict::Steady);
    }

    #[test]
    fn a_reading_that_took_long_is_no_step() {
        let mut clock = steady();
        for (sent, read) in [(1_000, 6_000), (6_000, 6_001), (7_000, 9_000)] {
            for server in [sent, read] {
                let verdict = clock.read(at(sent), at(read), wall(server), TTL);
                assert_eq!(verdict, Verdict::Steady, "{sent} to {read}: {server}");
            }
        }
        assert_eq!(clock.hold(), None);
    }

    #[test]
    fn what_was_known_well_is_not_forgotten() {
        let mut clock = steady();
        // Within these bounds no step can be detected.
        let vague = clock.read(at(1_000), at(6_000), wall(5_900), TTL);
        assert_eq!(vague, Verdict::Steady);
        let verdict = clock.read(at(6_100), at(6_101), wall(6_500), TTL);
        assert!(matches!(verdict, Verdict::Ahead(_)), "{verdict:?}");
    }

    #[test]
    fn clocks_may_drift_by_one_percent() {
        let mut clock = steady();
        for second in 1..100 {
            let server = wall(second * 1_009);
            let verdict = clock.read(at(second * 1_000), at(second * 1_000 + 1), server, TTL);
            assert_eq!(verdict, Verdict::Steady, "{second}");
        }
    }

    #[test]
    fn a_step_back_is_reported_and_forgiven() {
        let mut clock = steady();
        let back = clock.read(at(5_000), at(5_001), wall(2_000), TTL);
        assert!(matches!(back, Verdict::Back(_)), "{back:?}");
        assert_eq!(clock.hold(), None);
        // Setting it right again is a step forward.
        let ahead = clock.read(at(6_000), at(6_001), wall(6_000), TTL);
        assert!(matches!(ahead, Verdict::Ahead(_)), "{ahead:?}");
    }

    #[test]
    fn another_server_is_compared_again() {
        let mut clock = steady();
        clock.belongs_to(b"another");
        let verdict = clock.read(at(1_000), at(1_001), wall(90_000), TTL);
        assert_eq!(verdict, Verdict::Steady);
        clock.belongs_to(b"another");
        let verdict = clock.read(at(2_000), at(2_001), wall(99_000), TTL);
        assert!(matches!(verdict, Verdict::Ahead(_)), "{verdict:?}");
    }
}
