//! How much may be in flight: as much as the server answers quickly.
//!
//! What is sent to a slow server waits there, where nothing can overtake it and
//! nothing can be taken back. So the window shrinks while answers take much
//! longer than they could, and grows again while they do not: it is halved and
//! raised by one, as TCP's congestion window is (Jacobson, “Congestion
//! Avoidance and Control”, 1988), with the delay as the signal.

use std::time::Duration;

use crate::proto::time::Instant;

/// The most batches that may be in flight at once.
const MOST: u32 = 16;

/// An answer may take this many times as long as the quickest one, …
const TIMES: u32 = 4;

/// … and this much longer: on a local network the quickest answer takes almost
/// no time, and a busy machine is late by more than a multiple of that.
const SLACK: Duration = Duration::from_millis(20);

/// With each answer the quickest time grows by one part in this many: the path
/// to the server may have changed.
const AGING: u32 = 64;

/// The window of one connection.
#[derive(Debug)]
pub(crate) struct Window {
    batches: u32,
    /// Answers in time since the window last changed.
    in_time: u32,
    quickest: Duration,
    /// How long answers take now; smoothed.
    expected: Duration,
    /// How long the server takes for one request now; smoothed.
    each: Duration,
    answered_at: Instant,
    /// When the window last shrank. What was sent before does not show the
    /// effect.
    shrunk_at: Instant,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            batches: MOST,
            in_time: 0,
            quickest: Duration::MAX,
            expected: Duration::ZERO,
            each: Duration::ZERO,
            answered_at: Instant::default(),
            shrunk_at: Instant::default(),
        }
    }
}

impl Window {
    /// Whether one more batch may be sent while `batches` are in flight.
    pub(crate) fn has_room(&self, batches: usize) -> bool {
        batches < self.batches as usize
    }

    /// How long the answer to what is sent now is expected to take.
    pub(crate) fn expected(&self) -> Duration {
        self.expected
    }

    /// How long a request behind `waiting` others is expected to take.
    pub(crate) fn wait_behind(&self, waiting: usize) -> Duration {
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        self.expected + self.each.saturating_mul(waiting)
    }

    /// A batch of `requests` that was sent at `sent_at` has been answered at
    /// `now`.
    pub(crate) fn answered(&mut self, requests: usize, sent_at: Instant, now: Instant) {
        let took = now.saturating_since(sent_at);
        self.expected = (self.expected * 3 + took) / 4;
        let served = now.saturating_since(sent_at.max(self.answered_at));
        let requests = u32::try_from(requests).unwrap_or(u32::MAX).max(1);
        self.each = (self.each * 3 + served / requests) / 4;
        self.answered_at = now;
        self.quickest = self.quickest.min(took);
        if sent_at < self.shrunk_at {
            return;
        }
        if took > TIMES * self.quickest + SLACK {
            self.batches = (self.batches / 2).max(1);
            self.shrunk_at = now;
            self.in_time = 0;
        } else {
            self.in_time += 1;
            if self.in_time >= self.batches && self.batches < MOST {
                self.batches += 1;
                self.in_time = 0;
            }
        }
        self.quickest += self.quickest / AGING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models a server that answers one batch after the other, each in `each`,
    /// while there is always more to send. Returns how long the last of
    /// `batches` took.
    fn last_took(window: &mut Window, start: Instant, each: Duration, batches: usize) -> Duration {
        let (mut sent, mut free_at, mut took) = (Vec::new(), start, Duration::ZERO);
        let mut now = start;
        for _ in 0..batches {
            while window.has_room(sent.len()) {
                sent.push(now);
            }
            free_at = free_at.max(now) + each;
            now = free_at;
            let sent_at = sent.remove(0);
            took = now.saturating_since(sent_at);
            window.answered(64, sent_at, now);
        }
        took
    }

    #[test]
    fn a_quick_server_gets_all_at_once() {
        let mut window = Window::default();
        last_took(
            &mut window,
            Instant::default(),
            Duration::from_micros(700),
            500,
        );
        assert!(window.has_room(MOST as usize - 1) && !window.has_room(MOST as usize));
    }

    #[test]
    fn a_slow_server_gets_little_and_a_quick_one_much_again() {
        let mut window = Window::default();
        let start = Instant::default();
        last_took(&mut window, start, Duration::from_micros(100), 50);
        let slow = Duration::from_millis(15);
        let took = last_took(&mut window, start + Duration::from_secs(1), slow, 100);
        assert!(took <= 4 * slow, "{took:?}");
        assert!(window.expected() >= slow);
        let behind = window.wait_behind(640) - window.expected();
        assert!(behind > 9 * slow && behind < 11 * slow, "{behind:?}");
        let later = start + Duration::from_secs(60);
        last_took(&mut window, later, Duration::from_micros(100), 500);
        assert!(window.has_room(MOST as usize - 1));
        assert!(window.expected() < Duration::from_millis(5));
    }

    #[test]
    fn one_batch_is_always_allowed() {
        let mut window = Window::default();
        let second = Duration::from_secs(1);
        last_took(&mut window, Instant::default(), second, 30);
        assert!(window.has_room(0));
    }

    #[test]
    fn a_long_round_trip_is_not_slowness() {
        let mut window = Window::default();
        for batch in 0..200 {
            let sent_at = Instant::default() + Duration::from_millis(10 * batch);
            window.answered(64, sent_at, sent_at + Duration::from_millis(80));
        }
        assert!(window.has_room(MOST as usize - 1));
    }
}
