//! `ringlock abort`: takes back a change that is half made.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;

use crate::conduct::{self, Patience};
use crate::output::{Failure, Output};

/// Takes back a change that is half made, whoever began it; that takes no waiting.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    patience: Patience,
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
        async |rebalancer, watch| rebalancer.abort(watch).await,
    )
    .await
}
