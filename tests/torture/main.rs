//! Routers of several processes, real servers, and all that can go wrong with
//! them, as long as one likes: `scripts/torture.sh`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod bed;
mod changer;
#[path = "../common/mod.rs"]
mod common;
mod desk;
mod faults;
mod hand;
mod history;
mod judge;
mod log;
mod looker;
mod process;
mod proxy;
mod register;
mod run;
mod server;
mod settings;
mod staff;
mod strike;
mod worker;

/// One run, as the environment says.
#[test]
fn one_run() {
    run::run(&settings::Settings::read());
}

/// No test by itself, but every process that [`one_run`] starts.
#[test]
fn the_process() {
    process::live();
}
