//! `ringlock resume`: completes an unfinished change.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;

use crate::change_run::{self, Patience};
use crate::output::{Failure, Output};

/// Completes an unfinished change, whichever client began it.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    patience: Patience,
    /// Your promise that no client can reach this node: it is switched off, or
    /// cut off from every client. This saves a part of the wait.
    #[arg(long, value_name = "NODE")]
    fenced: Vec<String>,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    change_run::run(
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
