//! The queue in front of each key: one contender per process, first come,
//! first served.
//!
//! A turn lasts from the first attempt to the end of the lease, so waiters of the
//! same process cost the servers nothing. The turn passes on when its ticket is
//! dropped, by any owner: the next acquire follows the release on the same
//! connections at once. Within a process a key thus changes hands in one round
//! trip. Other processes never see it free then; that is why a turn knows how many
//! consecutive grants came before it (see `handoffs.rs`).
//!
//! A queue also keeps the error of the last attempt made for it: a caller that
//! times out in the queue reports what the contender ahead of it has met.

pub(crate) mod history;
pub(crate) mod queue;
pub(crate) mod ticket;
pub(crate) mod wait;

use std::collections::hash_map::{Entry, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock;
use crate::lease::handoffs::{Handoffs, RecentHandoffs};
use crate::lease::local_queue::history::QueueHistory;
use crate::lease::local_queue::queue::{Blocker, Queue};
use crate::lease::local_queue::ticket::{NONE, Ticket};
use crate::lease::local_queue::wait::QueueWait;
use crate::proto::lease::Key;
use crate::proto::time::Instant;
use crate::runtime::given_hash::GivenHash;
use crate::telemetry::stats::Counters;

/// The number of locks over which the keys are spread.
const SHARDS: usize = 64;

/// A holder of a key that can lose it by expiry.
pub(crate) trait Expires {
    /// When it loses the key, unless it is extended.
    fn valid_until(&self) -> Instant;

    /// Whether it has lost the key by `now`, for whatever reason.
    fn is_over(self: &Arc<Self>, now: Instant) -> bool;
}

/// The queues of all keys.
#[derive(Debug)]
pub(crate) struct LocalQueue<H: Expires> {
    /// Random: a client that chooses keys cannot choose their places.
    seed: u64,
    shards: Vec<Mutex<Shard<H>>>,
    /// No further caller may queue.
    is_closed: AtomicBool,
    counters: Arc<Counters>,
}

/// The queues of some of the keys.
#[derive(Debug)]
struct Shard<H: Expires> {
    queues: HashMap<Place, Queue<H>, BuildHasherDefault<GivenHash>>,
    /// The number of the last turn.
    turns: u64,
    /// The streaks of keys that no longer have a queue.
    streaks: RecentHandoffs,
}

impl<H: Expires> Default for Shard<H> {
    fn default() -> Self {
        Self {
            queues: HashMap::default(),
            // Turn 0 means none.
            turns: 0,
            streaks: RecentHandoffs::default(),
        }
    }
}

/// A key and its hash, which is computed once per turn.
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

/// What becomes of a caller that wants the turn.
pub(crate) enum Admission<H: Expires> {
    /// It has the turn.
    Turn(Ticket<H>),
    /// It has a place in the queue.
    Wait(QueueWait<H>),
    /// No further caller may queue.
    Closed(Blocker<H>),
}

impl<H: Expires> LocalQueue<H> {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            seed: rand::random(),
            shards,
            is_closed: AtomicBool::new(false),
            counters,
        })
    }

    fn place(&self, key: &Key) -> Place {
        Place {
            hash: xxh3_64_with_seed(key.as_bytes(), self.seed),
            key: key.clone(),
        }
    }

    fn shard(&self, place: &Place) -> &Mutex<Shard<H>> {
        // The map uses the other bits.
        &self.shards[(place.hash >> 32) as usize % SHARDS]
    }

    /// Gives the turn to a caller if it is free.
    fn admit<'a>(
        self: &Arc<Self>,
        shard: &'a mut Shard<H>,
        place: &Place,
    ) -> Result<Ticket<H>, &'a mut Queue<H>> {
        match shard.queues.entry(place.clone()) {
            Entry::Vacant(vacant) => {
                let mut ticket = self.ticket(place.clone(), &mut shard.turns);
                ticket.streak = shard.streaks.resume(place.hash);
                vacant.insert(Queue::of(&ticket));
                Ok(ticket)
            }
            Entry::Occupied(queue) => Err(queue.into_mut()),
        }
    }

    /// Takes the turn if it is free.
    pub(crate) fn try_enter(self: &Arc<Self>, key: &Key) -> Result<Ticket<H>, Blocker<H>> {
        let place = self.place(key);
        let mut shard = self.shard(&place).lock();
        self.admit(&mut shard, &place).map_err(|queue| {
            self.counters.hot.note(key);
            queue.ahead(queue.ticket)
        })
    }

    /// Takes the turn if it is free, or a place in the queue for it.
    pub(crate) fn join(self: &Arc<Self>, key: &Key, deadline: Option<Instant>) -> Admission<H> {
        let place = self.place(key);
        let (receiver, watch, since) = {
            let mut shard = self.shard(&place).lock();
            match self.admit(&mut shard, &place) {
                Ok(ticket) => return Admission::Turn(ticket),
                Err(queue) if self.is_closed.load(Ordering::Acquire) => {
                    return Admission::Closed(queue.ahead(queue.ticket));
                }
                Err(queue) => queue.line_up(),
            }
        };
        self.counters.hot.note(key);
        Admission::Wait(QueueWait {
            queues: Arc::clone(self),
            place,
            receiver,
            watch,
            since,
            deadline,
        })
    }

    /// Waits for the turn, up to `deadline`.
    ///
    /// Cancel safe: a dropped waiter passes its turn on.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        key: &Key,
        deadline: Option<Instant>,
    ) -> Result<Ticket<H>, Blocker<H>>
    where
        H: Send + Sync,
    {
        match self.join(key, deadline) {
            Admission::Turn(ticket) => Ok(ticket),
            Admission::Wait(wait) => wait.turn().await,
            Admission::Closed(blocker) => Err(blocker),
        }
    }

    /// Ends the wait of all current and future waiters.
    pub(crate) fn close(&self) {
        // `enter` reads the flag under the locks taken below: a caller that did not
        // see it set has queued by then, and is found here.
        self.is_closed.store(true, Ordering::Release);
        for shard in &self.shards {
            let lines: Vec<_> = {
                let mut shard = shard.lock();
                shard
                    .queues
                    .values_mut()
                    .filter_map(Queue::take_line)
                    .collect()
            };
            drop(lines);
        }
    }

    /// What blocks a caller that has queued since turn `since`.
    fn ahead(&self, place: &Place, since: u64) -> Blocker<H> {
        let shard = self.shard(place).lock();
        let queue = shard.queues.get(place);
        queue.map_or(Blocker::Contender(QueueHistory::Held), |queue| {
            queue.ahead(since)
        })
    }

    /// What a caller met that has queued since turn `since`.
    fn met(&self, place: &Place, since: u64) -> QueueHistory {
        let shard = self.shard(place).lock();
        let queue = shard.queues.get(place);
        queue.map_or(QueueHistory::Held, |queue| queue.met(since))
    }

    /// Changes the queue of `place`, if turn `number` is still the current one.
    fn on_turn(&self, place: &Place, number: u64, change: impl FnOnce(&mut Queue<H>)) {
        let mut shard = self.shard(place).lock();
        let queue = shard.queues.get_mut(place);
        if let Some(queue) = queue.filter(|queue| queue.ticket == number) {
            change(queue);
        }
    }

    /// The ticket of turn `turns` + 1.
    fn ticket(self: &Arc<Self>, place: Place, turns: &mut u64) -> Ticket<H> {
        *turns += 1;
        Ticket {
            queues: Arc::clone(self),
            place,
            number: *turns,
            streak: Handoffs::default(),
            since: NONE,
        }
    }

    fn holder(&self, place: &Place) -> Option<Arc<H>> {
        let shard = self.shard(place).lock();
        shard.queues.get(place)?.holder.upgrade()
    }

    /// Ends the turn of a holder whose lease has lapsed: the holder may never pass
    /// it on.
    fn evict_lapsed(self: &Arc<Self>, place: &Place) {
        let present = {
            let shard = self.shard(place).lock();
            shard
                .queues
                .get(place)
                .map(|queue| (queue.ticket, queue.holder.upgrade()))
        };
        // Outside the lock: the last handle to a lease gives its turn back.
        if let Some((ticket, Some(holder))) = present
            && holder.is_over(clock::now())
        {
            self.pass_on(place, ticket, Handoffs::default());
        }
    }

    /// Ends turn `number`, if it is still the current one, and gives the next turn
    /// to the first waiter that has not given up.
    fn pass_on(self: &Arc<Self>, place: &Place, number: u64, streak: Handoffs) {
        let mut ended = number;
        loop {
            let mut shard = self.shard(place).lock();
            let Shard {
                queues,
                turns,
                streaks,
            } = &mut *shard;
            let Entry::Occupied(mut entry) = queues.entry(place.clone()) else {
                return;
            };
            let queue = entry.get_mut();
            if queue.ticket != ended {
                return;
            }
            let Some(next) = queue.next_waiter() else {
                entry.remove();
                streaks.keep(place.hash, streak);
                return;
            };
            let mut ticket = self.ticket(place.clone(), turns);
            ticket.streak = streak;
            queue.ticket = ticket.number;
            queue.holder = Weak::new();
            drop(shard);
            match next.send(ticket) {
                Ok(()) => return,
                Err(mut refused) => ended = std::mem::replace(&mut refused.number, NONE),
            }
        }
    }
}
