//! One attempt at a connection: how long it may take in all, and which step it
//! has reached.
//!
//! No step has a limit of its own that an operator could not raise: a slow
//! handshake or a slow lookup may use all the time of the attempt. Alternatives
//! are tried staggered, and a silent connection is backed by another, so that one
//! dead end does not use up the attempt.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;

use crate::clock;
use crate::node::redis::connection::address::Address;
use crate::proto::node::message::{NodeError, NodeErrorKind};
use crate::proto::time::Instant;

/// How long one alternative is tried before the next is tried in parallel (RFC
/// 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The least time of an attempt: a router that gives up early goes on
/// connecting nevertheless.
const LEAST: Duration = Duration::from_secs(2);

/// An attempt at a connection.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) deadline: Instant,
    step: Mutex<&'static str>,
}

impl Attempt {
    /// An attempt with nine tenths of `connect_timeout`: the rest is for
    /// reporting why it failed.
    pub(crate) fn begin(connect_timeout: Duration) -> Self {
        Self::until(clock::now() + limit(connect_timeout))
    }

    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            step: Mutex::new("connecting"),
        }
    }

    /// Records that the attempt has reached `step`.
    pub(crate) fn comes_to(&self, step: &'static str) {
        *self.step.lock() = step;
    }

    /// The error of an attempt that takes too long, or longer than usual.
    pub(crate) fn late(&self, address: &Address) -> NodeError {
        let step = *self.step.lock();
        NodeError::new(
            NodeErrorKind::Unreachable,
            format!("no answer from {address} in time: {step}"),
        )
    }

    /// The middle of the time that is left: the next steps need some.
    pub(crate) fn half_way(&self) -> Instant {
        let now = clock::now();
        now + self.deadline.saturating_since(now) / 2
    }
}

/// How long an attempt may take.
pub(crate) fn limit(connect_timeout: Duration) -> Duration {
    (connect_timeout / 10).saturating_mul(9).max(LEAST)
}

/// Starts each of `ways` as soon as those before have failed, or some time
/// after the last was started. The first that succeeds counts, and the others
/// are cancelled.
///
/// # Errors
/// All of them failed; the errors are in the order in which they occurred.
pub(crate) async fn staggered<T, E, F>(ways: Vec<F>) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut ways = ways.into_iter();
    let mut tried = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        let next = ways.next();
        let head_start = next.is_some().then(|| clock::now() + HEAD_START);
        tried.extend(next);
        match clock::within(head_start, tried.next()).await {
            Some(Some(Ok(done))) => return Ok(done),
            Some(Some(Err(failure))) => failures.push(failure),
            Some(None) if head_start.is_none() => return Err(failures),
            Some(None) | None => {}
        }
    }
}

/// Connections of one attempt that may be open at a time.
const MOST_AT_ONCE: u32 = 3;

/// Opens a connection, and another one in parallel each time that `total` divided
/// by [`MOST_AT_ONCE`] passes without a result: a connection that was opened while
/// the network lost its state stays silent after the network has recovered. The
/// first result counts.
pub(crate) async fn backed_if_silent<T, F>(total: Duration, open: impl Fn() -> F) -> T
where
    F: Future<Output = T>,
{
    let mut opened = FuturesUnordered::from_iter([open()]);
    for _ in 1..MOST_AT_ONCE {
        let silence = clock::now() + total / MOST_AT_ONCE;
        if let Some(Some(result)) = clock::within(Some(silence), opened.next()).await {
            return result;
        }
        opened.push(open());
    }
    match opened.next().await {
        Some(result) => result,
        None => open().await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::pin::Pin;

    use super::*;

    type Way = Pin<Box<dyn Future<Output = Result<u32, &'static str>>>>;

    #[tokio::test]
    async fn the_first_connection_that_succeeds_counts() {
        let silent = || Box::pin(pending()) as Way;
        let ends = |end: Result<u32, &'static str>| Box::pin(ready(end)) as Way;
        let started = std::time::Instant::now();
        let ways = vec![silent(), ends(Err("refused")), ends(Ok(3)), ends(Ok(4))];
        assert_eq!(staggered(ways).await, Ok(3));
        assert!(started.elapsed() >= HEAD_START);
        let failed = staggered(vec![ends(Err("a")), ends(Err("b"))]).await;
        assert_eq!(failed, Err(vec!["a", "b"]));
        assert_eq!(staggered(Vec::<Way>::new()).await, Err(Vec::new()));
    }

    #[tokio::test]
    async fn a_slow_connection_is_not_given_up() {
        let slow: Way = Box::pin(async {
            tokio::time::sleep(2 * HEAD_START).await;
            Ok(1)
        });
        let silent: Way = Box::pin(pending());
        assert_eq!(staggered(vec![slow, silent]).await, Ok(1));
    }

    #[tokio::test]
    async fn a_silent_connection_is_backed_by_another() {
        // Which connection answers, and how many are opened until then.
        for (answers, opened) in [(1, 1), (2, 2), (3, 3)] {
            let count = Cell::new(0);
            let result = backed_if_silent(Duration::from_millis(60), || {
                count.set(count.get() + 1);
                let own = count.get();
                async move {
                    match own == answers {
                        true => own,
                        false => pending().await,
                    }
                }
            });
            assert_eq!(result.await, answers);
            assert_eq!(count.get(), opened);
        }
    }

    #[test]
    fn the_limit_follows_the_connect_timeout() {
        let seconds = Duration::from_secs;
        assert_eq!(limit(Duration::ZERO), seconds(2));
        assert_eq!(limit(seconds(5)), Duration::from_millis(4_500));
        assert_eq!(limit(seconds(60)), seconds(54));
        assert!(limit(Duration::MAX) > seconds(60));
    }
}
