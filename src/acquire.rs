//! The settings of an acquire, before any node is contacted.

pub(crate) mod attempt;
pub(crate) mod call;
pub(crate) mod failure;
pub(crate) mod many;
pub(crate) mod retry;
pub(crate) mod wait;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::acquire::call::Call;
use crate::acquire::retry::RetryPolicy;
use crate::error::{Error, Loss};
use crate::lease::guard::Guard;
use crate::lease::manager::LeaseManager;
use crate::lease::scoped::WithError;
use crate::proto::lease::{IntoKey, Key, KeyError, MAX_LABEL_BYTES};
use crate::proto::time::Instant;
use crate::runtime::task::SameProcess;
use crate::telemetry::events;

/// An acquire that has not started. Set what differs from the defaults, then await
/// it.
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
/// [`Error::TimedOut`] when the wait or the attempts are used up; it contains the
/// last attempt's error. [`Router::try_acquire`](crate::Router::try_acquire) returns that error itself. Errors
/// that waiting cannot resolve are returned at once. A caller that times out in the
/// queue behind another caller of this process gets the error which that caller
/// met.
///
/// # Cancel safety
/// Dropping it at any point leaves nothing locked: entries that it may have created
/// are released, also on nodes that have not answered.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Clone, Debug)]
pub struct Acquire {
    pub(crate) leases: Arc<LeaseManager>,
    /// Boxed to keep the future small: there may be very many waiters.
    pub(crate) key: Result<Key, Box<KeyError>>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) patience: RetryPolicy,
    /// `Some` if keep-alive is on; the inner value is the interval, if one was set.
    pub(crate) keep_alive: Option<Option<Duration>>,
    /// Boxed, because few calls have any: an acquire is moved several times.
    rare: Option<Box<RareSettings>>,
}

/// Settings that most calls leave at their defaults.
#[derive(Clone, Debug, Default)]
struct RareSettings {
    max_hold: Option<Duration>,
    /// `None`: the router's default.
    label: Option<Option<Arc<str>>>,
    /// When the wait started, if that was before this key's turn.
    started: Option<Instant>,
    /// Each attempt takes a permit of this semaphore.
    pace: Option<Arc<Semaphore>>,
}

impl Acquire {
    pub(crate) fn new(leases: Arc<LeaseManager>, key: impl IntoKey, is_single: bool) -> Self {
        let patience = RetryPolicy {
            wait: (!is_single).then_some(leases.defaults.wait),
            attempts: is_single.then_some(1),
            retry_delay: None,
            is_single,
        };
        let key = leases.check_key(key).map_err(Box::new);
        Self {
            leases,
            key,
            ttl: None,
            patience,
            keep_alive: None,
            rare: None,
        }
    }

    fn rare_mut(&mut self) -> &mut RareSettings {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn max_hold_set(&self) -> Option<Duration> {
        self.rare.as_ref()?.max_hold
    }

    pub(crate) fn label_set(&self) -> Option<&Option<Arc<str>>> {
        self.rare.as_ref()?.label.as_ref()
    }

    pub(crate) fn started(&self) -> Option<Instant> {
        self.rare.as_ref()?.started
    }

    pub(crate) fn pace(&self) -> Option<&Arc<Semaphore>> {
        self.rare.as_ref()?.pace.as_ref()
    }

    /// The settings that many keys share; the key is set later.
    pub(crate) fn of_many(leases: Arc<LeaseManager>) -> Self {
        Self::new(leases, "", false)
    }

    /// An acquire of `key` with these settings. Each attempt takes a permit of
    /// `pace`. The wait counts from `started`; the number of attempts does not.
    pub(crate) fn one(&self, key: Key, started: Instant, pace: &Arc<Semaphore>) -> Self {
        let mut one = self.clone();
        one.key = Ok(key);
        let rare = one.rare_mut();
        rare.started = self.patience.wait.map(|_| started);
        rare.pace = Some(Arc::clone(pace));
        one
    }

    /// How long the lease lasts unless it is extended. The default is configured as
    /// `router.ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The maximum time to keep trying. The default is configured as `router.wait`.
    /// [`Duration::ZERO`] waits for no holder: it makes a single attempt, like
    /// [`Router::try_acquire`](crate::Router::try_acquire). The first attempt gets 50 ms for its answers, even
    /// if the wait is shorter.
    pub fn wait(mut self, wait: Duration) -> Self {
        if self.patience.is_single {
            self.patience.attempts = None;
        }
        self.patience.is_single = false;
        self.patience.wait = Some(wait);
        self
    }

    /// The maximum number of attempts. As in the textbook Redlock, this replaces
    /// the deadline and the wait for a notification. Zero counts as one. Pauses
    /// double from 8 to 256 ms, unless [`retry_delay`](Self::retry_delay) sets the
    /// length. Each pause is a random fraction of it.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.patience.attempts = Some(attempts.max(1));
        self.patience.is_single = false;
        self.patience.wait = None;
        self
    }

    /// Polls instead of waiting for a notification. `delay` is the longest pause
    /// between two attempts; each pause is a random fraction of it. Less than 5 ms
    /// counts as 5 ms, and no pause is shorter than a millisecond.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.patience.retry_delay = Some(delay);
        self
    }

    /// Extends the lease automatically until the guard is dropped: a third of the
    /// ttl after each extend, and for [`max_hold`](Self::max_hold) at most. The
    /// first extend may already come after half of that time, so that leases taken
    /// at the same time are not all extended at the same time.
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = Some(None);
        self
    }

    /// Like [`keep_alive`](Self::keep_alive), with each extend `interval` after the
    /// last. An interval that is too long counts as a third of the ttl, and none is
    /// shorter than a millisecond.
    pub fn keep_alive_every(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(Some(interval));
        self
    }

    /// Turns keep-alive on, with the interval that was set, if any.
    pub(crate) fn kept_alive(mut self) -> Self {
        self.keep_alive = self.keep_alive.or(Some(None));
        self
    }

    /// How long the lease may be kept alive, counted from the attempt that won it.
    /// After that it is lost with [`Loss::MaxHold`](crate::Loss::MaxHold). The
    /// default is configured as `router.max_hold`. Less than 10 ms is refused with
    /// [`Error::MaxHold`].
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.rare_mut().max_hold = Some(limit);
        self
    }

    /// The label that other clients see for this holder, instead of `host:pid`. At
    /// most 64 bytes are kept. It must not contain secrets.
    pub fn label(mut self, label: &str) -> Self {
        self.rare_mut().label = Some(clean_label(label));
        self
    }

    /// Runs `work` under the lease, keeps the lease alive, and releases it
    /// afterwards, so that the lease cannot leak.
    ///
    /// `work` is not interrupted when the lease is lost. It can watch
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
    /// [`WithError::NotRun`]: the errors of the acquire; `work` has not run.
    /// [`WithError::Lost`], with the output of `work`: it ran to its end, but the
    /// lease was over before that, by the local clock or by the nodes' entries. `?`
    /// converts either into an [`Error`] or a boxed error.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lease.
    pub async fn with<T>(mut self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T, WithError<T>> {
        self = self.kept_alive();
        let guard = self.await.map_err(WithError::NotRun)?;
        let output = work(&guard).await;
        let key = guard.key().clone();
        // Without an answer, the local clock decides: the keeper repeats the
        // release.
        match guard.give_back().await {
            Ok((_, None)) => Ok(output),
            Ok((_, Some(reason))) => Err(WithError::Lost {
                output,
                key,
                reason,
            }),
            Err(_) => Err(WithError::Lost {
                output,
                key,
                reason: Loss::Forked,
            }),
        }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Guard, Error>;
    type IntoFuture = Acquiring<Guard>;

    fn into_future(self) -> Acquiring<Guard> {
        let leases = Arc::clone(&self.leases);
        let span = self.key.as_ref().ok().and_then(|key| {
            let replicas = || self.leases.nodes().view.replicas(key);
            events::acquire(1, Some((key, &replicas)))
        });
        match span {
            None => Acquiring::new(&leases, Call::new(self)),
            Some(span) => {
                let fence = |guard: &Guard| Some(guard.fence());
                Acquiring::new(&leases, events::traced(span, Call::new(self), fence))
            }
        }
    }
}

/// A running acquire: the future of [`Acquire`] and
/// [`AcquireAll`](crate::AcquireAll).
///
/// # Cancel safety
/// The same as for the acquire that it was made from.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Debug)]
pub struct Acquiring<T>(SameProcess<Result<T, Error>>);

impl<T> Acquiring<T> {
    pub(crate) fn new(
        leases: &LeaseManager,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let origin = &leases.lifecycle().origin;
        Self(SameProcess::new(origin, work, || Err(Error::Forked)))
    }
}

impl<T> Future for Acquiring<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// The label in a form that can be stored and shown; `None` if nothing is left.
pub(crate) fn clean_label(label: &str) -> Option<Arc<str>> {
    let mut clean: String = label.chars().filter(|char| !char.is_control()).collect();
    while clean.len() > MAX_LABEL_BYTES {
        clean.pop();
    }
    (!clean.is_empty()).then(|| clean.into())
}
