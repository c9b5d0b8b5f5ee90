//! What a caller says of a lease that it wants, before anything is asked.

pub(crate) mod attempt;
pub(crate) mod many;
pub(crate) mod retry;
pub(crate) mod wait;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::acquire::retry::RetryPolicy;
use crate::error::{Error, Loss};
use crate::lease::guard::Guard;
use crate::lease::manager::LeaseManager;
use crate::lease::scoped::WithError;
use crate::proto::lease::{Key, KeyError, MAX_LABEL_BYTES};
use crate::proto::time::Instant;
use crate::runtime::task::AtHome;
use crate::telemetry::events;

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
/// Whatever cannot get better by waiting is returned at once. A caller that ran
/// out of time behind another one of this process is told what that one met.
///
/// # Cancel safety
/// Dropped at any point, it leaves nothing locked: what it may have taken is
/// released, on nodes that have not answered too.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Clone, Debug)]
pub struct Acquire {
    pub(crate) leases: Arc<LeaseManager>,
    /// The error is boxed: there may be very many who wait.
    pub(crate) key: Result<Key, Box<KeyError>>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) patience: RetryPolicy,
    /// The interval, where one was said.
    pub(crate) keep_alive: Option<Option<Duration>>,
    pub(crate) max_hold: Option<Duration>,
    /// The router's own, unless another was said.
    pub(crate) label: Option<Option<Arc<str>>>,
    /// When the wait began, where that was before this key's turn.
    pub(crate) started: Option<Instant>,
    /// Attempts need a permit of it.
    pub(crate) pace: Option<Arc<Semaphore>>,
}

impl Acquire {
    pub(crate) fn new(leases: Arc<LeaseManager>, key: impl AsRef<[u8]>, is_single: bool) -> Self {
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
            max_hold: None,
            label: None,
            started: None,
            pace: None,
        }
    }

    /// The settings that many keys share; the key itself is yet to be given.
    pub(crate) fn of_many(leases: Arc<LeaseManager>) -> Self {
        Self::new(leases, "", false)
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
    /// `router.wait`. [`Duration::ZERO`] waits for nobody: a single attempt, as
    /// [`Router::try_acquire`] makes. The first attempt has 50 ms to be
    /// answered, however short the wait is.
    pub fn wait(mut self, wait: Duration) -> Self {
        if self.patience.is_single {
            self.patience.attempts = None;
        }
        self.patience.is_single = false;
        self.patience.wait = Some(wait);
        self
    }

    /// How often to try, at the most, as the textbook Redlock does, instead of
    /// waiting up to a deadline or to be told. Zero counts as one. Pauses
    /// double from 8 to 256 ms, unless [`retry_delay`](Self::retry_delay) says
    /// how long; each is a random share of it.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.patience.attempts = Some(attempts.max(1));
        self.patience.is_single = false;
        self.patience.wait = None;
        self
    }

    /// Polls instead of waiting to be told: the longest pause between two
    /// attempts, each being a random share of it. Less than 5 ms counts as 5 ms,
    /// and no pause is shorter than a millisecond.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.patience.retry_delay = Some(delay);
        self
    }

    /// Extends the lease by itself until the guard is dropped, a third of the
    /// ttl after each extend, and for [`max_hold`](Self::max_hold) at most. The
    /// first extend may come after half of that time: leases that are taken at
    /// once are not all to be extended at once.
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

    /// How long the lease may be kept alive, from the attempt that won it on;
    /// then it is lost with [`Loss::MaxHold`](crate::Loss::MaxHold). The default is configured as `router.max_hold`.
    /// Less than 10 ms is refused with [`Error::MaxHold`].
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.max_hold = Some(limit);
        self
    }

    /// What others are told of this holder, instead of `host:pid`; at most 64
    /// bytes are kept, and none of it should be secret.
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(clean_label(label));
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
    /// [`WithError::NotRun`]: those of the acquire; `work` has not run.
    /// [`WithError::Lost`], with what `work` returned: it ran to its end, but
    /// the lease was over before, by the own clock or by what the nodes have.
    /// `?` makes an [`Error`] or a boxed one of either.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lease.
    pub async fn with<T>(mut self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T, WithError<T>> {
        self = self.kept_alive();
        let guard = self.await.map_err(WithError::NotRun)?;
        let output = work(&guard).await;
        let key = guard.key().clone();
        // Without an answer the own clock counts: the keeper repeats a release.
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
            None => Acquiring::new(&leases, self.run()),
            Some(span) => {
                let fence = |guard: &Guard| Some(guard.fence());
                Acquiring::new(&leases, events::traced(span, self.run(), fence))
            }
        }
    }
}

/// An acquire under way: the future that [`Acquire`] and
/// [`AcquireAll`](crate::AcquireAll) become.
///
/// # Cancel safety
/// As that of what it was made of.
#[must_use = "an acquire does nothing until it is awaited"]
#[derive(Debug)]
pub struct Acquiring<T>(AtHome<Result<T, Error>>);

impl<T> Acquiring<T> {
    pub(crate) fn new(
        leases: &LeaseManager,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Self {
        let origin = &leases.lifecycle().origin;
        Self(AtHome::new(origin, work, || Err(Error::Forked)))
    }

    /// Bytes that it takes on the heap: there may be very many who wait.
    #[doc(hidden)]
    pub fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

impl<T> Future for Acquiring<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
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
