//! Many waiters for one key, and the times at which each of them held it.

use std::collections::BTreeMap;
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
    /// Jain's index of the waiters' numbers of grants: 1 if all have as many, and one
    /// divided by their number if one of them has all.
    pub(crate) jain: f64,
    /// The greatest number of grants to others while one waited.
    pub(crate) bypasses: f64,
    /// What the server executed, if that is known.
    pub(crate) commands: Option<Commands>,
    pub(crate) faults: Faults,
}

/// What a server executed during a whole turn, also within scripts.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    calls: BTreeMap<String, u64>,
    /// Changes of the holder in the whole turn. The first holder has no predecessor:
    /// its grant is a change too.
    changes: f64,
}

impl Commands {
    pub(crate) fn per_change(&self) -> f64 {
        self.calls.values().sum::<u64>() as f64 / self.changes
    }

    /// Each command's count per change, unless it rounds to zero.
    pub(crate) fn breakdown(&self) -> String {
        let each = self.calls.iter().filter_map(|(name, &calls)| {
            let share = calls as f64 / self.changes;
            (share >= 0.005).then(|| format!("{name} {share:.2}"))
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

impl Census {
    /// Counts the leases that began between `begin` and `end`; checks all of
    /// them, and sorts them.
    pub(crate) fn take(history: &mut [Tenure], begin: u64, end: u64) -> Self {
        let faults = check_history(history);
        let is_counted = |tenure: &&Tenure| (begin..end).contains(&tenure.from);
        let changes = changes(history, is_counted);
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
            jain: jain(history, is_counted),
            bypasses: bypasses(history, begin) as f64,
            commands: None,
            faults,
        }
    }

    /// The same with what the server executed meanwhile: the increase of the counts of
    /// its commands.
    pub(crate) fn with_commands(
        self,
        history: &[Tenure],
        before: &BTreeMap<String, u64>,
        mut calls: BTreeMap<String, u64>,
    ) -> Self {
        for (name, calls) in &mut calls {
            *calls -= before.get(name).copied().unwrap_or(0);
        }
        let commands = Some(Commands {
            calls,
            changes: changes(history, |_| true) + 1.0,
        });
        Self { commands, ..self }
    }
}

/// Grants to a waiter other than the previous holder, in a sorted history.
fn changes(history: &[Tenure], is_counted: impl Fn(&&Tenure) -> bool) -> f64 {
    let pairs = history.windows(2);
    pairs
        .filter(|pair| pair[0].holder != pair[1].holder && is_counted(&&pair[1]))
        .count() as f64
}

fn jain(history: &[Tenure], is_counted: impl Fn(&&Tenure) -> bool) -> f64 {
    // Every waiter is in the history: each waits for at least one lease.
    let mut grants: BTreeMap<u64, f64> = BTreeMap::new();
    for tenure in history {
        *grants.entry(tenure.holder).or_default() += f64::from(u8::from(is_counted(&tenure)));
    }
    let sum: f64 = grants.values().sum();
    let squares: f64 = grants.values().map(|count| count * count).sum();
    sum * sum / (grants.len() as f64 * squares)
}

/// Counted for those who were granted after `begin`, even after the end: who is passed
/// by until then waits longest.
fn bypasses(history: &[Tenure], begin: u64) -> usize {
    let waits = history.iter().enumerate();
    let passed = waits.filter(|(_, tenure)| tenure.from >= begin);
    let counts = passed.map(|(index, tenure)| {
        // A waiter has no lease of its own while it waits.
        index - history.partition_point(|other| other.from <= tenure.asked)
    });
    counts.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(holder: u64, from: u64) -> Tenure {
        Tenure {
            holder,
            asked: from - 5,
            from,
            to: from + 1,
            fence: None,
            was_late: false,
        }
    }

    #[test]
    fn who_is_passed_by_is_seen() {
        let late = Tenure {
            asked: 15,
            ..tenure(2, 50)
        };
        let (a, b, c) = (tenure(1, 10), tenure(1, 20), tenure(1, 30));
        let mut history = [a, b, c, tenure(3, 40), late];
        let census = Census::take(&mut history, 0, 1_000_000_000);
        assert_eq!(census.bypasses, 3.0);
        // 3, 1 and 1 grants: 5 * 5 / (3 * 11).
        assert!((census.jain - 25.0 / 33.0).abs() < 1e-9, "{}", census.jain);
        let before = BTreeMap::from([("set".to_owned(), 7)]);
        let after = BTreeMap::from([("set".to_owned(), 13), ("publish".to_owned(), 3)]);
        let commands = census.with_commands(&history, &before, after).commands;
        let commands = commands.unwrap();
        assert_eq!(commands.per_change(), 3.0);
        assert_eq!(commands.breakdown(), "publish 1.00, set 2.00");
    }

    #[test]
    fn only_changes_of_the_holder_count() {
        let mut history = [tenure(1, 10), tenure(1, 20), tenure(2, 30), tenure(1, 40)];
        let census = Census::take(&mut history, 0, 1_000_000_000);
        assert_eq!(census.changes, 2.0);
        assert_eq!(census.p50_ms, 5e-6);
        assert!(census.faults.is_clean());
    }
}
