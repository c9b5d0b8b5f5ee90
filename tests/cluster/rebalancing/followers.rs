//! Routers that were absent during a change, and calls that were in flight.

use std::time::Duration;

use ringlock::rebalancer::Phase;
use ringlock::{Change, Error, Guard, Init, NodeConfig, OnMismatch, Router, RouterBuilder};

use crate::rebalancing::{apply, builder, connect, newcomer};
use ringlock_test_support::{ARMS, Cluster, RedisServer, ms, name};

fn replacement(cluster: &Cluster, node: usize, by: usize) -> Change {
    Change::Replace {
        node: name(node),
        by: newcomer(cluster, by),
    }
}

#[tokio::test]
async fn started_with_an_old_configuration() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 5);
            let router = connect(&cluster, 3, replicas).await;
            let held = router.acquire("held").keep_alive().await.unwrap();
            apply(&router, [replacement(&cluster, 0, 3)]).await;
            apply(&router, [replacement(&cluster, 1, 4)]).await;
            let view = router.route("k").unwrap().view;
            let follows = async |what: &str| {
                let late = connect(&cluster, 3, replicas).await;
                assert_eq!(late.route("k").unwrap().view, view, "{arm:?} {what}");
                let busy = late.try_acquire("held").await.unwrap_err();
                assert!(busy.is_contention(), "{busy}");
                late.acquire("free").await.unwrap().release().await.unwrap();
            };
            follows("all are there").await;
            cluster.nodes[2].stop();
            if replicas == 3 {
                follows("only retired ones answer").await;
            }
            cluster.nodes[2].start();
            cluster.nodes[0].stop();
            cluster.nodes[1].stop();
            follows("the retired ones are gone").await;
            let refusing = builder(&cluster, 3).replicas(replicas);
            let refusing = refusing.configure(|config| {
                config.router.on_mismatch = OnMismatch::Refuse;
            });
            let error = refusing.connect().await.unwrap_err();
            println!("{error}");
            assert!(matches!(error, Error::TopologyMismatch { serving, .. } if serving == view));
            assert_eq!(held.loss(), None);
        }
    }
}

/// Only the address is known of nodes that are not configured.
#[tokio::test]
async fn a_password_is_shared() {
    let start = || RedisServer::start_on_tcp(&["--requirepass", "s3cret"]);
    let servers: Vec<(RedisServer, u16)> = (0..4).map(|_| start()).collect();
    let url = |index: usize| format!("redis://:s3cret@127.0.0.1:{}", servers[index].1);
    let builder = || -> RouterBuilder {
        let builder = (0..3).fold(Router::builder(), |builder, index| {
            builder.node(name(index), url(index))
        });
        builder.init(Init::Now).configure(|config| {
            config.router.ttl = crate::rebalancing::MAX_TTL;
            config.router.max_ttl = crate::rebalancing::MAX_TTL;
            config.router.view_lease = crate::rebalancing::VIEW_LEASE;
        })
    };
    let router = builder().connect().await.unwrap();
    let running = builder().connect().await.unwrap();
    let plan = router.rebalancer();
    let joining = NodeConfig::new("d", url(3));
    let plan = plan.plan([Change::Add(joining)]).await.unwrap();
    assert!(!plan.to_json().contains("s3cret"), "{}", plan.to_json());
    router.rebalancer().apply(&plan, |_| {}).await.unwrap();
    let late = builder().connect().await.unwrap();
    for router in [&router, &running, &late] {
        let key = (0..).map(|key| format!("key-{key}"));
        let all = key.take(60).collect::<Vec<_>>();
        let results = router.acquire_many(&all).wait(ms(5_000)).await;
        for (key, result) in results {
            drop(result.unwrap_or_else(|error| panic!("{key}: {error}")));
        }
        assert_eq!(router.route("k").unwrap().successors.len(), 4);
    }
}

/// A router that relies on its view for long, and so does not check it by
/// itself.
async fn drowsy(cluster: &Cluster, replicas: usize) -> Router {
    let builder = builder(cluster, 3).replicas(replicas);
    let builder = builder.configure(|config| {
        config.router.ttl = ms(2_000);
        config.router.max_ttl = ms(2_000);
        config.router.view_lease = Duration::from_secs(20);
    });
    builder.connect().await.unwrap()
}

async fn extend_all(guards: &[Guard]) {
    for guard in guards {
        guard.extend().await.unwrap();
    }
}

/// It works in the old view until a node reports a newer one.
#[tokio::test]
async fn single_attempts_and_extends_over_a_change() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 4);
            let leader = drowsy(&cluster, replicas).await;
            let keys: Vec<String> = (0..40).map(|key| format!("held-{key}")).collect();
            let mut routers = Vec::new();
            let mut held = Vec::new();
            // Each call has its own router, which has not seen the change yet.
            for _ in 0..4 {
                routers.push(drowsy(&cluster, replicas).await);
            }
            for key in &keys {
                held.push(routers[0].acquire(key).await.unwrap());
            }
            let rebalancer = leader.rebalancer();
            // Without a joining node the joint view is the first to arrive.
            let change = Change::Reweight {
                node: name(0),
                weight: 3,
            };
            let plan = rebalancer.plan([change]).await.unwrap();
            let (reached, mut seen) = tokio::sync::mpsc::channel(1);
            let applied = rebalancer.apply(&plan, |progress| {
                if progress.phase == Phase::Joint && progress.remaining.is_some() {
                    let _ = reached.try_send(());
                }
            });
            let at_each_view = async {
                seen.recv().await.unwrap();
                assert_eq!(
                    crate::rebalancing::epoch(&routers[0]),
                    1,
                    "it has not heard of it"
                );
                extend_all(&held).await;
                assert_eq!(crate::rebalancing::epoch(&routers[0]), 2);
                for key in 0..40 {
                    let router = &routers[1 + key % 2];
                    let guard = router.try_acquire(format!("joint-{key}")).await;
                    drop(guard.unwrap_or_else(|error| panic!("{arm:?} n={replicas} {error}")));
                }
                for router in &routers[1..3] {
                    assert_eq!(crate::rebalancing::epoch(router), 2);
                }
            };
            let meanwhile = async {
                at_each_view.await;
                loop {
                    extend_all(&held).await;
                    tokio::time::sleep(ms(200)).await;
                }
            };
            let report = tokio::select! {
                report = applied => report.unwrap(),
                () = meanwhile => unreachable!("it goes on for ever"),
            };
            assert_eq!(report.to.epoch, 3);
            extend_all(&held).await;
            for key in 0..40 {
                let router = &routers[key % 4];
                let guard = router.try_acquire(format!("stable-{key}")).await;
                drop(guard.unwrap_or_else(|error| panic!("{arm:?} n={replicas} {error}")));
            }
            assert!(
                routers
                    .iter()
                    .all(|router| crate::rebalancing::epoch(router) == 3)
            );
        }
    }
}

/// A waiter continues in the next view, and no longer than its original wait.
#[tokio::test]
async fn waiting_across_a_change() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 4);
            let router = connect(&cluster, 3, replicas).await;
            let other = connect(&cluster, 3, replicas).await;
            let keys: Vec<String> = (0..20).map(|key| format!("held-{key}")).collect();
            let mut held = Vec::new();
            for key in &keys {
                held.push(router.acquire(key).keep_alive().await.unwrap());
            }
            let waiting = other.acquire_many(keys).wait(Duration::from_secs(20));
            let waiting = tokio::spawn(async move { waiting.await });
            let brief = tokio::time::Instant::now();
            let (timed_out, _) = tokio::join!(
                other.acquire("held-0").wait(ms(900)),
                apply(&router, [replacement(&cluster, 0, 3)])
            );
            assert!(timed_out.unwrap_err().is_contention());
            assert!(brief.elapsed() < Duration::from_secs(10));
            drop(held);
            for (key, result) in waiting.await.unwrap() {
                let guard = result.unwrap_or_else(|error| panic!("{arm:?} {key}: {error}"));
                guard.release().await.unwrap();
            }
        }
    }
}
