//! Many waiters for one key, and the times at which each of them held it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::checker::{Faults, Tenure, check_history};
use super::load::{Locker, ReleaseOutcome, hold};
use super::resources::now;
use super::statistics::{median, percentile};
use crate::Fault;

/// The work of the waiters of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// The number of the first waiter, among all processes.
    pub(crate) first: usize,
    pub(crate) waiters: usize,
    pub(crate) hold: Duration,
    /// By the clock of [`now`].
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// Every waiter acquires the one key again and again.
pub(crate) async fn gather<L: Locker>(locker: &L, crowd: Crowd) -> Result<Vec<Tenure>, Fault> {
    let mut waiters = JoinSet::new();
    let locker = Arc::new(locker.clone());
    let pause = crowd.begin.saturating_sub(now());
    tokio::time::sleep(Duration::from_nanos(pause)).await;
    for index in 0..crowd.waiters {
        let locker = Arc::clone(&locker);
        waiters.spawn(async move { wait(&*locker, index, crowd).await });
    }
    let mut history = Vec::new();
    while let Some(own) = waiters.join_next().await {
        history.extend(own??);
    }
    Ok(history)
}

async fn wait<L: Locker>(locker: &L, index: usize, crowd: Crowd) -> Result<Vec<Tenure>, Fault> {
    let mut own = Vec::new();
    let mut asked = now();
    while asked < crowd.end {
        let lease = locker.acquire(index, 0).await?;
        let from = now();
        let fence = L::fence(&lease);
        hold(crowd.hold).await;
        let to = now();
        let was_late = locker.release(lease).await? == ReleaseOutcome::Late;
        own.push(Tenure {
            holder: (crowd.first + index) as u64,
            asked,
            from,
            to,
            fence,
            was_late,
        });
        asked = now();
    }
    Ok(own)
}

/// The figures of one turn of a crowd.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    /// Grants to a waiter other than the previous holder, per second.
    pub(crate) changes_per_s: f64,
    pub(crate) changes: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) hold_us: f64,
    pub(crate) faults: Faults,
}

impl Census {
    /// Counts the leases that began between `begin` and `end`; checks all of
    /// them.
    pub(crate) fn take(mut history: Vec<Tenure>, begin: u64, end: u64) -> Self {
        let faults = check_history(&mut history);
        let is_counted = |tenure: &&Tenure| (begin..end).contains(&tenure.from);
        let changes = history
            .windows(2)
            .filter(|pair| pair[0].holder != pair[1].holder && is_counted(&&pair[1]))
            .count() as f64;
        let mut waits: Vec<u64> = history
            .iter()
            .filter(is_counted)
            .map(|tenure| tenure.from - tenure.asked)
            .collect();
        let mut wait_ms = |share| match waits.is_empty() {
            true => f64::NAN,
            false => percentile(&mut waits, share) as f64 / 1e6,
        };
        let (p50_ms, p99_ms) = (wait_ms(0.5), wait_ms(0.99));
        let holds: Vec<f64> = history
            .iter()
            .map(|tenure| (tenure.to - tenure.from) as f64 / 1e3)
            .collect();
        Self {
            changes_per_s: changes / ((end - begin) as f64 / 1e9),
            changes,
            p50_ms,
            p99_ms,
            hold_us: median(&holds),
            faults,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_the_holder_count() {
        let tenure = |holder, from| Tenure {
            holder,
            asked: from - 5,
            from,
            to: from + 1,
            fence: None,
            was_late: false,
        };
        let history = vec![tenure(1, 10), tenure(1, 20), tenure(2, 30), tenure(1, 40)];
        let census = Census::take(history, 0, 1_000_000_000);
        assert_eq!(census.changes, 2.0);
        assert_eq!(census.p50_ms, 5e-6);
        assert!(census.faults.is_clean());
    }
}
