//! The program `ringlock-bench`, which `ringlock bench` runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlock_bench::run_program()
}
