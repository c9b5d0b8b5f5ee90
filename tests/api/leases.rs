//! The life of a lease: kept alive, extended, lost, released.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringlock::node::{Node, ReplyTo};
use ringlock::proto::node::message::Request;
use ringlock::{Error, Guard, Init, Instant, Key, Loss, MemoryNode, Released, Router, WithError};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::{
    ARMS, Arm, Cluster, KEY, MARGIN, PROMPTLY, RedisServer, TestNode, eventually, ms, name,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::timeout;

/// A third of it is longer than a busy machine stalls.
const SHORT_TTL: Duration = Duration::from_millis(1_500);

/// The clock that measures leases.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

async fn sleep_until(instant: Instant) {
    tokio::time::sleep(instant.saturating_since(now())).await;
}

fn locked(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().flat_map(TestNode::locked).collect()
}

/// Waits until every node has answered all earlier requests: a shutdown waits
/// for all answers to a release, and each node answers in order.
async fn all_have_answered(router: &Router) {
    drop(router.acquire("barrier").await.unwrap());
    assert!(router.drained().await);
}

/// Deletes the entry of [`KEY`] on a node, which no client may do.
fn delete(node: &TestNode) {
    match node {
        TestNode::Memory(node) => node.delete(&Key::new(KEY).unwrap()),
        TestNode::Redis(server) => redis::cmd("DEL")
            .arg(format!("ringlock:{KEY}"))
            .exec(&mut server.client())
            .unwrap(),
    }
}

#[tokio::test]
async fn a_lease_that_is_kept_alive_outlives_its_ttl() {
    let mut cases = tokio::task::JoinSet::new();
    for arm in ARMS {
        for replicas in [1, 3] {
            cases.spawn(async move {
                let cluster = Cluster::start(arm, 3);
                let router = cluster.router(replicas).await;
                let other = cluster.router(replicas).await;
                let acquire = router.acquire(KEY).ttl(SHORT_TTL).keep_alive();
                let guard = acquire.await.unwrap();
                sleep_until(guard.valid_until() + 2 * SHORT_TTL).await;
                assert_eq!(guard.loss(), None, "{arm:?} n={replicas}");
                let rival = other.try_acquire(KEY).await.unwrap_err();
                assert!(rival.is_contention(), "{arm:?} n={replicas}: {rival}");
                // Each extend is a third of the ttl after the previous one, up
                // to a tenth earlier.
                let extended = router.stats().extended;
                assert!((3..=10).contains(&extended), "{extended} extends");
                assert_eq!(guard.release().await.unwrap(), Released::InTime);
                assert_eq!(locked(&cluster), [""; 0]);
            });
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test]
async fn the_interval_of_extends_can_be_chosen() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
        let _guard = acquire.keep_alive_every(ms(20)).await.unwrap();
        let many = || router.stats().extended >= 20;
        // An extend per node timeout, which is a second, would be four times
        // too slow.
        eventually(PROMPTLY, "it is extended every 20 ms", many).await;
    }
}

/// An interval that is too long, and one of zero.
#[tokio::test]
async fn an_interval_that_makes_no_sense_does_no_harm() {
    let mut cases = tokio::task::JoinSet::new();
    for arm in ARMS {
        for interval in [Duration::from_secs(60), Duration::ZERO] {
            cases.spawn(async move {
                let cluster = Cluster::start(arm, 1);
                let router = cluster.router(1).await;
                let acquire = router.acquire(KEY).ttl(SHORT_TTL);
                let guard = acquire.keep_alive_every(interval).await.unwrap();
                sleep_until(guard.valid_until() + SHORT_TTL / 3).await;
                assert_eq!(guard.loss(), None, "{arm:?} every {interval:?}");
                let extended = router.stats().extended;
                assert!(extended < 3_000, "{arm:?}: {extended} extends");
            });
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test]
async fn a_lease_is_kept_alive_up_to_max_hold() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
            let acquire = acquire.keep_alive_every(ms(20)).max_hold(ms(150));
            let started = now();
            let guard = acquire.await.unwrap();
            // Not the ttl: nothing extends the lease past this.
            assert!(guard.remaining() <= ms(150), "{:?}", guard.remaining());
            assert!(guard.valid_until() <= now() + ms(150));
            let loss = timeout(PROMPTLY, guard.lost()).await.expect("the end");
            let took = now().saturating_since(started);
            assert_eq!(loss, Loss::MaxHold, "{arm:?}");
            assert!(took >= ms(150) && took < ms(150) + MARGIN, "{took:?}");
            assert_eq!(guard.remaining(), Duration::ZERO);
            assert!(matches!(
                guard.extend().await,
                Err(Error::Lost {
                    reason: Loss::MaxHold,
                    ..
                })
            ));
            // Its entries are released, though the guard lives and its ttl is
            // long.
            let next = other.acquire(KEY).wait(PROMPTLY).await;
            let next = next.unwrap_or_else(|error| panic!("{arm:?}: {error}"));
            assert!(next.fence() > guard.fence());
            assert_eq!(guard.release().await.unwrap(), Released::TooLate);
            assert_eq!(next.release().await.unwrap(), Released::InTime);
        }
    }
}

/// Compared with bare timers of the same runtime: their lateness is that of the
/// machine.
#[tokio::test]
async fn the_loss_is_signalled_in_time_with_all_nodes_down() {
    let (mut latest, mut timers_latest) = (Duration::ZERO, Duration::ZERO);
    for arm in ARMS {
        for (replicas, is_kept) in [(1, false), (1, true), (3, false), (3, true)] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let mut watched = Vec::new();
            for key in 0..20 {
                let acquire = router.acquire(format!("{KEY}/{key}")).ttl(ms(250));
                let guard = match is_kept {
                    true => acquire.keep_alive().await.unwrap(),
                    false => acquire.await.unwrap(),
                };
                watched.push((tokio::spawn(timed(guard.lost())), guard));
            }
            cluster.nodes.iter().for_each(TestNode::stop);
            // No extend succeeds from now on.
            let _ = watched[0].1.extend().await;
            let timers: Vec<_> = watched
                .iter()
                .map(|(_, guard)| tokio::spawn(timed(sleep_until(guard.valid_until()))))
                .collect();
            for ((signal, guard), timer) in watched.into_iter().zip(timers) {
                let due = guard.valid_until();
                let ((), timer) = timer.await.unwrap();
                let (loss, at) = timeout(PROMPTLY, signal).await.unwrap().unwrap();
                assert_eq!(loss, Loss::Expired, "{arm:?}");
                assert!(at >= due, "{arm:?}: lost before its time");
                latest = latest.max(at.saturating_since(due));
                timers_latest = timers_latest.max(timer.saturating_since(due));
                // The loss is permanent, and later calls report it too.
                assert_eq!(guard.loss(), Some(Loss::Expired));
                assert_eq!(guard.lost().await, Loss::Expired);
                assert_eq!(guard.remaining(), Duration::ZERO);
                let again = guard.extend().await;
                assert!(matches!(again, Err(Error::Lost { .. })), "{again:?}");
            }
            cluster.nodes.iter().for_each(TestNode::start);
        }
    }
    println!("lost() was at most {latest:?} late, bare timers {timers_latest:?}");
    assert!(latest < timers_latest + ms(250), "{latest:?} late");
}

async fn timed<T>(future: impl Future<Output = T>) -> (T, Instant) {
    (future.await, now())
}

#[tokio::test]
async fn a_lease_that_another_took_over_is_lost_at_the_next_extend() {
    for arm in ARMS {
        for replicas in [1, 3] {
            for is_kept in [false, true] {
                let cluster = Cluster::start(arm, replicas);
                let router = cluster.router(replicas).await;
                let other = cluster.router(replicas).await;
                let acquire = router.acquire(KEY);
                let guard = match is_kept {
                    true => acquire.keep_alive_every(ms(20)).await.unwrap(),
                    false => acquire.await.unwrap(),
                };
                let watching = tokio::spawn(guard.lost());
                // An operator deletes the entry, and another router takes the
                // key before the next extend.
                let taken = loop {
                    cluster.nodes.iter().for_each(delete);
                    match other.try_acquire(KEY).await {
                        Ok(taken) => break taken,
                        // With three replicas, an extend in between may heal
                        // the quorum.
                        Err(error) => assert!(error.is_contention(), "{error}"),
                    }
                };
                if !is_kept {
                    let error = guard.extend().await.unwrap_err();
                    let is_taken = matches!(
                        error,
                        Error::Lost {
                            reason: Loss::TakenOver,
                            ..
                        }
                    );
                    assert!(is_taken, "{arm:?} n={replicas}: {error}");
                }
                let loss = timeout(PROMPTLY, watching).await.unwrap().unwrap();
                // An extend of the keeper may find the key free in between.
                let is_reported = loss == Loss::TakenOver || is_kept && loss == Loss::Gone;
                assert!(is_reported, "{arm:?} n={replicas}: {loss:?}");
                assert_eq!(guard.remaining(), Duration::ZERO);
                assert!(taken.fence() > guard.fence());
                assert_eq!(guard.release().await.unwrap(), Released::TooLate);
                taken.extend().await.unwrap();
                assert_eq!(taken.release().await.unwrap(), Released::InTime);
            }
        }
    }
}

#[tokio::test]
async fn an_extend_after_the_lapse_is_refused_for_good() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let guard = router.acquire(KEY).ttl(ms(60)).await.unwrap();
            sleep_until(guard.valid_until() + ms(1)).await;
            // The first time, the call itself finds the lapse: nothing has
            // inspected the lease before.
            for _ in 0..2 {
                let error = guard.extend().await.unwrap_err();
                let is_expired = matches!(
                    error,
                    Error::Lost {
                        reason: Loss::Expired,
                        ..
                    }
                );
                assert!(is_expired, "{arm:?}: {error}");
            }
            assert_eq!(router.stats().lost, 1, "a loss is counted once");
            drop(guard);
            router.acquire(KEY).await.unwrap().release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_extend_lengthens_and_never_shortens() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let guard = router.acquire(KEY).ttl(ms(2_000)).await.unwrap();
            let granted = guard.valid_until();
            guard.extend().await.unwrap();
            let extended = guard.valid_until();
            assert!(extended > granted);
            guard.extend_to(ms(100)).await.unwrap();
            assert_eq!(guard.valid_until(), extended, "{arm:?}: shortened");
            // Nor on the nodes: another caller gets the longer remaining life.
            let error = other.try_acquire(KEY).await.unwrap_err();
            let Error::Contended { remaining, .. } = error else {
                panic!("{error}");
            };
            let left = guard.valid_until().saturating_since(now());
            assert!(remaining.unwrap() >= left, "{arm:?}: {remaining:?}");
            guard.extend_to(ms(20_000)).await.unwrap();
            assert!(guard.valid_until() > extended + ms(15_000));
            let too_long = guard.extend_to(Duration::from_secs(31)).await;
            assert!(matches!(too_long, Err(Error::Ttl(_))), "{too_long:?}");
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_lease_is_extended_without_a_minority() {
    for arm in ARMS {
        for down in 0..3 {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(3).await;
            let guard = router.acquire(KEY).await.unwrap();
            let granted = guard.valid_until();
            all_have_answered(&router).await;
            cluster.nodes[down].stop();
            let extended = guard.extend().await;
            cluster.nodes[down].start();
            assert!(extended.is_ok(), "{arm:?} without {down}: {extended:?}");
            assert!(guard.valid_until() > granted);
            assert_eq!(guard.release().await.unwrap(), Released::InTime);
        }
    }
}

#[tokio::test]
async fn an_extend_during_an_outage_changes_nothing() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let guard = router.acquire(KEY).await.unwrap();
            let granted = guard.valid_until();
            cluster.nodes.iter().for_each(TestNode::stop);
            let error = guard.extend().await.unwrap_err();
            assert!(matches!(error, Error::NoQuorum { .. }), "{arm:?}: {error}");
            assert_eq!((guard.valid_until(), guard.loss()), (granted, None));
            cluster.nodes.iter().for_each(TestNode::start);
            guard.extend().await.unwrap();
            assert!(guard.valid_until() > granted);
            assert_eq!(guard.release().await.unwrap(), Released::InTime);
        }
    }
}

#[tokio::test]
async fn a_release_reports_whether_it_came_in_time() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, replicas);
            let router = cluster.router(replicas).await;
            let guard = router.acquire(KEY).await.unwrap();
            assert_eq!(guard.release().await.unwrap(), Released::InTime);

            // Lapsed, and not taken by another holder.
            let guard = router.acquire(KEY).ttl(ms(50)).await.unwrap();
            sleep_until(guard.valid_until() + ms(1)).await;
            assert_eq!(guard.release().await.unwrap(), Released::TooLate);

            // Valid by the local clock, but gone from the nodes.
            let guard = router.acquire(KEY).await.unwrap();
            cluster.nodes.iter().for_each(delete);
            assert_eq!(guard.release().await.unwrap(), Released::TooLate);

            // Gone, and taken by another holder: that entry is left alone.
            let guard = router.acquire(KEY).await.unwrap();
            cluster.nodes.iter().for_each(delete);
            let other = cluster.router(replicas).await;
            let theirs = other.acquire(KEY).await.unwrap();
            assert_eq!(guard.release().await.unwrap(), Released::TooLate);
            assert_eq!(theirs.release().await.unwrap(), Released::InTime);

            // The result is unknown; the release is repeated until it succeeds.
            let guard = router.acquire(KEY).await.unwrap();
            cluster.nodes.iter().for_each(TestNode::stop);
            assert_eq!(guard.release().await.unwrap(), Released::Unknown);
            cluster.nodes.iter().for_each(TestNode::start);
            let freed = || locked(&cluster).is_empty();
            eventually(PROMPTLY, "the release gets through", freed).await;
        }
    }
}

#[tokio::test]
async fn the_last_handle_ends_the_tasks_and_still_releases() {
    for arm in ARMS {
        for is_router_first in [true, false] {
            let cluster = Cluster::start(arm, 3);
            let before = tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks();
            let router = cluster.router(3).await;
            let guard = router.acquire(KEY).keep_alive().await.unwrap();
            let clone = router.clone();
            let (last, first): (Box<dyn Send>, Box<dyn Send>) = match is_router_first {
                true => (Box::new(guard), Box::new(router)),
                false => (Box::new(router), Box::new(guard)),
            };
            drop(first);
            drop(clone);
            drop(last);
            let freed = || locked(&cluster).is_empty();
            eventually(PROMPTLY, "the key is released", freed).await;
            let ended = || {
                let alive = tokio::runtime::Handle::current()
                    .metrics()
                    .num_alive_tasks();
                alive == before
            };
            eventually(PROMPTLY, "the router's tasks end", ended).await;
        }
    }
}

#[tokio::test]
async fn scoped_work_learns_when_its_lease_was_lost() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let acquire = router.acquire(KEY).ttl(ms(150)).max_hold(ms(100));
        let outcome = acquire.with(async |lease| lease.lost().await).await;
        let is_lost = matches!(
            outcome,
            Err(WithError::Lost {
                output: Loss::MaxHold,
                reason: Loss::MaxHold,
                ..
            })
        );
        assert!(is_lost, "{arm:?}: {outcome:?}");
        let outcome = router.acquire(KEY).ttl(SHORT_TTL).with(async |lease| {
            sleep_until(lease.valid_until() + SHORT_TTL / 3).await;
            lease.remaining() > Duration::ZERO
        });
        assert!(outcome.await.unwrap(), "{arm:?}: it was not kept alive");
        assert!(router.drained().await);
        assert_eq!(locked(&cluster), [""; 0]);
    }
}

#[tokio::test]
async fn scoped_work_that_panics_or_is_dropped_releases() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let panicking = tokio::spawn({
            let router = router.clone();
            async move { router.with(KEY, async |_| panic!("on purpose")).await }
        });
        let ended: Result<Result<(), WithError<()>>, _> = panicking.await;
        assert!(ended.unwrap_err().is_panic());
        assert!(router.drained().await);
        assert_eq!(locked(&cluster), [""; 0], "{arm:?} after a panic");

        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let endless = tokio::spawn({
            let router = router.clone();
            async move {
                let work = async |_: &Guard| {
                    begun.send(()).unwrap();
                    std::future::pending::<()>().await;
                };
                router.with(KEY, work).await
            }
        });
        has_begun.await.unwrap();
        assert!(!locked(&cluster).is_empty());
        endless.abort();
        assert!(endless.await.unwrap_err().is_cancelled());
        assert!(router.drained().await);
        assert_eq!(locked(&cluster), [""; 0], "{arm:?} after a drop");
        drop(router.try_acquire(KEY).await.unwrap());
    }
}

/// An in-memory node at which something happens just before it gets an extend,
/// as another thread might do at that moment.
#[derive(Debug)]
struct Ambush {
    node: MemoryNode,
    victim: Arc<Mutex<Option<Guard>>>,
}

impl Node for Ambush {
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo) {
        if matches!(request, Request::Extend { .. }) {
            drop(self.victim.lock().take());
        }
        self.node.submit(request, deadline, reply);
    }

    fn address(&self) -> String {
        self.node.address()
    }

    fn is_embedded(&self) -> bool {
        true
    }

    fn close(&self) {}
}

/// An in-memory node that gets an ACQUIRE late.
#[derive(Debug)]
struct Late {
    node: MemoryNode,
    withheld: Mutex<Option<(Request, Instant, ReplyTo)>>,
}

impl Late {
    fn let_go(&self) {
        let (request, deadline, reply) = self.withheld.lock().take().unwrap();
        self.node.submit(request, deadline, reply);
    }
}

impl Node for Late {
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo) {
        if matches!(request, Request::Acquire { .. }) {
            let before = self.withheld.lock().replace((request, deadline, reply));
            assert!(before.is_none(), "one at a time");
        } else {
            self.node.submit(request, deadline, reply);
        }
    }

    fn address(&self) -> String {
        self.node.address()
    }

    fn is_embedded(&self) -> bool {
        true
    }

    fn close(&self) {}
}

/// The last node gets the request in the middle of the lease, or after it: its
/// entry would last a whole ttl from then. The guard is alive, and nothing
/// inspects it.
#[tokio::test]
async fn a_lapsed_lease_is_released_at_the_lapse() {
    const TTL: Duration = Duration::from_secs(4);
    let mut cases = tokio::task::JoinSet::new();
    for is_after in [false, true] {
        cases.spawn(async move {
            let nodes: Vec<MemoryNode> = (0..3).map(|i| MemoryNode::new(name(i))).collect();
            let late = Arc::new(Late {
                node: nodes[2].clone(),
                withheld: Mutex::default(),
            });
            let router = Router::builder()
                .replicas(3)
                .memory_node(nodes[0].clone())
                .memory_node(nodes[1].clone())
                .custom_node(name(2), Arc::clone(&late) as Arc<dyn Node>)
                .init(Init::Now);
            let router = router.connect().await.unwrap();
            let guard = router.acquire(KEY).ttl(TTL).await.unwrap();
            let lapse = guard.valid_until();
            let arrives = if is_after {
                lapse + ms(1)
            } else {
                lapse - TTL / 2
            };
            sleep_until(arrives).await;
            late.let_go();
            assert_eq!(nodes[2].locked().len(), 1, "after the lapse: {is_after}");
            sleep_until(lapse).await;
            let is_free = || nodes[2].locked().is_empty();
            eventually(PROMPTLY, "the late entry is gone", is_free).await;
            let left = (arrives + TTL).saturating_since(now());
            assert!(left > TTL / 8, "after the lapse: {is_after}, {left:?} left");
            assert_eq!(guard.release().await.unwrap(), Released::TooLate);
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

/// The keeper extends while the guard is dropped: the release overtakes some of
/// the extends, and those create the entry again.
#[tokio::test]
async fn a_guard_dropped_amid_an_extend_leaves_nothing_locked() {
    for replicas in [1, 3, 5] {
        let victim = Arc::new(Mutex::new(None));
        let nodes: Vec<MemoryNode> = (0..5).map(|i| MemoryNode::new(name(i))).collect();
        let mut builder = Router::builder().replicas(replicas);
        for node in &nodes {
            let ambush = Ambush {
                node: node.clone(),
                victim: Arc::clone(&victim),
            };
            builder = builder.custom_node(node.name(), Arc::new(ambush));
        }
        let router = builder.connect().await.unwrap();
        let guard = router.acquire(KEY).keep_alive_every(ms(20)).await.unwrap();
        *victim.lock() = Some(guard);
        eventually(PROMPTLY, "an extend is due", || victim.lock().is_none()).await;
        assert!(router.drained().await);
        for node in &nodes {
            assert_eq!(node.locked(), [], "n={replicas}: {}", node.name());
        }
    }
}

/// Many leases with very short lives on several threads, each dropped at some
/// point of its extends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lives_leave_nothing_locked() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let lives = (0..200).map(|number| {
            let router = router.clone();
            tokio::spawn(async move {
                let acquire = router.acquire(format!("{KEY}/{number}"));
                let guard = acquire.keep_alive_every(ms(2)).await.unwrap();
                tokio::time::sleep(ms(1) + Duration::from_micros(37) * number).await;
                drop(guard);
            })
        });
        for life in lives.collect::<Vec<_>>() {
            life.await.unwrap();
        }
        assert!(router.drained().await, "{arm:?}");
        if arm == Arm::Redis {
            assert!(router.stats().extended > 0);
        }
        assert_eq!(locked(&cluster), [""; 0], "{arm:?}");
    }
}

/// An operator deletes the entry on every node. Another client may hold the key
/// in between. The old holder must not get the key back, however often it
/// extends.
#[tokio::test]
async fn a_lease_forced_out_stays_out() {
    for arm in ARMS {
        for (nodes, is_rival) in [(1, false), (1, true), (3, false), (3, true), (5, true)] {
            let case = format!("{arm:?} n={nodes} rival={is_rival}");
            let cluster = Cluster::start(arm, nodes);
            let router = cluster.router(nodes).await;
            let other = cluster.router(nodes).await;
            let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
            let guard = acquire.await.unwrap();
            cluster.nodes.iter().for_each(delete);
            if is_rival {
                let next = other.try_acquire(KEY).await.unwrap();
                assert!(next.fence() > guard.fence(), "{case}");
                assert_eq!(next.release().await.unwrap(), Released::InTime, "{case}");
            }
            for _ in 0..3 {
                let again = guard.extend().await;
                assert!(
                    matches!(again, Err(Error::Lost { .. })),
                    "{case}: {again:?}"
                );
            }
            assert!(guard.loss().is_some(), "{case}");
            assert_eq!(guard.remaining(), Duration::ZERO, "{case}");
            let is_free = || locked(&cluster).is_empty();
            eventually(PROMPTLY, "nothing is left of it", is_free).await;
            assert_eq!(guard.release().await.unwrap(), Released::TooLate, "{case}");
        }
    }
}

/// Two extends overlap. The answers to the earlier one arrive after the later one
/// has found that the entries are gone.
#[tokio::test]
async fn a_lost_lease_is_not_prolonged_by_an_earlier_extend() {
    let nodes: Vec<MemoryNode> = (0..3).map(|i| MemoryNode::new(name(i))).collect();
    let builder = nodes.iter().fold(Router::builder(), |builder, node| {
        builder.memory_node(node.clone())
    });
    let builder = builder.replicas(3).init(Init::Now);
    let router = builder.connect().await.unwrap();
    let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
    let guard = acquire.await.unwrap();
    let delay_all = |delay| nodes.iter().for_each(|node| node.set_delay(delay));
    delay_all(ms(200));
    let earlier = guard.extend();
    let later = async {
        delay_all(Duration::ZERO);
        nodes
            .iter()
            .for_each(|node| node.delete(&Key::new(KEY).unwrap()));
        let lost = guard.extend().await;
        assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
        guard.valid_until()
    };
    let (extended, at_loss) = tokio::join!(biased; earlier, later);
    assert!(matches!(extended, Err(Error::Lost { .. })), "{extended:?}");
    assert_eq!(guard.valid_until(), at_loss);
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_eq!(guard.release().await.unwrap(), Released::TooLate);
}

/// The same with keep-alive: the holder learns of the loss from its next
/// extend.
#[tokio::test]
async fn a_holder_that_is_forced_out_learns_of_it_within_a_third_of_the_ttl() {
    for arm in ARMS {
        for (nodes, is_rival) in [(1, false), (3, false), (3, true)] {
            let cluster = Cluster::start(arm, nodes);
            let router = cluster.router(nodes).await;
            let other = cluster.router(nodes).await;
            let acquire = router.acquire(KEY).ttl(SHORT_TTL).keep_alive();
            let guard = acquire.await.unwrap();
            cluster.nodes.iter().for_each(delete);
            let forced_at = now();
            let next = match is_rival {
                true => Some(other.try_acquire(KEY).await.unwrap()),
                false => None,
            };
            let lost = timed(guard.lost());
            let (loss, at) = timeout(PROMPTLY, lost).await.expect("the end");
            let took = at.saturating_since(forced_at);
            println!("{arm:?} n={nodes}, ttl {SHORT_TTL:?}: {loss:?} told after {took:?}");
            assert!(took < SHORT_TTL / 3 + MARGIN, "{took:?}");
            assert_ne!(loss, Loss::Expired, "{arm:?} n={nodes}");
            // The entries of a later holder are left alone.
            all_have_answered(&router).await;
            let entries = if is_rival { nodes } else { 0 };
            assert_eq!(locked(&cluster).len(), entries, "{arm:?} n={nodes}");
            if let Some(next) = next {
                assert_eq!(next.release().await.unwrap(), Released::InTime);
            }
        }
    }
}

/// A replica that lost a single entry is healed, and counts again from the
/// second extend on: every replica may lose the entry, one after the other.
#[tokio::test]
async fn replicas_are_healed_one_after_the_other() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
        let guard = acquire.await.unwrap();
        // A replica that granted after the verdict vouches from the second extend on.
        for _ in 0..2 {
            guard.extend().await.unwrap();
            all_have_answered(&router).await;
        }
        for node in cluster.nodes.iter().chain(&cluster.nodes) {
            delete(node);
            // The first extend heals the replica, and from the second on the
            // replica vouches for the lease. Each extend is complete with its
            // last answer.
            for _ in 0..2 {
                guard.extend().await.unwrap();
                all_have_answered(&router).await;
                assert_eq!(node.locked(), [KEY]);
            }
        }
        assert_eq!(guard.release().await.unwrap(), Released::InTime);
        assert_eq!(locked(&cluster), [""; 0]);
    }
}

#[tokio::test]
async fn an_entry_without_expiry_is_repaired_or_reported() {
    for edition in Edition::ALL {
        let server = RedisServer::start_edition(edition, &["--save", "", "--appendonly", "no"]);
        let mut client = server.client();
        let name = format!("ringlock:{KEY}");
        let mut ask = |command: &str, arguments: &[&str]| -> Option<i64> {
            let mut command = redis::cmd(command);
            let answer = command.arg(&name).arg(arguments).query(&mut client);
            answer.unwrap()
        };
        let connect = || {
            let builder = Router::builder().node("a", server.url());
            builder.init(Init::Now).connect()
        };
        let (router, other) = (connect().await.unwrap(), connect().await.unwrap());
        let acquire = router.acquire(KEY).ttl(Duration::from_secs(20));
        let guard = acquire.await.unwrap();

        // The router's own entry gets an expiry again.
        assert_eq!(ask("PERSIST", &[]), Some(1), "{edition:?}");
        let error = other.try_acquire(KEY).await.unwrap_err();
        assert_is_endless(&error, false);
        guard.extend().await.unwrap();
        let left = ask("PTTL", &[]).unwrap();
        assert!((1..=20_000).contains(&left), "{edition:?}: {left}");
        assert_eq!(ask("PERSIST", &[]), Some(1), "{edition:?}");
        assert_eq!(guard.release().await.unwrap(), Released::InTime);
        assert_eq!(ask("EXISTS", &[]), Some(0), "{edition:?}");

        // Another program's entry is reported as foreign, and left alone.
        let set: String = {
            let mut set = redis::cmd("SET");
            set.arg(&name).arg("a stranger");
            set.query(&mut server.client()).unwrap()
        };
        assert_eq!(set, "OK");
        assert_is_endless(&router.try_acquire(KEY).await.unwrap_err(), true);
        let before = router.stats().attempts;
        let waited = router.acquire(KEY).wait(ms(300)).await.unwrap_err();
        let Error::TimedOut { last, .. } = &waited else {
            panic!("{edition:?}: {waited:?}");
        };
        assert_is_endless(last, true);
        let attempts = router.stats().attempts - before;
        assert!(attempts <= 12, "{edition:?}: {attempts} attempts in 300 ms");
        // The waiter is notified when the entry is deleted by hand.
        let waits = tokio::spawn(router.acquire(KEY).wait(3 * PROMPTLY).into_future());
        let is_waiting = || router.stats().waiting == 1;
        eventually(PROMPTLY, "somebody waits", is_waiting).await;
        assert_eq!(ask("DEL", &[]), Some(1), "{edition:?}");
        let guard = waits.await.unwrap().unwrap();
        assert_eq!(guard.release().await.unwrap(), Released::InTime);
    }
}

#[track_caller]
fn assert_is_endless(error: &Error, is_foreign: bool) {
    let Error::Contended {
        holder: Some(holder),
        remaining: None,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(holder.never_expires(), "{error:?}");
    assert_eq!(holder.is_foreign(), is_foreign, "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no expiry"), "{text}");
    assert!(text.contains("release KEY --force"), "{text}");
}

/// Text, bytes, keys and integers name the same lock.
#[tokio::test]
async fn one_name_is_one_lock_in_every_form() {
    let router = Router::in_memory(1).await.unwrap();
    let guard = router.acquire(42_u64).await.unwrap();
    let key = guard.key().clone();
    assert_eq!(key.as_ref(), b"42");
    let taken = [
        router.try_acquire("42").await,
        router.try_acquire(String::from("42")).await,
        router.try_acquire(b"42").await,
        router.try_acquire(vec![b'4', b'2']).await,
        router.try_acquire(&key).await,
        router.try_acquire(key).await,
        router.try_acquire(42_i8).await,
    ];
    for taken in taken {
        assert!(taken.unwrap_err().is_contention());
    }
    let fence = guard.fence();
    assert_eq!(fence.to_string().parse(), Ok(fence));
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
}

/// What is reported can be written into a log or a page as it is.
#[tokio::test]
async fn reports_are_serialized() {
    let router = Router::in_memory(1).await.unwrap();
    drop(router.acquire("orders/\n").await.unwrap());
    let json = serde_json::json!({
        "key": Key::new("orders/\n").unwrap(),
        "route": router.route("orders/\n").unwrap(),
        "stats": router.stats(),
        "loss": Loss::TakenOver,
        "released": Released::InTime,
    });
    assert_eq!(json["key"], "orders/\\n");
    assert_eq!(json["route"]["owner"], "node-1");
    assert_eq!(json["route"]["view"], router.view().id().to_string());
    assert_eq!(json["stats"]["granted"], 1);
    assert_eq!(json["loss"], "taken_over");
    assert_eq!(json["released"], "in_time");
}
