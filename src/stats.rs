//! Counts of what a router has done.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a router has done since it was made; see [`Router::stats`](crate::Router::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Attempts begun.
    pub attempts: u64,
    /// Leases granted.
    pub granted: u64,
    /// Attempts that found the key held.
    pub contended: u64,
    /// Attempts that failed for want of nodes.
    pub failed: u64,
    /// Grants whose fence took a second round.
    pub write_backs: u64,
    /// Extends that prolonged their lease.
    pub extended: u64,
    /// Extends that did not.
    pub extend_failures: u64,
    /// Leases that were lost while they were held.
    pub lost: u64,
    /// Leases given back.
    pub released: u64,
    /// Releases given up: the entry's ttl ran out before its node came back.
    pub release_failures: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The live counts.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter),* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.sum()),* }
            }
        }
    };
}

counters!(
    attempts,
    granted,
    contended,
    failed,
    write_backs,
    extended,
    extend_failures,
    lost,
    released,
    release_failures,
);

/// Parts of one count, so that threads that add at the same time seldom touch
/// the same memory.
const STRIPES: usize = 8;

/// One count.
#[derive(Debug, Default)]
pub(crate) struct Counter([Stripe; STRIPES]);

/// As far from the next one as processors fetch at a time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0[own_stripe()].0.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0
            .iter()
            .map(|stripe| stripe.0.load(Ordering::Relaxed))
            .sum()
    }
}

/// Threads take turns at the stripes.
fn own_stripe() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
    }
    STRIPE.with(|stripe| *stripe)
}
