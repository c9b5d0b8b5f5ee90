//! The parts that every lease of one router uses.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::lease::scheduler::Scheduler;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::stats::Counters;

/// The parts that every lease of one router uses. It outlives the router's last
/// handle while a release is in flight.
#[derive(Debug, Default)]
pub(crate) struct LeaseContext {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) counters: Arc<Counters>,
    /// Leases that are watched only for their lapse.
    pub(crate) lapse_watches: AtomicUsize,
}
