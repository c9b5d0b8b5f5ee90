//! The queue of one key.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::sync::{Notify, oneshot};

use crate::error::Error;
use crate::lease::local_queue::Expires;
use crate::lease::local_queue::history::{LastFailure, QueueHistory};
use crate::lease::local_queue::ticket::Ticket;

/// Waiters that may have given up before a queue removes them, in addition to as
/// many as still wait.
const PURGE_SLACK: usize = 16;

/// One key that is contended for or held. Most keys have no waiters.
#[derive(Debug)]
pub(super) struct Queue<H: Expires> {
    /// Number of the current turn.
    pub(super) ticket: u64,
    /// The holder of the current turn, once it holds the key.
    pub(super) holder: Weak<H>,
    /// The last turn in which the key was held; 0: none.
    held_in: u64,
    /// Boxed: there may be very many held keys, and few are contended for.
    contention: Option<Box<Contention<H>>>,
}

/// What is known of a key that an attempt did not get, or that others wait for.
#[derive(Debug)]
struct Contention<H: Expires> {
    /// The errors of the attempts made since the key was held, and their turn.
    met: Option<(u64, Arc<LastFailure>)>,
    line: Option<Waiters<H>>,
}

impl<H: Expires> Default for Contention<H> {
    fn default() -> Self {
        Self {
            met: None,
            line: None,
        }
    }
}

/// The waiters of a key.
#[derive(Debug)]
pub(super) struct Waiters<H: Expires> {
    /// One for each acquire of the process that waits for the key.
    waiters: VecDeque<oneshot::Sender<Ticket<H>>>,
    /// Wakes one of them to check when the current lease lapses.
    watch: Arc<Notify>,
    purge_at: usize,
}

/// Ensures that one waiter watches the lapse of the current lease: a waiter that
/// stops wakes another one to take over.
pub(super) struct Watch(pub(super) Arc<Notify>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// What blocks a caller.
pub(crate) enum Blocker<H> {
    /// A lease of this process.
    Holder(Arc<H>),
    /// A caller of this process that is still trying.
    Contender(QueueHistory),
}

impl<H: Expires> Queue<H> {
    pub(super) fn of(ticket: &Ticket<H>) -> Self {
        Self {
            ticket: ticket.number,
            holder: Weak::new(),
            held_in: 0,
            contention: None,
        }
    }

    /// Takes the first waiter out of the line.
    pub(super) fn next_waiter(&mut self) -> Option<oneshot::Sender<Ticket<H>>> {
        let line = self.contention.as_mut()?.line.as_mut()?;
        line.waiters.pop_front()
    }

    /// The owner of the current turn now holds the key.
    pub(super) fn hold(&mut self, holder: &Arc<H>) {
        self.holder = Arc::downgrade(holder);
        self.held_in = self.ticket;
        if let Some(contention) = &mut self.contention {
            contention.met = None;
            if let Some(line) = &contention.line {
                line.watch.notify_one();
            }
        }
    }

    /// For callers in the queue, the key counts as held in the current turn.
    pub(super) fn count_as_held(&mut self) {
        self.held_in = self.ticket;
    }

    /// Records a failed attempt in the current turn.
    pub(super) fn fail(&mut self, error: &Error) {
        let turn = self.ticket;
        let met = &mut self.contention().met;
        if !matches!(met, Some((owner, _)) if *owner == turn) {
            *met = None;
        }
        let (_, failure) = met.get_or_insert_with(|| (turn, Arc::default()));
        failure.set(Some(error.clone()));
    }

    /// From now on `failure` holds what the owner of the current turn meets.
    pub(super) fn share(&mut self, failure: Arc<LastFailure>) {
        self.contention().met = Some((self.ticket, failure));
    }

    /// Takes out the line of waiters.
    pub(super) fn take_line(&mut self) -> Option<Waiters<H>> {
        self.contention.as_mut()?.line.take()
    }

    fn contention(&mut self) -> &mut Contention<H> {
        self.contention.get_or_insert_default()
    }

    /// The errors of the attempts since the key was held, and their turn.
    fn last_met(&self) -> Option<&(u64, Arc<LastFailure>)> {
        self.contention.as_ref()?.met.as_ref()
    }

    /// What blocks a caller that has queued since turn `since`.
    pub(super) fn ahead(&self, since: u64) -> Blocker<H> {
        let holder = self.holder.upgrade();
        holder.map_or_else(|| Blocker::Contender(self.met(since)), Blocker::Holder)
    }

    /// What such a caller met: the latest that is known.
    pub(super) fn met(&self, since: u64) -> QueueHistory {
        match self.last_met().and_then(|(_, failure)| failure.get()) {
            Some(error) => QueueHistory::Failed(error),
            None if self.held_in >= since => QueueHistory::Held,
            None => QueueHistory::Unanswered,
        }
    }

    /// A place in the queue, and the current turn when it is taken.
    pub(super) fn line_up(&mut self) -> (oneshot::Receiver<Ticket<H>>, Watch, u64) {
        let turn = self.ticket;
        let line = self.contention().line.get_or_insert_with(|| Waiters {
            waiters: VecDeque::new(),
            watch: Arc::default(),
            purge_at: PURGE_SLACK,
        });
        if line.waiters.len() >= line.purge_at {
            line.waiters.retain(|waiter| !waiter.is_closed());
            line.purge_at = 2 * line.waiters.len() + PURGE_SLACK;
        }
        let (sender, receiver) = oneshot::channel();
        line.waiters.push_back(sender);
        (receiver, Watch(Arc::clone(&line.watch)), turn)
    }
}
