//! Membership: how a cluster starts, changes and recovers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

mod lifecycle;
mod rebalancing;
