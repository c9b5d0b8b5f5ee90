//! The protocol under a model checker: every interleaving within small bounds.
//!
//! The machines and the node's table are the ones that run in production. The
//! world around them is two clients, one key, an explicit clock that ticks,
//! coordinators that change which nodes there are, and messages that arrive late,
//! twice or never. `cargo test -p ringlock-proto --test model -- --nocapture` prints how much of it
//! was explored, `scripts/model.sh` explores more.
//!
//! * `world`, `steps`: states, and the steps between them
//! * `client`, `outcomes`: the driver around the machines
//! * `cluster`, `lease`: nodes and views, and what a lease is based on in each
//! * `coordinator`: the driver around the machines that change views
//! * `starter`: the driver that starts a cluster again
//! * `recovery`: whether a cluster can be brought to a stable state
//! * `faults`: nodes, and what mutants do to messages in flight
//! * `mutations`: what mutants do to clients and coordinators
//! * `properties`: the claims that must hold, and what must have been seen
//! * `scenarios`, `changes`, `losses`: bounded worlds in which every claim holds
//! * `pipeline`, `pipelined`: acquires that nodes carry out in parts, and their worlds
//! * `wider`: the same within wider bounds, on demand
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
mod cow;
mod faults;
mod lease;
mod losses;
mod mutants;
mod mutations;
mod network;
mod outcomes;
mod pipeline;
mod pipelined;
mod properties;
mod recovery;
mod running;
mod scenario;
mod scenarios;
mod starter;
mod steps;
mod wider;
mod world;
