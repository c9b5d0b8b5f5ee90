//! Calls for many keys at once: each for itself, or all as one.

use std::future::Future;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::error::Error;
use crate::router::Router;

mod all;
mod each;
mod guard_set;

pub use all::AcquireAll;
pub use each::{AcquireMany, Gathering, Outcomes};
pub use guard_set::GuardSet;

/// Keys of one call, at the most: if all of them are released at once, a
/// node's queue (65,536 requests) still has room for everybody else.
const MAX_KEYS: usize = 16_384;

/// Operations of one call that are under way at once, at the most. Enough to
/// fill a node's batches; and a node answers as many well within its time.
const WINDOW: usize = 1_024;

impl Router {
    /// Locks each of `keys` for itself: a builder that gives one result per
    /// key, as they come or all at the end.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let mut outcomes = router.acquire_many(["orders/42", "orders/43"]).outcomes();
    /// while let Some((key, result)) = outcomes.next().await {
    ///     match result {
    ///         Ok(guard) => println!("{key}: fence {}", guard.fence()),
    ///         Err(error) => println!("{key}: {error}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn acquire_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> AcquireMany<K> {
        AcquireMany::new(self.clone(), keys.into_iter().collect())
    }

    /// Locks all of `keys`, across nodes and modes, or none: a builder that is
    /// also the future. A key that is named twice is locked once.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let guards = router.acquire_all(["account/7", "account/9"]).await?;
    /// println!("{:?} {:?}", guards.fence("account/7"), guards.fence("account/9"));
    /// guards.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn acquire_all(&self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> AcquireAll {
        AcquireAll::new(self.clone(), keys)
    }
}

fn check_count(given: usize) -> Result<(), Error> {
    if given > MAX_KEYS {
        let most = MAX_KEYS;
        return Err(Error::TooManyKeys { given, most });
    }
    Ok(())
}

/// Completes all of `operations`, [`WINDOW`] of them at a time.
async fn complete<F: Future>(
    mut operations: impl Iterator<Item = F>,
    mut each: impl FnMut(F::Output),
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let room = WINDOW - under_way.len();
        under_way.extend(operations.by_ref().take(room));
        match under_way.next().await {
            Some(output) => each(output),
            None => return,
        }
    }
}
