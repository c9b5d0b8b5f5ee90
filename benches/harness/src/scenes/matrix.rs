//! Sharded and quorum mode side by side: over nodes and tasks, in a closed and
//! an open loop, with a hot key among the others.

use std::sync::Arc;

use super::{Run, mode_name};
use crate::Fault;
use crate::keys::KeySpace;
use crate::load::{Checked, Contender, Load, Pace};
use crate::report::Balance;
use crate::rounds::{About, Entry, Plan};

const SIDE_BY_SIDE: &str = "side by side";
const OPEN: &str = "open loop";
const HOT_SHARE: &str = "hot share";

/// Rounds of scenes that report no ratio.
const ROUNDS: usize = 3;

/// Tasks that carry out the arrivals of an open loop: at most this many are in
/// flight. Further arrivals wait, and their wait is counted.
const OPEN_TASKS: usize = 1024;

/// Shares of draws that go to the one hot key.
const SHARES: [f64; 3] = [0.0, 0.01, 0.1];

/// Tasks of the scene with a hot key.
const SHARE_TASKS: usize = 64;

fn plan(run: &Run) -> Plan {
    Plan {
        rounds: run.plan.rounds.min(ROUNDS),
        ..run.plan
    }
}

/// The numbers of nodes and replicas that are compared.
fn modes(run: &Run) -> Vec<(usize, usize)> {
    let all = [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (3, 3),
        (5, 3),
        (5, 5),
    ];
    let few = [(1, 1), (3, 1), (5, 1), (3, 3), (5, 5)];
    let modes = if run.is_full { &all[..] } else { &few[..] };
    let most = run.stage.nodes.len();
    let fitting = modes.iter().filter(|(nodes, _)| *nodes <= most);
    fitting.copied().collect()
}

/// Throughput by nodes and tasks.
pub(crate) async fn side_by_side(run: &mut Run) -> Result<(), Fault> {
    let mut entries = Vec::new();
    for (nodes, replicas) in modes(run) {
        for tasks in run.tasks.clone() {
            let load = run.load(tasks);
            entries.push(run.ringlock(SIDE_BY_SIDE, nodes, replicas, load).await?);
        }
    }
    let plan = plan(run);
    run.compete(&plan, &mut entries).await?;
    balance(run).await
}

/// The grants of each node in sharded mode, compared with its weight.
async fn balance(run: &mut Run) -> Result<(), Fault> {
    let nodes = run.stage.nodes.len().min(5);
    let owners = run.stage.owners(nodes).await?;
    let (_, contender) = run.stage.routed(nodes, 1).await?;
    let grants = contender.grants(&owners);
    let all = grants.iter().sum::<u64>().max(1) as f64;
    run.report.balance = grants
        .iter()
        .enumerate()
        .map(|(index, &grants)| Balance {
            node: format!("node-{}", index + 1),
            granted: grants as f64 / all,
            weight: 1.0 / nodes as f64,
        })
        .collect();
    Ok(())
}

/// Latency from the intended start, at given rates.
pub(crate) async fn open_loop(run: &mut Run) -> Result<(), Fault> {
    let mut entries = Vec::new();
    let most = run.stage.nodes.len().min(5);
    for rate in run.rates.clone() {
        for replicas in [1, if most >= 5 { 5 } else { most.min(3) | 1 }] {
            let load = Load {
                pace: Pace::Open(rate),
                ..run.load(OPEN_TASKS)
            };
            if replicas <= most {
                entries.push(run.ringlock(OPEN, most, replicas, load).await?);
            }
        }
    }
    let plan = plan(run);
    run.compete(&plan, &mut entries).await
}

/// A part of the draws goes to one key.
pub(crate) async fn hot_share(run: &mut Run) -> Result<(), Fault> {
    let mut entries = Vec::new();
    let most = run.stage.nodes.len().min(5);
    for replicas in [1, 3].into_iter().filter(|&replicas| replicas <= most) {
        let (routed, _) = run.stage.routed(most, replicas).await?;
        for share in SHARES {
            let keys = Arc::new(KeySpace::new("lock:", run.stage.keys, share));
            let contender: Arc<dyn Contender> =
                Arc::new(Checked::new(routed.with_keys(&keys), keys));
            let about = About {
                scene: HOT_SHARE,
                contender: format!("{} hot {share}", mode_name(replicas)),
                nodes: most,
                replicas,
            };
            let load = run.load(SHARE_TASKS);
            entries.push(Entry::new(about, load, contender, &run.stage.probes(most))?);
        }
    }
    let plan = plan(run);
    run.compete(&plan, &mut entries).await
}
