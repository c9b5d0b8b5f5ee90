//! The program `ringlock`.

mod change_run;
mod checklist;
mod cluster;
mod commands;
mod connection;
mod interrupts;
mod locks_view;
mod output;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::{
    abort, apply, bench, doctor, exec, force, init, locks, plan, readmit, release, resume, ring,
    route, status,
};
use output::{Exit, Failure, Output, exit_codes};
use ringlock::Config;

/// Distributed locks over many Redis nodes.
#[derive(Debug, Parser)]
#[command(version, after_help = exit_codes())]
struct Cli {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RINGLOCK_CONFIG",
        default_value = "ringlock.toml"
    )]
    config: PathBuf,

    /// Print the result as one JSON document, and errors as JSON too.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Options),
    Plan(Box<plan::Options>),
    Apply(apply::Options),
    Resume(resume::Options),
    Abort(abort::Options),
    Force(force::Options),
    Readmit(readmit::Options),
    Route(route::Options),
    Ring(ring::Options),
    Locks(locks::Options),
    Release(release::Options),
    #[command(after_help = exit_codes())]
    Exec(Box<exec::Options>),
    Status(status::Options),
    /// Checks configuration and servers, and prints how to fix what is wrong.
    Doctor,
    Bench(bench::Options),
    /// A helper process of exec: it ends the command if exec dies.
    #[command(name = exec::supervisor::SUPERVISOR, hide = true)]
    ExecSupervisor(exec::supervisor::Options),
    /// A helper process of exec: it becomes the command.
    #[command(name = exec::supervisor::COMMAND, hide = true)]
    ExecProgram(exec::supervisor::CommandOptions),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output { is_json: cli.json };
    let done = match cli.command {
        Command::Bench(options) => bench::run::<Cli>(&options, output),
        Command::ExecSupervisor(options) => exec::supervisor::run(&options).map_err(Failure::from),
        Command::ExecProgram(options) => {
            exec::supervisor::become_command(&options).map_err(Failure::from)
        }
        command => run(command, &cli.config, output),
    };
    done.unwrap_or_else(|failure| output.fail(&failure))
}

fn run(command: Command, path: &PathBuf, output: Output) -> Result<ExitCode, Failure> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    let config = || {
        let config = Config::load(path)?;
        config.check()?;
        Ok::<_, Failure>(config)
    };
    runtime.block_on(async {
        match command {
            Command::Init(options) => init::run(&options, config()?, output).await,
            Command::Plan(options) => plan::run(&options, config()?, output).await,
            Command::Apply(options) => apply::run(&options, config()?, output).await,
            Command::Resume(options) => resume::run(&options, config()?, output).await,
            Command::Abort(options) => abort::run(&options, config()?, output).await,
            Command::Force(options) => force::run(&options, config()?, output).await,
            Command::Readmit(options) => readmit::run(&options, config()?, output).await,
            Command::Route(options) => route::run(&options, config()?, output).await,
            Command::Ring(options) => ring::run(&options, &config()?, output).await,
            Command::Locks(options) => locks::run(&options, &config()?, output).await,
            Command::Release(options) => release::run(&options, &config()?, output).await,
            Command::Exec(options) => exec::run(&options, config()?, output).await,
            Command::Status(options) => status::run(&options, &config()?, output).await,
            Command::Doctor => doctor::run(path, output).await,
            Command::Bench(_) | Command::ExecSupervisor(_) | Command::ExecProgram(_) => {
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// Reports what is wrong with the command line, or prints the requested help.
fn refuse(error: &clap::Error) -> ExitCode {
    let own = std::env::args_os().take_while(|argument| argument != "--");
    let is_json = own.into_iter().any(|argument| argument == "--json");
    if error.use_stderr() && is_json {
        let message = error.to_string();
        let message = message.trim().trim_start_matches("error: ");
        return Output { is_json }.fail(&Failure::new(Exit::Usage, message));
    }
    // There is nowhere left to report this failure.
    let _ = error.print();
    match error.use_stderr() {
        true => Exit::Usage.into(),
        false => ExitCode::SUCCESS,
    }
}
