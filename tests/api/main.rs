//! The behavior that a user's code sees: calls, leases, waiting, errors,
//! events, metrics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

mod bad_input;
mod bounds;
mod cancellation;
mod dashboard;
mod events;
mod fences;
mod leases;
mod lock;
mod many;
#[cfg(feature = "metrics")]
mod metrics;
mod runtimes;
mod waiting;
mod wakeups;
