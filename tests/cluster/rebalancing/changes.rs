//! Every change, while some leases are held and others come and go.

use std::time::Duration;

use ringlock::{Change, Guard, NodeConfig, Router};

use crate::rebalancing::workload::{Crew, Tenure};
use crate::rebalancing::{apply, newcomer, spares};
use ringlock_test_support::node::now;
use ringlock_test_support::{Arm, Cluster, RedisServer, TestNode, eventually, ms, name, seed};

/// Long enough that no lease lapses because the machine is busy.
const MAX_TTL: Duration = Duration::from_secs(2);
const LESS: Duration = Duration::from_millis(1_500);
const TTL: Duration = Duration::from_secs(1);

const MEMBERS: usize = 5;
const HELD: usize = 60;

/// Nodes `a` to `e` and two that may join. `b` is also reachable over TCP.
fn cluster(arm: Arm) -> (Cluster, Option<u16>) {
    let mut cluster = Cluster::start(arm, MEMBERS + 2);
    let TestNode::Redis(_) = cluster.nodes[1] else {
        return (cluster, None);
    };
    let (server, port) = RedisServer::start_on_tcp(&[]);
    cluster.nodes[1] = TestNode::Redis(server);
    (cluster, Some(port))
}

async fn connect(cluster: &Cluster, replicas: usize) -> Router {
    let builder = spares(cluster.builder_of(MEMBERS), cluster, MEMBERS);
    let builder = builder.replicas(replicas).configure(|config| {
        config.router.ttl = TTL;
        config.router.max_ttl = MAX_TTL;
        config.router.view_lease = ms(500);
    });
    builder.connect().await.unwrap()
}

fn every_change(
    cluster: &Cluster,
    port: Option<u16>,
    replicas: usize,
) -> Vec<(&'static str, Change)> {
    let node = |index: usize| name(index);
    let all = |replicas| Change::Replicas {
        prefix: None,
        replicas: Some(replicas),
    };
    let more = if replicas == 1 { 3 } else { 5 };
    let mut changes = vec![
        ("add", Change::Add(newcomer(cluster, 5))),
        (
            "reweight",
            Change::Reweight {
                node: node(0),
                weight: 3,
            },
        ),
        (
            "relabel",
            Change::Relabel {
                node: node(2),
                zone: Some("z".into()),
                host: Some("h".into()),
            },
        ),
        ("more replicas", all(more)),
        ("fewer replicas", all(replicas)),
        (
            "override",
            Change::Replicas {
                prefix: Some("crew-1".into()),
                replicas: Some(4 - replicas),
            },
        ),
        ("max_ttl down", Change::MaxTtl(LESS)),
        ("max_ttl up", Change::MaxTtl(MAX_TTL)),
        (
            "replace",
            Change::Replace {
                node: node(2),
                by: newcomer(cluster, 6),
            },
        ),
        ("remove", Change::Remove { node: node(3) }),
    ];
    let moved = |port| Change::Move {
        node: node(1),
        url: format!("redis://127.0.0.1:{port}"),
    };
    changes.extend(port.map(|port| ("move", moved(port))));
    changes
}

async fn every_change_under_load(arm: Arm, replicas: usize) {
    let seed = seed();
    let (cluster, port) = cluster(arm);
    let routers = [
        connect(&cluster, replicas).await,
        connect(&cluster, replicas).await,
    ];
    let mut held: Vec<(Guard, u64)> = Vec::new();
    for key in 0..HELD {
        let ttl = if key % 3 == 0 { MAX_TTL } else { TTL };
        let acquire = routers[key % 2].acquire(format!("held-{key}")).ttl(ttl);
        held.push((acquire.keep_alive().await.unwrap(), now().as_nanos()));
    }
    let workload = Crew::start(&routers, 12, TTL, seed);
    for (index, (what, change)) in every_change(&cluster, port, replicas)
        .into_iter()
        .enumerate()
    {
        println!("{arm:?} n={replicas} {what}");
        let report = apply(&routers[index % 2], [change]).await;
        assert!(report.retired.iter().all(|(_, knows)| *knows), "{report:?}");
        let lost = held.iter().filter_map(|(guard, _)| {
            let loss = guard.loss()?;
            Some(format!("{} {loss}", guard.key()))
        });
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<String>::new(), "{what}");
    }
    let mut work = workload.stop().await;
    for (guard, from) in held {
        let (key, fence) = (guard.key().to_string(), guard.fence());
        work.history.push(Tenure::of(&guard, from));
        guard.release().await.unwrap();
        let next = routers[0].acquire(&key).await.unwrap();
        assert!(next.fence() > fence, "{key}");
        next.release().await.unwrap();
    }
    work.check(200);
    for router in routers {
        assert!(router.shutdown().await);
    }
    let locked = || cluster.nodes.iter().map(TestNode::locked);
    eventually(ms(5_000), "nothing is locked", || {
        locked().all(|keys| keys.is_empty())
    })
    .await;
}

/// Both arms at once: they mostly wait.
#[tokio::test]
async fn every_change_sharded() {
    tokio::join!(
        every_change_under_load(Arm::Memory, 1),
        every_change_under_load(Arm::Redis, 1)
    );
}

#[tokio::test]
async fn every_change_of_quorums() {
    tokio::join!(
        every_change_under_load(Arm::Memory, 3),
        every_change_under_load(Arm::Redis, 3)
    );
}

/// A plan of many changes takes no longer than a plan of one.
#[tokio::test]
async fn many_changes_at_once() {
    let cluster = Cluster::start(Arm::Memory, 5);
    let router = crate::rebalancing::connect(&cluster, 3, 3).await;
    let held = router.acquire("held").keep_alive().await.unwrap();
    let replaced = |index: usize| Change::Replace {
        node: name(index),
        by: newcomer(&cluster, index + 3),
    };
    let plan = router.rebalancer();
    let plan = plan.plan([replaced(0), replaced(1)]).await.unwrap();
    assert_eq!(plan.newcomers().collect::<Vec<_>>(), ["d", "e"]);
    assert_eq!(plan.leavers().collect::<Vec<_>>(), ["a", "b"]);
    let (least, most) = plan.duration();
    let report = router.rebalancer().apply(&plan, |_| {}).await.unwrap();
    assert!(report.elapsed >= least, "{report:?}");
    assert!(
        report.elapsed < most + ringlock_test_support::MARGIN,
        "{report:?}"
    );
    assert_eq!(held.loss(), None);
    let (names, nodes) = (["c", "d", "e"], router.route("k").unwrap().successors);
    assert!(nodes.iter().all(|node| names.contains(&&**node)));
    let again = NodeConfig::new("a", "memory://a");
    apply(&router, [Change::Add(again)]).await;
    assert_eq!(held.loss(), None, "a retired node comes back as a new one");
}
