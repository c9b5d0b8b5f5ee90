//! Servers, proxies and other clients that do what they must not: nothing of it
//! is believed, shown as it is or fatal, and nobody else suffers by it.
//!
//! `RINGLOCK_SEED` repeats the random tests' runs.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells how far it came"
)]

#[path = "../common/mod.rs"]
mod common;

mod impostors;
mod liar;
mod lies;
mod litter;
mod secrets;
mod shifted;
