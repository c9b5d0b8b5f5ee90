//! `ringlock abort`: takes back an unfinished change.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;

use crate::change_run::{self, Patience};
use crate::output::{Failure, Output};

/// Takes back an unfinished change, whichever client began it; this needs no
/// waiting.
///
/// A command that is carrying the change out stops with exit code 5. If no
/// change is under way, nothing is done. An `apply` that still prepares its new
/// nodes has decided nothing and is not visible: --outdate-plans stops it, too.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    patience: Patience,

    /// If no change is under way, decide the same topology once more: no plan
    /// that was made before can then be begun.
    #[arg(long)]
    outdate_plans: bool,
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
        async |rebalancer, watch| match options.outdate_plans {
            true => rebalancer.outdate_plans(watch).await,
            false => rebalancer.abort(watch).await,
        },
    )
    .await
}
