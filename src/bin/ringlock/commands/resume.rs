//! `ringlock resume`: finishes a change that is half made.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;

use crate::conduct::{self, Patience};
use crate::output::{Failure, Output};

/// Finishes a change that is half made, whoever began it.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    patience: Patience,
    /// Your word that no client reaches this node any more: it is switched off,
    /// or cut off from every client. Spares a part of the wait.
    #[arg(long, value_name = "NODE")]
    fenced: Vec<String>,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    conduct::run(
        config,
        output,
        options.patience,
        async |rebalancer, watch| {
            let fenced = options.fenced.iter().cloned();
            rebalancer.clone().fenced(fenced).resume(watch).await
        },
    )
    .await
}
