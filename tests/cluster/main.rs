//! Membership: how a cluster starts, changes and recovers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

#[path = "../common/mod.rs"]
mod common;

mod lifecycle;
mod rebalancing;
