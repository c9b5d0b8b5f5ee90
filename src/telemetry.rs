//! What is reported: events, metrics, and counters of a router.

pub(crate) mod events;
#[cfg(feature = "metrics")]
pub(crate) mod handles;
#[cfg(not(feature = "metrics"))]
#[path = "telemetry/no_handles.rs"]
pub(crate) mod handles;
pub(crate) mod hot_keys;
pub(crate) mod metric_names;
pub(crate) mod metrics;
pub(crate) mod stats;

pub use hot_keys::HotKey;
pub use stats::Stats;
