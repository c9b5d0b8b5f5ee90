//! Taking many leases as one: all of them, or none.
//!
//! All callers take keys in one order, that of their bytes, and wait for a key only
//! while they hold none after it, so waiting callers cannot deadlock. If no key is
//! busy, one round takes them all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::acquire::failure::FailedAttempt;
use crate::acquire::many::guard_set::{GuardSet, extend_each};
use crate::acquire::many::{WINDOW, check_count};
use crate::acquire::retry::Deadlines;
use crate::acquire::retry::give_way;
use crate::acquire::{Acquire, Acquiring};
use crate::clock;
use crate::error::Error;
use crate::lease::guard::Guard;
use crate::lease::local_queue::history::{LastFailure, QueueHistory};
use crate::lease::local_queue::ticket::Ticket;
use crate::lease::manager::LeaseManager;
use crate::lease::scoped::WithError;
use crate::lease::state::LeaseState;
use crate::proto::lease::Key;
use crate::telemetry::events;
use crate::telemetry::stats::CallMetrics;

/// The number of attempts with which a round after a busy key starts. Where many
/// keys are busy, most of what is taken after the next busy key is given back.
const LEAST_WINDOW: usize = 64;

/// The shortest pause between two checks of the leases that are kept alive during
/// the wait.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// An acquire of many keys as one that has not started. Set what differs from the
/// defaults, then await it.
///
/// While a busy key is waited for, the keys before it, in the order of their bytes,
/// stay locked, and the keys after it are free. Other callers of this process that
/// want any of the keys queue behind the whole call. Leases that are granted early
/// are extended until all are granted.
///
/// # Errors
/// [`Error::TimedOut`] when the wait is used up; it contains the key that could not
/// be locked and the reason. [`Error::NoKeys`], [`Error::TooManyKeys`] (more than
/// 16,384 different ones), [`Error::Key`], [`Error::Ttl`]: no node was contacted.
/// On any error, everything that had been locked is released.
///
/// # Cancel safety
/// Dropping it at any point leaves nothing locked.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Debug)]
pub struct AcquireAll {
    each: Acquire,
    keys: Result<Vec<Key>, Error>,
}

impl AcquireAll {
    pub(crate) fn new(
        leases: Arc<LeaseManager>,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Self {
        let checked = keys.into_iter().map(|key| leases.check_key(&key));
        let keys = checked.collect::<Result<Vec<Key>, _>>();
        Self {
            keys: keys.map_err(Error::from).and_then(in_order),
            each: Acquire::of_many(leases),
        }
    }

    /// Like [`Acquire::ttl`], for every lease.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.each = self.each.ttl(ttl);
        self
    }

    /// Like [`Acquire::wait`], for all keys together. [`Duration::ZERO`] waits for
    /// no holder: it makes one attempt at each key.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.each = self.each.wait(wait);
        self
    }

    /// Like [`Acquire::retry_delay`].
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.each = self.each.retry_delay(delay);
        self
    }

    /// Like [`Acquire::keep_alive`], for every lease.
    pub fn keep_alive(mut self) -> Self {
        self.each = self.each.keep_alive();
        self
    }

    /// Like [`Acquire::keep_alive_every`], for every lease.
    pub fn keep_alive_every(mut self, interval: Duration) -> Self {
        self.each = self.each.keep_alive_every(interval);
        self
    }

    /// Like [`Acquire::max_hold`]; each lease counts from its own attempt.
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.each = self.each.max_hold(limit);
        self
    }

    /// Like [`Acquire::label`], for every lease.
    pub fn label(mut self, label: &str) -> Self {
        self.each = self.each.label(label);
        self
    }

    /// Runs `work` under all leases, keeps them alive, and releases them
    /// afterwards; see [`Acquire::with`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// # async fn transfer() {}
    /// router.acquire_all(["account/7", "account/9"]).with(async |_| transfer().await).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Like [`Acquire::with`]; [`WithError::Lost`] names a key whose lease was over
    /// before `work` was done.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the leases.
    pub async fn with<T>(
        mut self,
        work: impl AsyncFnOnce(&GuardSet) -> T,
    ) -> Result<T, WithError<T>> {
        self.each = self.each.kept_alive();
        let guards = self.await.map_err(WithError::NotRun)?;
        let output = work(&guards).await;
        // Without an answer, the local clock decides: the keeper repeats the
        // release.
        match guards.give_back().await {
            (_, None) => Ok(output),
            (_, Some((key, reason))) => Err(WithError::Lost {
                output,
                key,
                reason,
            }),
        }
    }

    async fn run(self) -> Result<GuardSet, Error> {
        let mut call = CallMetrics::begin(self.each.leases.counters());
        let life = self.each.leases.lifecycle().check();
        life.map_err(|error| call.failed(error))?;
        let keys = self.keys.map_err(|error| call.failed(error))?;
        let deadlines = self.each.deadlines(clock::now());
        let contest = SetContest {
            deadlines: deadlines.map_err(|error| call.failed(error))?,
            each: self.each,
            failure: Arc::default(),
        };
        loop {
            // Declared first, dropped last: the next caller's requests queue up
            // behind the releases.
            let turns = contest.turns(&keys).await;
            let (mut turns, in_line) = turns.map_err(|error| call.failed(error))?;
            contest.give_way(&keys, &mut turns).await;
            // All turns were given back before it starts again: they too are waited
            // for in order. The wait bounds the loop.
            let won = contest.win(&keys, &mut turns, in_line).await;
            if let Some(guards) = won.map_err(|error| call.failed(error))? {
                call.granted(|| clock::now().saturating_since(contest.deadlines.started));
                guards
                    .iter()
                    .zip(turns)
                    .for_each(|(guard, ticket)| guard.begin(ticket));
                return Ok(GuardSet::new(guards));
            }
            if contest.each.patience.is_one_try() {
                return Err(call.failed(contest.too_slow(&keys)));
            }
        }
    }
}

impl IntoFuture for AcquireAll {
    type Output = Result<GuardSet, Error>;
    type IntoFuture = Acquiring<GuardSet>;

    fn into_future(self) -> Acquiring<GuardSet> {
        let leases = Arc::clone(&self.each.leases);
        let keys = self.keys.as_ref().map_or(0, Vec::len);
        match events::acquire(keys, None) {
            None => Acquiring::new(&leases, self.run()),
            Some(span) => Acquiring::new(&leases, events::traced(span, self.run(), |_| None)),
        }
    }
}

/// Each key once, in the order that all callers share.
fn in_order(mut keys: Vec<Key>) -> Result<Vec<Key>, Error> {
    keys.sort_unstable();
    keys.dedup();
    check_count(keys.len())?;
    if keys.is_empty() {
        return Err(Error::NoKeys);
    }
    Ok(keys)
}

/// A place in the queue of each key; `None`: see [`Acquire::ticket`].
type Turns = Vec<Option<Ticket<LeaseState>>>;

/// How callers contend for a set of keys.
struct SetContest {
    each: Acquire,
    deadlines: Deadlines,
    /// The errors that it has met, for the callers behind it in any of the keys'
    /// queues.
    failure: Arc<LastFailure>,
}

impl SetContest {
    /// Takes the places in this process's queues, one after the other. Returns what
    /// blocked the first of the keys for which it queued, too.
    async fn turns(&self, keys: &[Key]) -> Result<(Turns, Option<Error>), Error> {
        // While it queues, callers behind it wait for the same holder.
        self.failure.set(Some(Error::Contended {
            key: keys[0].clone(),
            holder: None,
            remaining: None,
        }));
        let mut turns = Turns::with_capacity(keys.len());
        let mut in_line = None;
        for key in keys {
            let ticket = self.each.ticket(key, self.deadlines.deadline).await;
            let ticket =
                ticket.map_err(|busy| self.each.give_up(0, self.deadlines.started, busy))?;
            // Before its own failures take the place of its predecessor's.
            in_line = in_line.or_else(|| self.each.waited_for(key, ticket.as_ref()));
            if let Some(ticket) = &ticket {
                ticket.share(Arc::clone(&self.failure));
            }
            turns.push(ticket);
        }
        // For those behind it the same blocked the key, until its own attempts are
        // answered.
        self.failure.set(in_line.clone());
        Ok((turns, in_line))
    }

    /// Leaves the keys to other processes if this process has reached its limit of
    /// consecutive hand-overs for one of them.
    async fn give_way(&self, keys: &[Key], turns: &mut [Option<Ticket<LeaseState>>]) {
        let pacer = keys.iter().zip(turns);
        let pacer =
            pacer.filter_map(|(key, ticket)| self.each.yield_for_others(key, ticket.as_mut()));
        if let Some(pause) = pacer.max() {
            give_way(pause, self.deadlines.deadline).await;
        }
    }

    /// A single attempt lost one of the leases while it waited for others.
    fn too_slow(&self, keys: &[Key]) -> Error {
        let error = Error::TooSlow {
            key: keys[0].clone(),
            ttl: self.deadlines.ttl.get(),
        };
        self.each.give_up(1, self.deadlines.started, error)
    }

    /// Locks all keys; `None` if a lease was lost before the last was granted.
    async fn win(
        &self,
        keys: &[Key],
        turns: &mut [Option<Ticket<LeaseState>>],
        in_line: Option<Error>,
    ) -> Result<Option<Vec<Guard>>, Error> {
        let mut guards = Vec::with_capacity(keys.len());
        let mut width = WINDOW;
        loop {
            let round = self.round(&keys[guards.len()..], width);
            let Some((more, failed)) = self.keeping(&guards, round).await else {
                return Ok(None);
            };
            width = (2 * more.len()).clamp(LEAST_WINDOW, WINDOW);
            guards.extend(more);
            let Some(busy) = keys.get(guards.len()) else {
                break;
            };
            let reported = failed.as_ref().map(|failed| &failed.error);
            let last = reported.filter(|error| error.is_contention()).cloned();
            let last = last.or_else(|| in_line.clone());
            self.failure.set(reported.cloned());
            let ticket = turns[guards.len()].as_mut();
            let (each, deadlines) = (&self.each, self.deadlines);
            let contending = async {
                match failed {
                    Some(failed) if each.patience.is_one_try() => {
                        each.persist(busy, deadlines, ticket, failed, last).await
                    }
                    _ => each.contend(busy, deadlines, ticket, last).await,
                }
            };
            let Some(guard) = self.keeping(&guards, contending).await else {
                return Ok(None);
            };
            guards.push(guard?);
        }
        match self.freshen_all(&guards).await {
            Ok(()) => {
                let is_whole = guards.iter().all(|guard| guard.loss().is_none());
                Ok(is_whole.then_some(guards))
            }
            Err(Error::Lost { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Retries until all of `guards` have enough time left, or the limits are
    /// reached.
    async fn freshen_all(&self, guards: &[Guard]) -> Result<(), Error> {
        let give_up = |error| self.each.give_up(1, self.deadlines.started, error);
        let mut last = None;
        loop {
            let freshened = clock::within(self.deadlines.answer_by(), self.freshen(guards));
            let error = match freshened.await {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => error,
                None => {
                    let silence = || {
                        let key = guards[0].key();
                        self.each.error_of(key, &QueueHistory::Unanswered)
                    };
                    return Err(give_up(last.unwrap_or_else(silence)));
                }
            };
            if matches!(error, Error::Lost { .. }) || !error.is_transient() {
                return Err(error);
            }
            let resume = clock::now() + self.node_timeout();
            let deadline = self.deadlines.deadline;
            if deadline.is_some_and(|deadline| resume >= deadline) {
                return Err(give_up(error));
            }
            last = Some(error);
            clock::sleep_until(resume).await;
        }
    }

    /// Makes one attempt at each of `keys`, at most `width` at once. Returns the
    /// leases before the first key that failed, and the reason of that failure.
    /// Leases after that key are released.
    async fn round(&self, keys: &[Key], width: usize) -> (Vec<Guard>, Option<Box<FailedAttempt>>) {
        let mut won: Vec<Option<Guard>> = Vec::new();
        won.resize_with(keys.len(), || None);
        // Keys after this index need no attempt, and no wait for an answer.
        let mut end = keys.len();
        let mut reason = None;
        let (mut begun, mut granted) = (0, 0);
        let mut under_way = FuturesUnordered::new();
        while granted < end {
            let most = end.min(begun + width - under_way.len());
            under_way.extend((begun..most).map(|index| async move {
                let attempt = self.each.attempt(&keys[index], self.deadlines);
                (index, attempt.await.map(|won| self.each.guard(won)))
            }));
            begun = begun.max(most);
            match under_way.next().await {
                Some((index, Ok(guard))) => won[index] = Some(guard),
                Some((index, Err(failed))) if index < end => {
                    end = index;
                    reason = Some(failed);
                }
                Some((_, Err(_))) => {}
                None => break,
            }
            while granted < end && won[granted].is_some() {
                granted += 1;
            }
        }
        (won.into_iter().map_while(|guard| guard).collect(), reason)
    }

    /// Runs `work` while `guards` are kept alive; `None`: one was lost.
    async fn keeping<T>(&self, guards: &[Guard], work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.keep(guards) => None,
            output = work => Some(output),
        }
    }

    /// Extends `guards` in time, until one is lost.
    async fn keep(&self, guards: &[Guard]) {
        let Some(mut end) = guards.iter().map(Guard::extended_until).min() else {
            return std::future::pending().await;
        };
        loop {
            let soon = clock::now() + LEAST_PAUSE;
            clock::sleep_until(soon.max(end - self.fresh())).await;
            match self.freshen(guards).await {
                Ok(()) => {}
                Err(Error::Lost { .. }) => return,
                Err(_) => clock::sleep_until(clock::now() + self.node_timeout()).await,
            }
            end = guards
                .iter()
                .map(Guard::extended_until)
                .min()
                .unwrap_or(end);
        }
    }

    /// Extends those of `guards` that have too little time left.
    async fn freshen(&self, guards: &[Guard]) -> Result<(), Error> {
        let fresh_until = clock::now() + self.fresh();
        let is_stale = |guard: &&Guard| guard.extended_until() < fresh_until;
        let stale: Vec<&Guard> = guards.iter().filter(is_stale).collect();
        extend_each(stale).await
    }

    /// How long nodes may take for one of the leases.
    fn node_timeout(&self) -> Duration {
        self.each.leases.nodes().node_timeout(self.deadlines.ttl)
    }

    /// The remaining time that a lease needs before its guard is handed out.
    fn fresh(&self) -> Duration {
        self.deadlines.ttl.get() * 2 / 3
    }
}
