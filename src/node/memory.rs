//! A node in this process's memory: the lock table that specifies every node,
//! and switches that make it fail.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{Interest, Node, ReplyTo, Watch, WatchEvent, Watchers};
use crate::clock;
use crate::proto::lease::Key;
use crate::proto::node::lock_table::LockTable;
use crate::proto::node::message::{Incarnation, NodeError, NodeErrorKind, Reply, Request};
use crate::proto::time::Instant;
use crate::runtime::random;

/// How long a note that a caller waits for a key lasts.
const NOTE_LIFE: Duration = Duration::from_secs(1);

/// The least number of notes that is kept before expired ones are purged.
const LEAST_NOTES: usize = 64;

/// A lock node in memory, for embedding, for experiments, and for tests of your
/// own code: it can be stopped, wiped, slowed down and hung.
///
/// A clone is another handle to the same node.
#[derive(Clone)]
pub struct MemoryNode {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
    watchlist: Arc<Watchers>,
}

struct State {
    table: LockTable,
    condition: Condition,
    delay: Duration,
    requests: u64,
    /// The keys that callers wait for, and until when each note counts. At most
    /// twice as many as were noted within [`NOTE_LIFE`].
    notes: HashMap<Key, Instant>,
    purge_at: usize,
}

impl State {
    fn note(&mut self, key: &Key, now: Instant) {
        if self.notes.len() >= self.purge_at {
            self.notes.retain(|_, until| *until > now);
            self.purge_at = 2 * self.notes.len() + LEAST_NOTES;
        }
        self.notes.insert(key.clone(), now + NOTE_LIFE);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Condition {
    Up,
    Down,
    Hung,
}

impl MemoryNode {
    /// A new, empty node.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let state = State {
            table: LockTable::new(incarnation()),
            condition: Condition::Up,
            delay: Duration::ZERO,
            requests: 0,
            notes: HashMap::new(),
            purge_at: LEAST_NOTES,
        };
        Self {
            name: name.into(),
            state: Arc::new(Mutex::new(state)),
            watchlist: Arc::default(),
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the node down: every request fails at once. Its data stays.
    pub fn stop(&self) {
        self.set(Condition::Down);
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    /// Brings the node back up, with the data that it had, as if only the
    /// network had failed.
    pub fn start(&self) {
        self.set(Condition::Up);
        // The watches missed what was freed while the node hung.
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    /// Lets requests reach the node and be carried out, but sends no answers.
    pub fn hang(&self) {
        self.set(Condition::Hung);
    }

    /// Restarts the node empty, as a server that lost its memory.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.table = LockTable::new(incarnation());
        state.condition = Condition::Up;
        drop(state);
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    /// Restarts the node with its data, as a server that recovered from its
    /// disk.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        state.table.restart(incarnation());
        state.condition = Condition::Up;
        drop(state);
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    /// Delays every answer by `delay`.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// How many requests have reached the node.
    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    /// Deletes the entry of `key`, whichever client holds it.
    pub fn delete(&self, key: &Key) {
        let mut state = self.state.lock();
        state.table.delete(key);
        let is_up = state.condition == Condition::Up;
        drop(state);
        if is_up {
            self.watchlist.notify(key, WatchEvent::Changed);
        }
    }

    /// How many of the node's keys are watched.
    pub fn watched(&self) -> usize {
        self.watchlist.len()
    }

    /// The stored tokens of all keys that are locked now, by key.
    pub fn locked(&self) -> Vec<(Key, String)> {
        let state = self.state.lock();
        let live = state.table.live(clock::now());
        live.map(|(key, token, _)| (key.clone(), token.to_string()))
            .collect()
    }

    fn set(&self, condition: Condition) {
        self.state.lock().condition = condition;
    }
}

/// A different name for every incarnation of every node.
fn incarnation() -> Incarnation {
    format!("memory-{:032x}", random::unique()).into()
}

impl fmt::Debug for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryNode").field(&self.name).finish()
    }
}

impl Node for MemoryNode {
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo) {
        let mut state = self.state.lock();
        let (condition, delay) = (state.condition, state.delay);
        if condition == Condition::Down {
            drop(state);
            let kind = NodeErrorKind::Unreachable;
            return reply.send(Err(NodeError::new(kind, "the in-memory node is stopped")));
        }
        state.requests += 1;
        let now = clock::now();
        let answer = state.table.apply(now, &request);
        drop(state);
        if condition == Condition::Up
            && let (Request::Release { key, .. }, Reply::Released) = (&request, &answer)
        {
            self.watchlist.notify(key, WatchEvent::Changed);
        }
        let arrives = now + delay;
        let is_lost = condition == Condition::Hung || arrives > deadline;
        if !is_lost && delay.is_zero() {
            return reply.send(Ok(answer));
        }
        // A timer needs a runtime; without a runtime, no caller waits either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                clock::sleep_until(if is_lost { deadline } else { arrives }).await;
                reply.send(if is_lost { Err(timeout()) } else { Ok(answer) });
            });
        }
    }

    fn watch(&self, key: &Key) -> Option<Watch> {
        let mut state = self.state.lock();
        if state.condition != Condition::Up {
            return None;
        }
        let (watch, _) = self.watchlist.add(key)?;
        let now = clock::now();
        state.note(key, now);
        let is_held = state.table.is_held(key, now);
        drop(state);
        if !is_held {
            self.watchlist.notify(key, WatchEvent::Free);
        }
        Some(watch)
    }

    fn want(&self, key: &Key) {
        self.state.lock().note(key, clock::now());
    }

    fn interest(&self, key: &Key) -> Interest {
        let mut state = self.state.lock();
        match state.notes.get(key) {
            _ if state.condition != Condition::Up => Interest::Unknown,
            Some(&until) if clock::now() < until => Interest::Somebody,
            Some(_) => {
                state.notes.remove(key);
                Interest::Nobody
            }
            None => Interest::Nobody,
        }
    }

    fn address(&self) -> String {
        format!("memory://{}", self.name)
    }

    fn is_embedded(&self) -> bool {
        true
    }

    fn close(&self) {}
}

fn timeout() -> NodeError {
    NodeError::new(NodeErrorKind::Timeout, "no answer within the node timeout")
}
