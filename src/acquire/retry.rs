//! How long a caller goes on trying.

use std::time::Duration;

use crate::acquire::wait::Pauses;
use crate::clock;
use crate::proto::backoff::Backoff;
use crate::proto::time::Instant;

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) wait: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) retry_delay: Option<Duration>,
    /// A single attempt, its error told as it is.
    pub(crate) is_single: bool,
}

impl RetryPolicy {
    /// Whether it is a single attempt, which waits for nobody.
    pub(crate) fn is_one_try(&self) -> bool {
        self.is_single || self.wait.is_some_and(|wait| wait.is_zero())
    }

    /// Attempts at the most; `None`: as many as the wait allows.
    pub(crate) fn most_attempts(&self) -> Option<u32> {
        if self.is_one_try() {
            Some(1)
        } else {
            self.attempts
        }
    }

    /// When to stop. Attempts without a wait are bounded too, for they may
    /// have to queue behind others of this process: by the time that as many
    /// would take at the longest.
    pub(crate) fn deadline(&self, started: Instant, node_timeout: Duration) -> Option<Instant> {
        if self.is_one_try() {
            return None;
        }
        let longest_pause = self.retry_delay.unwrap_or(Backoff::CONTENTION.cap);
        let longest_attempt = node_timeout.saturating_mul(2);
        let longest = longest_pause.saturating_add(longest_attempt);
        let by_attempts = |attempts| longest.saturating_mul(attempts);
        let limit = self.wait.or(self.attempts.map(by_attempts))?;
        Some(started + limit)
    }

    /// Attempts that are counted or spaced are made as said, whatever could
    /// be told of the key.
    pub(crate) fn pauses(&self) -> Pauses {
        Pauses::new(self.retry_delay, self.attempts.is_some())
    }
}

/// Leaves a key to other processes for as long as `pause`; not past `deadline`.
pub(crate) async fn give_way(pause: Duration, deadline: Option<Instant>) {
    let until = clock::now() + pause;
    if deadline.is_none_or(|deadline| until < deadline) {
        clock::sleep_until(until).await;
    }
}
