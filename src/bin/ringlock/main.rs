//! The program `ringlock`.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Distributed locks over many Redis nodes.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  a check failed: holders overlapped, a fence went back, a release was late
  2  the command line is wrong
  3  it could not be done: a node cannot be reached, a file cannot be written";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = EXIT_CODES)]
    Bench(Box<bench::Options>),
    /// A process of the bench's own.
    #[command(name = bench::worker::ARGUMENT, hide = true)]
    BenchWorker,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bench(options) => {
            let effort = match options.quick {
                true => bench::Effort::Quick,
                false => bench::Effort::Full,
            };
            bench::run(&options, effort, &[]).map(bench::Outcome::exit_code)
        }
        Command::BenchWorker => bench::worker::run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(bench::failed)
}
