//! Notification that a key may have become free, instead of polling.

use std::collections::hash_map::{Entry, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::proto::lease::Key;

/// Keys of one node that may be watched at once. A waiter for one more key
/// polls.
const MAX_WATCHED: usize = 65_536;

/// What a [`Watch`] observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// No client held the key at the first read.
    Free,
    /// The key was deleted, has expired or was changed since the first read.
    Changed,
    /// Nothing was observed, and nothing will be: the node can no longer
    /// observe the key.
    Lost,
}

/// Whether others wait for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// No process has announced a waiter lately.
    Nobody,
    /// A process has announced a waiter.
    Somebody,
    /// Not known, or not known yet.
    Unknown,
}

/// A watch on one key of one node: a future that resolves when the key may have
/// become free. Dropping it removes it from the list.
#[derive(Debug)]
#[must_use = "a watch that is dropped sees nothing"]
pub struct Watch {
    seen: oneshot::Receiver<WatchEvent>,
    list: Arc<Watchers>,
    key: Key,
    number: u64,
}

impl Future for Watch {
    type Output = WatchEvent;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WatchEvent> {
        Pin::new(&mut self.seen)
            .poll(context)
            .map(|seen| seen.unwrap_or(WatchEvent::Lost))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.list.remove(&self.key, self.number);
    }
}

/// The watches of one node, by key. A [`Node`](crate::node::Node) keeps it to
/// implement [`watch`](crate::node::Node::watch).
#[derive(Debug, Default)]
pub struct Watchers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each caller that waits for the key.
    watchers: HashMap<Key, Vec<(u64, oneshot::Sender<WatchEvent>)>>,
    numbers: u64,
}

impl Watchers {
    /// Adds a watch on `key`, and returns whether it is the only one; `None`
    /// where too many keys are watched.
    pub fn add(self: &Arc<Self>, key: &Key) -> Option<(Watch, bool)> {
        let mut state = self.state.lock();
        let is_first = !state.watchers.contains_key(key);
        if is_first && state.watchers.len() >= MAX_WATCHED {
            return None;
        }
        let (sender, seen) = oneshot::channel();
        let number = state.numbers;
        state.numbers += 1;
        let watchers = state.watchers.entry(key.clone()).or_default();
        watchers.push((number, sender));
        let watch = Watch {
            seen,
            list: Arc::clone(self),
            key: key.clone(),
            number,
        };
        Some((watch, is_first))
    }

    /// Resolves every watch on `key` with `event`, and removes them.
    pub fn notify(&self, key: &Key, event: WatchEvent) {
        let watchers = self.state.lock().watchers.remove(key);
        for (_, watcher) in watchers.into_iter().flatten() {
            let _ = watcher.send(event);
        }
    }

    /// Resolves every watch on any key, and removes them.
    pub fn notify_all(&self, event: WatchEvent) {
        let watchers = std::mem::take(&mut self.state.lock().watchers);
        for (_, watcher) in watchers.into_values().flatten() {
            let _ = watcher.send(event);
        }
    }

    /// Whether `key` is watched.
    pub fn contains(&self, key: &Key) -> bool {
        self.state.lock().watchers.contains_key(key)
    }

    /// How many keys are watched.
    pub fn len(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// Whether no key is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn remove(&self, key: &Key, number: u64) {
        let mut state = self.state.lock();
        let Entry::Occupied(mut watchers) = state.watchers.entry(key.clone()) else {
            return;
        };
        watchers.get_mut().retain(|(other, _)| *other != number);
        if watchers.get().is_empty() {
            watchers.remove();
        }
    }
}
