//! `ringlock bench`: becomes the separate program `ringlock-bench`, as `cargo`
//! and `git` run their external subcommands. What it needs is not part of this
//! program.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, CommandFactory};

use crate::output::{Exit, Failure, Output};

const PROGRAM: &str = "ringlock-bench";

/// Compares sharded and quorum mode with each other and with peers, on servers
/// that it starts or on yours.
///
/// This runs the program `ringlock-bench`, which must be next to this one or in
/// a folder of PATH. In a checkout of ringlock, `cargo install --path
/// benches/harness` installs it, and `cargo run -p ringlock-bench --release --
/// ARGS` runs it directly.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// The arguments of `ringlock-bench`, which `--help` lists if it is
    /// installed.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    arguments: Vec<OsString>,
}

/// Replaces this process; returns only if that fails.
pub(crate) fn run<C: CommandFactory>(
    options: &Options,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut arguments = options.arguments.clone();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let asks_for_help = has("--help") || has("-h");
    let output = match (output.is_json, has("--json")) {
        (_, true) => Output { is_json: true },
        // As the first argument it is an option of this program.
        (true, false) => {
            arguments.push("--json".into());
            output
        }
        (false, false) => output,
    };
    let failure = match become_program(&arguments) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    match failure.exit == Exit::NotFound && asks_for_help {
        true => own_help::<C>(output),
        false => Ok(output.fail(&failure)),
    }
}

fn become_program(arguments: &[OsString]) -> Result<Infallible, Failure> {
    let own = std::env::current_exe()?.with_file_name(PROGRAM);
    let program = match own.is_file() {
        true => own,
        // Searched for in PATH by the system.
        false => PathBuf::from(PROGRAM),
    };
    let error = Command::new(program).args(arguments).exec();
    Err(match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Exit::NotFound,
            format!("{PROGRAM} is neither next to this program nor in a folder of PATH"),
        )
        .next(format!(
            "in a checkout of ringlock, install it with `cargo install --path benches/harness`, or run it with `cargo run -p {PROGRAM} --release -- …`"
        )),
        ErrorKind::PermissionDenied => Failure::new(
            Exit::NotExecutable,
            format!("{PROGRAM} is not executable: {error}"),
        ),
        _ => Failure::new(Exit::Failed, format!("{PROGRAM}: {error}")),
    })
}

/// The help of this subcommand, where there is no program with its own.
fn own_help<C: CommandFactory>(output: Output) -> Result<ExitCode, Failure> {
    let mut command = C::command();
    command.build();
    if let Some(bench) = command.find_subcommand_mut("bench") {
        output.print_text(&bench.render_long_help().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
