//! Routers in several processes, real servers, and every kind of fault, for any
//! length of time: `scripts/torture.sh`.

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

/// One run, with the settings from the environment.
#[test]
fn one_run() {
    run::run(&settings::Settings::read());
}

/// Not a test by itself, but every process that [`one_run`] starts.
#[test]
fn the_process() {
    process::live();
}
