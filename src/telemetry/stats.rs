//! Counts of a router's operations, and the most contended keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Loss};
use crate::telemetry::handles::{ARE_ON, Count, Level};
use crate::telemetry::hot_keys::HotKeys;
use crate::telemetry::metric_names;
use crate::telemetry::metric_names::Metric;
use crate::telemetry::metrics::{Outcome, RouterMeter};

/// A router's counts since its creation; see [`Router::stats`](crate::Router::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Attempts started.
    pub attempts: u64,
    /// Leases granted.
    pub granted: u64,
    /// Attempts that found the key held.
    pub contended: u64,
    /// Attempts that failed for lack of nodes.
    pub failed: u64,
    /// Grants whose fence took a second round.
    pub write_backs: u64,
    /// Extends that prolonged their lease.
    pub extended: u64,
    /// Extends that failed to prolong their lease.
    pub extend_failures: u64,
    /// Leases that were lost while they were held.
    pub lost: u64,
    /// Leases released.
    pub released: u64,
    /// Releases that were abandoned: the entry's ttl expired before its node came back.
    pub release_failures: u64,
    /// Leases that are held now. An expired one counts until its guard is checked
    /// or dropped.
    pub held: u64,
    /// Calls that wait now: behind others of this router, or for a holder.
    pub waiting: u64,
}

/// The live counts, and what is reported in addition to them.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) attempts: Counter,
    pub(crate) granted: Counter,
    pub(crate) contended: Counter,
    pub(crate) failed: Counter,
    pub(crate) write_backs: Counter,
    pub(crate) extended: Counter,
    pub(crate) extend_unchanged: Counter,
    pub(crate) extend_lost: Counter,
    expired: Counter,
    taken_over: Counter,
    vanished: Counter,
    max_hold: Counter,
    pub(crate) released_in_time: Counter,
    pub(crate) released_too_late: Counter,
    /// Of the releases in time, those whose entries the nodes no longer had.
    pub(crate) gone: Counter,
    pub(crate) release_failures: Counter,
    pub(crate) held: LiveCount,
    pub(crate) waiting: LiveCount,
    pub(crate) hot: HotKeys,
    pub(crate) meter: RouterMeter,
}

impl Default for Counters {
    fn default() -> Self {
        let meter = RouterMeter::default();
        let attempts = |outcome| Counter::of(&metric_names::ATTEMPTS, &[("outcome", outcome)]);
        let extends = |outcome| Counter::of(&metric_names::EXTENDS, &[("outcome", outcome)]);
        let losses = |reason| Counter::of(&metric_names::LOST, &[("reason", reason)]);
        let releases = |outcome| Counter::of(&metric_names::RELEASES, &[("outcome", outcome)]);
        Self {
            attempts: Counter::default(),
            granted: attempts("granted"),
            contended: attempts("contended"),
            failed: attempts("failed"),
            write_backs: Counter::of(&metric_names::WRITE_BACKS, &[]),
            extended: extends("extended"),
            extend_unchanged: extends("unchanged"),
            extend_lost: extends("lost"),
            expired: losses("expired"),
            taken_over: losses("taken_over"),
            vanished: losses("gone"),
            max_hold: losses("max_hold"),
            released_in_time: releases("in_time"),
            released_too_late: releases("too_late"),
            gone: Counter::of(&metric_names::GONE, &[]),
            release_failures: Counter::of(&metric_names::GIVEN_UP, &[]),
            held: LiveCount::of(&metric_names::HELD),
            waiting: LiveCount::of(&metric_names::WAITING),
            hot: HotKeys::default(),
            meter,
        }
    }
}

impl Counters {
    /// A lease was lost while it was held.
    pub(crate) fn lost(&self, loss: Loss) {
        match loss {
            Loss::Expired => self.expired.add_one(),
            Loss::TakenOver => self.taken_over.add_one(),
            Loss::Gone => self.vanished.add_one(),
            Loss::MaxHold => self.max_hold.add_one(),
            Loss::Released | Loss::Forked => {}
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            attempts: self.attempts.sum(),
            granted: self.granted.sum(),
            contended: self.contended.sum(),
            failed: self.failed.sum(),
            write_backs: self.write_backs.sum(),
            extended: self.extended.sum(),
            extend_failures: self.extend_unchanged.sum() + self.extend_lost.sum(),
            lost: [
                &self.expired,
                &self.taken_over,
                &self.vanished,
                &self.max_hold,
            ]
            .map(Counter::sum)
            .iter()
            .sum(),
            released: self.released_in_time.sum() + self.released_too_late.sum(),
            release_failures: self.release_failures.sum(),
            held: self.held.level(),
            waiting: self.waiting.level(),
        }
    }
}

/// A call in progress. It is counted when it is dropped; as abandoned, unless its
/// result was recorded.
#[derive(Debug, Default)]
pub(crate) struct CallMetrics {
    /// `None` if nothing is reported.
    call: Option<(Arc<Counters>, Outcome)>,
}

impl CallMetrics {
    pub(crate) fn begin(counters: &Arc<Counters>) -> Self {
        Self {
            call: ARE_ON.then(|| (Arc::clone(counters), Outcome::Abandoned)),
        }
    }

    /// The call was granted, after this time.
    pub(crate) fn granted(&mut self, waited: impl FnOnce() -> Duration) {
        if let Some((counters, outcome)) = &mut self.call {
            *outcome = Outcome::Granted;
            counters.meter.waited(waited());
        }
    }

    /// The call failed.
    pub(crate) fn failed(&mut self, error: Error) -> Error {
        if let Some((_, outcome)) = &mut self.call {
            *outcome = Outcome::of(&error);
        }
        error
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        if let Some((counters, outcome)) = &self.call {
            counters.meter.ended(*outcome);
        }
    }
}

/// Number of parts of one count, so that threads that add at the same time seldom
/// touch the same memory.
const STRIPES: usize = 8;

/// One count, and the metric that it is reported as.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    stripes: [Stripe; STRIPES],
    metric: Count,
}

/// Aligned to the span that processors fetch at a time, so that parts do not share it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

impl Counter {
    fn of(metric: &Metric, labels: &[(&'static str, &str)]) -> Self {
        Self {
            stripes: <[Stripe; STRIPES]>::default(),
            metric: Count::of(metric, labels),
        }
    }

    pub(crate) fn add_one(&self) {
        self.stripes[own_stripe()].0.fetch_add(1, Ordering::Relaxed);
        self.metric.add_one();
    }

    fn sum(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| stripe.0.load(Ordering::Relaxed))
            .sum()
    }
}

/// The current number of things that arrive and leave.
#[derive(Debug, Default)]
pub(crate) struct LiveCount {
    came: Counter,
    went: Counter,
    metric: Level,
}

impl LiveCount {
    fn of(metric: &Metric) -> Self {
        Self {
            metric: Level::of(metric, &[]),
            ..Self::default()
        }
    }

    pub(crate) fn came(&self) {
        self.came.add_one();
        self.metric.add_one();
    }

    pub(crate) fn went(&self) {
        self.went.add_one();
        self.metric.take_one();
    }

    /// Counts one until the presence is dropped.
    pub(crate) fn enter(&self) -> LiveGuard<'_> {
        self.came();
        LiveGuard(self)
    }

    fn level(&self) -> u64 {
        // Each one arrives before it leaves: in this read order, no departure is seen
        // without its arrival.
        let went = self.went.sum();
        self.came.sum().saturating_sub(went)
    }
}

/// One item of a [`LiveCount`].
#[derive(Debug)]
pub(crate) struct LiveGuard<'a>(&'a LiveCount);

impl Drop for LiveGuard<'_> {
    fn drop(&mut self) {
        self.0.went();
    }
}

/// Threads are assigned to stripes in turn.
fn own_stripe() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
    }
    STRIPE.with(|stripe| *stripe)
}
