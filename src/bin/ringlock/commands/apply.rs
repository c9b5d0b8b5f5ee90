//! `ringlock apply`: makes the change that a plan describes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ringlock::{Config, Plan};

use crate::change_run::{self, Patience};
use crate::output::{Exit, Failure, Output};

/// The longest plan that is read: enough for some ten thousand nodes.
const MAX_PLAN: u64 = 16 << 20;

/// Makes the change that a plan describes, while locks stay available.
///
/// It may be interrupted at any point and continued with `resume`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The plan, as `ringlock plan` writes it; `-` is the standard input.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,

    #[command(flatten)]
    patience: Patience,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let plan = Plan::from_json(&read(&options.plan)?)?;
    change_run::run(
        config,
        output,
        options.patience,
        async |rebalancer, watch| rebalancer.apply(&plan, watch).await,
    )
    .await
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(MAX_PLAN).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(MAX_PLAN).read_to_string(&mut text)),
    };
    read.map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Exit::Usage, message).next("make a plan with `ringlock plan … > plan.json`")
    })?;
    Ok(text)
}
