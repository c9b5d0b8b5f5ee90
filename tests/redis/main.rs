//! The wire protocol, against real servers and servers that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

mod clocks;
mod credentials;
mod differential;
mod encodings;
#[cfg(feature = "cli")]
mod hostile;
mod identity;
mod interop;
mod refusals;
mod sentinel;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod upgrade;
