//! `ringlock readmit`: readmits nodes that lost their data.

use std::process::ExitCode;

use clap::Args;
use ringlock::Config;
use ringlock::rebalancer::{Progress, RebalanceError};
use serde::Serialize;

use crate::change_run::{Patience, stuck};
use crate::cluster::{Cluster, State};
use crate::connection::{connect, refuse_memory};
use crate::interrupts::Interrupts;
use crate::output::{Exit, Failure, Output};
use crate::progress::ProgressReporter;

/// Readmits nodes that lost their data, where no router runs long enough.
///
/// A node that restarted empty is kept out until every lock that it may have
/// held has expired; a running router then readmits it. Processes that end
/// before max_ttl, such as those of cron, restart the wait each time: this
/// command stays. It exits with 0 when the nodes serve, with 4 where some are
/// out.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The nodes; every member if none is named.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,

    /// Wait until they are readmitted. Without this flag, list the nodes that
    /// are out.
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    patience: Patience,
}

#[derive(Serialize)]
struct Readmitted {
    /// The view in force.
    view: String,
    /// Nodes that were readmitted.
    readmitted: Vec<String>,
    /// Nodes that do not serve, and why not.
    out: Vec<Out>,
}

#[derive(Serialize)]
struct Out {
    node: String,
    state: State,
    reason: Option<String>,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    refuse_memory(&config)?;
    let mut reported = look(options, &config).await?;
    if options.wait && !reported.out.is_empty() {
        let before = reported.out;
        wait(options, config.clone(), output).await?;
        reported = look(options, &config).await?;
        let before = before.into_iter().map(|out| out.node);
        let is_back = |name: &String| reported.out.iter().all(|out| out.node != *name);
        reported.readmitted = before.filter(is_back).collect();
    }
    output.report(&reported, human)?;
    Ok(match reported.out.is_empty() {
        true => ExitCode::SUCCESS,
        false => Exit::Degraded.into(),
    })
}

/// Lists which of the nodes do not serve.
async fn look(options: &Options, config: &Config) -> Result<Readmitted, Failure> {
    let cluster = Cluster::new(config)?;
    let snapshot = cluster.snapshot().await?;
    snapshot.check_any()?;
    let Some(view) = &snapshot.view else {
        let message = "no view is known, so no node can be readmitted";
        return Err(Failure::new(Exit::Failed, message)
            .next("see the state of each node with `ringlock status`"));
    };
    if let Some(name) = options.nodes.iter().find(|name| !snapshot.is_member(name)) {
        return Err(RebalanceError::UnknownNode { name: name.clone() }.into());
    }
    let server_reports = snapshot.server_reports.iter().zip(snapshot.states());
    let out = server_reports.filter_map(|(server_report, (state, reason))| {
        let node = server_report.node.name.clone();
        let is_meant = match options.nodes.as_slice() {
            [] => snapshot.is_member(&node),
            named => named.contains(&node),
        };
        (is_meant && state != State::Serving).then_some(Out {
            node,
            state,
            reason,
        })
    });
    Ok(Readmitted {
        view: view.id().to_string(),
        readmitted: Vec::new(),
        out: out.collect(),
    })
}

/// Waits until the nodes serve.
async fn wait(options: &Options, config: Config, output: Output) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut reporter = ProgressReporter::new(output);
    let readmit = async {
        let router = connect(config).await?;
        let rebalancer = options.patience.of(router.rebalancer());
        let watch = |progress: &Progress| reporter.readmission(progress);
        let done = rebalancer.readmit(options.nodes.clone(), watch).await;
        done.map_err(|error| stuck(error, &router))
    };
    tokio::select! {
        done = readmit => done.map(drop),
        exit = interrupts.recv() => {
            let message = "interrupted: nodes that are out stay out, and the next call starts the wait again";
            Err(Failure::new(exit, message).next("let it run for max_ttl and a second"))
        }
    }
}

fn human(reported: &Readmitted) -> String {
    let mut lines = Vec::new();
    for name in &reported.readmitted {
        lines.push(format!("node {name} is readmitted"));
    }
    for out in &reported.out {
        let reason = out.reason.as_deref().unwrap_or("it does not serve");
        lines.push(format!(
            "node {} is {}: {reason}",
            out.node,
            out.state.word()
        ));
    }
    if reported.out.is_empty() {
        lines.push(format!("every node serves view {}", reported.view));
    }
    lines.join("\n")
}
