//! The life of a cluster: its first start, lost nodes, new views.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringlock::proto::membership::view::View;
use ringlock::proto::node::message::{NodeState, NodeStatus, Nonce, Reply, Request};
use ringlock::{
    Cause, Config, Error, Fence, Guard, Init, NodeConfig, OnMismatch, Router, RouterBuilder, ViewId,
};
use ringlock_test_support::{ARMS, Arm, Cluster, KEY, RedisServer, TestNode, ms, name, node};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than anything may take on a busy machine.
const PROMPTLY: Duration = Duration::from_secs(10);

/// A short longest ttl: a first start waits for it.
const MAX_TTL: Duration = Duration::from_millis(300);

/// Sends a request to a node directly, without a router.
async fn ask(node: &TestNode, request: Request) -> Reply {
    let answer = node::ask(&*node::direct(node), request, PROMPTLY).await;
    answer.unwrap()
}

async fn status(node: &TestNode) -> NodeStatus {
    node::status(&*node::direct(node)).await
}

async fn serving(node: &TestNode) -> Option<ViewId> {
    status(node).await.served()
}

async fn document(node: &TestNode) -> Option<Arc<str>> {
    match ask(node, Request::Document).await {
        Reply::Document(document) => document,
        other => panic!("{other:?}"),
    }
}

async fn adopt(node: &TestNode, view: &View, nonce: &Nonce) -> Reply {
    let request = Request::Adopt {
        view: view.id(),
        document: Arc::clone(view.document()),
        nonce: Arc::clone(nonce),
    };
    ask(node, request).await
}

/// Retries an acquire until its outcome is as expected.
async fn acquire_until<T>(
    router: &Router,
    key: &str,
    what: &str,
    mut hoped: impl FnMut(Result<Guard, Error>) -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + PROMPTLY;
    loop {
        let outcome = router.try_acquire(key).await;
        let last = match hoped(outcome) {
            Ok(found) => return found,
            Err(last) => last,
        };
        assert!(Instant::now() < deadline, "not {what}, but {last}");
        tokio::time::sleep(ms(5)).await;
    }
}

async fn granted(router: &Router, key: &str) -> Guard {
    acquire_until(router, key, "granted", |outcome| {
        outcome.map_err(|error| format!("{error:#}"))
    })
    .await
}

/// Waits until an acquire fails because `node` lost its data.
async fn refused_by(router: &Router, key: &str, node: &str) -> Error {
    acquire_until(router, key, "refused", |outcome| match outcome {
        Ok(guard) => Err(format!("{guard:?}")),
        Err(error) => match &error {
            Error::NoQuorum { causes, .. }
                if causes
                    .iter()
                    .any(|cause| &*cause.node == node && cause.cause == Cause::NoView) =>
            {
                Ok(error)
            }
            _ => Err(format!("{error:#}")),
        },
    })
    .await
}

fn short(builder: RouterBuilder) -> RouterBuilder {
    builder.ttl(ms(200)).configure(|config| {
        config.router.max_ttl = MAX_TTL;
    })
}

/// Keys that `node` owns.
fn keys_of(router: &Router, node: usize) -> impl Iterator<Item = String> {
    (0..)
        .map(|number| format!("key-{number}"))
        .filter(move |key| *router.route(key).unwrap().owner == *name(node))
}

#[tokio::test]
async fn a_new_cluster_waits_until_old_locks_have_expired() {
    let cluster = Cluster::start(Arm::Redis, 3);
    // The entry of an unknown client.
    let TestNode::Redis(server) = &cluster.nodes[0] else {
        unreachable!()
    };
    redis::cmd("SET")
        .arg(format!("ringlock:{KEY}"))
        .arg("an earlier holder")
        .arg("PX")
        .arg(MAX_TTL.as_millis() as u64)
        .exec(&mut server.client())
        .unwrap();
    let started = Instant::now();
    // One that waits, and one that would not wait, but was not the first.
    let waiting = short(cluster.builder()).init(Init::Wait).replicas(3);
    let hasty = short(cluster.builder()).init(Init::Now).replicas(3);
    let waiting = tokio::spawn(waiting.connect());
    while status(&cluster.nodes[0]).await.nonce.is_none() {}
    let hasty = tokio::spawn(async move { (hasty.connect().await, started.elapsed()) });
    for node in &cluster.nodes {
        let served = serving(node).await;
        let waited = started.elapsed();
        assert!(served.is_none() || waited >= MAX_TTL, "after {waited:?}");
    }
    let (waiting, hasty) = tokio::join!(waiting, hasty);
    let (hasty, hasty_took) = hasty.unwrap();
    assert!(hasty_took >= MAX_TTL, "it overtook: {hasty_took:?}");
    let (waiting, hasty) = (waiting.unwrap().unwrap(), hasty.unwrap());
    let took = started.elapsed();
    assert!(took >= MAX_TTL && took < MAX_TTL + PROMPTLY / 2, "{took:?}");
    let view = waiting.route(KEY).unwrap().view;
    assert_eq!(view, hasty.route(KEY).unwrap().view);
    let guard = waiting.try_acquire(KEY).await.unwrap();
    assert!(hasty.try_acquire(KEY).await.unwrap_err().is_contention());
    drop(guard);
}

#[tokio::test]
async fn a_new_cluster_starts_at_once_on_the_operators_word() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        // If it waited, it would wait for half a minute.
        let router = timeout(PROMPTLY, cluster.router(3)).await.expect("no wait");
        drop(router.try_acquire(KEY).await.unwrap());
    }
    // In memory there is nothing to wait for.
    let embedded = timeout(PROMPTLY, Router::in_memory(3)).await;
    drop(embedded.expect("no wait").unwrap());
}

#[tokio::test]
async fn a_cluster_that_may_not_be_initialised_is_not() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let error = cluster.builder().init(Init::Never).connect().await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Uninitialised { .. }), "{error}");
        assert!(format!("{error:#}").contains("init = "), "{error}");
        for node in &cluster.nodes {
            assert_eq!(status(node).await.nonce, None, "{arm:?}: it was marked");
        }
        let first = cluster.router(1).await;
        let second = cluster.builder().init(Init::Never).connect().await.unwrap();
        assert_eq!(first.route(KEY).unwrap(), second.route(KEY).unwrap());
    }
}

#[tokio::test]
async fn ten_routers_at_once_agree_on_one_view() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 5);
        if let Arm::Memory = arm {
            delay_answers(&cluster, ms(1));
        }
        let mut starting = JoinSet::new();
        for _ in 0..10 {
            starting.spawn(cluster.builder().replicas(3).connect());
        }
        let routers: Vec<Router> = starting
            .join_all()
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let route = routers[0].route(KEY).unwrap();
        for router in &routers {
            assert_eq!(router.route(KEY).unwrap(), route, "{arm:?}");
        }
        let first = document(&cluster.nodes[0]).await.expect("a document");
        for node in &cluster.nodes {
            // A router returns at a majority; its last adoptions are still in
            // flight.
            while serving(node).await.is_none() {}
            assert_eq!(serving(node).await, Some(route.view), "{arm:?}");
            assert_eq!(document(node).await.as_ref(), Some(&first), "{arm:?}");
        }
        let guard = routers[0].try_acquire(KEY).await.unwrap();
        for router in &routers {
            let error = router.try_acquire(KEY).await.unwrap_err();
            assert!(error.is_contention(), "{arm:?}: {error}");
        }
        drop(guard);
    }
}

fn delay_answers(cluster: &Cluster, delay: Duration) {
    for node in &cluster.nodes {
        if let TestNode::Memory(node) = node {
            node.set_delay(delay);
        }
    }
}

#[tokio::test]
async fn a_router_that_dies_at_a_first_start_is_taken_over_from() {
    tokio::join!(taken_over(Arm::Memory), taken_over(Arm::Redis));
}

async fn taken_over(arm: Arm) {
    let cluster = Cluster::start(arm, 3);
    // So slow that it can be killed halfway: slow answers in memory, the wait
    // on servers.
    delay_answers(&cluster, ms(200));
    let builder = || {
        let builder = short(cluster.builder()).init(Init::Wait);
        builder.configure(|config| config.router.max_ttl = ms(2_000))
    };
    let doomed = tokio::spawn(builder().connect());
    while status(&cluster.nodes[0]).await.nonce.is_none() {}
    doomed.abort();
    assert!(
        doomed.await.unwrap_err().is_cancelled(),
        "{arm:?}: too late"
    );
    let dead = status(&cluster.nodes[0]).await;
    assert_eq!(dead.standing(), NodeState::Quarantined, "{arm:?}");
    delay_answers(&cluster, Duration::ZERO);
    let router = timeout(2 * PROMPTLY, builder().connect());
    let router = router.await.expect("it takes over").unwrap();
    drop(router.try_acquire(KEY).await.unwrap());
    for node in &cluster.nodes {
        let status = status(node).await;
        assert!(
            matches!(status.standing(), NodeState::Serving(_)),
            "{arm:?}"
        );
        assert_ne!(status.nonce, dead.nonce, "{arm:?}: a dead router's mark");
    }
}

#[tokio::test]
async fn one_of_five_that_lost_its_data_grants_nothing() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 5);
        let sharded = cluster.builder().override_replicas("q/", 5);
        let router = sharded.connect().await.unwrap();
        let lost = 2;
        let key = keys_of(&router, lost).next().unwrap();
        let before = router.acquire("q/1").await.unwrap();
        cluster.nodes[lost].wipe();

        let error = refused_by(&router, &key, &name(lost)).await;
        let text = format!("{error:#}");
        assert!(!error.is_contention(), "{arm:?}: {text}");
        assert!(text.contains("lost its data"), "{text}");
        // Waiting does not help, and the error does not become contention.
        let waited = router.acquire(&key).wait(ms(50)).await.unwrap_err();
        assert!(!waited.is_contention(), "{arm:?}: {waited}");

        // Quorums work without it, including the lease from before.
        before.extend().await.unwrap();
        let guard = router.try_acquire("q/2").await.unwrap();
        assert!(router.try_acquire("q/2").await.unwrap_err().is_contention());
        let other = keys_of(&router, 0).next().unwrap();
        drop(router.try_acquire(&other).await.unwrap());
        assert_eq!(serving(&cluster.nodes[lost]).await, None);
        assert_eq!(cluster.nodes[lost].locked(), [""; 0], "{arm:?}: it granted");

        // A new router does not let it in by itself.
        let late = cluster.builder().override_replicas("q/", 5);
        let late = late.connect().await.unwrap();
        refused_by(&late, &key, &name(lost)).await;
        assert!(late.try_acquire("q/2").await.unwrap_err().is_contention());
        drop(guard);
    }
}

#[tokio::test]
async fn a_cluster_that_lost_everything_starts_again_above_its_fences() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let mut cluster = Cluster::start(arm, 3);
            // Each start waits for the longest ttl, whatever the setting for
            // the first start.
            let connect = || short(cluster.builder()).replicas(replicas).connect();
            let routers = [connect().await.unwrap(), connect().await.unwrap()];
            let mut highest = Fence::new(0, 1).unwrap();
            for epoch in [1, 1025] {
                for _ in 0..5 {
                    let guard = granted(&routers[0], KEY).await;
                    assert!(guard.fence() > highest);
                    highest = guard.fence();
                    guard.release().await.unwrap();
                }
                assert_eq!(highest.epoch(), epoch, "{arm:?} n={replicas}");
                cluster.nodes.iter_mut().for_each(TestNode::wipe);
                for router in &routers {
                    let guard = granted(router, KEY).await;
                    assert!(guard.fence() > highest, "{arm:?} n={replicas}");
                    highest = guard.fence();
                    guard.release().await.unwrap();
                }
                let views = routers
                    .each_ref()
                    .map(|router| router.route(KEY).unwrap().view);
                assert_eq!(views[0], views[1], "{arm:?} n={replicas}");
            }
        }
    }
}

/// The topology in force as a view of `epoch`, with the current nonces of its
/// nodes.
async fn next_view(cluster: &Cluster, epoch: u32) -> View {
    let known = serving(&cluster.nodes[0]).await.unwrap();
    let known = View::read(known, &document(&cluster.nodes[0]).await.unwrap()).unwrap();
    let mut nonces = known.nonces();
    for (nonce, node) in nonces.values_mut().zip(&cluster.nodes) {
        *nonce = status(node).await.nonce.unwrap();
    }
    View::stable(epoch, known.topology().clone(), &nonces).unwrap()
}

#[tokio::test]
async fn a_newer_view_is_followed_and_a_lower_never() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = short(cluster.builder()).replicas(replicas);
            let router = router.connect().await.unwrap();
            let first = router.try_acquire(KEY).await.unwrap().fence();
            assert_eq!(first.epoch(), 1);
            let old = next_view(&cluster, 2).await;
            let new = next_view(&cluster, 7).await;
            for node in &cluster.nodes {
                let nonce = status(node).await.nonce.unwrap();
                assert_eq!(adopt(node, &new, &nonce).await, Reply::Done);
                // A late adoption changes nothing.
                assert_eq!(adopt(node, &old, &nonce).await, Reply::Done);
                assert_eq!(serving(node).await, Some(new.id()), "{arm:?}");
            }
            let guard = router.acquire(KEY).await.unwrap();
            assert_eq!(guard.fence().epoch(), 7, "{arm:?} n={replicas}");
            assert_eq!(router.route(KEY).unwrap().view, new.id());
            let highest = guard.fence();
            guard.release().await.unwrap();

            // As if an old backup had been restored on every node.
            for node in &cluster.nodes {
                node::quarantine_as(&*node::direct(node), "from a backup").await;
            }
            let lower = next_view_of(&old, 3);
            for node in &cluster.nodes {
                let adopted = adopt(node, &lower, &"from a backup".into()).await;
                assert_eq!(adopted, Reply::Done);
            }
            let guard = granted(&router, KEY).await;
            assert!(guard.fence() > highest, "{arm:?}: {:?}", guard.fence());
            assert!(guard.fence().epoch() > 7, "{arm:?}");
        }
    }
}

/// The view in a backup, with the same nonce for each node.
fn next_view_of(view: &View, epoch: u32) -> View {
    let mut nonces = view.nonces();
    nonces
        .values_mut()
        .for_each(|nonce| *nonce = "from a backup".into());
    View::stable(epoch, view.topology().clone(), &nonces).unwrap()
}

#[tokio::test]
async fn a_router_that_comes_later_takes_the_view_as_it_is() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let first = cluster.router(3).await;
        let guard = first.acquire(KEY).await.unwrap();
        // Init applies to a new cluster only; this one is not new.
        for init in [Init::Wait, Init::Now, Init::Never] {
            let later = cluster.builder().replicas(3).init(init);
            let later = timeout(PROMPTLY, later.connect()).await.expect("no wait");
            let later = later.unwrap();
            assert_eq!(later.route(KEY).unwrap(), first.route(KEY).unwrap());
            assert!(later.try_acquire(KEY).await.unwrap_err().is_contention());
        }
        let later = cluster.router(3).await;
        let fence = guard.fence();
        guard.release().await.unwrap();
        assert!(later.acquire(KEY).await.unwrap().fence() > fence);
    }
}

#[tokio::test]
async fn a_router_comes_while_a_minority_is_down() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let first = cluster.router(3).await;
        cluster.nodes[1].stop();
        let later = timeout(PROMPTLY, cluster.router(3))
            .await
            .expect("a router");
        drop(later.acquire(KEY).await.unwrap());
        assert_eq!(later.route(KEY).unwrap(), first.route(KEY).unwrap());
        cluster.nodes[1].start();
    }
}

fn refusing(cluster: &Cluster) -> RouterBuilder {
    let refuse = |config: &mut Config| config.router.on_mismatch = OnMismatch::Refuse;
    cluster.builder().replicas(3).configure(refuse)
}

#[tokio::test]
async fn a_router_configured_differently_refuses_where_configured_to() {
    type Change = fn(RouterBuilder) -> RouterBuilder;
    let changes: [(&str, Change); 6] = [
        ("router.replicas is 3 as served and 1 as configured", |b| {
            b.replicas(1)
        }),
        ("router.max_ttl", |b| {
            b.configure(|config| config.router.max_ttl *= 2)
        }),
        ("router.view_lease", |b| {
            b.configure(|config| config.router.view_lease /= 2)
        }),
        ("ring.vnodes is 160 as served and 40 as configured", |b| {
            b.configure(|config| config.ring.vnodes = 40)
        }),
        ("the weight of node a", |b| {
            b.configure(|config| config.nodes[0].weight = 3)
        }),
        ("the override of prefix", |b| {
            b.override_replicas("billing/", 5)
        }),
    ];
    for arm in ARMS {
        let cluster = Cluster::start(arm, 5);
        let first = cluster.router(3).await;
        for (difference, change) in changes {
            let builder = change(refusing(&cluster));
            let error = builder.connect().await.unwrap_err();
            let Error::TopologyMismatch { serving, .. } = &error else {
                panic!("{arm:?} {difference}: {error}");
            };
            assert_eq!(*serving, first.route(KEY).unwrap().view);
            let text = format!("{error:#}");
            assert!(text.contains(difference), "{text}");
            assert!(text.contains("configure all routers alike"), "{text}");
        }
        // One node fewer.
        let mut fewer = refusing(&cluster);
        fewer = fewer.configure(|config| {
            config.nodes.pop();
        });
        let error = fewer.connect().await.unwrap_err().to_string();
        let difference = "node e is served and not configured";
        assert!(error.contains(difference), "{error}");
        drop(first.try_acquire(KEY).await.unwrap());
    }
}

/// A server that restarted from its disk may have restarted from an old state.
#[tokio::test]
async fn a_node_that_restarted_with_its_data_counts_as_lost() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let router = cluster.builder().override_replicas("q/", 3);
    let router = router.connect().await.unwrap();
    let mut keys = keys_of(&router, 1);
    let held = router.acquire(keys.next().unwrap()).await.unwrap();
    let quorum = router.acquire("q/1").await.unwrap();
    let TestNode::Memory(node) = &cluster.nodes[1] else {
        unreachable!()
    };
    node.restart();
    assert!(!node.locked().is_empty(), "it has its data");
    assert_eq!(
        status(&cluster.nodes[1]).await.standing(),
        NodeState::Absent
    );
    refused_by(&router, &keys.next().unwrap(), "b").await;
    let error = held.extend().await.unwrap_err();
    assert!(matches!(error, Error::NoQuorum { .. }), "{error}");
    assert_eq!(held.loss(), None, "it is valid until its time is over");
    quorum.extend().await.unwrap();
    drop(router.try_acquire("q/2").await.unwrap());
}

#[tokio::test]
async fn a_server_that_restarted_with_its_data_is_believed_on_the_operators_word() {
    for is_durable in [false, true] {
        let mut server =
            RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        let router = connect_to(&server, is_durable).await;
        let guard = router.acquire(KEY).await.unwrap();
        server.restart();
        if is_durable {
            // The lease still exists and still has its holder.
            drop(granted(&router, "other").await);
            guard.extend().await.unwrap();
            let other = connect_to(&server, true).await;
            assert!(other.try_acquire(KEY).await.unwrap_err().is_contention());
        } else {
            refused_by(&router, "other", "a").await;
        }
    }
}

async fn connect_to(server: &RedisServer, is_durable: bool) -> Router {
    let mut node = NodeConfig::new("a", server.url());
    node.durable = is_durable;
    let builder = Router::builder().init(Init::Now).node_config(node);
    builder.connect().await.unwrap()
}

/// If all servers of a cluster restarted with their data and its routers were
/// gone, the data determine where fences continue.
#[tokio::test]
async fn fences_grow_over_a_restart_of_everything() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let router = || short(Router::builder().node("a", server.url())).init(Init::Wait);
    let router = [router(), router()];
    let mut last = None;
    for router in router {
        let router = router.connect().await.unwrap();
        for _ in 0..5 {
            let guard = router.acquire(KEY).await.unwrap();
            let fence = Some(guard.fence());
            assert!(fence > last, "{fence:?} after {last:?}");
            last = fence;
            guard.release().await.unwrap();
        }
        router.shutdown().await;
        server.restart();
    }
}

/// The epoch of the new cluster is not above the one that a running router
/// knows. That router cannot follow, because its fences would start over. It
/// reports this.
#[tokio::test]
async fn a_router_refuses_a_cluster_that_was_initialised_again() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let running = cluster.router(3).await;
        drop(running.acquire(KEY).await.unwrap());
        cluster.nodes.iter_mut().for_each(TestNode::wipe);
        let fresh = cluster.router(3).await;
        let served = fresh.route(KEY).unwrap().view;
        assert_ne!(served, running.route(KEY).unwrap().view);
        let error = acquire_until(&running, KEY, "refused by all", |outcome| {
            let error = outcome.map(|guard| format!("{guard:?}")).unwrap_err();
            match &error {
                Error::StaleView { .. } => Ok(error),
                _ => Err(format!("{error:#}")),
            }
        });
        let error = error.await;
        assert!(!error.is_transient(), "{arm:?}: {error}");
        assert!(format!("{error:#}").contains("restart it"), "{error}");
        drop(fresh.acquire(KEY).await.unwrap());
    }
}

/// A server of the cluster is added to another cluster, by mistake or without
/// its knowledge. The other cluster's view is no successor of this one's,
/// whatever its epoch.
#[tokio::test]
async fn a_view_of_another_cluster_is_not_followed() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let router = cluster.router(1).await;
        let view = router.route(KEY).unwrap().view;
        cluster.nodes[1].wipe();
        let stranger = match &cluster.nodes[1] {
            TestNode::Memory(node) => Router::builder().memory_node(node.clone()),
            TestNode::Redis(server) => Router::builder().node("b", server.url()),
        };
        let stranger = stranger.init(Init::Now).connect().await.unwrap();
        let first = stranger.route(KEY).unwrap().view;
        let status = status(&cluster.nodes[1]).await;
        let far = View::read(first, &document(&cluster.nodes[1]).await.unwrap()).unwrap();
        let far = View::stable(99, far.topology().clone(), &far.nonces()).unwrap();
        let adopted = adopt(&cluster.nodes[1], &far, &status.nonce.unwrap()).await;
        assert_eq!(adopted, Reply::Done);

        let key = keys_of(&router, 1).next().unwrap();
        assert!(!router.try_acquire(&key).await.unwrap_err().is_contention());
        drop(
            router
                .try_acquire(keys_of(&router, 0).next().unwrap())
                .await
                .unwrap(),
        );
        assert_eq!(router.route(KEY).unwrap().view, view, "{arm:?}");
        // A new router cannot determine which of the two is meant either.
        let error = cluster.builder().connect().await.unwrap_err();
        assert!(matches!(error, Error::TwoClusters { .. }), "{error}");
    }
}

/// Whatever was lost: once all nodes answer, all of them serve one view, above
/// the earlier fences, and every router uses it.
#[tokio::test]
async fn a_majority_that_lost_its_data_starts_again_above_its_fences() {
    for arm in ARMS {
        for replicas in [1, 3] {
            // All at once, and one after the other, faster than they are let
            // in.
            for lost in [&[0, 1, 2][..], &[4, 3, 2, 1, 0]] {
                let mut cluster = Cluster::start(arm, 5);
                let connect = || short(cluster.builder()).replicas(replicas).connect();
                let routers = [connect().await.unwrap(), connect().await.unwrap()];
                let guard = granted(&routers[0], KEY).await;
                let mut highest = guard.fence();
                guard.release().await.unwrap();
                for &node in lost {
                    cluster.nodes[node].wipe();
                }
                let what = format!("{arm:?} n={replicas} {lost:?}");
                for router in &routers {
                    // A router that saw most nodes a moment ago may still use
                    // one that kept its data, until that node is stopped.
                    loop {
                        let guard = granted(router, KEY).await;
                        assert!(guard.fence() > highest, "{what}");
                        highest = guard.fence();
                        drop(guard);
                        if highest.epoch() > 1000 {
                            break;
                        }
                        tokio::time::sleep(ms(5)).await;
                    }
                }
                let view = routers[0].route(KEY).unwrap().view;
                assert_eq!(routers[1].route(KEY).unwrap().view, view, "{what}");
                for node in &cluster.nodes {
                    while serving(node).await != Some(view) {
                        tokio::time::sleep(ms(5)).await;
                    }
                }
            }
        }
    }
}

/// If no other router is left, a new one does it before its connect returns.
#[tokio::test]
async fn a_router_that_comes_starts_a_lost_cluster_again() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 5);
        let first = short(cluster.builder()).connect().await.unwrap();
        let guard = granted(&first, KEY).await;
        let last = guard.fence();
        guard.release().await.unwrap();
        drop(first);
        (0..3).for_each(|node| cluster.nodes[node].wipe());
        // Without permission it reads, and changes nothing.
        let never = short(cluster.builder()).init(Init::Never);
        let never = never.connect().await.unwrap();
        let error = never.try_acquire(KEY).await.unwrap_err();
        assert!(!error.is_contention(), "{error}");
        assert!(serving(&cluster.nodes[4]).await.is_some(), "{arm:?}");
        drop(never);
        let mut starting = JoinSet::new();
        for _ in 0..3 {
            starting.spawn(short(cluster.builder()).init(Init::Wait).connect());
        }
        let routers = timeout(2 * PROMPTLY, starting.join_all()).await;
        let routers = routers
            .expect("they connect")
            .into_iter()
            .map(Result::unwrap);
        for router in routers {
            let guard = granted(&router, KEY).await;
            assert!(guard.fence() > last, "{arm:?}: {:?}", guard.fence());
            guard.release().await.unwrap();
        }
    }
}

/// Waits until an acquire fails for this reason.
async fn fails_with(router: &Router, key: &str, parts: &[&str]) {
    let has_all = |text: &str| parts.iter().all(|part| text.contains(part));
    acquire_until(
        router,
        key,
        &format!("{parts:?}"),
        |outcome| match outcome {
            Err(error) if has_all(&error.to_string()) => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(guard) => Err(format!("{guard:?}")),
        },
    )
    .await;
}

#[tokio::test]
async fn a_lost_cluster_reports_the_nodes_it_waits_for() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 5);
        let router = short(cluster.builder()).connect().await.unwrap();
        let key = keys_of(&router, 0).next().unwrap();
        // The others could vote if they answered.
        cluster.nodes[0].wipe();
        (1..4).for_each(|node| cluster.nodes[node].stop());
        fails_with(&router, &key, &["when most nodes of the cluster answer"]).await;
        (1..3).for_each(|node| cluster.nodes[node].wipe());
        fails_with(
            &router,
            &key,
            &["started again when d can be reached", "ringlock force"],
        )
        .await;
        // The cluster is not started without that node.
        tokio::time::sleep(3 * MAX_TTL).await;
        assert!(serving(&cluster.nodes[4]).await.is_some(), "{arm:?}");
        cluster.nodes[3].start();
        granted(&router, &key).await.release().await.unwrap();
    }
}

/// The nodes that a change of membership adds may already have taken over.
#[tokio::test]
async fn a_cluster_lost_during_a_change_is_left_to_the_operator() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let router = short(cluster.builder()).connect().await.unwrap();
        let stable = next_view(&cluster, 2).await;
        let mut to = stable.topology().clone();
        to.vnodes = 40;
        let from = stable.topology().clone();
        let joint = View::joint(2, from, to, 2, &stable.nonces()).unwrap();
        for node in &cluster.nodes {
            let nonce = status(node).await.nonce.unwrap();
            assert_eq!(adopt(node, &joint, &nonce).await, Reply::Done);
        }
        granted(&router, KEY).await.release().await.unwrap();
        (0..2).for_each(|node| cluster.nodes[node].wipe());
        fails_with(
            &router,
            &keys_of(&router, 0).next().unwrap(),
            &["a change of membership is under way", "ringlock force"],
        )
        .await;
        tokio::time::sleep(3 * MAX_TTL).await;
        assert_eq!(
            serving(&cluster.nodes[2]).await,
            Some(joint.id()),
            "{arm:?}"
        );
    }
}

/// A service restarts repeatedly before its wait is over: each new wait is
/// shortened by the earlier ones.
#[tokio::test]
async fn a_first_start_continues_when_its_starter_restarts() {
    const WAIT: Duration = Duration::from_millis(2_000);
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let started = Instant::now();
        let reported: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let attempt = || {
            let reported = Arc::clone(&reported);
            // In-memory nodes do not require a wait.
            let (builder, least) = match arm {
                Arm::Redis => (cluster.builder(), WAIT),
                Arm::Memory => (cluster.builder(), Duration::ZERO),
            };
            let builder = short(builder)
                .init(Init::Wait)
                .configure(|config| config.router.max_ttl = WAIT)
                .on_progress(move |progress| {
                    if let ringlock::ConnectProgress::Waiting { remaining } = progress {
                        reported.lock().push(*remaining);
                    }
                });
            (timeout(ms(900), builder.connect()), least)
        };
        let mut attempts = 0;
        let router = loop {
            attempts += 1;
            assert!(attempts < 40, "{arm:?}: it never starts");
            let (connect, least) = attempt();
            if let Ok(router) = connect.await {
                assert!(started.elapsed() >= least, "{arm:?}");
                break router.unwrap();
            }
        };
        drop(router.try_acquire(KEY).await.unwrap());
        if let Arm::Redis = arm {
            assert!(attempts > 1);
            let reported = reported.lock();
            let (first, last) = (reported[0], reported[reported.len() - 1]);
            assert!(first <= 2 * WAIT && last < first, "{reported:?}");
        }
    }
}

#[tokio::test]
async fn a_total_outage_is_not_a_new_cluster() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        drop(cluster.router(3).await);
        cluster.nodes.iter().for_each(TestNode::stop);
        let reported: Arc<Mutex<String>> = Arc::default();
        let hear = Arc::clone(&reported);
        let connect = cluster.builder().on_progress(move |progress| {
            *hear.lock() = progress.to_string();
        });
        let connect = connect.configure(|config| config.router.connect_timeout = ms(400));
        let error = connect.connect().await.unwrap_err();
        let Error::Unreachable {
            answered: 0,
            causes,
        } = &error
        else {
            panic!("{arm:?}: {error:?}");
        };
        assert_eq!(causes.len(), 3);
        assert!(error.is_transient());
        let text = error.to_string();
        assert!(!text.contains("initialised"), "{text}");
        for part in ["a: ", "b: ", "c: "] {
            assert!(text.contains(part), "{text}");
            assert!(reported.lock().contains(part), "{}", reported.lock());
        }
        cluster.nodes.iter().for_each(TestNode::start);
        drop(cluster.router(3).await.acquire(KEY).await.unwrap());
    }
}

/// The error of a node that cannot be initialised contains the server's reason.
#[tokio::test]
async fn a_node_that_refuses_its_first_view_is_reported_with_its_reason() {
    for edition in ringlock_test_support::edition::Edition::ALL {
        let lonely = ["--min-replicas-to-write", "1"];
        let fine = RedisServer::start_edition(edition, &[]);
        let refusing = RedisServer::start_edition(edition, &lonely);
        let no_writes = RedisServer::start_edition(edition, &[]);
        // For whichever user the run logs in as.
        for user in ["default", "ringlock"] {
            no_writes.set_user(user, &["-set"]);
        }
        let nodes = [
            (&refusing, &["NOREPLICAS"][..]),
            (&no_writes, &["permission", "can't run"]),
        ];
        for (server, reasons) in nodes {
            let builder = Router::builder().init(Init::Now).node("a", fine.url());
            let builder = builder.node("b", server.url());
            let builder = builder.configure(|config| config.router.connect_timeout = ms(400));
            let error = builder.connect().await.unwrap_err();
            let text = format!("{error:#}");
            assert!(
                matches!(error, Error::InitRefused(_)),
                "{edition:?}: {error:?}"
            );
            assert!(text.contains("node b"), "{edition:?}: {text}");
            let is_reported = reasons.iter().any(|reason| text.contains(reason));
            assert!(is_reported, "{edition:?}: {text}");
        }
    }
}
