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
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::held::Held;
use crate::proto::lease::Key;
use crate::proto::time::Instant;
use crate::stats::Counters;

/// Locks that the keys are spread over.
const SHARDS: usize = 64;

/// Waiters that may have given up before a queue is rid of them, beside as
/// many as still wait.
const PURGE_SLACK: usize = 16;

/// The queues of all keys.
#[derive(Debug)]
pub(crate) struct Gate {
    hasher: RandomState,
    shards: Vec<Mutex<Queues>>,
    turns: AtomicU64,
    /// Nobody lines up any more.
    is_closed: AtomicBool,
    counters: Arc<Counters>,
}

type Queues = HashMap<Place, Queue, BuildHasherDefault<GivenHash>>;

/// A key and its hash, which is reckoned once for a turn.
#[derive(Clone, Debug)]
struct Place {
    hash: u64,
    key: Key,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The hash that a [`Place`] brings along.
#[derive(Default)]
struct GivenHash(u64);

impl Hasher for GivenHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|&byte| self.0 = self.0 << 8 ^ u64::from(byte));
    }
}

/// One key that is contended for or held. Most have nobody waiting.
#[derive(Debug)]
struct Queue {
    /// Number of the present turn.
    turn: u64,
    /// Whose turn it is, once it holds the key.
    holder: Weak<Held>,
    line: Option<Box<Line>>,
}

/// Those who wait for a key.
#[derive(Debug)]
struct Line {
    /// One for each acquire of the process that waits for the key.
    waiters: VecDeque<oneshot::Sender<Turn>>,
    /// Wakes one of them to look when the present lease will lapse.
    watch: Arc<Notify>,
    purge_at: usize,
}

/// Grants to one process of one key, with no chance for others in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Streak {
    /// How many they are.
    pub(crate) grants: u32,
    /// How long the last of them took, in microseconds.
    trip: u32,
}

impl Streak {
    /// How long the last of them took.
    pub(crate) fn trip(self) -> Duration {
        Duration::from_micros(self.trip.into())
    }
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
    place: Place,
    number: u64,
    /// What came before it.
    pub(crate) streak: Streak,
    /// Others were before it: the key was not free.
    pub(crate) has_waited: bool,
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
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            hasher: RandomState::new(),
            shards,
            turns: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            counters,
        })
    }

    fn place(&self, key: &Key) -> Place {
        Place {
            hash: self.hasher.hash_one(key),
            key: key.clone(),
        }
    }

    fn shard(&self, place: &Place) -> &Mutex<Queues> {
        // The map goes by the other bits.
        &self.shards[(place.hash >> 32) as usize % SHARDS]
    }

    /// Takes the turn if nobody has it.
    pub(crate) fn try_enter(self: &Arc<Self>, key: &Key) -> Result<Turn, Ahead> {
        let place = self.place(key);
        match self.shard(&place).lock().entry(place.clone()) {
            Entry::Vacant(vacant) => {
                let turn = self.turn(place);
                vacant.insert(Queue::of(&turn));
                Ok(turn)
            }
            Entry::Occupied(queue) => {
                self.counters.hot.note(key);
                Err(Ahead::of(queue.get()))
            }
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
        let place = self.place(key);
        let (mut receiver, watch) = match self.shard(&place).lock().entry(place.clone()) {
            Entry::Vacant(vacant) => {
                let turn = self.turn(place);
                vacant.insert(Queue::of(&turn));
                return Ok(turn);
            }
            Entry::Occupied(queue) if self.is_closed.load(Ordering::Acquire) => {
                return Err(Ahead::of(queue.get()));
            }
            Entry::Occupied(mut queue) => queue.get_mut().line_up(),
        };
        self.counters.hot.note(key);
        let _waiting = self.counters.waiting.enter();
        // One `select!` and no future within a future: there may be very many
        // who wait.
        loop {
            let lapse = self.holder(&place).map(|held| held.valid_until());
            let wake = lapse.into_iter().chain(deadline).min();
            tokio::select! {
                biased;
                turn = &mut receiver => {
                    // A sender is only dropped together with the gate, or by `close`.
                    let turn: Result<Turn, _> = turn.map_err(|_| self.ahead(&place));
                    return turn.map(|mut turn| {
                        turn.has_waited = true;
                        turn
                    });
                }
                // There is a lease now that was not there before.
                () = watch.0.notified() => {}
                () = clock::sleep_until(wake.unwrap_or(Instant::MAX)) => {
                    if deadline.is_some_and(|deadline| clock::now() >= deadline) {
                        return Err(self.ahead(&place));
                    }
                    self.evict_lapsed(&place);
                }
            }
        }
    }

    /// Sends away all who wait, and who comes to wait later.
    pub(crate) fn close(&self) {
        // Read under the locks that are taken below: who lines up before, is
        // found here.
        self.is_closed.store(true, Ordering::Release);
        for shard in &self.shards {
            let lines: Vec<_> = {
                let mut queues = shard.lock();
                queues
                    .values_mut()
                    .filter_map(|queue| queue.line.take())
                    .collect()
            };
            drop(lines);
        }
    }

    fn ahead(&self, place: &Place) -> Ahead {
        self.holder(place).map_or(Ahead::Contender, Ahead::Holder)
    }

    fn turn(self: &Arc<Self>, place: Place) -> Turn {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        Turn {
            gate: Arc::clone(self),
            place,
            number,
            streak: Streak::default(),
            has_waited: false,
            is_passed: false,
        }
    }

    fn holder(&self, place: &Place) -> Option<Arc<Held>> {
        self.shard(place).lock().get(place)?.holder.upgrade()
    }

    /// Ends the turn of a holder whose lease has lapsed: it may never come
    /// back to pass it on.
    fn evict_lapsed(self: &Arc<Self>, place: &Place) {
        let present = {
            let shard = self.shard(place).lock();
            shard
                .get(place)
                .map(|queue| (queue.turn, queue.holder.upgrade()))
        };
        // Outside the lock: the last handle to a lease gives its turn back.
        if let Some((turn, Some(held))) = present
            && held.valid_until() <= clock::now()
        {
            self.pass_on(place, turn, Streak::default());
        }
    }

    /// Ends turn `number`, if it is still the present one, and gives the first
    /// waiter who has not given up the next.
    fn pass_on(self: &Arc<Self>, place: &Place, number: u64, streak: Streak) {
        let mut ended = number;
        loop {
            let mut shard = self.shard(place).lock();
            let Some(queue) = shard.get_mut(place).filter(|queue| queue.turn == ended) else {
                return;
            };
            let waiters = queue.line.as_mut().map(|line| &mut line.waiters);
            let Some(next) = waiters.and_then(VecDeque::pop_front) else {
                shard.remove(place);
                return;
            };
            let mut turn = self.turn(place.clone());
            turn.streak = streak;
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
            holder: Weak::new(),
            line: None,
        }
    }

    fn line_up(&mut self) -> (oneshot::Receiver<Turn>, Watch) {
        let line = self.line.get_or_insert_with(|| {
            Box::new(Line {
                waiters: VecDeque::new(),
                watch: Arc::default(),
                purge_at: PURGE_SLACK,
            })
        });
        if line.waiters.len() >= line.purge_at {
            line.waiters.retain(|waiter| !waiter.is_closed());
            line.purge_at = 2 * line.waiters.len() + PURGE_SLACK;
        }
        let (sender, receiver) = oneshot::channel();
        line.waiters.push_back(sender);
        (receiver, Watch(Arc::clone(&line.watch)))
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
        let grants = self.streak.grants.saturating_add(1);
        let trip = u32::try_from(trip.as_micros()).unwrap_or(u32::MAX);
        self.streak = Streak { grants, trip };
    }

    /// Other processes have had a chance.
    pub(crate) fn end_streak(&mut self) {
        self.streak.grants = 0;
    }

    /// The turn's owner now holds the key.
    pub(crate) fn hold(&self, held: &Arc<Held>) {
        let mut shard = self.gate.shard(&self.place).lock();
        let queue = shard.get_mut(&self.place);
        if let Some(queue) = queue.filter(|queue| queue.turn == self.number) {
            queue.holder = Arc::downgrade(held);
            if let Some(line) = &queue.line {
                line.watch.notify_one();
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_passed {
            self.gate.pass_on(&self.place, self.number, self.streak);
        }
    }
}
