//! One task per router that keeps leases alive, lapses them in time, and
//! repeats releases that did not get through.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::lease::position::Target;
use crate::lease::state::Held;
use crate::node::{ReplyTo, Sink};
use crate::proto::backoff::Backoff;
use crate::proto::node::message::{Answer, Request};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// Releases that may wait for a node to come back. One more is given up: the
/// entry's ttl then frees the key.
const MAX_DEFERRED: usize = 65_536;

/// Leases that are watched for their lapse only.
const MAX_LATE: usize = 65_536;

/// What the rest of the router sees of the keeper.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Releases that are under way or deferred.
    releases: AtomicUsize,
    /// Leases that are watched for their lapse only.
    late: AtomicUsize,
    /// Releases were given up because the task has ended.
    has_forsaken: AtomicBool,
    all_released: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    /// One per lease to keep and release to repeat, taken over at once.
    arrived: Vec<Work>,
    /// There is a new view: leases that the old one failed need not wait.
    has_moved: bool,
    is_closed: bool,
}

/// Something to look at, at its time.
#[derive(Debug)]
enum Work {
    Tend(Arc<Held>),
    /// A lease that nobody keeps alive, to be released at its lapse.
    Lapse(Arc<Held>),
    Release(Arc<DueRelease>),
}

impl Keeper {
    /// Keeps `held` alive from now on.
    pub(crate) fn keep(&self, held: Arc<Held>) {
        let _ = self.push(Work::Tend(held));
    }

    /// Sees to it that `held` is released when it lapses, if nobody does
    /// anything else with it before: a node has an entry that would outlive it
    /// for long. Beyond [`MAX_LATE`] of them, the entry's ttl frees the key.
    pub(crate) fn keep_late(&self, held: &Arc<Held>) {
        if self.late.fetch_add(1, Ordering::Relaxed) >= MAX_LATE
            || !self.push(Work::Lapse(Arc::clone(held)))
        {
            self.late.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Hands work to the task; false once it has ended.
    fn push(&self, work: Work) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return false;
        }
        inbox.arrived.push(work);
        drop(inbox);
        self.wake.notify_one();
        true
    }

    /// There is a new view: leases that wait for one are extended at once.
    pub(crate) fn hurry(&self) {
        self.inbox.lock().has_moved = true;
        self.wake.notify_one();
    }

    /// Waits until no release is under way, up to `deadline`; false: some are.
    pub(crate) async fn drained(&self, deadline: Instant) -> bool {
        let all_gone = async {
            loop {
                let changed = self.all_released.notified();
                if self.releases.load(Ordering::Acquire) == 0 {
                    return;
                }
                changed.await;
            }
        };
        let are_gone = clock::within(Some(deadline), all_gone).await.is_some();
        are_gone && !self.has_forsaken.load(Ordering::Acquire)
    }

    /// Ends [`Self::run`].
    pub(crate) fn close(&self) {
        self.inbox.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// The task has ended: what is left to it is given up.
    pub(crate) fn end(&self) {
        let left = {
            let mut inbox = self.inbox.lock();
            inbox.is_closed = true;
            inbox.take().arrived
        };
        for work in left {
            if let Work::Release(release) = work {
                release.give_up();
            }
        }
    }

    /// Does the work as it falls due, until the keeper is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut agenda = Agenda(BinaryHeap::new());
        let agenda = &mut agenda.0;
        loop {
            let Inbox {
                arrived,
                has_moved,
                is_closed,
            } = self.inbox.lock().take();
            if is_closed {
                return;
            }
            let now = clock::now();
            if has_moved {
                *agenda = std::mem::take(agenda)
                    .into_iter()
                    .map(|Reverse(entry)| Reverse(entry.hurried(now)))
                    .collect();
            }
            agenda.extend(
                arrived
                    .into_iter()
                    .map(|work| Entry::of(work, now))
                    .map(Reverse),
            );
            while agenda.peek().is_some_and(|Reverse(entry)| entry.due <= now) {
                let entry = agenda.pop().map(|Reverse(entry)| entry);
                agenda.extend(
                    entry
                        .and_then(|entry| entry.work.carry_out(&self, now))
                        .map(Reverse),
                );
            }
            let next = agenda.peek().map(|Reverse(entry)| entry.due);
            clock::within(next, self.wake.notified()).await;
        }
    }
}

/// What is to be done, the next thing first.
struct Agenda(BinaryHeap<Reverse<Entry>>);

impl Drop for Agenda {
    /// The task was dropped, or its router is gone.
    fn drop(&mut self) {
        for Reverse(entry) in self.0.drain() {
            if let Work::Release(release) = entry.work {
                release.give_up();
            }
        }
    }
}

/// Work and its time; ordered by time alone.
struct Entry {
    due: Instant,
    work: Work,
}

impl Inbox {
    /// What has come since the last look, closed for good if it is closed.
    fn take(&mut self) -> Self {
        let is_closed = self.is_closed;
        let taken = std::mem::take(self);
        self.is_closed = is_closed;
        taken
    }
}

impl Entry {
    /// Due now, if it is a lease that waits for a new view.
    fn hurried(self, now: Instant) -> Self {
        let waits = matches!(&self.work, Work::Tend(held) if held.hurry(now));
        let due = if waits { now } else { self.due };
        Self { due, ..self }
    }

    fn of(work: Work, now: Instant) -> Self {
        let due = match &work {
            Work::Tend(_) => now,
            Work::Lapse(held) => held.valid_until(),
            Work::Release(release) => now + release.next_wait(),
        };
        Self { due, work }
    }
}

impl Work {
    /// Carries it out; what is to be looked at again comes back.
    fn carry_out(self, keeper: &Keeper, now: Instant) -> Option<Entry> {
        match self {
            Self::Lapse(held) => {
                if held.check(now).is_none() {
                    // Its owner has extended it.
                    return Some(Entry::of(Self::Lapse(held), now));
                }
                keeper.late.fetch_sub(1, Ordering::Relaxed);
                None
            }
            Self::Tend(held) => {
                let due = held.tend(now)?;
                Some(Entry {
                    due,
                    work: Self::Tend(held),
                })
            }
            Self::Release(release) => {
                release.send();
                None
            }
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

/// A release counts as under way for as long as this lives.
#[derive(Debug)]
pub(crate) struct Owed(Arc<Held>);

impl Owed {
    /// A release of `held` begins.
    pub(crate) fn by(held: &Arc<Held>) -> Self {
        held.context
            .scheduler
            .releases
            .fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(held))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let keeper = &self.0.context.scheduler;
        if keeper.releases.fetch_sub(1, Ordering::AcqRel) == 1 {
            keeper.all_released.notify_waiters();
        }
    }
}

/// A RELEASE that is owed to one node.
#[derive(Debug)]
pub(crate) struct DueRelease {
    _owed: Owed,
    held: Arc<Held>,
    target: Target,
    attempts: AtomicUsize,
    /// When the entry has expired by itself.
    until: Instant,
}

impl DueRelease {
    pub(crate) fn new(held: &Arc<Held>, target: Target) -> Arc<Self> {
        let until = clock::now() + held.fleet.view.longest_ttl();
        Arc::new(Self {
            _owed: Owed::by(held),
            held: Arc::clone(held),
            target,
            attempts: AtomicUsize::new(0),
            until,
        })
    }

    /// Sends it now.
    pub(crate) fn send(self: Arc<Self>) {
        let (fleet, target) = (Arc::clone(&self.held.fleet), self.target.clone());
        let request = Request::Release {
            key: self.held.key.clone(),
            token: self.held.token.clone(),
        };
        let deadline = fleet.deadline(self.held.ttl, clock::now(), None);
        let reply = ReplyTo::new(self as Arc<dyn Sink>, 0);
        match target {
            Target::Member(node) => {
                let peer = fleet.peer(node);
                peer.meter.asked(&request);
                peer.node.submit(request, deadline, reply);
            }
            Target::Node(node) => node.submit(request, deadline, reply),
        }
    }

    /// Hands it to the keeper, to send it when the node may be back.
    pub(crate) fn defer(self: Arc<Self>) {
        let keeper = Arc::clone(&self.held.context.scheduler);
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let is_worth_it =
            clock::now() < self.until && keeper.releases.load(Ordering::Relaxed) <= MAX_DEFERRED;
        if !is_worth_it {
            return self.count_failure();
        }
        if !keeper.push(Work::Release(Arc::clone(&self))) {
            self.give_up();
        }
    }

    /// There is nobody to repeat it.
    fn give_up(&self) {
        self.held
            .context
            .scheduler
            .has_forsaken
            .store(true, Ordering::Release);
        self.count_failure();
    }

    fn count_failure(&self) {
        events::release_given_up(&self.held.key);
        self.held.context.counters.release_failures.add_one();
    }

    fn next_wait(&self) -> std::time::Duration {
        let attempts = u32::try_from(self.attempts.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Backoff::RECONNECT.wait(attempts, rand::random())
    }
}

impl Sink for DueRelease {
    fn accept(self: Arc<Self>, _: u32, answer: Answer) {
        if let Target::Member(node) = &self.target {
            self.held.fleet.peer(*node).meter.answered(&answer, None);
        }
        if answer.is_err() {
            self.defer();
        }
    }
}
