//! The queue between the callers and a connection.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::node::ReplyTo;
use crate::proto::time::Instant;
use crate::proto::wire::{NodeError, NodeErrorKind, Request};

/// Requests that may wait for a node; one more is refused.
const MAX_QUEUE: usize = 65_536;

/// A request that is yet to be answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) deadline: Instant,
    pub(super) reply: ReplyTo,
}

/// The queue of one node, and whether anything takes from it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    pub(super) arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Pending>,
    /// No request in the queue has an earlier deadline.
    expires: Instant,
    condition: Condition,
}

impl State {
    /// A request with this deadline is about to be queued.
    fn expect(&mut self, deadline: Instant) {
        self.expires = if self.queue.is_empty() {
            deadline
        } else {
            self.expires.min(deadline)
        };
    }
}

/// What becomes of a new request.
#[derive(Clone, Debug, Default)]
pub(super) enum Condition {
    /// It waits for a connection that is being made.
    #[default]
    Connecting,
    /// It is sent.
    Up,
    /// It fails at once: the server could not be reached a moment ago.
    Down(NodeError),
    /// It fails; what was queued before is still sent.
    Closed,
}

impl Lane {
    /// Queues a request, or says at once why not.
    pub(super) fn push(&self, pending: Pending) {
        let mut state = self.state.lock();
        let error = match &state.condition {
            Condition::Down(error) => error.clone(),
            Condition::Closed => NodeError::new(NodeErrorKind::Closed, "the router has shut down"),
            _ if state.queue.len() >= MAX_QUEUE => NodeError::new(
                NodeErrorKind::Overloaded,
                "too many requests wait for this node: it is slower than its callers",
            ),
            Condition::Connecting | Condition::Up => {
                state.expect(pending.deadline);
                state.queue.push_back(pending);
                drop(state);
                return self.arrived.notify_one();
            }
        };
        drop(state);
        pending.reply.send(Err(error));
    }

    /// Queues requests anew that have been taken before, ahead of the others.
    pub(super) fn push_back_front(&self, requests: Vec<Pending>) {
        let mut state = self.state.lock();
        for pending in requests.into_iter().rev() {
            state.expect(pending.deadline);
            state.queue.push_front(pending);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Takes requests from the front while `accept` likes them.
    pub(super) fn take_while(&self, mut accept: impl FnMut(&Pending) -> bool) -> Vec<Pending> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while state.queue.front().is_some_and(&mut accept) {
            taken.extend(state.queue.pop_front());
        }
        taken
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// When to look for what has expired, if anything waits.
    pub(super) fn expires(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!state.queue.is_empty()).then_some(state.expires)
    }

    /// Answers whatever has waited past its deadline.
    pub(super) fn expire(&self) {
        let now = clock::now();
        let mut state = self.state.lock();
        if now < state.expires {
            return;
        }
        let queued = std::mem::take(&mut state.queue);
        let (expired, waiting): (VecDeque<_>, VecDeque<_>) = queued
            .into_iter()
            .partition(|pending| pending.deadline <= now);
        let earliest = waiting.iter().map(|pending| pending.deadline).min();
        state.expires = earliest.unwrap_or_default();
        state.queue = waiting;
        drop(state);
        for pending in expired {
            pending.reply.send(Err(timeout()));
        }
    }

    /// Changes what becomes of new requests; going down fails what is queued.
    /// A closed lane stays closed.
    pub(super) fn set(&self, condition: Condition) {
        let mut state = self.state.lock();
        let mut failed = VecDeque::new();
        let error = match &condition {
            Condition::Down(error) => Some(error.clone()),
            _ => None,
        };
        if error.is_some() {
            failed = std::mem::take(&mut state.queue);
        }
        if !matches!(state.condition, Condition::Closed) {
            state.condition = condition;
        }
        drop(state);
        if let Some(error) = error {
            failed
                .into_iter()
                .for_each(|pending| pending.reply.send(Err(error.clone())));
        }
    }

    /// Refuses new requests from now on.
    pub(super) fn close(&self) {
        self.state.lock().condition = Condition::Closed;
        self.arrived.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state.lock().condition, Condition::Closed)
    }
}

pub(super) fn timeout() -> NodeError {
    NodeError::new(NodeErrorKind::Timeout, "no answer within the node timeout")
}
