//! Ends leases in time, and sends a RELEASE to every node that may have an entry,
//! repeated until it is answered.
//!
//! The code that finds a lapsed lease releases it: see [`LeaseState::check`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::ViewNodes;
use crate::error::Loss;
use crate::lease::local_queue::Expires;
use crate::lease::scheduler::{Due, Outstanding};
use crate::lease::state::{Entries, LeaseState};
use crate::node::{Node, ReplyTo, Sink};
use crate::proto::backoff::Backoff;
use crate::proto::node::message::{Answer, Request};
use crate::proto::quorum::Placement;
use crate::proto::time::{Instant, drift};
use crate::telemetry::events;

/// Releases that may wait for a node to come back. Any further one is given up: the
/// entry's ttl then frees the key.
const MAX_DEFERRED: usize = 65_536;

/// Leases that are watched only for their lapse.
const MAX_LAPSE_WATCHES: usize = 65_536;

/// A node at which a lease is released.
#[derive(Clone, Debug)]
pub(crate) enum ReleaseTarget {
    /// A node of the view under which the lease was granted.
    Member(NodeIndex),
    /// Another node.
    Node(Arc<dyn Node>),
}

impl LeaseState {
    /// Why the lease is over, if it is. Lapses the lease at its end and then
    /// releases it: an entry outlives the lease by the time that its request was in
    /// flight.
    pub(crate) fn check(self: &Arc<Self>, now: Instant) -> Option<Loss> {
        let (loss, has_lapsed_now) = self.lapse(now)?;
        if has_lapsed_now {
            self.release();
            // After the releases: the next turn's requests queue up behind them.
            self.pass_ticket();
        }
        Some(loss)
    }

    /// Waits for the end of the lease. The signal needs no network.
    pub(crate) async fn ended(self: &Arc<Self>) -> Loss {
        let signal = self.end_signal();
        loop {
            let notified = signal.notified();
            if let Some(loss) = self.check(clock::now()) {
                return loss;
            }
            clock::within(Some(self.valid_until()), notified).await;
        }
    }

    /// Handles a late sign that a node may have created the entry that was
    /// requested when the lease was taken. The entry is released once the lease is
    /// over: at once, or at the lapse if it would outlive the lease for long.
    pub(crate) fn may_be_at(
        self: &Arc<Self>,
        target: impl FnOnce() -> ReleaseTarget,
        now: Instant,
    ) {
        let Some(ended) = self.end_since_grant() else {
            return;
        };
        match ended.or_else(|| self.check(now)) {
            // The release goes to every node, after the earlier requests to it.
            Some(Loss::Released) => {}
            Some(_) => self.release_at(target()),
            None if self.keep_alive.is_some() => {}
            None if now.saturating_since(self.asked_at) > drift(self.ttl.get()) => {
                LapseWatch::start(self);
            }
            None => {}
        }
    }

    /// Sends a RELEASE to every node that may have an entry.
    pub(crate) fn release(self: &Arc<Self>) {
        match self.entries(clock::now()) {
            Entries::Granted(placement) => {
                for &node in placement.nodes() {
                    self.release_at(ReleaseTarget::Member(node));
                }
            }
            Entries::Moved(nodes) => self.release_at_each(nodes),
        }
    }

    /// Sends a RELEASE to every node that may have an entry and that a release by
    /// `placement` in the view of `last` does not reach.
    pub(crate) fn release_elsewhere(
        self: &Arc<Self>,
        last: &ViewNodes,
        placement: &Placement,
        now: Instant,
    ) {
        let Entries::Moved(mut nodes) = self.entries(now) else {
            return;
        };
        nodes.retain(|node| {
            let mut members = placement.nodes().iter();
            !members.any(|&member| Arc::ptr_eq(&last.handle(member).node, node))
        });
        self.release_at_each(nodes);
    }

    fn release_at_each(self: &Arc<Self>, nodes: Vec<Arc<dyn Node>>) {
        for node in nodes {
            self.release_at(ReleaseTarget::Node(node));
        }
    }

    /// Sends a RELEASE to `target`, repeated until it is answered.
    pub(crate) fn release_at(self: &Arc<Self>, target: ReleaseTarget) {
        PendingRelease::new(self, target).send();
    }

    /// Handles a failed RELEASE to `target`: repeats it when the node may be back.
    pub(crate) fn release_later(self: &Arc<Self>, target: ReleaseTarget) {
        PendingRelease::new(self, target).defer();
    }
}

impl Expires for LeaseState {
    fn valid_until(&self) -> Instant {
        Self::valid_until(self)
    }

    fn is_over(self: &Arc<Self>, now: Instant) -> bool {
        self.check(now).is_some()
    }
}

/// Releases a lease at its lapse, if nothing else has ended it before: a node has
/// an entry that would outlive the lease for long.
#[derive(Debug)]
struct LapseWatch(Arc<LeaseState>);

impl LapseWatch {
    /// Beyond [`MAX_LAPSE_WATCHES`] watches, the entry's ttl frees the key.
    fn start(lease: &Arc<LeaseState>) {
        let watches = &lease.context.lapse_watches;
        let is_full = watches.fetch_add(1, Ordering::Relaxed) >= MAX_LAPSE_WATCHES;
        let watch = Self(Arc::clone(lease));
        if !is_full {
            let scheduler = &lease.context.scheduler;
            scheduler.schedule(Arc::new(watch), lease.valid_until());
        }
    }
}

impl Drop for LapseWatch {
    fn drop(&mut self) {
        let watches = &self.0.context.lapse_watches;
        watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Due for LapseWatch {
    fn run(self: Arc<Self>, now: Instant) -> Option<Instant> {
        match self.0.check(now) {
            // Its owner has extended it.
            None => Some(self.0.valid_until()),
            Some(_) => None,
        }
    }
}

/// A RELEASE that one node has not answered yet.
#[derive(Debug)]
struct PendingRelease {
    _outstanding: Outstanding,
    lease: Arc<LeaseState>,
    target: ReleaseTarget,
    attempts: AtomicUsize,
    /// When the entry expires without a release.
    until: Instant,
}

impl PendingRelease {
    fn new(lease: &Arc<LeaseState>, target: ReleaseTarget) -> Arc<Self> {
        let until = clock::now() + lease.view_nodes.view.longest_ttl();
        Arc::new(Self {
            _outstanding: Outstanding::by(&lease.context.scheduler),
            lease: Arc::clone(lease),
            target,
            attempts: AtomicUsize::new(0),
            until,
        })
    }

    /// Sends it now.
    fn send(self: Arc<Self>) {
        let (view_nodes, target) = (Arc::clone(&self.lease.view_nodes), self.target.clone());
        let request = Request::Release {
            key: self.lease.key.clone(),
            token: self.lease.token.clone(),
        };
        let deadline = view_nodes.deadline(self.lease.ttl, clock::now(), None);
        let reply = ReplyTo::new(self as Arc<dyn Sink>, 0);
        match target {
            ReleaseTarget::Member(node) => {
                let handle = view_nodes.handle(node);
                handle.meter.asked(&request);
                handle.node.submit(request, deadline, reply);
            }
            ReleaseTarget::Node(node) => node.submit(request, deadline, reply),
        }
    }

    /// Schedules the next try for when the node may be back.
    fn defer(self: Arc<Self>) {
        let scheduler = &self.lease.context.scheduler;
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        let is_worth_it = now < self.until && scheduler.outstanding() <= MAX_DEFERRED;
        if !is_worth_it {
            return self.count_failure();
        }
        if !scheduler.schedule(Arc::clone(&self) as Arc<dyn Due>, now + self.next_wait()) {
            self.give_up();
        }
    }

    fn count_failure(&self) {
        events::release_given_up(&self.lease.key);
        self.lease.context.counters.release_failures.add_one();
    }

    fn next_wait(&self) -> std::time::Duration {
        let attempts = u32::try_from(self.attempts.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Backoff::RECONNECT.wait(attempts, rand::random())
    }
}

impl Due for PendingRelease {
    fn run(self: Arc<Self>, _: Instant) -> Option<Instant> {
        self.send();
        None
    }

    /// The release is not repeated.
    fn give_up(&self) {
        self.lease.context.scheduler.forsake();
        self.count_failure();
    }
}

impl Sink for PendingRelease {
    fn accept(self: Arc<Self>, _: u32, answer: Answer) {
        if let ReleaseTarget::Member(node) = &self.target {
            self.lease
                .view_nodes
                .handle(*node)
                .meter
                .answered(&answer, None);
        }
        if answer.is_err() {
            self.defer();
        }
    }
}
