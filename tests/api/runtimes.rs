//! The results of a router's calls after its shutdown, or once the runtime that
//! made it has ended or stalls: no call waits for something dead.

use std::time::{Duration, Instant};

use ringlock::rebalancer::RebalanceError;
use ringlock::{Change, Error, Guard, Loss, Released, Router, WithError};
use ringlock_test_support::{
    ARMS, Arm, Cluster, KEY, MARGIN, PROMPTLY, TestNode, eventually, ms, node,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any test: no call may wait this long.
const LONG: Duration = Duration::from_secs(300);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Waits for a held key, in each of the possible ways.
fn waiters(
    runtime: &Runtime,
    router: &Router,
    here: &str,
    elsewhere: &str,
) -> Vec<JoinHandle<Result<Guard, Error>>> {
    let calls = [
        // In line behind a holder of this process.
        router.acquire(here).wait(LONG),
        router.acquire(here).wait(LONG),
        // Woken by the nodes, or polling.
        router.acquire(elsewhere).wait(LONG),
        router.acquire(elsewhere).wait(LONG),
        router
            .acquire("elsewhere/polled")
            .wait(LONG)
            .retry_delay(LONG),
    ];
    let waiters = calls.map(|call| runtime.spawn(call.into_future()));
    runtime.block_on(eventually(PROMPTLY, "all wait", || {
        router.stats().waiting == 5
    }));
    waiters.into()
}

async fn are_closed(waiters: Vec<JoinHandle<Result<Guard, Error>>>, of: &str) {
    for waiter in waiters {
        let outcome = timeout(PROMPTLY, waiter).await;
        let outcome = outcome
            .unwrap_or_else(|_| panic!("{of}: it waits on"))
            .unwrap();
        assert!(matches!(outcome, Err(Error::Closed)), "{of}: {outcome:?}");
    }
}

/// Makes each kind of call after the router is closed.
async fn every_call_is_closed(router: &Router, of: &str) {
    let begun = Instant::now();
    let is_closed =
        |error: Option<Error>| assert!(matches!(error, Some(Error::Closed)), "{of}: {error:?}");
    assert!(router.is_closed(), "{of}");
    is_closed(router.try_acquire("new").await.err());
    is_closed(router.acquire("new").wait(LONG).await.err());
    is_closed(router.acquire(KEY).wait(LONG).await.err());
    is_closed(router.acquire("new").attempts(3).await.err());
    is_closed(router.acquire_all(["new", KEY]).wait(LONG).await.err());
    for (_, outcome) in router.acquire_many(["new", KEY]).wait(LONG).await {
        is_closed(outcome.err());
    }
    let scoped: Result<(), WithError<()>> = router.with("new", async |_| panic!("it runs")).await;
    is_closed(scoped.err().map(Error::from));
    let change = Change::Remove { node: "a".into() };
    let planned = router.rebalancer().plan([change]).await;
    assert!(
        matches!(planned, Err(RebalanceError::Cluster(Error::Closed))),
        "{of}: {planned:?}"
    );
    let resumed = router.rebalancer().resume(|_| ()).await;
    assert!(
        matches!(resumed, Err(RebalanceError::Cluster(Error::Closed))),
        "{of}: {resumed:?}"
    );
    assert!(begun.elapsed() < PROMPTLY, "{of}: {:?}", begun.elapsed());
}

/// Ends the runtime `home` once calls of the guest wait for tasks that run
/// there.
fn end_beneath_waiters(
    home: Runtime,
    guest: &Runtime,
    router: &Router,
) -> Vec<JoinHandle<Result<Guard, Error>>> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // Attempts need the home runtime to keep running.
    let homely = std::thread::spawn(move || {
        home.block_on(async {
            let _ = stopped.await;
        });
        home
    });
    let waiting = waiters(guest, router, KEY, "elsewhere");
    stop.send(()).unwrap();
    drop(homely.join().unwrap());
    waiting
}

#[test]
fn a_router_whose_runtime_has_ended_says_so() {
    for (arm, replicas, home) in [
        (Arm::Memory, 1, one_thread()),
        (Arm::Memory, 3, two_threads()),
        (Arm::Redis, 1, two_threads()),
        (Arm::Redis, 3, one_thread()),
    ] {
        let of = &*format!("{arm:?} n={replicas}");
        let cluster = Cluster::start(arm, 3);
        let guest = two_threads();
        let router = home.block_on(cluster.router(replicas));
        let other = guest.block_on(cluster.router(replicas));
        let ttl = Duration::from_secs(2);
        let hold = |key: &'static str| router.acquire(key).ttl(ttl);
        // On the home runtime, which may have no thread of its own.
        let (kept, plain, dropped, set) = home.block_on(async {
            let kept = hold(KEY).keep_alive().await.unwrap();
            let plain = hold("plain").await.unwrap();
            let dropped = hold("dropped").await.unwrap();
            (
                kept,
                plain,
                dropped,
                router.acquire_all(["x", "y"]).ttl(ttl).await.unwrap(),
            )
        });
        let _theirs = guest.block_on(async {
            let hold = |key: &'static str| other.acquire(key).ttl(ttl).keep_alive();
            (
                hold("elsewhere").await.unwrap(),
                hold("elsewhere/polled").await.unwrap(),
            )
        });
        let waiting = end_beneath_waiters(home, &guest, &router);
        guest.block_on(async {
            are_closed(waiting, of).await;
            every_call_is_closed(&router, of).await;
            let extended = timeout(PROMPTLY, kept.extend()).await.expect(of);
            assert!(matches!(extended, Err(Error::Closed)), "{of}: {extended:?}");
            // Nothing keeps it alive; the loss is signalled in time.
            let end = kept.valid_until();
            let loss = timeout(PROMPTLY, kept.lost()).await.expect(of);
            assert_eq!(loss, Loss::Expired, "{of}");
            assert!(node::now() < end + MARGIN, "{of}");
        });
        // Outside any runtime.
        drop(dropped);
        guest.block_on(async {
            for released in [
                timeout(PROMPTLY, plain.release()).await.expect(of),
                timeout(PROMPTLY, set.release()).await.expect(of),
                timeout(PROMPTLY, kept.release()).await.expect(of),
            ] {
                // An in-memory node has no connection to lose.
                let is_reported = match arm {
                    Arm::Memory => {
                        [Released::InTime, Released::TooLate].contains(&released.unwrap())
                    }
                    Arm::Redis => {
                        [Released::Unknown, Released::TooLate].contains(&released.unwrap())
                    }
                };
                assert!(is_reported, "{of}");
            }
            let drained = timeout(PROMPTLY, router.drained()).await.expect(of);
            assert_eq!(drained, arm == Arm::Memory, "{of}");
            let shut = timeout(PROMPTLY, router.shutdown()).await.expect(of);
            assert_eq!(shut, arm == Arm::Memory, "{of}");
        });
    }
}

/// The runtime is alive, but nothing drives it: no reply is read.
#[test]
fn no_call_waits_for_a_stopped_runtime() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Redis, 3);
        let (home, guest) = (one_thread(), one_thread());
        let router = home.block_on(cluster.router(replicas));
        let ttl = Duration::from_secs(2);
        let (guard, released) = home.block_on(async {
            let guard = router.acquire(KEY).ttl(ttl).await.unwrap();
            (guard, router.acquire("other").ttl(ttl).await.unwrap())
        });
        guest.block_on(async {
            let single = timeout(PROMPTLY, router.try_acquire("new").ttl(ttl)).await;
            let single = single.expect("a single attempt waits");
            assert!(matches!(single, Err(Error::Closed)), "{single:?}");
            let waiting = timeout(PROMPTLY, router.acquire("next").ttl(ttl).wait(ms(500))).await;
            assert!(waiting.expect("a wait of half a second is longer").is_err());
            let extended = timeout(PROMPTLY, guard.extend()).await;
            assert!(extended.expect("an extend waits").is_err());
            let released = timeout(PROMPTLY, released.release()).await;
            let released = released.expect("a release waits").unwrap();
            assert_ne!(released, Released::InTime);
            let view = timeout(PROMPTLY, router.rebalancer().resume(|_| ())).await;
            assert!(view.expect("the rebalancer waits").is_err());
        });
        // Driven again, it answers: it was not dead.
        home.block_on(async {
            assert!(!router.is_closed());
            drop(guard);
            let again = router.acquire("again").wait(LONG).await.unwrap();
            assert_eq!(again.release().await.unwrap(), Released::InTime);
        });
    }
}

#[test]
fn shutdown_closes_every_handle_and_no_lease() {
    for arm in ARMS {
        let of = &*format!("{arm:?}");
        let cluster = Cluster::start(arm, 3);
        let runtime = two_threads();
        let router = runtime.block_on(cluster.router(3));
        let other = runtime.block_on(cluster.router(3));
        let ttl = ms(900);
        let (kept, plain, _theirs) = runtime.block_on(async {
            let kept = router.acquire(KEY).ttl(ttl).keep_alive().await.unwrap();
            let plain = router.acquire("plain").await.unwrap();
            let hold = |key: &'static str| other.acquire(key).keep_alive();
            let theirs = (
                hold("elsewhere").await.unwrap(),
                hold("elsewhere/polled").await.unwrap(),
            );
            (kept, plain, theirs)
        });
        let waiting = waiters(&runtime, &router, KEY, "elsewhere");
        runtime.block_on(async {
            assert!(router.clone().shutdown().await, "{of}");
            are_closed(waiting, of).await;
            every_call_is_closed(&router, of).await;
            assert!(!other.is_closed(), "another router is open");
            // Existing leases remain held.
            let end = kept.valid_until();
            plain.extend().await.unwrap();
            tokio::time::sleep(ttl + MARGIN).await;
            assert!(kept.valid_until() > end, "{of}: it is kept alive");
            assert_eq!((kept.loss(), plain.loss()), (None, None), "{of}");
            assert_eq!(plain.release().await.unwrap(), Released::InTime, "{of}");
            drop(kept);
            assert!(router.drained().await, "{of}");
            let free = other.acquire_all([KEY, "plain"]).await.unwrap();
            assert_eq!(free.release().await.unwrap(), Released::InTime, "{of}");
        });
    }
}

/// The work is done and reported as done, whatever happens to the lease.
#[tokio::test]
async fn work_is_reported_apart_from_its_release() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let of = &*format!("{arm:?} n={replicas}");
            let mut cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;

            // No node answers the release.
            let guard = router.acquire("silent").await.unwrap();
            let set = router.acquire_all(["silent/1", "silent/2"]).await.unwrap();
            cluster.nodes.iter().for_each(TestNode::stop);
            assert_eq!(guard.release().await.unwrap(), Released::Unknown, "{of}");
            assert_eq!(set.release().await.unwrap(), Released::Unknown, "{of}");
            cluster.nodes.iter().for_each(TestNode::start);
            let next = router.acquire("silent").await.unwrap();
            drop(next);
            assert!(router.drained().await, "{of}: it was repeated");

            // Something outside deletes the entries during the work.
            let gone = router.with("gone", async |_| {
                cluster.nodes.iter().for_each(|node| delete(node, "gone"));
                7
            });
            let gone = gone.await.unwrap_err();
            let is_reported = matches!(
                &gone,
                WithError::Lost {
                    output: 7,
                    reason: Loss::Gone,
                    ..
                }
            );
            assert!(is_reported, "{of}: {gone:?}");
            assert!(gone.to_string().contains("is done"), "{of}: {gone}");
            assert!(matches!(
                Error::from(gone),
                Error::Lost {
                    reason: Loss::Gone,
                    ..
                }
            ));

            // Here another holder takes the key.
            let thief = cluster.router(replicas).await;
            let all = router.acquire_all(["taken/1", "taken/2"]).with(async |_| {
                cluster
                    .nodes
                    .iter()
                    .for_each(|node| delete(node, "taken/2"));
                thief.try_acquire("taken/2").await
            });
            let taken = all.await.unwrap_err();
            let WithError::Lost {
                output,
                key,
                reason,
            } = taken
            else {
                panic!("{of}: {taken:?}");
            };
            assert!(output.is_ok(), "{of}: what was done is handed out");
            assert_eq!(
                (key.as_bytes(), reason),
                (&b"taken/2"[..], Loss::TakenOver),
                "{of}"
            );

            // The nodes cannot confirm it: by the local clock the key was held.
            let done = router.with("unanswered", async |_| {
                cluster.nodes.iter().for_each(TestNode::stop);
                9
            });
            assert_eq!(done.await.unwrap(), 9, "{of}");
            cluster.nodes.iter().for_each(TestNode::start);
            let _ = &mut cluster;
        }
    }
}

/// `?` converts into the error types of callers.
#[tokio::test]
async fn failed_work_passes_the_question_mark_operator() {
    async fn own(router: &Router) -> Result<u8, Error> {
        Ok(router.with(KEY, async |_| 1).await?)
    }
    async fn boxed(router: &Router) -> Result<u8, Box<dyn std::error::Error>> {
        Ok(router.with(KEY, async |_| 1).await?)
    }
    async fn sent(router: &Router) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
        let fallible = async |_: &Guard| "1".parse::<u8>();
        Ok(router.with(KEY, fallible).await??)
    }
    let router = Router::in_memory(1).await.unwrap();
    assert_eq!(own(&router).await.unwrap(), 1);
    assert_eq!(boxed(&router).await.unwrap(), 1);
    assert_eq!(sent(&router).await.unwrap(), 1);
    router.clone().shutdown().await;
    assert!(matches!(own(&router).await, Err(Error::Closed)));
    let error = boxed(&router).await.unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(WithError::<u8>::NotRun(Error::Closed))
    ));
    assert!(sent(&router).await.is_err());
}

/// An operator's deletion by hand.
fn delete(node: &TestNode, key: &str) {
    match node {
        TestNode::Memory(node) => node.delete(&ringlock::Key::new(key).unwrap()),
        TestNode::Redis(server) => {
            let mut delete = redis::cmd("DEL");
            delete.arg(format!("ringlock:{key}"));
            delete.exec(&mut server.client()).unwrap();
        }
    }
}
