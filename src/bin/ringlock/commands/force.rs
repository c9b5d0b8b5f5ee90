//! `ringlock force`: goes on without nodes that are lost for good.

use std::process::ExitCode;

use clap::Args;
use ringlock::{Change, Config};

use crate::conduct::{self, Patience};
use crate::output::{Exit, Failure, Output};

/// Dangerous: goes on without nodes that are lost for good, where too few are
/// left to vote.
///
/// Every other node must answer. Nothing can be locked until all leases have
/// expired: max_ttl and view_lease.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A node that never comes back; may be given several times.
    #[arg(long, value_name = "NODE", required = true)]
    abandon: Vec<String>,

    /// How many replicas keys have from now on: with fewer nodes, fewer may be
    /// needed.
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,

    /// The promise that no abandoned node ever serves anybody again with the
    /// data that it has: each is destroyed, or emptied before it starts.
    #[arg(long = "i-promise-they-never-return")]
    is_promised: bool,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let names = options.abandon.join(", ");
    if !options.is_promised {
        let message = format!(
            "nothing was done: to go on without {names}, you must promise that no abandoned node ever comes back \
             with the data that it has. Where one does, two holders may have one lock, and fences may go back"
        );
        return Err(Failure::new(Exit::Usage, message).next(
            "destroy these nodes, or see that they are emptied before they start; then add --i-promise-they-never-return",
        ));
    }
    let replicas = options.replicas.map(|replicas| Change::Replicas {
        prefix: None,
        replicas: Some(replicas),
    });
    output.note(&format!(
        "going on without {names}: until it is done nothing can be locked"
    ));
    conduct::run(
        config,
        output,
        Patience::default(),
        async |rebalancer, watch| {
            rebalancer
                .force(options.abandon.clone(), replicas, watch)
                .await
        },
    )
    .await
}
