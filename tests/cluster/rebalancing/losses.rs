//! Servers that come back empty, and dead ones that are removed.

use std::time::{Duration, Instant};

use ringlock::rebalancer::Phase;
use ringlock::{Cause, Change, Error, Router};

use crate::rebalancing::workload::{Crew, fault};
use crate::rebalancing::{MAX_TTL, VIEW_LEASE, apply, builder, connect, epoch, key_of, newcomer};
use ringlock_test_support::{ARMS, Arm, Cluster, MARGIN, eventually, ms, name, seed};

/// How long a node stays away: quarantine, standby, and an allowance for a busy
/// machine.
const RETURN: Duration = Duration::from_secs(8);

fn causes(error: &Error) -> Vec<Cause> {
    match error {
        Error::NoQuorum { causes, .. } => causes.iter().map(|one| one.cause.clone()).collect(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_quorum_does_not_mind() {
    for arm in ARMS {
        let seed = seed();
        let mut cluster = Cluster::start(arm, 3);
        let routers = [connect(&cluster, 3, 3).await, connect(&cluster, 3, 3).await];
        let workload = Crew::start(&routers, 8, MAX_TTL, seed);
        let mut held = Vec::new();
        for key in 0..20 {
            let guard = routers[key % 2].acquire(format!("held-{key}"));
            held.push(guard.keep_alive().await.unwrap());
        }
        cluster.nodes[1].wipe();
        let deadline = Instant::now() + RETURN;
        let mut tries = 0;
        while epoch(&routers[0]) == 1 || epoch(&routers[1]) == 1 {
            assert!(Instant::now() < deadline, "it is not readmitted");
            let guard = routers[tries % 2].try_acquire(format!("free-{tries}"));
            guard.await.unwrap().release().await.unwrap();
            tries += 1;
            tokio::time::sleep(ms(2)).await;
        }
        println!("{arm:?}: {tries} single attempts");
        workload.stop().await.check(50);
        for guard in &held {
            assert_eq!(guard.loss(), None, "{}", guard.key());
        }
        assert!(epoch(&routers[0]) <= 3, "a storm of epochs");
        let before = epoch(&routers[0]);
        tokio::time::sleep(2 * MAX_TTL).await;
        assert_eq!(epoch(&routers[0]), before, "it goes on by itself");
    }
}

#[tokio::test]
async fn a_sharded_owner_is_away_for_a_while() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let routers = [connect(&cluster, 3, 1).await, connect(&cluster, 3, 1).await];
        let (lost, others) = (key_of(&routers[0], "b"), key_of(&routers[0], "a"));
        let before = routers[0].acquire(&lost).await.unwrap();
        let (fence, valid_until) = (before.fence(), before.valid_until());
        let wiped = Instant::now();
        cluster.nodes[1].wipe();
        let mut reported = None;
        let guard = loop {
            assert!(wiped.elapsed() < RETURN, "{arm:?}: it is not readmitted");
            // Keys of other nodes are not affected.
            drop(routers[1].try_acquire(&others).await.unwrap());
            match routers[1].try_acquire(&lost).await {
                Ok(guard) => break guard,
                Err(error) => {
                    if let [Cause::Quarantined { remaining }] = causes(&error)[..] {
                        reported.get_or_insert((format!("{error:#}"), Instant::now() + remaining));
                    }
                }
            }
            tokio::time::sleep(ms(5)).await;
        };
        let (text, at) = reported.expect("the error tells until when");
        println!("{arm:?}: {text}; back after {:?}", wiped.elapsed());
        assert!(text.contains("readmitted in"), "{text}");
        assert!(Instant::now() < at + MARGIN, "later than was told");
        assert!(wiped.elapsed() >= MAX_TTL, "{:?}", wiped.elapsed());
        assert!(ringlock_test_support::node::now() >= valid_until);
        assert!(guard.fence() > fence);
        assert!(before.loss().is_some());
        assert!(epoch(&routers[0]).max(epoch(&routers[1])) <= 3);
    }
}

/// A second loss invalidates the nonce of the first: the wait begins again.
#[tokio::test]
async fn a_second_loss_during_quarantine() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let router = connect(&cluster, 3, 1).await;
        let key = key_of(&router, "b");
        cluster.nodes[1].wipe();
        let is_quarantined = |error: &Error| matches!(causes(error)[..], [Cause::Quarantined { remaining }] if remaining < ms(1_300));
        loop {
            let error = router.try_acquire(&key).await.unwrap_err();
            if is_quarantined(&error) {
                break;
            }
            tokio::time::sleep(ms(5)).await;
        }
        let wiped = Instant::now();
        cluster.nodes[1].wipe();
        drop(router.acquire(&key).wait(RETURN).await.unwrap());
        assert!(wiped.elapsed() >= MAX_TTL, "{arm:?} {:?}", wiped.elapsed());
        assert!(epoch(&router) <= 3);
    }
}

/// All servers lose everything at once: leases are still valid then, whatever
/// the operator set for the first start.
#[tokio::test]
async fn everything_is_lost() {
    let mut cluster = Cluster::start(Arm::Redis, 3);
    let router = connect(&cluster, 3, 1).await;
    let other = connect(&cluster, 3, 1).await;
    let held = router.acquire("k").await.unwrap();
    cluster.nodes.iter_mut().for_each(|node| node.wipe());
    let guard = other.acquire("k").wait(RETURN).await.unwrap();
    assert!(ringlock_test_support::node::now() >= held.valid_until());
    assert!(guard.fence() > held.fence());
}

/// The coordinator meets a node that restarts empty halfway.
async fn restart_during_the_change(arm: Arm, replicas: usize, lost: usize) {
    let seed = seed();
    println!("{arm:?} n={replicas}, node {} restarts", name(lost));
    let mut cluster = Cluster::start(arm, 4);
    let routers = [
        connect(&cluster, 3, replicas).await,
        connect(&cluster, 3, replicas).await,
    ];
    let workload = Crew::start(&routers, 8, MAX_TTL, seed);
    let mut held = Vec::new();
    for key in 0..20 {
        let guard = routers[key % 2].acquire(format!("held-{key}"));
        held.push(guard.keep_alive().await.unwrap());
    }
    let rebalancer = routers[0].rebalancer();
    let change = Change::Replace {
        node: name(0),
        by: newcomer(&cluster, 3),
    };
    let plan = rebalancer.plan([change]).await.unwrap();
    let (reached, mut seen) = tokio::sync::mpsc::channel(1);
    let applied = rebalancer.apply(&plan, |progress| {
        if progress.phase == Phase::Joint && progress.remaining.is_some() {
            let _ = reached.try_send(());
        }
    });
    let restart = async {
        seen.recv().await.unwrap();
        cluster.nodes[lost].wipe();
    };
    let (report, ()) = tokio::join!(applied, restart);
    let report = report.unwrap();
    println!("{report:?}");
    eventually(RETURN, "everybody is a member", || {
        let route = routers[1].route("k").unwrap();
        route.view.epoch >= report.to.epoch
    })
    .await;
    let mut work = workload.stop().await;
    assert_eq!(fault(&mut work.history), None);
    if replicas > 1 {
        work.check(20);
        for guard in &held {
            assert_eq!(guard.loss(), None, "{}", guard.key());
        }
    }
    // With single owners, the keys of the lost one had to wait.
    for key in 0..20 {
        let acquire = routers[1].acquire(format!("after-{key}"));
        let guard = acquire.wait(RETURN).await.unwrap();
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_new_node_restarts_during_the_change() {
    for replicas in [1, 3] {
        restart_during_the_change(Arm::Redis, replicas, 3).await;
        restart_during_the_change(Arm::Memory, replicas, 3).await;
    }
}

#[tokio::test]
async fn an_old_node_restarts_during_the_change() {
    for replicas in [1, 3] {
        restart_during_the_change(Arm::Redis, replicas, 1).await;
        restart_during_the_change(Arm::Memory, replicas, 1).await;
    }
}

/// The node that leaves restarts, halfway.
#[tokio::test]
async fn a_leaver_restarts_during_the_change() {
    for replicas in [1, 3] {
        restart_during_the_change(Arm::Memory, replicas, 0).await;
    }
}

#[tokio::test]
async fn a_dead_node_is_removed() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 4);
        let router = connect(&cluster, 4, 3).await;
        let held = router.acquire("held").keep_alive().await.unwrap();
        cluster.nodes[2].stop();
        let report = apply(&router, [Change::Remove { node: name(2) }]).await;
        assert_eq!(report.retired, [(name(2), false)], "{arm:?}");
        assert_eq!(held.loss(), None);
        let route = router.route("k").unwrap();
        assert_eq!(route.successors.len(), 3);
        held.release().await.unwrap();
        // It comes back with its old view: no router uses that.
        cluster.nodes[2].start();
        let late = builder(&cluster, 4).replicas(3).connect().await.unwrap();
        assert_eq!(late.route("k").unwrap().view, route.view);
        late.acquire("k").await.unwrap().release().await.unwrap();
    }
}

/// How long the removal of a dead node takes, where routers may rely on a view
/// for much longer than on a lease.
async fn removal(fence_off: bool) -> Duration {
    let cluster = Cluster::start(Arm::Memory, 3);
    let connected = builder(&cluster, 3)
        .replicas(1)
        .configure(|config| config.router.view_lease = ms(2_500))
        .connect();
    let router: Router = connected.await.unwrap();
    cluster.nodes[0].stop();
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan([Change::Remove { node: name(0) }]).await;
    let mut plan = plan.unwrap();
    if fence_off {
        plan = plan.fenced([name(0)]);
    }
    let report = rebalancer.apply(&plan, |_| {}).await.unwrap();
    assert_eq!(report.retired, [(name(0), false)]);
    report.elapsed
}

#[tokio::test]
async fn fencing_a_dead_node_off_saves_the_view_lease() {
    let (plain, fenced) = tokio::join!(removal(false), removal(true));
    println!("{plain:?}, fenced off {fenced:?}");
    assert!(plain >= ms(2_500) + MAX_TTL, "{plain:?}");
    assert!((MAX_TTL..ms(2_500)).contains(&fenced), "{fenced:?}");
    assert!(VIEW_LEASE < MAX_TTL);
}
