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
/// The set may be relied upon while [`remaining`](Self::remaining) is above
/// zero: as long as *every* lease in it may. If one is lost, the set is lost;
/// the others stay locked until it is released or dropped, so that work on
/// them can be brought to an end.
///
/// Each key has a [`fence`](Self::fence) of its own. A resource that one key
/// guards is fenced by that key's; one that several keys guard together is to
/// be fenced by one of them, the same for everybody who writes to it, for the
/// fences of different keys do not compare.
///
/// Dropping the set releases everything in the background, as dropping a
/// [`Guard`] does.
#[must_use = "a set of guards that is dropped releases its leases"]
pub struct GuardSet {
    /// At least one; in the order of their keys.
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        Self { guards }
    }

    /// The keys that are locked, in the order of their bytes.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.guards.iter().map(Guard::key)
    }

    /// The number that grows with every grant of `key`; `None` if the key is
    /// not of this set.
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

    /// The instant up to which the set may be relied upon, unless it is
    /// extended: the earliest of its leases'.
    pub fn valid_until(&self) -> Instant {
        let ends = self.guards.iter().map(Guard::valid_until);
        ends.min().unwrap_or_default()
    }

    /// What is left of the set; zero once one of its leases is over.
    pub fn remaining(&self) -> Duration {
        match self.loss() {
            Some(_) => Duration::ZERO,
            None => self.valid_until().saturating_since(clock::now()),
        }
    }

    /// A lease that is over, and why; `None` while all hold.
    pub fn loss(&self) -> Option<(&Key, Loss)> {
        let mut guards = self.guards.iter();
        guards.find_map(|guard| Some((guard.key(), guard.loss()?)))
    }

    /// Waits until one of the leases is over, and tells which and why; see
    /// [`Guard::lost`].
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
    /// [`Error::Lost`]: one of them is over, for good, and so is the set.
    /// [`Error::NoQuorum`]: too few nodes answered for one of them; it stays
    /// valid as long as it was, and another extend may succeed.
    ///
    /// # Cancel safety
    /// A dropped call may extend some and others not; it never shortens or
    /// releases.
    pub async fn extend(&self) -> Result<(), Error> {
        extend_each(&self.guards).await
    }

    /// Gives all leases back.
    ///
    /// [`Released::TooLate`] if one of them was over already;
    /// [`Released::Unknown`] if none is known to have been, but too few nodes
    /// answered for one.
    ///
    /// # Errors
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    /// A dropped call releases all the same.
    pub async fn release(self) -> Result<Released, Error> {
        match self.give_back().await {
            (_, Some((_, Loss::Forked))) => Err(Error::Forked),
            (released, _) => Ok(released),
        }
    }

    /// The same, with a lease that was over before, and why.
    pub(crate) async fn give_back(self) -> (Released, Option<(Key, Loss)>) {
        let (mut released, mut lost) = (Released::InTime, None);
        let give_back = |guard: Guard| async move {
            let key = guard.key().clone();
            (key, guard.give_back().await)
        };
        complete(self.guards.into_iter().map(give_back), |(key, one)| {
            let (one, loss) = one.unwrap_or((Released::Unknown, Some(Loss::Forked)));
            lost = lost.take().or(loss.map(|reason| (key, reason)));
            // What is known for certain tells more.
            if released != Released::TooLate && one != Released::InTime {
                released = one;
            }
        })
        .await;
        (released, lost)
    }
}

/// Extends all of `guards`; of several failures, a loss is told first.
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
