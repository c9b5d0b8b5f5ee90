//! Changes of membership, on in-memory nodes and on real servers.

mod changes;
mod coordinators;
mod crashing_router;
mod followers;
mod force;
mod losses;
mod paused_process;
mod plans;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use ringlock::rebalancer::Report;
use ringlock::{Change, NodeConfig, Router, RouterBuilder};
use ringlock_test_support::{Cluster, TestNode, name};

/// Short, so that a change takes a second or two.
const MAX_TTL: Duration = Duration::from_millis(600);
const VIEW_LEASE: Duration = Duration::from_millis(300);

/// A router of the first `members` nodes that can also reach the others.
fn builder(cluster: &Cluster, members: usize) -> RouterBuilder {
    let builder = cluster.builder_of(members);
    spares(builder, cluster, members).configure(|config| {
        config.router.ttl = MAX_TTL;
        config.router.max_ttl = MAX_TTL;
        config.router.view_lease = VIEW_LEASE;
    })
}

/// The other nodes, in case they join. In-memory nodes have no address.
fn spares(builder: RouterBuilder, cluster: &Cluster, members: usize) -> RouterBuilder {
    let others = cluster.nodes.iter().enumerate().skip(members);
    others.fold(builder, |builder, (index, node)| match node {
        TestNode::Memory(memory) => builder.spare_node(name(index), Arc::new(memory.clone())),
        TestNode::Redis(_) => builder,
    })
}

async fn connect(cluster: &Cluster, members: usize, replicas: usize) -> Router {
    let builder = builder(cluster, members).replicas(replicas);
    builder.connect().await.unwrap()
}

/// The configuration of a node that joins.
fn newcomer(cluster: &Cluster, index: usize) -> NodeConfig {
    match &cluster.nodes[index] {
        TestNode::Memory(_) => NodeConfig::new(name(index), format!("memory://{}", name(index))),
        TestNode::Redis(server) => NodeConfig::new(name(index), server.url()),
    }
}

async fn apply(router: &Router, changes: impl IntoIterator<Item = Change>) -> Report {
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan(changes).await.unwrap();
    println!("{plan}");
    let report = rebalancer.apply(&plan, |_| {}).await.unwrap();
    println!("{report:?}");
    report
}

fn epoch(router: &Router) -> u32 {
    router.route("k").unwrap().view.epoch
}

/// A key that `owner` owns.
fn key_of(router: &Router, owner: &str) -> String {
    let mut keys = (0..).map(|key| format!("of-{owner}-{key}"));
    let is_its = |key: &String| &*router.route(key).unwrap().owner == owner;
    keys.find(is_its).unwrap()
}
