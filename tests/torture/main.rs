//! Routers in several processes, real servers, and every kind of fault, for any
//! length of time: `scripts/torture.sh`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod changer;
mod checker;
mod fault_injector;
mod fault_schedule;
mod fenced_store;
mod history;
mod log;
mod observer;
mod process;
mod processes;
mod recorder;
mod server;
mod settings;
mod supervisor;
mod testbed;
mod worker;
mod workload;

/// One run, with the settings from the environment.
#[test]
fn one_run() {
    supervisor::run(&settings::Settings::read());
}

/// Not a test by itself, but every process that [`one_run`] starts.
#[test]
fn the_process() {
    process::live();
}
