//! The queue in front of each key: one contender per process, first come,
//! first served.
//!
//! A turn lasts from the first attempt to the end of the lease, so that
//! waiters of the same process cost the servers nothing. It passes on when it
//! is dropped, whoever drops it: the next acquire follows the release down the
//! same connections at once, so that a key goes from hand to hand within a
//! process in one round trip. Other processes never see it free then; that is
//! why a turn knows how many grants in a row came before it.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::held::Held;
use crate::proto::lease::Key;
use crate::proto::time::Instant;

/// Locks that the keys are spread over.
const SHARDS: usize = 64;

/// Waiters that may have given up before a queue is rid of them, beside as
/// many as still wait.
const PURGE_SLACK: usize = 16;

/// The queues of all keys.
#[derive(Debug)]
pub(crate) struct Gate {
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Key, Queue>>>,
    turns: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    /// Number of the present turn.
    turn: u64,
    streak: Streak,
    /// Whose turn it is, once it holds the key.
    holder: Weak<Held>,
    /// One for each acquire of the process that waits for the key.
    waiters: VecDeque<oneshot::Sender<Turn>>,
    /// Wakes one of them to look when the present lease will lapse.
    watch: Option<Arc<Notify>>,
    purge_at: usize,
}

/// Grants to one process of one key, with no chance for others in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Streak {
    /// How many they are.
    pub(crate) grants: u32,
    /// How long the last of them took.
    pub(crate) trip: Duration,
}

/// Sees to it that a lease is watched that others of this process wait for:
/// who stops waiting has another one look after it.
struct Watch(Arc<Notify>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The right to contend for a key, and then to hold it.
#[derive(Debug)]
pub(crate) struct Turn {
    gate: Arc<Gate>,
    key: Key,
    number: u64,
    /// What came before it.
    pub(crate) streak: Streak,
    is_passed: bool,
}

/// What stands before a caller.
pub(crate) enum Ahead {
    /// A lease of this process.
    Holder(Arc<Held>),
    /// A caller of this process that is still trying.
    Contender,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            hasher: RandomState::new(),
            shards,
            turns: AtomicU64::new(0),
        })
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Queue>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Takes the turn if nobody has it.
    pub(crate) fn try_enter(self: &Arc<Self>, key: &Key) -> Result<Turn, Ahead> {
        match self.shard(key).lock().entry(key.clone()) {
            Entry::Vacant(vacant) => {
                let turn = self.turn(key);
                vacant.insert(Queue::of(&turn));
                Ok(turn)
            }
            Entry::Occupied(queue) => Err(Ahead::of(queue.get())),
        }
    }

    /// Waits for the turn, up to `deadline`.
    ///
    /// Cancel safe: a dropped waiter passes its turn on.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        key: &Key,
        deadline: Option<Instant>,
    ) -> Result<Turn, Ahead> {
        let (mut receiver, watch) = match self.shard(key).lock().entry(key.clone()) {
            Entry::Vacant(vacant) => {
                let turn = self.turn(key);
                vacant.insert(Queue::of(&turn));
                return Ok(turn);
            }
            Entry::Occupied(mut queue) => queue.get_mut().line_up(),
        };
        loop {
            let lapse = self.holder(key).map(|held| held.valid_until());
            let wake = lapse.into_iter().chain(deadline).min();
            let change = async {
                tokio::select! {
                    biased;
                    turn = &mut receiver => Some(turn),
                    () = watch.0.notified() => None,
                }
            };
            match clock::within(wake, change).await {
                Some(Some(Ok(turn))) => return Ok(turn),
                // There is a lease now that was not there before.
                Some(None) => {}
                None if deadline.is_none_or(|deadline| clock::now() < deadline) => {
                    self.evict_lapsed(key);
                }
                // A sender is only dropped together with the gate.
                Some(Some(Err(_))) | None => {
                    return Err(self.holder(key).map_or(Ahead::Contender, Ahead::Holder));
                }
            }
        }
    }

    fn turn(self: &Arc<Self>, key: &Key) -> Turn {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        Turn {
            gate: Arc::clone(self),
            key: key.clone(),
            number,
            streak: Streak::default(),
            is_passed: false,
        }
    }

    fn holder(&self, key: &Key) -> Option<Arc<Held>> {
        self.shard(key).lock().get(key)?.holder.upgrade()
    }

    /// Ends the turn of a holder whose lease has lapsed: it may never come
    /// back to pass it on.
    fn evict_lapsed(self: &Arc<Self>, key: &Key) {
        let present = {
            let shard = self.shard(key).lock();
            shard
                .get(key)
                .map(|queue| (queue.turn, queue.holder.upgrade()))
        };
        // Outside the lock: the last handle to a lease gives its turn back.
        if let Some((turn, Some(held))) = present
            && held.valid_until() <= clock::now()
        {
            self.pass_on(key, turn);
        }
    }

    /// Ends turn `number`, if it is still the present one, and gives the first
    /// waiter who has not given up the next.
    fn pass_on(self: &Arc<Self>, key: &Key, number: u64) {
        let mut ended = number;
        loop {
            let mut shard = self.shard(key).lock();
            let Some(queue) = shard.get_mut(key).filter(|queue| queue.turn == ended) else {
                return;
            };
            let Some(next) = queue.waiters.pop_front() else {
                shard.remove(key);
                return;
            };
            let mut turn = self.turn(key);
            turn.streak = queue.streak;
            queue.turn = turn.number;
            queue.holder = Weak::new();
            drop(shard);
            match next.send(turn) {
                Ok(()) => return,
                Err(mut refused) => {
                    refused.is_passed = true;
                    ended = refused.number;
                }
            }
        }
    }
}

impl Queue {
    fn of(turn: &Turn) -> Self {
        Self {
            turn: turn.number,
            streak: Streak::default(),
            holder: Weak::new(),
            waiters: VecDeque::new(),
            watch: None,
            purge_at: PURGE_SLACK,
        }
    }

    fn line_up(&mut self) -> (oneshot::Receiver<Turn>, Watch) {
        if self.waiters.len() >= self.purge_at {
            self.waiters.retain(|waiter| !waiter.is_closed());
            self.purge_at = 2 * self.waiters.len() + PURGE_SLACK;
        }
        let (sender, receiver) = oneshot::channel();
        self.waiters.push_back(sender);
        let watch = self.watch.get_or_insert_default();
        (receiver, Watch(Arc::clone(watch)))
    }
}

impl Ahead {
    fn of(queue: &Queue) -> Self {
        queue.holder.upgrade().map_or(Self::Contender, Self::Holder)
    }
}

impl Turn {
    /// Another grant in a row, which took `trip`; [`Self::hold`] follows.
    pub(crate) fn count_grant(&mut self, trip: Duration) {
        let grants = self.streak.grants + 1;
        self.streak = Streak { grants, trip };
    }

    /// Other processes have had a chance.
    pub(crate) fn end_streak(&mut self) {
        self.streak.grants = 0;
    }

    /// The turn's owner now holds the key.
    pub(crate) fn hold(&self, held: &Arc<Held>) {
        let mut shard = self.gate.shard(&self.key).lock();
        if let Some(queue) = shard
            .get_mut(&self.key)
            .filter(|queue| queue.turn == self.number)
        {
            queue.holder = Arc::downgrade(held);
            queue.streak = self.streak;
            if let Some(watch) = &queue.watch {
                watch.notify_one();
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_passed {
            self.gate.pass_on(&self.key, self.number);
        }
    }
}
