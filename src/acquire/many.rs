//! Calls for many keys at once: each for itself, or all as one.

use std::future::Future;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::error::Error;

mod all;
mod each;
mod guard_set;

pub use all::AcquireAll;
pub use each::{AcquireMany, Gathering, Outcomes};
pub use guard_set::GuardSet;

/// The maximum number of keys of one call. If all of them are released at once, a
/// node's queue (65,536 requests) still has room for other callers.
const MAX_KEYS: usize = 16_384;

/// The maximum number of operations of one call in flight. It is enough to fill a
/// node's batches, and a node answers this many well within its timeout.
const WINDOW: usize = 1_024;

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
