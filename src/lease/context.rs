//! What every lease of one router uses.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::lease::scheduler::Scheduler;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::stats::Counters;

/// What every lease of one router uses. It outlives the router's last handle
/// for as long as a release is under way.
#[derive(Debug, Default)]
pub(crate) struct LeaseContext {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) counters: Arc<Counters>,
    /// Leases that are watched for their lapse only.
    pub(crate) lapse_watches: AtomicUsize,
}
