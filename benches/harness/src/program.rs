//! The command line of the program `ringlock-bench` and of the bench `modes`.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::{Effort, Fault, Options, Outcome, Peer, run, worker};

/// How a run ends that could not be completed.
const FAILED: u8 = 3;

const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  holders overlapped, a fence went back, a release was late
  2  the command line is wrong
  3  it could not be done: a node cannot be reached, a file cannot be written";

/// Compares sharded and quorum mode with each other and with peers, on servers
/// that it starts or on yours.
#[derive(Debug, Parser)]
#[command(name = "ringlock-bench", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    options: Options,

    /// Print the result as one JSON document, and errors as JSON too.
    #[arg(long)]
    json: bool,

    /// Passed by cargo for a measurement.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The program: the peers are those that need no further crate.
pub fn run_program() -> ExitCode {
    main(&[], true)
}

/// A bench target, with `peers` that are not part of the program. Without the
/// argument `--bench`, as in `cargo test --benches`, every scene runs once and
/// briefly.
pub fn run_bench(peers: &'static [Peer]) -> ExitCode {
    // Cargo runs a bench in the folder of its package. Paths on the command line
    // and that of the report are relative to the workspace.
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Err(error) = std::env::set_current_dir(Path::new(&package).join("../.."))
    {
        return failed(&error.to_string(), FAILED, false);
    }
    main(peers, false)
}

fn main(peers: &'static [Peer], is_program: bool) -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == worker::ARGUMENT)
    {
        let done = worker::run().map(|()| ExitCode::SUCCESS);
        return done.unwrap_or_else(|fault| failed(&fault.to_string(), FAILED, false));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let effort = match (is_program || cli.bench, cli.options.quick) {
        (false, _) => Effort::Test,
        (true, true) => Effort::Quick,
        (true, false) => Effort::Full,
    };
    let done = run(&cli.options, effort, peers, cli.json);
    done.map_or_else(
        |fault: Fault| failed(&fault.to_string(), FAILED, cli.json),
        Outcome::exit_code,
    )
}

/// Reports what is wrong with the command line, or prints the requested help.
fn refuse(error: &clap::Error) -> ExitCode {
    let is_json = std::env::args_os().any(|argument| argument == "--json");
    let is_answer = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if is_json && !is_answer {
        let message = error.to_string();
        return failed(message.trim().trim_start_matches("error: "), 2, true);
    }
    error.exit()
}

/// Reports on the standard error why a run could not be completed.
fn failed(message: &str, exit_code: u8, is_json: bool) -> ExitCode {
    match is_json {
        true => {
            let report = serde_json::json!({ "error": message, "exit_code": exit_code });
            eprintln!("{report}");
        }
        false => eprintln!("error: {message}"),
    }
    exit_code.into()
}
