//! Waiting for those that only try: a random pause, then another try.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::Fault;
use crate::load::{Locker, ReleaseOutcome};

/// The longest pause before another try. Libraries default to 200 ms and more,
/// with which a lock is free most of the time.
pub const PAUSE: Duration = Duration::from_millis(2);

/// After so long a lock counts as lost rather than as contended for, and the acquire
/// fails: some libraries do not tell a held lock from a node that is gone.
const LIMIT: Duration = Duration::from_secs(30);

/// Another client holds the lock.
#[derive(Clone, Copy, Debug)]
pub struct Busy;

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("busy")
    }
}

impl std::error::Error for Busy {}

/// Tries until the lock is granted, or for `LIMIT`.
#[derive(Clone, Debug)]
pub struct Patient<L>(pub L);

impl<L: Locker> Locker for Patient<L> {
    type Lease = L::Lease;

    async fn acquire(&self, task: usize, key: usize) -> Result<L::Lease, Fault> {
        let begin = Instant::now();
        loop {
            match self.0.acquire(task, key).await {
                Err(fault) if fault.is::<Busy>() && begin.elapsed() < LIMIT => {
                    let pause = PAUSE.mul_f64(rand::rng().random_range(0.0..1.0));
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    fn fence(lease: &L::Lease) -> Option<u64> {
        L::fence(lease)
    }

    async fn release(&self, lease: L::Lease) -> Result<ReleaseOutcome, Fault> {
        self.0.release(lease).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Busy as many times as its count; then it fails for another reason.
    #[derive(Clone)]
    struct Occupied(Arc<AtomicUsize>);

    impl Locker for Occupied {
        type Lease = ();

        async fn acquire(&self, _: usize, _: usize) -> Result<(), Fault> {
            match self.0.load(Relaxed) {
                0 => Err("the node is gone".into()),
                _ => {
                    self.0.fetch_sub(1, Relaxed);
                    Err(Busy.into())
                }
            }
        }

        async fn release(&self, (): ()) -> Result<ReleaseOutcome, Fault> {
            Ok(ReleaseOutcome::InTime)
        }
    }

    #[tokio::test]
    async fn only_a_held_lock_is_tried_again() {
        let patient = Patient(Occupied(Arc::new(AtomicUsize::new(2))));
        let fault = patient.acquire(0, 0).await.unwrap_err();
        assert_eq!(fault.to_string(), "the node is gone");
        assert_eq!(patient.0.0.load(Relaxed), 0);
    }
}
