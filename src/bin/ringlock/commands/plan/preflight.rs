//! Checks before a plan is applied: whether the joining nodes are fit, and how
//! many of the locks that are held move.

use std::collections::BTreeSet;

use ringlock::proto::membership::topology::{Topology, TopologyError};
use ringlock::proto::membership::view::View;
use ringlock::{Key, Plan};

use crate::checklist::Report;
use crate::cluster::{Cluster, ClusterSnapshot};
use crate::commands::doctor::checks;
use crate::output::Failure;

/// How many lock keys are inspected on each node, at most.
const MAX_KEYS: usize = 10_000;

/// Checks every server that the plan introduces.
pub(super) async fn newcomers(
    newcomers: &Cluster,
    members: &ClusterSnapshot<'_>,
    view: &View,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut snapshot = newcomers.strangers().await;
    checks::servers(&mut snapshot, &mut report).await;
    for (index, server_report) in snapshot.server_reports.iter().enumerate() {
        let (name, Ok(seen)) = (&*server_report.node.name, &server_report.seen) else {
            continue;
        };
        if let Some(twin) = snapshot.twin(index).or(members.same_server(server_report)) {
            let detail = format!("it is the same server as node {}", twin.node.name);
            let remedy = "give each node its own server: one server would vote twice";
            report.fail("own server", Some(name), detail, remedy);
        }
        family(name, &checks::family(seen), members, &mut report);
        // The cluster itself wrote what a member holds.
        if view.index_of(name).is_none() {
            let was_member = seen.status.nonce.is_some();
            match seen.facts.dbsize() {
                0 => report.ok("empty", Some(name), "it holds nothing"),
                keys if was_member => {
                    let detail = format!("it has left a cluster, and holds {keys} keys");
                    report.ok("empty", Some(name), detail);
                }
                keys => report.warn(
                    "empty",
                    Some(name),
                    format!("it holds {keys} keys of something else"),
                    "empty it, unless it is meant to serve both",
                ),
            }
        }
    }
    Ok(report)
}

fn family(name: &str, own: &str, members: &ClusterSnapshot<'_>, report: &mut Report) {
    let seen = members
        .server_reports
        .iter()
        .filter_map(|s| s.seen.as_ref().ok());
    let families: BTreeSet<String> = seen.map(checks::family).collect();
    if families.contains(own) {
        report.ok("family", Some(name), own);
    } else if !families.is_empty() {
        let others: Vec<String> = families.into_iter().collect();
        let detail = format!("{own}, the cluster has {}", others.join(", "));
        let remedy =
            "run the same version on all servers: the oldest one limits which features are used";
        report.warn("family", Some(name), detail, remedy);
    }
}

/// How many locks that are held now get other replicas.
pub(super) async fn moving(
    snapshot: &mut ClusterSnapshot<'_>,
    plan: &Plan,
) -> Result<String, Failure> {
    let scans = snapshot.ask_all(async |server_report| {
        let seen = server_report.seen.as_mut().ok()?;
        seen.look.scan(b"", MAX_KEYS).await.ok()
    });
    let scans = scans.await;
    let is_cut = scans.iter().flatten().any(|scan| scan.is_cut);
    let silent = scans.iter().filter(|scan| scan.is_none()).count();
    let keys: BTreeSet<Key> = scans.into_iter().flatten().flat_map(|s| s.keys).collect();
    let (from, to) = (read(&plan.from)?, read(&plan.to)?);
    let moves = keys
        .iter()
        .filter(|key| names(&from, key) != names(&to, key));
    let mut text = format!(
        "held locks  {} of {} scanned move",
        moves.count(),
        keys.len()
    );
    if is_cut {
        text += "; there are more";
    }
    if silent > 0 {
        text += &format!("; {silent} nodes did not answer");
    }
    Ok(text)
}

/// The topology as a view that can route keys.
fn read(topology: &Topology) -> Result<View, Failure> {
    let nonces = topology.nodes.iter();
    let nonces = nonces
        .map(|node| (node.name.clone(), "plan".into()))
        .collect();
    let view = View::stable(1, topology.clone(), &nonces);
    view.map_err(|error: TopologyError| ringlock::ConfigError::from(error).into())
}

fn names<'v>(view: &'v View, key: &Key) -> Vec<&'v str> {
    let placement = view.place(key);
    let names = placement.nodes().iter();
    names.map(|&node| &*view.member(node).name).collect()
}
