//! `ringlock abort`: takes back a change that is half made.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;

use crate::conduct::{self, Patience};
use crate::output::{Failure, Output};

/// Takes back a change that is half made, whoever began it; that takes no waiting.
///
/// Whoever is carrying it out stops, with exit code 5. Where nothing is half
/// made, nothing is done. An `apply` that still prepares its new nodes has
/// decided nothing and cannot be seen: --outdate-plans stops it, too.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    patience: Patience,

    /// Where nothing is half made, decide the same topology once more: no plan
    /// that was made before is begun then.
    #[arg(long)]
    outdate_plans: bool,
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
        async |rebalancer, watch| match options.outdate_plans {
            true => rebalancer.outdate_plans(watch).await,
            false => rebalancer.abort(watch).await,
        },
    )
    .await
}
