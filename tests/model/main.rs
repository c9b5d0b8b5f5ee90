//! The protocol under a model checker: every interleaving within small bounds.
//!
//! The machines and the node's table are the ones that run in production. The
//! world around them is two clients, one key, an explicit clock that ticks, and
//! the post: letters that arrive late, twice or never. `cargo test --test model
//! -- --nocapture` prints how much of it was explored.
//!
//! * `world`, `steps`: states, and what leads from one to the next
//! * `client`, `outcomes`: what a driver does around the machines
//! * `tamper`: nodes, and what mutants do to letters on their way
//! * `properties`: the claims that must hold, and what must have been seen
//! * `scenarios`: bounded worlds in which every claim holds
//! * `mutants`: the same worlds with one safeguard removed; each must break a claim

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a harness: it fails by panicking and prints what it explored"
)]

mod changes;
mod client;
mod cluster;
mod coordinator;
mod lease;
mod meddle;
mod mutants;
mod outcomes;
mod post;
mod properties;
mod rescue;
mod running;
mod scenario;
mod scenarios;
mod shared;
mod steps;
mod tamper;
mod world;
