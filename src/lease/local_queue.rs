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

mod wait;

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock;
use crate::error::Error;
use crate::lease::handoffs::{Handoffs, RecentHandoffs};
use crate::lease::local_queue::wait::{QueueWait, Watch};
use crate::proto::lease::Key;
use crate::proto::time::Instant;
use crate::runtime::given_hash::GivenHash;
use crate::telemetry::stats::Counters;

/// The number of locks over which the keys are spread.
const SHARDS: usize = 64;

/// Waiters that may have given up before a queue removes them, in addition to as
/// many as still wait.
const PURGE_SLACK: usize = 16;

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

/// One key that is contended for or held. Most keys have no waiters.
#[derive(Debug)]
struct Queue<H: Expires> {
    /// Number of the current turn.
    ticket: u64,
    /// The holder of the current turn, once it holds the key.
    holder: Weak<H>,
    /// The last turn in which the key was held; 0: none.
    held_in: u64,
    /// The errors of the attempts made since then, and their turn.
    met: Option<(u64, Arc<LastFailure>)>,
    line: Option<Box<Waiters<H>>>,
}

/// The error of a contender's last attempt, for those behind it. A call for many
/// keys has one for all of its turns.
#[derive(Debug, Default)]
pub(crate) struct LastFailure(Mutex<Option<Arc<Error>>>);

impl LastFailure {
    /// Sets what the contender has met; `None`: none of its attempts was answered
    /// yet.
    pub(crate) fn set(&self, error: Option<Error>) {
        *self.0.lock() = error.map(Arc::new);
    }

    fn get(&self) -> Option<Arc<Error>> {
        self.0.lock().clone()
    }
}

/// The waiters of a key.
#[derive(Debug)]
struct Waiters<H: Expires> {
    /// One for each acquire of the process that waits for the key.
    waiters: VecDeque<oneshot::Sender<Ticket<H>>>,
    /// Wakes one of them to check when the current lease lapses.
    watch: Arc<Notify>,
    purge_at: usize,
}

/// The right to contend for a key, and then to hold it.
#[derive(Debug)]
pub(crate) struct Ticket<H: Expires> {
    queues: Arc<LocalQueue<H>>,
    place: Place,
    /// [`NONE`] once it has been passed on.
    number: u64,
    /// The consecutive grants before it.
    pub(crate) streak: Handoffs,
    /// The turn that was current when its owner joined the queue; [`NONE`]: the
    /// owner did not queue.
    since: u64,
}

/// The turn of a holder, which knows the key itself: there may be very many holders.
#[derive(Debug)]
pub(crate) struct HeldTurn<H: Expires> {
    queues: Arc<LocalQueue<H>>,
    /// The hash of the key.
    hash: u64,
    number: u64,
    streak: Handoffs,
}

/// No turn has this number.
const NONE: u64 = u64::MAX;

/// What a caller knows of a key for which it queued.
#[derive(Clone, Debug)]
pub(crate) enum QueueHistory {
    /// This process held the key during the wait.
    Held,
    /// An attempt of this process failed, and none has succeeded since.
    Failed(Arc<Error>),
    /// An attempt of this process has not been answered yet.
    Unanswered,
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

/// What blocks a caller.
pub(crate) enum Blocker<H> {
    /// A lease of this process.
    Holder(Arc<H>),
    /// A caller of this process that is still trying.
    Contender(QueueHistory),
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
                    .filter_map(|queue| queue.line.take())
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
            let waiters = queue.line.as_mut().map(|line| &mut line.waiters);
            let Some(next) = waiters.and_then(VecDeque::pop_front) else {
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

impl<H: Expires> Queue<H> {
    fn of(ticket: &Ticket<H>) -> Self {
        Self {
            ticket: ticket.number,
            holder: Weak::new(),
            held_in: 0,
            met: None,
            line: None,
        }
    }

    /// What blocks a caller that has queued since turn `since`.
    fn ahead(&self, since: u64) -> Blocker<H> {
        let holder = self.holder.upgrade();
        holder.map_or_else(|| Blocker::Contender(self.met(since)), Blocker::Holder)
    }

    /// What such a caller met: the latest that is known.
    fn met(&self, since: u64) -> QueueHistory {
        match self.met.as_ref().and_then(|(_, failure)| failure.get()) {
            Some(error) => QueueHistory::Failed(error),
            None if self.held_in >= since => QueueHistory::Held,
            None => QueueHistory::Unanswered,
        }
    }

    /// A place in the queue, and the current turn when it is taken.
    fn line_up(&mut self) -> (oneshot::Receiver<Ticket<H>>, Watch, u64) {
        let line = self.line.get_or_insert_with(|| {
            Box::new(Waiters {
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
        (receiver, Watch(Arc::clone(&line.watch)), self.ticket)
    }
}

impl<H: Expires> Ticket<H> {
    /// What its owner met while it queued, as far as that is the latest known about
    /// the key; `None`: the owner did not queue.
    pub(crate) fn met(&self) -> Option<QueueHistory> {
        (self.since != NONE).then(|| self.queues.met(&self.place, self.since))
    }

    /// Records a failed attempt in this turn: other processes have had a chance,
    /// and callers in the queue get the error if they time out.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.streak = Handoffs::default();
        self.on_queue(|queue, ticket| {
            if !matches!(&queue.met, Some((owner, _)) if *owner == ticket) {
                queue.met = None;
            }
            let (_, failure) = queue.met.get_or_insert_with(|| (ticket, Arc::default()));
            failure.set(Some(error.clone()));
        });
    }

    /// Records that its owner leaves the key to other processes before it tries:
    /// for callers in the queue the key counts as held.
    pub(crate) fn pauses(&self) {
        self.on_queue(|queue, ticket| queue.held_in = ticket);
    }

    /// From now on `failure` holds what its owner meets.
    pub(crate) fn share(&self, failure: Arc<LastFailure>) {
        self.on_queue(|queue, ticket| queue.met = Some((ticket, failure)));
    }

    /// Changes the queue, if this is still the current turn.
    fn on_queue(&self, change: impl FnOnce(&mut Queue<H>, u64)) {
        let mut shard = self.queues.shard(&self.place).lock();
        let queue = shard.queues.get_mut(&self.place);
        if let Some(queue) = queue.filter(|queue| queue.ticket == self.number) {
            change(queue, self.number);
        }
    }

    /// The turn's owner now holds the key, and passes the turn on with it.
    pub(crate) fn hold(mut self, holder: &Arc<H>) -> HeldTurn<H> {
        self.on_queue(|queue, ticket| {
            queue.holder = Arc::downgrade(holder);
            queue.held_in = ticket;
            queue.met = None;
            if let Some(line) = &queue.line {
                line.watch.notify_one();
            }
        });
        HeldTurn {
            queues: Arc::clone(&self.queues),
            hash: self.place.hash,
            number: std::mem::replace(&mut self.number, NONE),
            streak: self.streak,
        }
    }
}

impl<H: Expires> HeldTurn<H> {
    /// Ends the turn of the holder of `key`.
    pub(crate) fn pass(self, key: &Key) {
        let place = Place {
            hash: self.hash,
            key: key.clone(),
        };
        self.queues.pass_on(&place, self.number, self.streak);
    }
}

impl<H: Expires> Drop for Ticket<H> {
    fn drop(&mut self) {
        if self.number != NONE {
            self.queues.pass_on(&self.place, self.number, self.streak);
        }
    }
}
