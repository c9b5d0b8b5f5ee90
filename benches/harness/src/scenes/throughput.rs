//! Many keys: pairs per second compared with the server's ceiling, the bare
//! redis crate and other libraries.

use std::sync::Arc;

use super::Run;
use crate::Fault;
use crate::contenders::ceiling::Ceiling;
use crate::load::Load;
use crate::peers::{Kind, Peer, Site};
use crate::report::goal::{Bound, Goal};
use crate::rounds::{About, Entry, best};
use crate::statistics::ratios;

const ONE_NODE: &str = "one node";
const FIVE_SHARDED: &str = "five nodes sharded";
const FIVE_QUORUM: &str = "five-node quorum";

/// The numbers of tasks among which a peer's best is taken.
const PEER_TASKS: [usize; 4] = [1, 16, 64, 256];

/// The goals for ringlock's ratio to the bare crate, by tasks.
const BARE_GOALS: [(usize, f64); 4] = [(1, 0.95), (16, 1.0), (256, 2.5), (4096, 2.5)];

/// Goals 1, 2 and 3.
pub(crate) async fn one_node(run: &mut Run) -> Result<(), Fault> {
    let mut own = Vec::new();
    for tasks in run.tasks.clone() {
        let load = run.load(tasks);
        own.push(run.ringlock(ONE_NODE, 1, 1, load).await?);
    }
    let (owned, mut bare, mut ceiling) = (own.len(), 0, 0);
    let mut entries = own;
    if !run.stage.is_in_memory() {
        for tasks in run.tasks.clone() {
            entries.push(bare_entry(run, ONE_NODE, 1, tasks).await?);
        }
        bare = entries.len() - owned;
        let tasks = run.tasks.last().copied().unwrap_or(1);
        if let Some(entry) = ceiling_entry(run, ONE_NODE, 1, tasks)? {
            entries.push(entry);
            ceiling = 1;
        }
        entries.extend(peer_entries(run, ONE_NODE, 1).await?);
    }
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    let (own, rest) = entries.split_at(owned);
    let (bare, rest) = rest.split_at(bare);
    let (ceiling, peers) = rest.split_at(ceiling);
    if let (Some(own), Some(ceiling)) = (own.last(), ceiling.first()) {
        run.goal(Goal::new(
            "1",
            format!(
                "one node, {} tasks: / the server's own ceiling",
                own.load.tasks
            ),
            ratios(&own.throughput(), &ceiling.throughput()),
            Bound::AtLeast(0.80),
            "raw pipelines of the same commands, one blocking thread",
        ));
    }
    for (own, bare) in own.iter().zip(bare) {
        let known = BARE_GOALS
            .iter()
            .find(|(tasks, _)| *tasks == own.load.tasks);
        run.goal(Goal::new(
            "2",
            format!("one node, {} tasks: / bare redis crate", own.load.tasks),
            ratios(&own.throughput(), &bare.throughput()),
            known.map_or(Bound::None, |(_, goal)| Bound::AtLeast(*goal)),
            "SET NX PX + EVALSHA on one multiplexed connection, its defaults",
        ));
    }
    for peer in run.peers {
        let against = (peer.name, bound(peer, 4.0));
        best_against_best(run, "3", "one node", own, peers, against);
    }
    Ok(())
}

/// Goal 4.
pub(crate) async fn five_sharded(run: &mut Run) -> Result<(), Fault> {
    let nodes = run.stage.nodes.len().min(5);
    if nodes < 2 || run.stage.is_in_memory() {
        return Ok(());
    }
    let tasks = run.tasks.last().copied().unwrap_or(1);
    let load = run.load(tasks);
    let own = run.ringlock(FIVE_SHARDED, nodes, 1, load).await?;
    let bare = bare_entry(run, FIVE_SHARDED, nodes, tasks).await?;
    let mut entries = [own, bare];
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    run.goal(Goal::new(
        "4",
        format!("{nodes} nodes sharded, {tasks} tasks: / bare redis crate, same owners"),
        ratios(&entries[0].throughput(), &entries[1].throughput()),
        Bound::AtLeast(2.5),
        "",
    ));
    Ok(())
}

/// Goal 5.
pub(crate) async fn quorum(run: &mut Run) -> Result<(), Fault> {
    if run.stage.nodes.len() < 5 || run.peers.is_empty() || run.stage.is_in_memory() {
        return Ok(());
    }
    let mut entries = Vec::new();
    // A single task is no contender's best.
    for tasks in run.tasks.clone().into_iter().filter(|&tasks| tasks > 1) {
        let load = run.load(tasks);
        entries.push(run.ringlock(FIVE_QUORUM, 5, 5, load).await?);
    }
    let owned = entries.len();
    entries.extend(peer_entries(run, FIVE_QUORUM, 5).await?);
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    let (own, peers) = entries.split_at(owned);
    for peer in run.peers {
        let against = (peer.name, bound(peer, 5.0));
        best_against_best(run, "5", "five-node quorum", own, peers, against);
    }
    Ok(())
}

/// The best entry of ours, compared with the best of the peer with this name.
pub(crate) fn best_against_best(
    run: &mut Run,
    number: &'static str,
    what: &str,
    own: &[Entry],
    peers: &[Entry],
    (name, bound): (&str, Bound),
) {
    let its = peers.iter().filter(|entry| entry.about.contender == name);
    let (Some(own), Some(best)) = (best(own.iter()), best(its)) else {
        return;
    };
    run.goal(Goal::new(
        number,
        format!("{what}: / {name}, best against best"),
        ratios(&own.throughput(), &best.throughput()),
        bound,
        format!("{} tasks against {}", own.load.tasks, best.load.tasks),
    ));
}

/// Goal 2 is about clients without lock logic.
fn bound(peer: &Peer, goal: f64) -> Bound {
    match peer.kind {
        Kind::Library => Bound::AtLeast(goal),
        Kind::Commands => Bound::None,
    }
}

pub(crate) async fn bare_entry(
    run: &mut Run,
    scene: &'static str,
    nodes: usize,
    tasks: usize,
) -> Result<Entry, Fault> {
    let contender = run.stage.bare(nodes).await?;
    let about = About {
        scene,
        contender: "bare redis crate".into(),
        nodes,
        replicas: 1,
    };
    Entry::new(about, run.load(tasks), contender, &run.stage.probes(nodes))
}

/// The ceiling of the first `nodes` nodes; `tasks` is the number that its
/// competitors have.
pub(crate) fn ceiling_entry(
    run: &mut Run,
    scene: &'static str,
    nodes: usize,
    tasks: usize,
) -> Result<Option<Entry>, Fault> {
    let addresses = run.stage.nodes.iter().map(|node| node.address.clone());
    let Some(addresses) = addresses.take(nodes).collect() else {
        run.note(format!(
            "{scene}: the ceiling needs nodes of the form redis://host:port"
        ));
        return Ok(None);
    };
    let keys = run.stage.key_space("ceiling");
    let namespace = run.stage.namespace("ceiling");
    let contender = Arc::new(Ceiling::connect(addresses, &namespace, keys)?);
    let about = About {
        scene,
        contender: "ceiling".into(),
        nodes,
        replicas: 0,
    };
    let probes = run.stage.probes(nodes);
    let entry = Entry::new(about, run.load(tasks), contender, &probes)?;
    Ok(Some(entry))
}

/// Peers are at their best with many tasks: only a full run tries few as well.
fn peer_tasks(run: &Run) -> Vec<usize> {
    let most = run.tasks.last().copied().unwrap_or(1);
    let mut tasks = PEER_TASKS.to_vec();
    tasks.retain(|&tasks| tasks <= most);
    match run.is_full {
        true => tasks,
        false => tasks.split_off(tasks.len().saturating_sub(2)),
    }
}

/// The peers that can lock `nodes` nodes together.
async fn peer_entries(run: &Run, scene: &'static str, nodes: usize) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new();
    let fitting = |peer: &&Peer| nodes == 1 || peer.kind == Kind::Library;
    for peer in run.peers.iter().filter(fitting) {
        let keys = run.stage.key_space(&format!("{}{nodes}", peer.name));
        let site = Site::together(run.stage.urls(nodes), keys);
        let contender = (peer.make)(site).await?;
        for tasks in peer_tasks(run) {
            let about = About {
                scene,
                contender: peer.name.into(),
                nodes,
                replicas: nodes,
            };
            let load = Load {
                tasks,
                ..run.load(tasks)
            };
            let probes = run.stage.probes(nodes);
            entries.push(Entry::new(about, load, Arc::clone(&contender), &probes)?);
        }
    }
    Ok(entries)
}
