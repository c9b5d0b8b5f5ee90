//! Counts of what a router has done.

use std::sync::atomic::{AtomicU64, Ordering};

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
                Stats { $($name: self.$name.0.load(Ordering::Relaxed)),* }
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

/// One count.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
