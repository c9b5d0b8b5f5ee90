//! The program as its users run it: the built binary on real servers, its
//! documents, tables and exit codes.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells how far it came"
)]

mod bench;
mod exec;
mod exec_ends;
mod exec_terminal;
mod hand;
mod hot;
mod locks;
mod look;
mod membership;
mod planning;
mod rights;
mod testbed;
