//! Leases that are held as one.

use std::fmt;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::acquire::many::complete;
use crate::clock;
use crate::error::{Error, Loss};
use crate::lease::guard::{Guard, Released};
use crate::proto::lease::{Fence, Key};
use crate::proto::time::Instant;

/// Leases on all keys of an [`acquire_all`](crate::Router::acquire_all), held,
/// extended and released as one.
///
/// The set is valid while [`remaining`](Self::remaining) is above zero, that is,
/// while *every* lease in it is valid. If one is lost, the set is lost. The others
/// stay locked until the set is released or dropped, so that the work on them can
/// be finished.
///
/// Each key has its own [`fence`](Self::fence). A resource that one key guards uses
/// the fence of that key. A resource that several keys guard together must use the
/// fence of one of them, the same for every writer, because the fences of different
/// keys do not compare.
///
/// Dropping the set releases all leases in the background, like dropping a
/// [`Guard`].
#[must_use = "a set of guards that is dropped releases its leases"]
pub struct GuardSet {
    /// At least one; in the order of their keys.
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        Self { guards }
    }

    /// The locked keys, in the order of their bytes.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.guards.iter().map(Guard::key)
    }

    /// The number that grows with every grant of `key`; `None` if the key is not in
    /// this set.
    pub fn fence(&self, key: impl AsRef<[u8]>) -> Option<Fence> {
        let key = key.as_ref();
        let by_key = |guard: &Guard| guard.key().as_bytes().cmp(key);
        let index = self.guards.binary_search_by(by_key).ok()?;
        Some(self.guards[index].fence())
    }

    /// Every key and its fence, in the order of the keys' bytes.
    pub fn fences(&self) -> impl ExactSizeIterator<Item = (&Key, Fence)> {
        self.guards.iter().map(|guard| (guard.key(), guard.fence()))
    }

    /// The instant until which the set is valid, unless it is extended: the
    /// earliest end of its leases.
    pub fn valid_until(&self) -> Instant {
        let ends = self.guards.iter().map(Guard::valid_until);
        ends.min().unwrap_or_default()
    }

    /// The remaining time of the set; zero once one of its leases is over.
    pub fn remaining(&self) -> Duration {
        match self.loss() {
            Some(_) => Duration::ZERO,
            None => self.valid_until().saturating_since(clock::now()),
        }
    }

    /// A lease that is over, and why; `None` while all are valid.
    pub fn loss(&self) -> Option<(&Key, Loss)> {
        let mut guards = self.guards.iter();
        guards.find_map(|guard| Some((guard.key(), guard.loss()?)))
    }

    /// Waits until one of the leases is over, and returns its key and the reason;
    /// see [`Guard::lost`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn lost(&self) -> impl Future<Output = (Key, Loss)> + Send + 'static {
        let losses = self.guards.iter().map(|guard| {
            let (key, lost) = (guard.key().clone(), guard.lost());
            async move { (key, lost.await) }
        });
        let mut losses: FuturesUnordered<_> = losses.collect();
        async move {
            match losses.next().await {
                Some(first) => first,
                None => std::future::pending().await,
            }
        }
    }

    /// Extends every lease by its ttl, from now.
    ///
    /// # Errors
    /// [`Error::Lost`]: one of the leases is over permanently, and so is the set.
    /// [`Error::NoQuorum`]: too few nodes answered for one of the leases. It stays
    /// valid as long as before, and another extend may succeed.
    ///
    /// # Cancel safety
    /// A dropped call may extend some leases and not others. It never shortens or
    /// releases one.
    pub async fn extend(&self) -> Result<(), Error> {
        extend_each(&self.guards).await
    }

    /// Releases all leases.
    ///
    /// [`Released::TooLate`] if one of them was over already. [`Released::Unknown`]
    /// if none is known to have been over, but too few nodes answered for one.
    ///
    /// # Errors
    /// Like [`Guard::release`].
    ///
    /// # Cancel safety
    /// A dropped call still releases the leases.
    pub async fn release(self) -> Result<Released, Error> {
        match self.give_back().await {
            (_, Some((_, Loss::Forked))) => Err(Error::Forked),
            (released, _) => Ok(released),
        }
    }

    /// Like `release`, and returns a lease that was over before, and why.
    pub(crate) async fn give_back(self) -> (Released, Option<(Key, Loss)>) {
        let (mut released, mut lost) = (Released::InTime, None);
        let give_back = |guard: Guard| async move {
            let key = guard.key().clone();
            (key, guard.give_back().await)
        };
        complete(self.guards.into_iter().map(give_back), |(key, one)| {
            let (one, loss) = one.unwrap_or((Released::Unknown, Some(Loss::Forked)));
            lost = lost.take().or(loss.map(|reason| (key, reason)));
            // A certain result is more useful than an unknown one.
            if released != Released::TooLate && one != Released::InTime {
                released = one;
            }
        })
        .await;
        (released, lost)
    }
}

/// Extends all of `guards`; of several failures, a loss is returned first.
pub(crate) async fn extend_each(guards: impl IntoIterator<Item = &Guard>) -> Result<(), Error> {
    let mut outcome = Ok(());
    let extends = guards.into_iter().map(Guard::extend);
    complete(extends, |one| {
        if outcome.is_ok() || matches!(one, Err(Error::Lost { .. })) {
            outcome = one;
        }
    })
    .await;
    outcome
}

impl fmt::Debug for GuardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.guards).finish()
    }
}
