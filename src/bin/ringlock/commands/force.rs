//! `ringlock force`: continues without nodes that are lost permanently.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use ringlock::rebalancer::ForceOutlook;
use ringlock::{Change, Config};

use crate::change_run::{self, Patience};
use crate::output::{Exit, Failure, Output, span};

/// Dangerous: continues without nodes that are lost permanently, where too few
/// are left to vote.
///
/// Every other node must answer, and no abandoned one. Nothing can be locked
/// until all leases have expired: max_ttl and view_lease. The command prints
/// beforehand how long that is. Where it refuses, it changes nothing and ends
/// with 2.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A node that never comes back; may be given several times.
    #[arg(long, value_name = "NODE", required = true)]
    abandon: Vec<String>,

    /// How many replicas keys have from now on: fewer nodes may require fewer.
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,

    /// Your promise that no abandoned node ever serves a client again with its
    /// present data: each is destroyed, or emptied before it starts.
    #[arg(long = "i-promise-they-never-return")]
    is_promised: bool,

    /// Continue although enough nodes keep their data to vote. A plan would
    /// make the same change without stopping any lock.
    #[arg(long = "stop-all-locks-although-a-vote-is-possible")]
    stops_locks: bool,

    /// Continue although an abandoned node answers: clients that reach it may
    /// hold locks there that other clients acquire elsewhere. The node is asked
    /// to stop serving.
    #[arg(long = "risk-two-holders-although-abandoned-nodes-answer")]
    risks_holders: bool,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let names = options.abandon.join(", ");
    if !options.is_promised {
        let message = format!(
            "nothing was done: to continue without {names}, you must promise that no abandoned node ever returns \
             with its present data. If one does, two clients may hold one lock, and fences may decrease"
        );
        return Err(Failure::new(Exit::Usage, message).next(
            "destroy these nodes, or ensure that they are emptied before they start; then add --i-promise-they-never-return",
        ));
    }
    let replicas = options.replicas.map(|replicas| Change::Replicas {
        prefix: None,
        replicas: Some(replicas),
    });
    change_run::run(
        config,
        output,
        Patience::default(),
        async |rebalancer, watch| {
            let mut rebalancer = rebalancer.clone();
            if options.stops_locks {
                rebalancer = rebalancer.force_although_a_vote_is_possible();
            }
            if options.risks_holders {
                rebalancer = rebalancer.force_although_abandoned_nodes_answer();
            }
            let outlook = rebalancer
                .force_outlook(options.abandon.clone(), replicas.clone())
                .await?;
            output.note(&reported(&outlook, SystemTime::now()));
            rebalancer
                .force(options.abandon.clone(), replicas, watch)
                .await
        },
    )
    .await
}

/// Until when nothing can be locked, and what is different afterwards.
fn reported(outlook: &ForceOutlook, now: SystemTime) -> String {
    let until = humantime::format_rfc3339_seconds(now + outlook.wait);
    let mut text = format!(
        "continuing without {}: no key can be locked before {until}, in {} (max_ttl and view_lease), \
         while {} stops serving",
        outlook.abandoned.join(", "),
        span(outlook.wait),
        outlook.stopped.join(", "),
    );
    for moves in &outlook.moves {
        let keys = match moves.prefix.as_str() {
            "" => "keys".to_owned(),
            prefix => format!("keys {prefix}*"),
        };
        text += &format!(
            "\n{:.1} % of the {keys} get another owner, {:.1} % another replica set; replicas {} -> {}",
            moves.owners * 100.0,
            moves.sets * 100.0,
            moves.replicas.0,
            moves.replicas.1,
        );
    }
    text
}
