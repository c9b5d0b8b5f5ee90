//! Being told that a key may have become free, instead of asking again.

use std::collections::hash_map::{Entry, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::proto::lease::Key;

/// Keys of one node that may be watched at once; whoever waits for one more
/// asks again and again.
const MAX_WATCHED: usize = 65_536;

/// What a [`Watch`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nobody held the key when it was looked at first.
    Free,
    /// The key was deleted, has expired or was changed since then.
    Changed,
    /// Nothing, and nothing more will be seen: the node cannot tell.
    Lost,
}

/// Whether others wait for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nobody has said so lately.
    Nobody,
    /// Somebody has.
    Somebody,
    /// That is not known, or not known yet.
    Unknown,
}

/// An eye on one key of one node; a future that resolves when the key may have
/// become free. Dropped, it is taken off the list.
#[derive(Debug)]
#[must_use = "a watch that is dropped sees nothing"]
pub struct Watch {
    seen: oneshot::Receiver<Sight>,
    list: Arc<Watchlist>,
    key: Key,
    number: u64,
}

impl Future for Watch {
    type Output = Sight;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Sight> {
        Pin::new(&mut self.seen)
            .poll(context)
            .map(|seen| seen.unwrap_or(Sight::Lost))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.list.remove(&self.key, self.number);
    }
}

/// The watches of one node, by key: what a [`Node`](crate::node::Node) keeps to
/// answer [`watch`](crate::node::Node::watch).
#[derive(Debug, Default)]
pub struct Watchlist {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each caller that waits for the key.
    watchers: HashMap<Key, Vec<(u64, oneshot::Sender<Sight>)>>,
    numbers: u64,
}

impl Watchlist {
    /// Adds a watch on `key`, and tells whether it is the only one; `None`
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

    /// Tells every watch on `key` what was seen of it, and forgets them.
    pub fn tell(&self, key: &Key, sight: Sight) {
        let watchers = self.state.lock().watchers.remove(key);
        for (_, watcher) in watchers.into_iter().flatten() {
            let _ = watcher.send(sight);
        }
    }

    /// Tells every watch on any key.
    pub fn tell_all(&self, sight: Sight) {
        let watchers = std::mem::take(&mut self.state.lock().watchers);
        for (_, watcher) in watchers.into_values().flatten() {
            let _ = watcher.send(sight);
        }
    }

    /// Whether somebody watches `key`.
    pub fn contains(&self, key: &Key) -> bool {
        self.state.lock().watchers.contains_key(key)
    }

    /// How many keys are watched.
    pub fn len(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// Whether nobody watches anything.
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
