//! Taking a lease: wait for the turn, try, back off, try again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock;
use crate::drive::Operation;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::gate::{Ahead, Turn};
use crate::guard::Guard;
use crate::held::{Held, KeepAlive};
use crate::proto::attempt::{Attempt, Refused, Shortfall};
use crate::proto::backoff::Backoff;
use crate::proto::lease::{Holder, Key, KeyError, MAX_LABEL_BYTES, Token, Ttl, TtlError};
use crate::proto::round::Refusal;
use crate::proto::time::Instant;
use crate::router::Router;

/// Extends of one lease follow each other no faster.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// An acquire that has not begun: set what differs from the defaults, then
/// await it.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
/// # let router = ringlock::Router::in_memory(5).await?;
/// let guard = router
///     .acquire("orders/42")
///     .ttl(Duration::from_secs(10))
///     .wait(Duration::from_secs(2))
///     .keep_alive()
///     .await?;
/// # drop(guard); Ok(()) }
/// ```
///
/// # Errors
/// [`Error::TimedOut`] when the wait or the attempts are used up, with the last
/// attempt's error inside; from [`Router::try_acquire`] that error itself.
/// Whatever cannot get better by waiting is returned at once.
///
/// # Cancel safety
/// Dropped at any point, it leaves nothing locked: what it may have taken is
/// released, on nodes that have not answered too.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Clone, Debug)]
pub struct Acquire {
    router: Router,
    key: Result<Key, KeyError>,
    ttl: Option<Duration>,
    patience: Patience,
    keep_alive: Option<Option<Duration>>,
    max_hold: Option<Duration>,
    label: Option<Arc<str>>,
    /// When the wait began, where that was before this key's turn.
    started: Option<Instant>,
    /// Attempts need a permit of it.
    pace: Option<Arc<Semaphore>>,
}

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
struct Patience {
    wait: Option<Duration>,
    attempts: Option<u32>,
    retry_delay: Option<Duration>,
    /// A single attempt, its error told as it is.
    is_single: bool,
}

impl Acquire {
    pub(crate) fn new(router: Router, key: impl AsRef<[u8]>, is_single: bool) -> Self {
        let patience = Patience {
            wait: (!is_single).then_some(router.defaults().wait),
            attempts: is_single.then_some(1),
            retry_delay: None,
            is_single,
        };
        let key = router.check_key(key);
        let label = router.defaults().label.clone();
        Self {
            router,
            key,
            ttl: None,
            patience,
            keep_alive: None,
            max_hold: None,
            label,
            started: None,
            pace: None,
        }
    }

    /// The settings that many keys share; the key itself is yet to be given.
    pub(crate) fn of_many(router: Router) -> Self {
        Self::new(router, "", false)
    }

    /// An acquire of `key` with these settings. Its attempts need a permit of
    /// `pace`; its wait, not its number of attempts, counts from `started`.
    pub(crate) fn one(&self, key: Key, started: Instant, pace: &Arc<Semaphore>) -> Self {
        Self {
            key: Ok(key),
            started: self.patience.wait.map(|_| started),
            pace: Some(Arc::clone(pace)),
            ..self.clone()
        }
    }

    /// How long the lease lasts unless it is extended; the default is
    /// configured as `router.ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long to go on trying, at the most; the default is configured as
    /// `router.wait`.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.patience.wait = Some(wait);
        self
    }

    /// How often to try, at the most, as the textbook Redlock does, instead of
    /// waiting up to a deadline. Zero counts as one.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.patience.attempts = Some(attempts.max(1));
        self.patience.wait = None;
        self
    }

    /// The longest pause between two attempts; each is a random share of it.
    /// By default pauses double from 8 to 256 ms.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.patience.retry_delay = Some(delay);
        self
    }

    /// Extends the lease by itself until the guard is dropped, a third of the
    /// ttl after each extend, and for [`max_hold`](Self::max_hold) at most.
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = Some(None);
        self
    }

    /// As [`keep_alive`](Self::keep_alive), each extend `interval` after the
    /// last; one that would come too late counts as a third of the ttl, and
    /// none is shorter than a millisecond.
    pub fn keep_alive_every(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(Some(interval));
        self
    }

    /// Keeps it alive, at the interval that was set, if any.
    pub(crate) fn kept_alive(mut self) -> Self {
        self.keep_alive = self.keep_alive.or(Some(None));
        self
    }

    /// How long the lease may be kept alive; then it is lost with
    /// [`Loss::MaxHold`](crate::Loss::MaxHold). The default is configured as `router.max_hold`.
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.max_hold = Some(limit);
        self
    }

    /// What others are told of this holder, instead of `host:pid`; at most 64
    /// bytes are kept, and none of it should be secret.
    pub fn label(mut self, label: &str) -> Self {
        self.label = clean_label(label);
        self
    }

    /// Runs `work` under the lease, which is kept alive, and releases it
    /// afterwards: a lease that cannot leak.
    ///
    /// `work` is not interrupted when the lease is lost: it can watch
    /// [`Guard::lost`] itself, and its fence protects what it writes.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let doubled = router.acquire("sum").with(async |lease| lease.fence().get() * 2).await?;
    /// # let _ = doubled; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the acquire; then `work` has not run. [`Error::Lost`]: it ran
    /// to its end, but the lease was over before.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lease.
    pub async fn with<T>(mut self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T, Error> {
        self = self.kept_alive();
        let guard = self.await?;
        let output = work(&guard).await;
        let key = guard.key().clone();
        let loss = guard.loss();
        // Whether its answer comes or not: the keeper repeats a release.
        let _ = guard.release().await;
        match loss {
            Some(reason) => Err(Error::Lost { key, reason }),
            None => Ok(output),
        }
    }

    async fn run(self) -> Result<Guard, Error> {
        let key = self.key.clone()?;
        let ttl = self.checked_ttl()?;
        let started = self.started.unwrap_or_else(clock::now);
        let deadline = self.patience.deadline(started, ttl);
        let turn = match self.turn(&key, deadline).await {
            Ok(turn) => turn,
            Err(busy) => return Err(self.give_up(0, started, busy)),
        };
        let guard = self.contend(&key, ttl, started, deadline).await?;
        guard.begin(turn);
        Ok(guard)
    }

    /// The ttl that was asked for, or the default, if it is one.
    pub(crate) fn checked_ttl(&self) -> Result<Ttl, TtlError> {
        let ttl = self.ttl.unwrap_or(self.router.defaults().ttl);
        Ttl::new(ttl, self.router.fleet().view.topology().max_ttl())
    }

    /// When to give up what began at `started`.
    pub(crate) fn deadline(&self, started: Instant, ttl: Ttl) -> Option<Instant> {
        self.patience.deadline(started, ttl)
    }

    /// Tries again and again, the turn being ours.
    pub(crate) async fn contend(
        &self,
        key: &Key,
        ttl: Ttl,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Result<Guard, Error> {
        let mut attempts = 0;
        let mut last = None;
        loop {
            attempts += 1;
            let failed = match self.attempt(key, ttl, deadline).await {
                Ok(guard) => return Ok(guard),
                Err(failed) => failed,
            };
            if failed.is_outdated && self.router.revise(deadline).await? {
                continue;
            }
            let pause = self.patience.pause(attempts, &failed);
            let resume = clock::now() + pause;
            // An attempt that the wait has cut short tells less than the last
            // one that had its time.
            let is_cut_short = deadline.is_some_and(|deadline| clock::now() >= deadline);
            let error = match last.take() {
                Some(last) if is_cut_short && failed.error.is_transient() => last,
                _ => failed.error,
            };
            let is_exhausted = self
                .patience
                .attempts
                .is_some_and(|limit| attempts >= limit)
                || deadline.is_some_and(|deadline| resume >= deadline);
            if is_exhausted || !error.is_transient() {
                return Err(self.give_up(attempts, started, error));
            }
            last = Some(error);
            clock::sleep_until(resume).await;
        }
    }

    /// The place in this process's queue; `None` for a single attempt while
    /// somebody ahead is still trying: it may try as well.
    pub(crate) async fn turn(
        &self,
        key: &Key,
        deadline: Option<Instant>,
    ) -> Result<Option<Turn>, Error> {
        let gate = self.router.gate();
        let ahead = if self.patience.is_single {
            gate.try_enter(key)
        } else {
            gate.enter(key, deadline).await
        };
        match ahead {
            Ok(turn) => Ok(Some(turn)),
            Err(Ahead::Contender) if self.patience.is_single => Ok(None),
            Err(Ahead::Contender) => Err(Error::Contended {
                key: key.clone(),
                holder: None,
                remaining: None,
            }),
            Err(Ahead::Holder(held)) if held.check(clock::now()).is_none() => {
                let remaining = held.valid_until().saturating_since(clock::now());
                let holder = Some(held.token.holder());
                Err(Error::Contended {
                    key: key.clone(),
                    holder,
                    remaining: Some(remaining),
                })
            }
            Err(Ahead::Holder(_)) => Ok(None),
        }
    }

    /// A single attempt. What it wins is neither kept alive nor marked as
    /// having the turn before [`Guard::begin`].
    pub(crate) async fn attempt(
        &self,
        key: &Key,
        ttl: Ttl,
        deadline: Option<Instant>,
    ) -> Result<Guard, Failed> {
        let _permit = match &self.pace {
            Some(pace) => pace.acquire().await.ok(),
            None => None,
        };
        let fleet = self.router.fleet();
        let token = Token::new(rand::random(), self.label.as_deref());
        let keep_alive = self.keep_alive.map(|interval| KeepAlive {
            interval: interval
                .map(|own| own.max(SHORTEST_INTERVAL))
                .filter(|&own| own < ttl.get() / 2)
                .unwrap_or(ttl.get() / 3),
            max_hold: self.max_hold.unwrap_or(self.router.defaults().max_hold),
        });
        let held = Held::new(&fleet, key, ttl, token, keep_alive);
        fleet.counters.attempts.add_one();
        match Operation::start(Attempt::new(held.claim()), &held, deadline).await {
            Ok(grant) => {
                fleet.counters.granted.add_one();
                if grant.wrote_back {
                    fleet.counters.write_backs.add_one();
                }
                Ok(Guard::new(held, grant.fence, self.router.clone()))
            }
            Err(refused) => Err(Failed::explain(&fleet, &held, refused)),
        }
    }

    pub(crate) fn give_up(&self, attempts: u32, started: Instant, last: Error) -> Error {
        if self.patience.is_single || !last.is_transient() {
            return last;
        }
        let waited = clock::now().saturating_since(started);
        Error::TimedOut {
            attempts,
            waited,
            last: Box::new(last),
        }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Guard, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Patience {
    /// When to stop. Attempts without a wait are bounded too, for they may
    /// have to queue behind others of this process: by the time that as many
    /// would take at the longest.
    fn deadline(&self, started: Instant, ttl: Ttl) -> Option<Instant> {
        if self.is_single {
            return None;
        }
        let longest_pause = self.retry_delay.unwrap_or(Backoff::CONTENTION.cap);
        let longest_attempt = 2 * Fleet::node_timeout(ttl);
        let by_attempts = |attempts| (longest_pause + longest_attempt).saturating_mul(attempts);
        let limit = self.wait.or(self.attempts.map(by_attempts))?;
        Some(started + limit)
    }

    /// How long to pause after `attempts` failures; never past the end of the
    /// rival's lease.
    fn pause(&self, attempts: u32, failed: &Failed) -> Duration {
        let (random, retry_delay) = (rand::random(), self.retry_delay);
        let pause = match retry_delay {
            Some(delay) => Backoff {
                base: delay,
                cap: delay,
            }
            .wait(1, random),
            None => Backoff::CONTENTION.wait(attempts, random),
        };
        failed.free_in.map_or(pause, |free_in| pause.min(free_in))
    }
}

/// An attempt that did not win.
pub(crate) struct Failed {
    error: Error,
    /// When the first rival's entry expires, at the latest.
    free_in: Option<Duration>,
    /// Nodes serve another view, or none.
    is_outdated: bool,
}

impl Failed {
    fn explain(fleet: &Fleet, held: &Held, refused: Refused) -> Self {
        let Refused {
            shortfall,
            granted,
            refusals,
        } = refused;
        let rivals = || {
            refusals.iter().filter_map(|(_, refusal)| match refusal {
                Refusal::Busy(rival) => Some(rival.as_ref()),
                _ => None,
            })
        };
        let outages = refusals
            .iter()
            .filter(|(_, refusal)| !matches!(refusal, Refusal::Busy(_)))
            .filter_map(|(node, _)| held.placement.seat(*node))
            .collect();
        let is_outage = held.placement.is_blocked_by(outages) || rivals().next().is_none();
        let free_in = rivals().flatten().filter_map(|rival| rival.remaining).min();
        let is_outdated = refusals
            .iter()
            .any(|(_, refusal)| matches!(refusal, Refusal::Stale(_)));
        let key = held.key.clone();
        let counters = &fleet.counters;
        let is_contended = shortfall == Shortfall::Votes && !is_outage;
        if is_contended {
            &counters.contended
        } else {
            &counters.failed
        }
        .add_one();
        let error = match shortfall {
            _ if is_contended => {
                let strongest = rivals().flatten().max_by_key(|rival| rival.remaining);
                let holder: Option<Holder> = strongest.and_then(|rival| rival.holder.clone());
                Error::Contended {
                    key,
                    holder,
                    remaining: strongest.and_then(|rival| rival.remaining),
                }
            }
            Shortfall::Votes | Shortfall::Fence => {
                fleet.no_quorum(&key, granted, &held.placement, refusals)
            }
            Shortfall::Expired => Error::TooSlow {
                key,
                ttl: held.ttl.get(),
            },
            Shortfall::Unconfirmed => Error::Unconfirmed {
                key,
                needed: fleet.view.majority(),
                causes: fleet.causes(refusals),
            },
        };
        Self {
            error,
            free_in,
            is_outdated,
        }
    }
}

/// A label that is fit to be stored and shown; `None` if nothing is left.
pub(crate) fn clean_label(label: &str) -> Option<Arc<str>> {
    let mut clean: String = label.chars().filter(|char| !char.is_control()).collect();
    while clean.len() > MAX_LABEL_BYTES {
        clean.pop();
    }
    (!clean.is_empty()).then(|| clean.into())
}
