//! Changes of membership, on nodes in memory and on real servers.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::time::Duration;

use common::{ARMS, Cluster, TestNode, eventually, ms, name};
use ringlock::{Change, NodeConfig, Plan, Router, RouterBuilder};

/// Short, so that a change takes a second or two.
const MAX_TTL: Duration = Duration::from_millis(600);
const VIEW_LEASE: Duration = Duration::from_millis(300);

/// A router of the first `members` nodes, that could reach the others too.
fn builder(cluster: &Cluster, members: usize) -> RouterBuilder {
    let mut builder = cluster.builder_of(members);
    for (index, node) in cluster.nodes.iter().enumerate().skip(members) {
        if let TestNode::Memory(memory) = node {
            builder = builder.spare_node(name(index), std::sync::Arc::new(memory.clone()));
        }
    }
    builder.ttl(MAX_TTL).configure(|config| {
        config.router.max_ttl = MAX_TTL;
        config.router.view_lease = VIEW_LEASE;
    })
}

/// The node as one that is to join.
fn newcomer(cluster: &Cluster, index: usize) -> NodeConfig {
    match &cluster.nodes[index] {
        TestNode::Memory(_) => NodeConfig::new(name(index), format!("memory://{}", name(index))),
        TestNode::Redis(server) => NodeConfig::new(name(index), server.url()),
    }
}

async fn apply(router: &Router, changes: impl IntoIterator<Item = Change>) -> Plan {
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan(changes).await.unwrap();
    println!("{plan}");
    let report = rebalancer.apply(&plan, |_| {}).await.unwrap();
    println!("{report:?}");
    plan
}

#[tokio::test]
async fn a_node_joins_while_leases_are_held() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 4);
            let router = builder(&cluster, 3)
                .replicas(replicas)
                .connect()
                .await
                .unwrap();
            let other = builder(&cluster, 3)
                .replicas(replicas)
                .connect()
                .await
                .unwrap();
            let mut held = Vec::new();
            for key in 0..40 {
                let router = if key % 2 == 0 { &router } else { &other };
                let guard = router.acquire(format!("key-{key}")).keep_alive();
                held.push(guard.await.unwrap());
            }
            apply(&router, [Change::Add(newcomer(&cluster, 3))]).await;
            for guard in &held {
                assert_eq!(guard.loss(), None, "{arm:?} n={replicas} {}", guard.key());
            }
            eventually(ms(2000), "the other router follows", || {
                other.route("k").unwrap().view == router.route("k").unwrap().view
            })
            .await;
            let owners =
                (0..40).filter(|key| &*router.route(format!("key-{key}")).unwrap().owner == "d");
            assert!(owners.count() > 0);
            for (key, guard) in held.into_iter().enumerate() {
                let key = format!("key-{key}");
                assert!(other.try_acquire(&key).await.unwrap_err().is_contention());
                let fence = guard.fence();
                guard.release().await.unwrap();
                assert!(other.acquire(&key).await.unwrap().fence() > fence);
            }
            assert!(cluster.nodes.iter().all(|node| node.locked().is_empty()));
        }
    }
}

#[tokio::test]
async fn a_node_that_lost_its_data_is_let_in_again_unattended() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let router = builder(&cluster, 3).override_replicas("q/", 3);
        let router = router.connect().await.unwrap();
        let keep = router.acquire("q/1").keep_alive().await.unwrap();
        let keys: Vec<String> = (0..50).map(|key| format!("key-{key}")).collect();
        cluster.nodes[1].wipe();
        for key in &keys {
            let guard = router.acquire(key).wait(Duration::from_secs(8)).await;
            guard.unwrap().release().await.unwrap();
        }
        eventually(Duration::from_secs(5), "a new epoch", || {
            router.route("k").unwrap().view.epoch > 1
        })
        .await;
        assert_eq!(keep.loss(), None, "{arm:?}");
        keep.extend().await.unwrap();
    }
}
