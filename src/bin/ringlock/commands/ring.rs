//! `ringlock ring`: how the keys are spread over the nodes.

mod plot;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ringlock::Config;
use ringlock::proto::membership::topology::TopologyError;
use ringlock::proto::membership::view::View;
use ringlock_ring::fraction;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::output::{Failure, Output, table};

/// Prints each node's share of the keys: of the view that is served or, if no
/// server reports one, as the configuration would have it.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Draw the ring into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shares {
    /// `served` or `configured`.
    source: &'static str,
    view: Option<String>,
    format: String,
    vnodes: u32,
    points: usize,
    nodes: Vec<Share>,
    /// The largest of the owners' shares divided by the mean, each per weight.
    owner_max_over_mean: f64,
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
struct Share {
    node: String,
    weight: u32,
    /// Its share of all keys as their owner; from 0 to 1.
    owner: f64,
    /// By number of replicas: its share of all keys with that many, as one of
    /// their replicas.
    replica: BTreeMap<usize, f64>,
}

pub(crate) async fn run(
    options: &Options,
    config: &Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let served = match Cluster::new(config) {
        Ok(cluster) => cluster.snapshot().await?.view,
        // Nodes in memory serve no other process.
        Err(_) => None,
    };
    let (source, view) = match served {
        Some(view) => ("served", view),
        None => ("configured", configured(config)?),
    };
    let mut shares = Shares {
        source,
        view: (source == "served").then(|| view.id().to_string()),
        format: view.topology().format.to_string(),
        vnodes: view.topology().vnodes,
        points: view.ring().segments(),
        nodes: shares(&view)?,
        owner_max_over_mean: 0.0,
        plot: options.plot.clone(),
    };
    shares.owner_max_over_mean = max_over_mean(&shares.nodes);
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(view.ring())).map_err(|error| {
            let failure = Failure::from(error);
            let message = format!("{}: {}", path.display(), failure.message);
            Failure { message, ..failure }.next("name a file that can be written with --plot")
        })?;
    }
    output.report(&shares, human)?;
    Ok(ExitCode::SUCCESS)
}

/// The view that a first start would put in force.
fn configured(config: &Config) -> Result<View, Failure> {
    let topology = config.layout();
    let nonces = topology
        .nodes
        .iter()
        .map(|node| (node.name.clone(), "none".into()))
        .collect();
    Ok(View::stable(1, topology, &nonces).map_err(ringlock::ConfigError::from)?)
}

fn shares(view: &View) -> Result<Vec<Share>, Failure> {
    let (ring, topology) = (view.ring(), view.topology());
    let mut counts: Vec<usize> = topology.overrides.iter().map(|o| o.replicas).collect();
    counts.push(topology.replicas);
    counts.sort_unstable();
    counts.dedup();
    let mut loads = Vec::new();
    for count in counts {
        let sets = ring.replica_sets(count).map_err(|error| {
            Failure::from(ringlock::ConfigError::from(TopologyError::from(error)))
        })?;
        loads.push((count, sets.loads()));
    }
    let owned = ring.shares();
    let nodes = topology.nodes.iter().enumerate();
    let share = nodes.map(|(index, node)| Share {
        node: node.name.clone(),
        weight: node.weight,
        owner: fraction(owned[index]),
        replica: loads
            .iter()
            .map(|(count, load)| (*count, fraction(load[index])))
            .collect(),
    });
    Ok(share.collect())
}

fn max_over_mean(shares: &[Share]) -> f64 {
    let weight: f64 = shares.iter().map(|share| f64::from(share.weight)).sum();
    let per_weight = shares
        .iter()
        .map(|share| share.owner * weight / f64::from(share.weight));
    per_weight.fold(0.0, f64::max)
}

fn human(shares: &Shares) -> String {
    let mut rows = table(["node", "weight", "owner of", "replica of"]);
    for share in &shares.nodes {
        let replica = share
            .replica
            .iter()
            .map(|(count, part)| format!("{:.2} % with {count}", part * 100.0));
        rows.add_row([
            share.node.clone(),
            share.weight.to_string(),
            format!("{:.2} %", share.owner * 100.0),
            replica.collect::<Vec<_>>().join(", "),
        ]);
    }
    let source = match &shares.view {
        Some(view) => format!("view {view}"),
        None => "no view is served; as configured".into(),
    };
    format!(
        "{source}\n{rows}\n{} points ({}, {} per weight); largest share over the mean: {:.3}",
        shares.points, shares.format, shares.vnodes, shares.owner_max_over_mean
    )
}
