//! Taking many leases, each for itself.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;

use crate::acquire::Acquire;
use crate::acquire::many::check_count;
use crate::clock;
use crate::error::Error;
use crate::lease::guard::Guard;
use crate::lease::manager::LeaseManager;
use crate::proto::lease::Key;
use crate::proto::time::Instant;

/// The maximum number of attempts in flight for keys of one owner: an owner that
/// does not answer holds up no other.
const WINDOW_PER_OWNER: usize = 512;

/// An acquire of many keys, each for itself, that has not started. Set what differs
/// from the defaults. Then take the [`outcomes`](Self::outcomes) as they arrive, or
/// await them all: `Vec<(K, Result<Guard, Error>)>`, in the order of the keys.
///
/// # Errors
/// One result per key: the errors of [`Acquire`]; and, without contacting a node,
/// [`Error::Key`], [`Error::Duplicate`] for a key that occurs earlier in the list,
/// and for all keys [`Error::TooManyKeys`] (more than 16,384). [`Error::Lost`] for
/// a lease that ended before the caller took it: a lease runs from its grant, and
/// only [`keep_alive`](Self::keep_alive) extends it until it is taken.
///
/// # Cancel safety
/// Dropping it at any point leaves nothing locked except the leases that it has
/// handed out.
#[must_use = "an acquire does nothing until it is awaited"]
pub struct AcquireMany<K> {
    each: Acquire,
    keys: Vec<K>,
}

impl<K: AsRef<[u8]>> AcquireMany<K> {
    pub(crate) fn new(leases: Arc<LeaseManager>, keys: Vec<K>) -> Self {
        Self {
            each: Acquire::of_many(leases),
            keys,
        }
    }

    /// Like [`Acquire::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.each = self.each.ttl(ttl);
        self
    }

    /// Like [`Acquire::wait`], for all keys, from the start of the call.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.each = self.each.wait(wait);
        self
    }

    /// Like [`Acquire::attempts`], for each key.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.each = self.each.attempts(attempts);
        self
    }

    /// Like [`Acquire::retry_delay`].
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.each = self.each.retry_delay(delay);
        self
    }

    /// Like [`Acquire::keep_alive`].
    pub fn keep_alive(mut self) -> Self {
        self.each = self.each.keep_alive();
        self
    }

    /// Like [`Acquire::keep_alive_every`].
    pub fn keep_alive_every(mut self, interval: Duration) -> Self {
        self.each = self.each.keep_alive_every(interval);
        self
    }

    /// Like [`Acquire::max_hold`].
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.each = self.each.max_hold(limit);
        self
    }

    /// Like [`Acquire::label`].
    pub fn label(mut self, label: &str) -> Self {
        self.each = self.each.label(label);
        self
    }

    /// Starts when it is polled, and yields the results in the order in which they
    /// arrive.
    pub fn outcomes(self) -> Outcomes<K> {
        let mut seen = HashSet::new();
        let mut groups = BTreeMap::<_, Group>::new();
        let mut arrived = VecDeque::new();
        let count = check_count(self.keys.len());
        let view = Arc::clone(&self.each.leases.nodes().view);
        for (index, key) in self.keys.iter().enumerate() {
            let checked = match (&count, self.each.leases.check_key(key)) {
                (Err(error), _) => Err(error.clone()),
                (Ok(()), Err(error)) => Err(error.into()),
                (Ok(()), Ok(key)) if seen.contains(&key) => Err(Error::Duplicate { key }),
                (Ok(()), Ok(key)) => Ok(key),
            };
            match checked {
                Ok(key) => {
                    seen.insert(key.clone());
                    let owner = view.place(&key).nodes().first().copied();
                    groups
                        .entry(owner)
                        .or_default()
                        .open
                        .push_back((index, key));
                }
                Err(error) => arrived.push_back((index, Err(error))),
            }
        }
        Outcomes {
            each: self.each,
            started: clock::now(),
            groups: groups.into_values().collect(),
            under_way: FuturesUnordered::new(),
            arrived,
            keys: self.keys.into_iter().map(Some).collect(),
        }
    }
}

impl<K: AsRef<[u8]>> IntoFuture for AcquireMany<K> {
    type Output = Vec<(K, Result<Guard, Error>)>;
    type IntoFuture = Gathering<K>;

    fn into_future(self) -> Gathering<K> {
        let mut gathered = Vec::new();
        gathered.resize_with(self.keys.len(), || None);
        Gathering {
            outcomes: self.outcomes(),
            gathered,
        }
    }
}

type Underway = Pin<Box<dyn Future<Output = (usize, Result<Guard, Error>)> + Send>>;

/// The results of an [`AcquireMany`], as they arrive.
///
/// It makes progress only while it is polled. A caller that works long on one lease
/// moves that work to a separate task, or sets
/// [`keep_alive`](AcquireMany::keep_alive).
#[must_use = "an acquire does nothing until it is awaited"]
pub struct Outcomes<K> {
    each: Acquire,
    started: Instant,
    groups: Vec<Group>,
    /// Bounded by the number of keys; attempts are bounded by their groups'
    /// permits.
    under_way: FuturesUnordered<Underway>,
    /// Results that are not handed out yet, by index of the key.
    arrived: VecDeque<(usize, Result<Guard, Error>)>,
    keys: Vec<Option<K>>,
}

/// The keys of one owner.
struct Group {
    pace: Arc<Semaphore>,
    /// Keys that have not started, with their index.
    open: VecDeque<(usize, Key)>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            pace: Arc::new(Semaphore::new(WINDOW_PER_OWNER)),
            open: VecDeque::new(),
        }
    }
}

impl<K> Outcomes<K> {
    /// The next result; `None` after the last.
    ///
    /// # Cancel safety
    /// Cancel safe: results that arrive between two calls are kept for the next.
    pub async fn next(&mut self) -> Option<(K, Result<Guard, Error>)> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Like [`next`](Self::next), for callers that write their own stream.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<(K, Result<Guard, Error>)>> {
        self.poll_arrival(context).map(|arrival| {
            let (index, result) = arrival?;
            Some((self.keys[index].take()?, result))
        })
    }

    fn poll_arrival(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<Guard, Error>)>> {
        // Takes in every result that has arrived, so that leases with keep-alive
        // are extended and there is room for other attempts.
        loop {
            match self.under_way.poll_next_unpin(context) {
                Poll::Ready(Some(arrival)) => self.arrived.push_back(arrival),
                _ if self.begin_more() => {}
                _ => break,
            }
        }
        match self.arrived.pop_front() {
            Some((index, result)) => Poll::Ready(Some((index, result.and_then(unless_lost)))),
            None if self.under_way.is_empty() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Starts as many acquires as there are permits; true if any.
    fn begin_more(&mut self) -> bool {
        let before = self.under_way.len();
        for Group { pace, open } in &mut self.groups {
            let room = open.len().min(pace.available_permits());
            for (index, key) in open.drain(..room) {
                let acquire = self.each.one(key, self.started, pace).into_future();
                let indexed = async move { (index, acquire.await) };
                self.under_way.push(Box::pin(indexed));
            }
        }
        self.under_way.len() > before
    }
}

/// An acquire never returns a lease that is over.
fn unless_lost(guard: Guard) -> Result<Guard, Error> {
    let key = guard.key().clone();
    match guard.loss() {
        Some(reason) => Err(Error::Lost { key, reason }),
        None => Ok(guard),
    }
}

/// A future of all results of an [`AcquireMany`], in the order of its keys.
#[must_use = "an acquire does nothing until it is awaited"]
pub struct Gathering<K> {
    outcomes: Outcomes<K>,
    gathered: Vec<Option<Result<Guard, Error>>>,
}

/// Nothing in it is ever pinned.
impl<K> Unpin for Gathering<K> {}

impl<K> Future for Gathering<K> {
    type Output = Vec<(K, Result<Guard, Error>)>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let Some((index, result)) = std::task::ready!(this.outcomes.poll_arrival(context)) {
            this.gathered[index] = Some(result);
        }
        let keys = std::mem::take(&mut this.outcomes.keys);
        let results = std::mem::take(&mut this.gathered);
        let both = keys.into_iter().zip(results);
        Poll::Ready(
            both.filter_map(|(key, result)| Some((key?, result?.and_then(unless_lost))))
                .collect(),
        )
    }
}

impl<K: fmt::Debug> fmt::Debug for AcquireMany<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireMany")
            .field("each", &self.each)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl<K> fmt::Debug for Outcomes<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes")
            .field("keys", &self.keys.len())
            .field("under_way", &self.under_way.len())
            .field("arrived", &self.arrived.len())
            .finish_non_exhaustive()
    }
}

impl<K> fmt::Debug for Gathering<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gathering").field(&self.outcomes).finish()
    }
}
