//! How long a caller keeps trying.

use std::time::Duration;

use crate::acquire::wait::RetryPacer;
use crate::clock;
use crate::proto::backoff::Backoff;
use crate::proto::lease::Ttl;
use crate::proto::time::Instant;

/// The minimum time for the first attempt, from the start of the call, even if the
/// wait is shorter: with less time no node could answer.
const LEAST_ATTEMPT: Duration = Duration::from_millis(50);

/// The limits of all attempts of a call that has started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) ttl: Ttl,
    pub(crate) started: Instant,
    /// When to stop trying and waiting.
    pub(crate) deadline: Option<Instant>,
}

impl Deadlines {
    /// When to stop waiting for nodes, unless the node timeout comes first.
    pub(crate) fn answer_by(&self) -> Option<Instant> {
        let least = self.started + LEAST_ATTEMPT;
        self.deadline.map(|deadline| deadline.max(least))
    }
}

/// How long to keep trying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) wait: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) retry_delay: Option<Duration>,
    /// A single attempt; its error is returned unchanged.
    pub(crate) is_single: bool,
}

impl RetryPolicy {
    /// Whether it is a single attempt, which waits for no holder.
    pub(crate) fn is_one_try(&self) -> bool {
        self.is_single || self.wait.is_some_and(|wait| wait.is_zero())
    }

    /// The maximum number of attempts; `None`: as many as the wait allows.
    pub(crate) fn most_attempts(&self) -> Option<u32> {
        if self.is_one_try() {
            Some(1)
        } else {
            self.attempts
        }
    }

    /// When to stop. Attempts without a wait are bounded too, because they may have
    /// to queue behind others of this process. Their bound is the longest time that
    /// as many attempts would take.
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

    /// Attempts with a set number or a set delay follow that setting, even if the
    /// key could be watched.
    pub(crate) fn pacer(&self) -> RetryPacer {
        RetryPacer::new(self.retry_delay, self.attempts.is_some())
    }
}

/// Leaves a key to other processes for `pause`, but not past `deadline`.
pub(crate) async fn give_way(pause: Duration, deadline: Option<Instant>) {
    let until = clock::now() + pause;
    if deadline.is_none_or(|deadline| until < deadline) {
        clock::sleep_until(until).await;
    }
}
