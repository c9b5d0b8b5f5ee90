//! Waiting for a key that another caller holds: in this process and in others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringlock::{Cause, Error, Loss, MemoryNode, NodeErrorKind, Router};
use ringlock_test_support::{
    ARMS, Arm, Cluster, KEY, MARGIN, PROMPTLY, TestNode, eventually, is_waiting, ms,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

fn memory(cluster: &Cluster) -> impl Iterator<Item = &MemoryNode> {
    cluster.nodes.iter().map(|node| match node {
        TestNode::Memory(node) => node,
        TestNode::Redis(_) => panic!("no in-memory node"),
    })
}

/// Lets every task that is ready run.
async fn let_others_run() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn waiters_of_one_process_are_served_in_order() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let first = router.acquire(KEY).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = JoinSet::new();
        for number in 0..50 {
            let (router, order) = (router.clone(), Arc::clone(&order));
            waiters.spawn(async move {
                let guard = router.acquire(KEY).wait(PROMPTLY).await.unwrap();
                order.lock().unwrap().push((number, guard.fence()));
                guard.release().await.unwrap();
            });
            let_others_run().await;
        }
        let attempts = router.stats().attempts;
        assert_eq!(attempts, 1, "{arm:?}: waiters cost the servers something");
        drop(first);
        waiters.join_all().await;
        let order = order.lock().unwrap();
        let numbers: Vec<i32> = order.iter().map(|&(number, _)| number).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "{arm:?}");
        assert!(
            order.is_sorted_by(|(_, a), (_, b)| a < b),
            "{arm:?}: fences"
        );
    }
}

#[tokio::test]
async fn a_waiter_that_gives_up_passes_its_turn_on() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let guard = router.acquire(KEY).await.unwrap();
        let dropped = tokio::spawn(router.acquire(KEY).into_future());
        let timed_out = tokio::spawn(router.acquire(KEY).wait(ms(20)).into_future());
        let patient = tokio::spawn(router.acquire(KEY).wait(PROMPTLY).into_future());
        let_others_run().await;
        dropped.abort();
        let error = timed_out.await.unwrap().unwrap_err();
        assert!(error.is_contention(), "{arm:?}: {error}");
        drop(guard);
        let guard = timeout(PROMPTLY, patient).await.expect("its turn");
        drop(guard.unwrap().unwrap());
    }
}

/// The resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let amount = line.and_then(|line| line.trim().strip_suffix(" kB"));
    amount.expect("VmRSS").parse().unwrap()
}

#[tokio::test]
async fn thousands_that_give_up_cost_neither_stack_nor_memory() {
    const WAITERS: usize = 20_000;
    let router = Router::in_memory(1).await.unwrap();
    // It outlasts the whole test, even on a busy machine.
    let ttl = Duration::from_secs(30);
    let guard = router.acquire(KEY).ttl(ttl).keep_alive().await.unwrap();

    // One after the other: the queue drops cancelled waiters.
    let mut before = 0;
    for round in 0..5 {
        for _ in 0..WAITERS {
            assert!(is_waiting(&mut router.acquire(KEY).into_future()).await);
        }
        if round == 0 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    println!("{grown} KiB kept of {} waiters", 4 * WAITERS);
    assert!(grown < 2048, "{grown} KiB were kept");

    // All at once; only the last one is still there when its turn comes.
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        waiters.spawn(router.acquire(KEY).into_future());
    }
    let_others_run().await;
    let last = tokio::spawn(router.acquire(KEY).wait(PROMPTLY).into_future());
    let_others_run().await;
    waiters.shutdown().await;
    drop(guard);
    let guard = timeout(PROMPTLY, last).await.expect("its turn");
    drop(guard.unwrap().unwrap());
    assert_eq!(router.stats().attempts, 2, "the others made no attempts");

    // All at once, while the first of them has the turn.
    let guard = router.acquire(KEY).await.unwrap();
    let mut waiting: Vec<_> = (0..WAITERS)
        .map(|_| router.acquire(KEY).into_future())
        .collect();
    for waiter in &mut waiting {
        assert!(is_waiting(waiter).await);
    }
    drop(guard);
    drop(waiting);
    timeout(PROMPTLY, router.acquire(KEY))
        .await
        .unwrap()
        .unwrap()
        .release()
        .await
        .unwrap();
}

/// A forgotten guard keeps its turn; once its lease has lapsed, no caller may
/// wait for it.
#[tokio::test]
async fn a_lapsed_holder_blocks_no_waiter() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let guard = router.acquire(KEY).ttl(ms(150)).await.unwrap();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let waiting = router.acquire(KEY).ttl(ms(150)).wait(PROMPTLY);
                tokio::spawn(waiting.into_future())
            })
            .collect();
        let_others_run().await;
        std::mem::forget(guard);
        let started = Instant::now();
        for (index, waiter) in waiters.into_iter().enumerate() {
            // Each forgets its guard in turn.
            std::mem::forget(waiter.await.unwrap().unwrap());
            let limit = ms(150) * (1 + index as u32) + MARGIN;
            assert!(
                started.elapsed() < limit,
                "{arm:?}: {:?}",
                started.elapsed()
            );
        }
    }
}

/// As above, but the waiters queued before there was a lease that could lapse.
#[tokio::test]
async fn a_waiter_behind_a_contender_learns_of_its_lease() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let other = cluster.router(1).await;
        let guard = other.acquire(KEY).await.unwrap();
        let contending = router.acquire(KEY).ttl(ms(150)).retry_delay(ms(5));
        let contender = tokio::spawn(contending.into_future());
        let_others_run().await;
        let waiters: Vec<_> = (0..3)
            .map(|_| tokio::spawn(router.acquire(KEY).wait(PROMPTLY).into_future()))
            .collect();
        let_others_run().await;
        guard.release().await.unwrap();
        std::mem::forget(contender.await.unwrap().unwrap());
        // The waiter that watches the lease may give up: another must then
        // watch it.
        let started = Instant::now();
        waiters[0].abort();
        for waiter in waiters.into_iter().skip(1) {
            drop(waiter.await.unwrap().unwrap());
        }
        let waited = started.elapsed();
        assert!(waited < ms(150) + MARGIN, "{arm:?}: {waited:?}");
    }
}

#[tokio::test]
async fn the_wait_ends_when_it_was_said_to() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let _guard = router.acquire(KEY).await.unwrap();
            for waiting in [&router, &other] {
                let started = Instant::now();
                let error = waiting.acquire(KEY).wait(ms(100)).await.unwrap_err();
                let took = started.elapsed();
                assert!(took < ms(100) + MARGIN, "{arm:?}: {took:?}");
                let Error::TimedOut { waited, last, .. } = &error else {
                    panic!("{arm:?}: {error}");
                };
                assert!(*waited <= took);
                assert!(matches!(**last, Error::Contended { .. }), "{error}");
            }
        }
    }
}

/// The last attempt has less time than an answer takes: the error reports the
/// finding of the previous attempt, not that no node answered in the rest.
#[tokio::test]
async fn an_attempt_that_the_wait_cuts_short_is_no_outage() {
    for (replicas, is_one_down) in [(1, false), (3, false), (3, true)] {
        let cluster = Cluster::start(Arm::Memory, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let _guard = router.acquire(KEY).await.unwrap();
        if is_one_down {
            cluster.nodes[0].stop();
        }
        let mut waiting = other
            .acquire(KEY)
            .retry_delay(ms(5))
            .wait(ms(100))
            .into_future();
        assert!(is_waiting(&mut waiting).await);
        assert_eq!(other.stats().contended, 1, "the first attempt is over");
        memory(&cluster).for_each(|node| node.set_delay(PROMPTLY));
        let error = waiting.await.unwrap_err();
        let case = format!("n={replicas}, one down: {is_one_down}");
        assert!(error.is_contention(), "{case}: {error}");
        assert_eq!(other.stats().contended, 1, "{case}");
        assert!(other.stats().attempts > 1, "{case}: none was cut short");
    }
}

/// A node that does not answer makes no caller wait past the deadline.
#[tokio::test]
async fn the_wait_ends_during_an_outage_too() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        match &cluster.nodes[0] {
            TestNode::Memory(node) => node.hang(),
            server @ TestNode::Redis(_) => server.stop(),
        }
        let started = Instant::now();
        let error = router.acquire(KEY).wait(ms(120)).await.unwrap_err();
        let took = started.elapsed();
        assert!(took < ms(120) + MARGIN, "{arm:?}: {took:?}");
        assert!(!error.is_contention(), "{arm:?}: {error}");
        cluster.nodes[0].start();
    }
}

#[tokio::test]
async fn attempts_are_counted_and_paused_between() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let other = cluster.router(3).await;
        let _guard = router.acquire(KEY).await.unwrap();
        for limit in [0, 1, 7] {
            let before = other.stats().attempts;
            let acquire = other.acquire(KEY).attempts(limit).retry_delay(ms(4));
            let started = Instant::now();
            let error = acquire.await.unwrap_err();
            let Error::TimedOut { attempts, last, .. } = &error else {
                panic!("{arm:?}: {error}");
            };
            assert_eq!(*attempts, limit.max(1));
            assert_eq!(other.stats().attempts - before, u64::from(limit.max(1)));
            assert!(last.is_contention());
            assert!(started.elapsed() < 7 * ms(4) + MARGIN);
        }
    }
}

/// The longest pause is a minute, the rival's lease a fraction of a second.
#[tokio::test]
async fn no_waiter_sleeps_past_the_end_of_a_rivals_lease() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let guard = router.acquire(KEY).ttl(ms(200)).await.unwrap();
            std::mem::forget(guard);
            let started = Instant::now();
            let acquire = other.acquire(KEY).retry_delay(Duration::from_secs(60));
            let guard = acquire.wait(Duration::from_secs(120)).await.unwrap();
            let took = started.elapsed();
            assert!(took < ms(200) + MARGIN, "{arm:?} n={replicas}: {took:?}");
            assert!(took > ms(100), "{arm:?} n={replicas}: {took:?}");
            drop(guard);
        }
    }
}

#[tokio::test]
async fn contention_names_the_holder_and_what_is_left() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let ttl = Duration::from_secs(8);
            let acquire = router.acquire(KEY).ttl(ttl).label("nightly report");
            let _guard = acquire.await.unwrap();
            for asking in [&router, &other] {
                let error = asking.try_acquire(KEY).await.unwrap_err();
                let text = format!("{error:#}");
                let Error::Contended {
                    key,
                    holder,
                    remaining,
                } = error
                else {
                    panic!("{arm:?}: {text}");
                };
                assert_eq!(key.as_bytes(), KEY.as_bytes());
                let label = holder.as_ref().and_then(|holder| holder.label());
                assert_eq!(label, Some("nightly report"), "{arm:?} n={replicas}");
                let remaining = remaining.expect("what is left");
                assert!(
                    remaining <= ttl && remaining > ttl - PROMPTLY,
                    "{remaining:?}"
                );
                assert!(text.contains("nightly report"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_single_attempt_at_an_own_key_asks_no_server() {
    let cluster = Cluster::start(Arm::Memory, 5);
    let router = cluster.router(5).await;
    let requests = || memory(&cluster).map(MemoryNode::requests).sum::<u64>();
    let guard = router.acquire(KEY).await.unwrap();
    let before = requests();
    let error = router.try_acquire(KEY).await.unwrap_err();
    assert!(error.is_contention());
    let waited = router.acquire(KEY).wait(ms(10)).await.unwrap_err();
    assert!(waited.is_contention());
    assert_eq!(requests(), before, "the servers were asked");
    guard.release().await.unwrap();
    drop(router.try_acquire(KEY).await.unwrap());
    assert!(requests() > before);
}

/// Takes down a majority of the key's nodes: the first or the last in the order
/// of requests.
fn take_majority_down(cluster: &Cluster, router: &Router, is_first: bool) -> Vec<usize> {
    let replicas = router.route(KEY).unwrap().replicas;
    let index = |name: &Arc<str>| usize::from(name.as_bytes()[0] - b'a');
    let mut nodes: Vec<usize> = replicas.iter().map(index).collect();
    if !is_first {
        nodes.reverse();
    }
    nodes.truncate(replicas.len() / 2 + 1);
    for &node in &nodes {
        cluster.nodes[node].stop();
    }
    nodes
}

#[tokio::test]
async fn an_outage_is_reported_as_an_outage() {
    for arm in ARMS {
        for replicas in [1, 3, 5] {
            let cluster = Cluster::start(arm, replicas);
            let router = cluster.router(replicas).await;
            let down = take_majority_down(&cluster, &router, true);
            let error = router.try_acquire(KEY).await.unwrap_err();
            assert!(!error.is_contention(), "{arm:?} n={replicas}: {error}");
            assert!(error.is_transient());
            let Error::NoQuorum {
                granted,
                needed,
                causes,
                ..
            } = &error
            else {
                panic!("{arm:?} n={replicas}: {error}");
            };
            assert_eq!(*needed, replicas / 2 + 1);
            assert!(granted < needed);
            for cause in causes {
                let Cause::Failed(failure) = &cause.cause else {
                    panic!("{cause:?}");
                };
                let expected = match arm {
                    Arm::Memory => NodeErrorKind::Unreachable,
                    Arm::Redis => NodeErrorKind::Timeout,
                };
                assert_eq!(failure.kind(), expected);
            }
            let counts = router.stats();
            assert_eq!((counts.contended, counts.failed), (0, 1));
            for &node in &down {
                cluster.nodes[node].start();
            }
            // The grants of the other nodes have been released.
            assert!(router.drained().await, "{arm:?} n={replicas}");
            for node in &cluster.nodes {
                assert_eq!(node.locked(), [""; 0]);
            }
        }
    }
}

/// With a holder on the nodes that are up, an outage of the others is reported
/// as one, whichever nodes answer first.
#[tokio::test]
async fn an_outage_is_never_reported_as_contention() {
    for arm in ARMS {
        for (replicas, is_first) in [(3, true), (3, false), (5, true), (5, false)] {
            let cluster = Cluster::start(arm, replicas);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let _guard = router.acquire(KEY).await.unwrap();
            let down = take_majority_down(&cluster, &router, is_first);
            let error = other.try_acquire(KEY).await.unwrap_err();
            for &node in &down {
                cluster.nodes[node].start();
            }
            assert!(!error.is_contention(), "{arm:?} n={replicas}: {error}");
        }
    }
}

#[tokio::test]
async fn contention_during_a_minority_outage_is_contention() {
    for arm in ARMS {
        for down in 0..3 {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(3).await;
            let other = cluster.router(3).await;
            let _guard = router.acquire(KEY).await.unwrap();
            cluster.nodes[down].stop();
            let error = other.try_acquire(KEY).await.unwrap_err();
            cluster.nodes[down].start();
            assert!(error.is_contention(), "{arm:?} without {down}: {error}");
        }
    }
}

/// Two routers stand for two processes with many callers: every caller gets the
/// key eventually, and no two hold it together.
#[tokio::test]
async fn a_crowd_gets_through() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let inside = Arc::new(AtomicUsize::new(0));
        let mut crowd = JoinSet::new();
        for _ in 0..2 {
            let router = cluster.router(3).await;
            for _ in 0..40 {
                let (router, inside) = (router.clone(), Arc::clone(&inside));
                crowd.spawn(async move {
                    let acquire = router.acquire(KEY).wait(6 * PROMPTLY);
                    let guard = acquire.retry_delay(ms(4)).await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    assert_eq!(guard.loss(), None);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                });
            }
        }
        while let Some(one) = crowd.join_next().await {
            one.unwrap();
        }
    }
}

#[tokio::test]
async fn a_guard_that_is_dropped_ends_its_lease_for_watchers() {
    let router = Router::in_memory(3).await.unwrap();
    let guard = router.acquire(KEY).await.unwrap();
    let lost = tokio::spawn(guard.lost());
    let_others_run().await;
    drop(guard);
    assert_eq!(
        timeout(PROMPTLY, lost).await.unwrap().unwrap(),
        Loss::Released
    );
    eventually(PROMPTLY, "the release is counted", || {
        router.stats().released == 1
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_queued_until_the_end_learns_that_the_key_was_held() {
    let cluster = Cluster::start(Arm::Memory, 1);
    let router = cluster.router(1).await;
    let guard = router.acquire(KEY).await.unwrap();
    // Too short for the call's own attempt after the holder, which has 500 ms.
    let wait = ms(300);
    let waiting = tokio::spawn({
        let router = router.clone();
        async move { router.acquire(KEY).wait(wait).await }
    });
    let_others_run().await;
    memory(&cluster).for_each(MemoryNode::hang);
    drop(guard);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_contention(), "{error}");
    assert_eq!(router.stats().attempts, 2, "it had its turn");
}

/// A call for many keys has met the holder that the caller before it has met, until
/// its own attempts are answered. So have the callers behind it.
#[tokio::test]
async fn a_set_that_queued_until_the_end_learns_that_the_key_was_held() {
    let cluster = Cluster::start(Arm::Memory, 1);
    let holder = cluster.router(1).await;
    let router = cluster.router(1).await;
    let _guard = holder.acquire(KEY).await.unwrap();
    // None has the 500 ms that nodes may take.
    let first = tokio::spawn(router.acquire(KEY).wait(ms(100)).into_future());
    eventually(PROMPTLY, "it has tried", || router.stats().contended > 0).await;
    let together = router.acquire_all([KEY, "orders/43"]).wait(ms(400));
    let together = tokio::spawn(together.into_future());
    let_others_run().await;
    let behind = tokio::spawn(router.acquire(KEY).wait(ms(250)).into_future());
    let_others_run().await;
    memory(&cluster).for_each(MemoryNode::hang);
    assert!(first.await.unwrap().unwrap_err().is_contention());
    let behind = reported_in_line(behind.await.unwrap().unwrap_err());
    let together = together.await.unwrap().unwrap_err();
    for error in [behind, together] {
        assert!(error.is_contention(), "{error}");
    }
}

#[tokio::test]
async fn contended_keys_are_reported() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let (router, rival) = (cluster.router(3).await, cluster.router(3).await);
        drop(router.acquire("quiet").await.unwrap());
        assert!(router.hot_keys().is_empty(), "a free key costs nothing");

        let guard = router.acquire(KEY).await.unwrap();
        for _ in 0..5 {
            router.try_acquire(KEY).await.unwrap_err();
        }
        rival.try_acquire(KEY).await.unwrap_err();
        let waiting = timeout(ms(20), router.acquire(KEY).into_future());
        waiting.await.unwrap_err();
        drop(guard);
        let reported = |router: &Router| {
            let hot = router.hot_keys();
            assert_eq!(hot.len(), 1, "{hot:?}");
            assert_eq!((hot[0].key.as_bytes(), hot[0].excess), (KEY.as_bytes(), 0));
            hot[0].times
        };
        // In line behind its own holder; and at the nodes, without success.
        assert_eq!((reported(&router), reported(&rival)), (6, 1));
    }
}

/// A lease that is lost early has no holder: waiters in line need not wait for
/// its holder to drop it, nor for its original end.
#[tokio::test]
async fn a_lost_lease_gives_its_turn_to_the_next() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let ttl = Duration::from_secs(30);
        let guard = router.acquire(KEY).ttl(ttl).await.unwrap();
        let waiting = router.acquire(KEY).wait(PROMPTLY);
        let waiting = tokio::spawn(waiting.into_future());
        let_others_run().await;
        match &cluster.nodes[0] {
            TestNode::Memory(node) => node.delete(guard.key()),
            TestNode::Redis(server) => {
                let name = format!("ringlock:{KEY}");
                redis::cmd("DEL")
                    .arg(name)
                    .exec(&mut server.client())
                    .unwrap();
            }
        }
        assert!(guard.extend().await.is_err(), "{arm:?}");
        let next = waiting.await.unwrap().unwrap();
        assert!(next.fence() > guard.fence());
    }
}

/// The last error of a caller that timed out; asserts that it made no attempt
/// of its own.
fn reported_in_line(error: Error) -> Error {
    let text = error.to_string();
    assert!(!text.contains("0 attempts"), "{text}");
    match error {
        Error::TimedOut {
            attempts: 0, last, ..
        } => *last,
        other => panic!("{other:?}"),
    }
}

/// Times out in every kind of call behind a sibling that has the turn.
async fn give_up_in_line(router: &Router, key: &str, wait: Duration) -> Vec<Error> {
    let one = router.acquire(key).wait(wait).await.unwrap_err();
    let all = router.acquire_all([key]).wait(wait).await.unwrap_err();
    let mut many = router.acquire_many([key]).wait(wait).await;
    let many = many.pop().unwrap().1.unwrap_err();
    [one, all, many].map(reported_in_line).into()
}

/// A caller that times out in line gets the outage that its sibling met.
#[tokio::test]
async fn an_outage_that_a_sibling_met_is_reported_to_those_behind_it() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let down = take_majority_down(&cluster, &router, true);
            let all = [KEY, "orders/43"];
            let alone = router.acquire(KEY).wait(12 * PROMPTLY).into_future();
            let together = router.acquire_all(all).wait(12 * PROMPTLY).into_future();
            let siblings = [
                (tokio::spawn(async { drop(alone.await) }), KEY),
                (tokio::spawn(async { drop(together.await) }), all[1]),
            ];
            // The second sibling queues behind the first.
            for (sibling, key) in siblings {
                let before = router.stats().failed;
                eventually(PROMPTLY, "the sibling has failed", || {
                    router.stats().failed > before
                })
                .await;
                if arm == Arm::Memory {
                    // Unreachable nodes fail every attempt at once.
                    tokio::time::sleep(ms(50)).await;
                }
                for error in give_up_in_line(&router, key, ms(20)).await {
                    let Error::NoQuorum { causes, .. } = &error else {
                        panic!("{arm:?} n={replicas} {key}: {error}");
                    };
                    assert!(!causes.is_empty(), "{arm:?} n={replicas} {key}: {error}");
                }
                sibling.abort();
                drop(sibling.await);
            }
            for &node in &down {
                cluster.nodes[node].start();
            }
        }
    }
}

/// The sibling has had no answer yet: the error must not report a holder.
#[tokio::test]
async fn silence_is_not_reported_as_contention() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Memory, 3);
        let router = cluster.router(replicas).await;
        memory(&cluster).for_each(MemoryNode::hang);
        let mut sibling = router.acquire(KEY).wait(PROMPTLY).into_future();
        assert!(is_waiting(&mut sibling).await);
        for error in give_up_in_line(&router, KEY, ms(10)).await {
            assert!(!error.is_contention(), "n={replicas}: {error}");
            assert!(
                error.to_string().contains("no node has answered"),
                "{error}"
            );
        }
    }
}

/// The sibling waits for another process: the error names that holder too.
#[tokio::test]
async fn a_holder_that_a_sibling_met_is_reported_to_those_behind_it() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let holder = cluster.router(replicas).await;
            let router = cluster.router(replicas).await;
            let _guard = holder.acquire(KEY).label("nightly").await.unwrap();
            let mut alone = router.acquire(KEY).wait(PROMPTLY).into_future();
            assert!(is_waiting(&mut alone).await);
            let alone = tokio::spawn(alone);
            eventually(PROMPTLY, "it has tried", || router.stats().contended > 0).await;
            for error in give_up_in_line(&router, KEY, ms(10)).await {
                let Error::Contended { holder, .. } = &error else {
                    panic!("{arm:?} n={replicas}: {error}");
                };
                let label = holder.as_ref().and_then(|holder| holder.label());
                assert_eq!(label, Some("nightly"), "{arm:?} n={replicas}: {error}");
            }
            alone.abort();
            drop(alone.await);

            // A call for many keys that waits for one of them, and has the turn
            // at the others.
            let other = "orders/43";
            let together = router.acquire_all([KEY, other]).wait(PROMPTLY);
            let together = tokio::spawn(together.into_future());
            let before = router.stats().contended;
            eventually(PROMPTLY, "it has tried", || {
                router.stats().contended > before
            })
            .await;
            for error in give_up_in_line(&router, other, ms(10)).await {
                let Error::Contended { key, .. } = &error else {
                    panic!("{arm:?} n={replicas}: {error}");
                };
                assert_eq!(key.as_bytes(), other.as_bytes());
            }
            together.abort();
        }
    }
}

/// An attempt that the wait cuts short does not hide an outage that is certain.
#[tokio::test]
async fn a_node_out_of_reach_is_reported_however_short_the_wait() {
    let cluster = Cluster::start(Arm::Memory, 1);
    let router = cluster.router(1).await;
    let other = cluster.router(1).await;
    let _guard = router.acquire(KEY).await.unwrap();
    // Shorter than the node timeout: any attempt may be cut short.
    let mut waiting = other.acquire(KEY).wait(ms(300)).into_future();
    assert!(is_waiting(&mut waiting).await);
    assert_eq!(other.stats().contended, 1);
    memory(&cluster).for_each(MemoryNode::stop);
    let error = waiting.await.unwrap_err();
    assert!(!error.is_contention(), "{error}");
}
