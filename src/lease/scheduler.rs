//! One task per router that runs items when they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::proto::time::Instant;

/// An item that the scheduler runs when it is due.
pub(crate) trait Due: fmt::Debug + Send + Sync {
    /// Runs it. Returns when it is due again; `None` if it is done.
    fn run(self: Arc<Self>, now: Instant) -> Option<Instant>;

    /// Notifies the item of a newer view. Returns whether it is due for that.
    fn view_changed(&self, _now: Instant) -> bool {
        false
    }

    /// The scheduler has ended: the item will not run.
    fn give_up(&self) {}
}

/// The interface of the rest of the router to the task.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Operations that a shutdown waits for.
    outstanding: AtomicUsize,
    /// Some operations were given up because the task has ended.
    has_forsaken: AtomicBool,
    all_done: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    /// The task takes all of these at once. There is one per lease that is kept
    /// alive or watched, and per release that is repeated.
    arrived: Vec<Entry>,
    /// There is a newer view: leases that failed under the old one need not wait.
    has_moved: bool,
    is_closed: bool,
}

impl Scheduler {
    /// Runs `item` at `due`. Returns false once the task has ended; the item is
    /// then never run.
    pub(crate) fn schedule(&self, item: Arc<dyn Due>, due: Instant) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return false;
        }
        inbox.arrived.push(Entry { due, item });
        drop(inbox);
        self.wake.notify_one();
        true
    }

    /// Signals a newer view: items that wait for one run at once.
    pub(crate) fn hurry(&self) {
        self.inbox.lock().has_moved = true;
        self.wake.notify_one();
    }

    /// Operations that a shutdown waits for.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Records that an operation was given up because the task has ended.
    pub(crate) fn forsake(&self) {
        self.has_forsaken.store(true, Ordering::Release);
    }

    /// Waits until no operation is outstanding, up to `deadline`; false: some are,
    /// or were given up.
    pub(crate) async fn drained(&self, deadline: Instant) -> bool {
        let all_gone = async {
            loop {
                let changed = self.all_done.notified();
                if self.outstanding.load(Ordering::Acquire) == 0 {
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

    /// Handles the end of the task: items that it has not taken over are given up.
    pub(crate) fn end(&self) {
        let left = {
            let mut inbox = self.inbox.lock();
            inbox.is_closed = true;
            inbox.take().arrived
        };
        left.iter().for_each(|entry| entry.item.give_up());
    }

    /// Runs each item when it is due, until the scheduler is closed.
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
            agenda.extend(arrived.into_iter().map(Reverse));
            while agenda.peek().is_some_and(|Reverse(entry)| entry.due <= now) {
                let entry = agenda.pop().map(|Reverse(entry)| entry);
                agenda.extend(entry.and_then(|entry| entry.run(now)).map(Reverse));
            }
            let next = agenda.peek().map(|Reverse(entry)| entry.due);
            clock::within(next, self.wake.notified()).await;
        }
    }
}

/// Items by their time, the next first.
struct Agenda(BinaryHeap<Reverse<Entry>>);

impl Drop for Agenda {
    /// Runs when the task is dropped, or its router is gone.
    fn drop(&mut self) {
        for Reverse(entry) in self.0.drain() {
            entry.item.give_up();
        }
    }
}

/// An item and its time; ordered by time alone.
#[derive(Debug)]
struct Entry {
    due: Instant,
    item: Arc<dyn Due>,
}

impl Inbox {
    /// Takes what has arrived since the last call. A closed inbox stays closed.
    fn take(&mut self) -> Self {
        let is_closed = self.is_closed;
        let taken = std::mem::take(self);
        self.is_closed = is_closed;
        taken
    }
}

impl Entry {
    /// Makes it due now, if it waits for a newer view.
    fn hurried(self, now: Instant) -> Self {
        let waits = self.item.view_changed(now);
        let due = if waits { now } else { self.due };
        Self { due, ..self }
    }

    /// Runs it. Returns it if it is due again.
    fn run(self, now: Instant) -> Option<Self> {
        let due = Arc::clone(&self.item).run(now)?;
        Some(Self { due, ..self })
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

/// An operation is outstanding while this value lives.
#[derive(Debug)]
pub(crate) struct Outstanding(Arc<Scheduler>);

impl Outstanding {
    /// Starts an operation that a shutdown waits for.
    pub(crate) fn by(scheduler: &Arc<Scheduler>) -> Self {
        scheduler.outstanding.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(scheduler))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if self.0.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_done.notify_waiters();
        }
    }
}
