//! The shared parts of the simulated world: true time, the event queue,
//! randomness, clocks, the servers and the network between.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use ringlock_proto::lease::{Key, Token};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::ViewId;
use ringlock_proto::time::Instant;

use crate::client::Alarm;
use crate::history::{Action, History, MS, Time};
use crate::mutants::Mutant;
use crate::network::{Answered, Host, Message, Partition, Weather};
use crate::report::Tally;
use crate::server::Server;

/// A clock that runs at its own constant rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Parts per million that it is fast.
    pub(crate) fast: i64,
    pub(crate) origin: Time,
}

/// Any two clocks stay just within the allowed 1 %.
pub(crate) const MOST_FAST: i64 = 4_900;

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(crate) fn drawn(random: &mut SmallRng) -> Self {
        // Mostly at the limits.
        let fast = match random.random_range(0..4) {
            0 => MOST_FAST,
            1 => -MOST_FAST,
            _ => random.random_range(-MOST_FAST..=MOST_FAST),
        };
        Self {
            fast,
            origin: random.random_range(1_000_000_000_000..9_000_000_000_000),
        }
    }

    pub(crate) fn read(&self, at: Time) -> Instant {
        let run = i128::from(at) * (MILLION + i128::from(self.fast)) / MILLION;
        Instant::from_nanos(self.origin + run as Time)
    }

    /// The true time at which the clock reads `instant`.
    pub(crate) fn when(&self, instant: Instant) -> Time {
        let run = i128::from(instant.as_nanos()) - i128::from(self.origin);
        (run * MILLION / (MILLION + i128::from(self.fast))).max(0) as Time
    }
}

/// A future event.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request reaches its node.
    Arrive(Box<Message>),
    /// An answer reaches its host.
    Answer(Box<Answered>),
    /// A host's timer fires.
    Wake(usize, Alarm),
    /// A fault occurs.
    Fault,
    /// A node loses its memory.
    Lose(usize),
    /// An operator's forced release of a lease reaches a node.
    Force(usize, Key, Token),
    /// An operator changes the cluster.
    Operate,
    /// From now on no fault occurs.
    Heal,
    /// Checks whether all is done.
    Check,
}

struct Due {
    at: Time,
    serial: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// A request of a client or a coordinator that the world carries out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// The client of this host has seen a node without memory.
    Readmit(usize),
    /// A client has just been granted a lease by this node.
    Granted(usize),
    /// A coordinator has just decided a view.
    Decided(usize),
    /// A coordinator has died.
    Gone,
}

pub(crate) struct Core {
    pub(crate) now: Time,
    pub(crate) random: SmallRng,
    pub(crate) servers: Vec<Server>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) weather: Weather,
    pub(crate) keys: Vec<Key>,
    pub(crate) history: History,
    pub(crate) tally: Tally,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) is_healed: bool,
    /// Some node has begun to serve another view.
    pub(crate) is_served_anew: bool,
    /// Until when a vote on a stable view may be in progress.
    pub(crate) voting_until: Time,
    /// Keys that were acquired at the end.
    pub(crate) swept: usize,
    /// The lease on each key at each node, and its end, by the last request.
    pub(crate) landed: BTreeMap<(usize, Key), (u64, Time)>,
    /// Entries that nodes reported to hold: lease, node, nonce.
    pub(crate) held: BTreeSet<(u64, usize, u64)>,
    /// Views by id, read once.
    pub(crate) views: BTreeMap<ViewId, Arc<View>>,
    queue: BinaryHeap<Reverse<Due>>,
    serial: u64,
    fresh: u64,
    is_traced: bool,
}

impl Core {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, is_traced: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let weather = Weather::drawn(&mut random);
        Self {
            now: 0,
            random,
            servers: Vec::new(),
            hosts: Vec::new(),
            partitions: Vec::new(),
            weather,
            keys: Vec::new(),
            history: History::default(),
            tally: Tally::default(),
            mutant,
            tasks: Vec::new(),
            is_healed: false,
            is_served_anew: false,
            voting_until: 0,
            swept: 0,
            landed: BTreeMap::new(),
            held: BTreeSet::new(),
            views: BTreeMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            fresh: 0,
            is_traced,
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// A number that was never used.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    pub(crate) fn between(&mut self, least: Time, most: Time) -> Time {
        self.random.random_range(least..=most)
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>6}.{:06} {}", self.now / MS, self.now % MS, text());
        }
    }

    pub(crate) fn note(&mut self, action: Action) {
        self.say(|| format!("{action:?}"));
        self.history.note(self.now, action);
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse(Due {
            at: at.max(self.now),
            serial: self.serial,
            event,
        }));
    }

    pub(crate) fn after(&mut self, span: Time, event: Event) {
        self.at(self.now + span, event);
    }

    /// Sets a timer of a host; timers fire slightly late.
    pub(crate) fn wake(&mut self, host: usize, at: Instant, alarm: Alarm) {
        let late = self.between(0, MS);
        let at = self.hosts[host].clock.when(at) + late;
        self.at(at, Event::Wake(host, alarm));
    }

    /// Removes the next event, and advances the time to it.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let Reverse(due) = self.queue.pop()?;
        self.now = due.at;
        Some(due.event)
    }

    /// The current reading of a host's clock.
    pub(crate) fn local(&self, host: usize) -> Instant {
        self.hosts[host].clock.read(self.now)
    }

    /// Reads a document, as every reader does: it must match the id.
    pub(crate) fn read(&mut self, id: ViewId, text: &str) -> Option<Arc<View>> {
        match self.views.get(&id) {
            Some(known) if **known.document() == *text => Some(Arc::clone(known)),
            _ => {
                let view = Arc::new(View::read(id, text).ok()?);
                self.views.insert(id, Arc::clone(&view));
                Some(view)
            }
        }
    }

    /// A view that was read before.
    pub(crate) fn known(&self, id: ViewId) -> Option<&Arc<View>> {
        self.views.get(&id)
    }

    /// The views of these epochs that were decided, newest first.
    pub(crate) fn decided(&self) -> Vec<Arc<View>> {
        let mut ids: Vec<ViewId> = self
            .history
            .records
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Decided(view) => Some(*view),
                _ => None,
            })
            .collect();
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(id.epoch));
        ids.dedup();
        ids.iter()
            .filter_map(|id| self.views.get(id).cloned())
            .collect()
    }
}
