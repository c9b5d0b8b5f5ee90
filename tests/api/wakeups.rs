//! Waiting without polling: a waiter is notified, and sends nothing until then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringlock::{Error, Fence, Guard, Init, Key, MemoryNode, Router};
use ringlock_test_support::{
    ARMS, Arm, Cluster, KEY, MARGIN, PROMPTLY, RedisServer, TestNode, eventually, ms,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// Longer than any pause between two polls.
const POLLS_WOULD_SHOW: Duration = Duration::from_millis(600);

/// A number from the server's INFO.
fn info(server: &RedisServer, section: &str, name: &str) -> u64 {
    let text: String = redis::cmd("INFO")
        .arg(section)
        .query(&mut server.client())
        .expect("INFO");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |line| {
        let digits = line.trim_start_matches([':', '=']);
        let end = digits.find(|char: char| !char.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse().expect(name)
    })
}

/// The number of keys of the node that are watched.
fn watched(node: &TestNode) -> u64 {
    match node {
        TestNode::Memory(node) => node.watched() as u64,
        TestNode::Redis(server) => info(server, "stats", "tracking_total_keys"),
    }
}

/// The number of acquires that the node has received.
fn asked(node: &TestNode) -> u64 {
    match node {
        TestNode::Memory(node) => node.requests(),
        TestNode::Redis(server) => info(server, "commandstats", "cmdstat_set:calls"),
    }
}

fn total(cluster: &Cluster, count: fn(&TestNode) -> u64) -> u64 {
    cluster.nodes.iter().map(count).sum()
}

/// Deletes the key on this node, behind its holder's back.
fn delete(node: &TestNode) {
    match node {
        TestNode::Memory(node) => node.delete(&Key::new(KEY).unwrap()),
        TestNode::Redis(server) => {
            let name = format!("ringlock:{KEY}");
            let deleted = redis::cmd("DEL").arg(name).exec(&mut server.client());
            deleted.expect("DEL");
        }
    }
}

/// A waiter for the key; returns once it watches this many nodes.
async fn waiter(cluster: &Cluster, router: &Router, nodes: u64) -> Waiter {
    let acquire = router.acquire(KEY).wait(12 * PROMPTLY);
    let waiter = tokio::spawn(acquire.into_future());
    eventually(PROMPTLY, "the key is watched", || {
        total(cluster, watched) == nodes
    })
    .await;
    waiter
}

type Waiter = JoinHandle<Result<Guard, Error>>;

async fn finish(waiter: Waiter) -> Guard {
    let done = timeout(PROMPTLY, waiter).await.expect("woken in time");
    done.unwrap().unwrap()
}

#[tokio::test]
async fn a_waiter_sends_nothing_until_the_key_is_released() {
    for arm in ARMS {
        for replicas in [1, 3, 5] {
            let cluster = Cluster::start(arm, replicas);
            let holder = cluster.router(replicas).await;
            let router = cluster.router(replicas).await;
            let guard = holder.acquire(KEY).await.unwrap();
            let waiter = waiter(&cluster, &router, replicas as u64).await;
            let before = total(&cluster, asked);
            tokio::time::sleep(POLLS_WOULD_SHOW).await;
            assert_eq!(total(&cluster, asked), before, "{arm:?} n={replicas}");

            let released = Instant::now();
            guard.release().await.unwrap();
            drop(finish(waiter).await);
            println!(
                "{arm:?} n={replicas}: from release to grant {:?}",
                released.elapsed()
            );
            assert_eq!(router.stats().attempts, 2, "{arm:?} n={replicas}");
        }
    }
}

#[tokio::test]
async fn a_key_that_is_deleted_by_hand_is_noticed() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, replicas);
            let holder = cluster.router(replicas).await;
            let router = cluster.router(replicas).await;
            let guard = holder.acquire(KEY).await.unwrap();
            let waiter = waiter(&cluster, &router, replicas as u64).await;
            cluster.nodes.iter().for_each(delete);
            drop(finish(waiter).await);
            assert_eq!(router.stats().attempts, 2, "{arm:?} n={replicas}");
            drop(guard);
        }
    }
}

/// One node of three is not enough for a quorum: its release causes no attempt.
#[tokio::test]
async fn a_minority_that_is_free_wakes_nobody() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let holder = cluster.router(3).await;
        let router = cluster.router(3).await;
        let _guard = holder.acquire(KEY).await.unwrap();
        let waiter = waiter(&cluster, &router, 3).await;
        let before = total(&cluster, watched);
        let is_watched = |node: &&TestNode| watched(node) > 0;
        delete(cluster.nodes.iter().find(is_watched).unwrap());
        eventually(PROMPTLY, "it is told", || {
            total(&cluster, watched) == before - 1
        })
        .await;
        tokio::time::sleep(POLLS_WOULD_SHOW).await;
        assert_eq!(router.stats().attempts, 1, "{arm:?}");
        delete(cluster.nodes.iter().find(is_watched).unwrap());
        drop(finish(waiter).await);
        assert_eq!(router.stats().attempts, 2, "{arm:?}");
    }
}

/// One node of three has a dead client's entry: the release of the two others
/// wakes the waiter, whichever nodes answered its attempt first.
#[tokio::test]
async fn a_leftover_on_a_minority_delays_no_wake_up() {
    for arm in ARMS {
        for leftover in 0..3 {
            let cluster = Cluster::start(arm, 3);
            let dead = cluster.router(3).await;
            let holder = cluster.router(3).await;
            let router = cluster.router(3).await;
            let mut took = Vec::new();
            // An entry that no client will release, and that no other node has.
            std::mem::forget(dead.acquire(KEY).ttl(30 * ms(1000)).await.unwrap());
            let others = || (0..3).filter(|&node| node != leftover);
            others().for_each(|node| delete(&cluster.nodes[node]));
            for _ in 0..4 {
                let guard = holder.acquire(KEY).wait(PROMPTLY).await.unwrap();
                let before = router.stats().attempts;
                let acquire = router.acquire(KEY).wait(12 * PROMPTLY);
                let waiter = tokio::spawn(acquire.into_future());
                eventually(PROMPTLY, "it waits", || {
                    router.stats().attempts > before && total(&cluster, watched) > 1
                })
                .await;
                tokio::time::sleep(ms(30)).await;
                let released = Instant::now();
                guard.release().await.unwrap();
                drop(finish(waiter).await);
                took.push(released.elapsed());
            }
            println!("{arm:?}, leftover on {leftover}: from release to grant {took:?}");
            assert!(took.iter().all(|&took| took < MARGIN), "{arm:?}: {took:?}");
        }
    }
}

/// The server remembers fewer keys than are waited for, and invalidates those
/// that it forgets as if they had changed.
#[tokio::test]
async fn needless_wake_ups_do_not_cause_each_other() {
    const WAITERS: usize = 200;
    const SPAN: Duration = Duration::from_secs(2);
    let cluster = Cluster::start(Arm::Redis, 1);
    let TestNode::Redis(server) = &cluster.nodes[0] else {
        panic!("no server");
    };
    let setting = ["SET", "tracking-table-max-keys", "10"];
    let set = redis::cmd("CONFIG")
        .arg(&setting)
        .exec(&mut server.client());
    set.unwrap();
    let holder = cluster.router(1).await;
    let router = cluster.router(1).await;
    let mut guards = Vec::new();
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        let key = format!("{KEY}/{number}");
        guards.push(holder.acquire(&key).ttl(30 * ms(1000)).await.unwrap());
        let acquire = router.acquire(&key).wait(12 * PROMPTLY);
        waiters.push(tokio::spawn(acquire.into_future()));
    }
    eventually(PROMPTLY, "all have tried", || {
        router.stats().attempts >= WAITERS as u64
    })
    .await;
    tokio::time::sleep(ms(500)).await;
    let before = info(server, "stats", "total_commands_processed");
    let began = Instant::now();
    tokio::time::sleep(SPAN).await;
    let commands = info(server, "stats", "total_commands_processed") - before;
    let rate = commands as f64 / began.elapsed().as_secs_f64();
    let mut took = Vec::new();
    for _ in 0..10 {
        let (guard, waiter) = (guards.pop().unwrap(), waiters.pop().unwrap());
        let released = Instant::now();
        guard.release().await.unwrap();
        drop(finish(waiter).await);
        took.push(released.elapsed());
    }
    println!("{rate:.0} commands/s of {WAITERS} waiters; from release to grant {took:?}");
    waiters.iter().for_each(JoinHandle::abort);
    assert!(rate < 3_000.0, "{rate:.0} commands/s");
    assert!(took.iter().all(|&took| took < MARGIN), "{took:?}");
}

/// No client releases an entry that another client left to expire.
#[tokio::test]
async fn the_end_of_a_foreign_entry_is_noticed() {
    let cluster = Cluster::start(Arm::Redis, 1);
    let router = cluster.router(1).await;
    let TestNode::Redis(server) = &cluster.nodes[0] else {
        panic!("no server");
    };
    let name = format!("ringlock:{KEY}");
    let mut client = server.client();
    let entry = ["foreign", "PX", "60000"];
    let set = redis::cmd("SET").arg(&name).arg(&entry).exec(&mut client);
    set.unwrap();
    let waiter = waiter(&cluster, &router, 1).await;
    let started = Instant::now();
    let shortened = redis::cmd("PEXPIRE").arg(&name).arg(200).exec(&mut client);
    shortened.unwrap();
    drop(finish(waiter).await);
    let took = started.elapsed();
    assert!(took >= ms(199) && took < ms(200) + MARGIN, "{took:?}");
    assert!(router.stats().attempts <= 4, "{:?}", router.stats());
}

/// The server reports only that everything is gone.
#[tokio::test]
async fn a_flush_wakes_all_waiters() {
    let cluster = Cluster::start(Arm::Redis, 1);
    let holder = cluster.router(1).await;
    let router = cluster.router(1).await;
    let _guard = holder.acquire(KEY).await.unwrap();
    let waiter = waiter(&cluster, &router, 1).await;
    let TestNode::Redis(server) = &cluster.nodes[0] else {
        panic!("no server");
    };
    redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
    eventually(PROMPTLY, "it tries again", || router.stats().attempts > 1).await;
    waiter.abort();
}

#[tokio::test]
async fn a_waiter_outlives_its_tracking_connection() {
    let cluster = Cluster::start(Arm::Redis, 1);
    let holder = cluster.router(1).await;
    let router = cluster.router(1).await;
    let guard = holder.acquire(KEY).await.unwrap();
    let waiter = waiter(&cluster, &router, 1).await;
    let TestNode::Redis(server) = &cluster.nodes[0] else {
        panic!("no server");
    };
    let mut client = server.client();
    let mut tracking = || -> Option<String> {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        let field = |line: &str, name: &str| -> Option<String> {
            let mut fields = line.split(' ');
            fields.find_map(|field| field.strip_prefix(name).map(Into::into))
        };
        let is_tracking = |line: &&str| field(line, "flags=").is_some_and(|f| f.contains('t'));
        let line = list.lines().find(is_tracking)?;
        field(line, "id=")
    };
    let first = tracking().expect("a tracking connection");
    let kill = redis::cmd("CLIENT")
        .arg(&["KILL", "ID", &first])
        .exec(&mut server.client());
    kill.unwrap();
    // It polls until it watches again.
    let mut second = None;
    eventually(PROMPTLY, "it watches again", || {
        second = tracking();
        second.is_some() && watched(&cluster.nodes[0]) == 1
    })
    .await;
    assert_ne!(second, Some(first));
    let before = asked(&cluster.nodes[0]);
    tokio::time::sleep(POLLS_WOULD_SHOW).await;
    assert_eq!(asked(&cluster.nodes[0]), before, "it polls still");
    guard.release().await.unwrap();
    drop(finish(waiter).await);
}

#[tokio::test]
async fn where_tracking_is_forbidden_waiters_poll() {
    let (server, port) = RedisServer::start_on_tcp(&[]);
    let rules = "on >pw ~* +@all -client";
    let user = redis::cmd("ACL")
        .arg(&["SETUSER", "limited"])
        .arg(rules.split(' ').collect::<Vec<_>>())
        .exec(&mut server.client());
    user.unwrap();
    let connect = || {
        let url = format!("redis://limited:pw@127.0.0.1:{port}");
        Router::builder().node("a", url).init(Init::Now).connect()
    };
    let (holder, router) = (connect().await.unwrap(), connect().await.unwrap());
    let guard = holder.acquire(KEY).await.unwrap();
    let waiter = tokio::spawn(router.acquire(KEY).wait(12 * PROMPTLY).into_future());
    eventually(PROMPTLY, "it polls", || router.stats().attempts > 4).await;
    assert_eq!(info(&server, "stats", "tracking_total_keys"), 0);
    guard.release().await.unwrap();
    drop(finish(waiter).await);
}

#[tokio::test]
async fn a_waiter_that_is_dropped_leaves_no_watch() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let holder = cluster.router(3).await;
    let router = cluster.router(3).await;
    let _guard = holder.acquire(KEY).await.unwrap();
    let dropped = waiter(&cluster, &router, 3).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert_eq!(total(&cluster, watched), 0);
    // The next waiter in line works the same.
    let waiter = waiter(&cluster, &router, 3).await;
    let short = router.acquire(KEY).wait(ms(20)).await.unwrap_err();
    assert!(short.is_contention(), "{short}");
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    assert_eq!(total(&cluster, watched), 0);
}

/// Nothing reports that the holder is gone: its node hangs, so that its release
/// is not announced.
#[tokio::test]
async fn a_lost_watch_does_not_wait_forever() {
    let cluster = Cluster::start(Arm::Memory, 1);
    let holder = cluster.router(1).await;
    let router = cluster.router(1).await;
    let guard = holder.acquire(KEY).await.unwrap();
    let waiter = waiter(&cluster, &router, 1).await;
    let TestNode::Memory(node) = &cluster.nodes[0] else {
        panic!("no in-memory node");
    };
    let node: &MemoryNode = node;
    node.hang();
    drop(guard);
    node.start();
    drop(finish(waiter).await);
}

/// The grants of a crowd, in their order.
struct Grants {
    list: Mutex<Vec<(usize, Fence)>>,
    is_held: AtomicBool,
}

impl Grants {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            list: Mutex::default(),
            is_held: AtomicBool::new(false),
        })
    }

    /// Takes one grant of `side`; returns the number of earlier grants.
    async fn take(&self, side: usize, guard: Guard, hold: Duration) -> usize {
        assert!(!self.is_held.swap(true, Ordering::SeqCst), "two at once");
        let before = {
            let mut list = self.list.lock().unwrap();
            list.push((side, guard.fence()));
            list.len() - 1
        };
        if hold.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(hold).await;
        }
        assert_eq!(guard.loss(), None);
        self.is_held.store(false, Ordering::SeqCst);
        guard.release().await.unwrap();
        before
    }
}

/// Two routers act as two processes: each has its own queue.
#[tokio::test]
async fn all_waiters_in_two_queues_get_the_key() {
    const WAITERS: usize = 60;
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, replicas);
            let grants = Grants::new();
            let mut crowd = JoinSet::new();
            let routers = [
                cluster.router(replicas).await,
                cluster.router(replicas).await,
            ];
            for (side, router) in routers.iter().enumerate() {
                for _ in 0..WAITERS {
                    let (router, grants) = (router.clone(), Arc::clone(&grants));
                    crowd.spawn(async move {
                        let guard = router.acquire(KEY).wait(12 * PROMPTLY).await.unwrap();
                        grants.take(side, guard, Duration::ZERO).await;
                    });
                }
            }
            while let Some(one) = crowd.join_next().await {
                one.unwrap();
            }
            let list = grants.list.lock().unwrap();
            assert_eq!(list.len(), 2 * WAITERS);
            assert!(
                list.is_sorted_by(|(_, a), (_, b)| a < b),
                "{arm:?} n={replicas}: fences"
            );
            let attempts: u64 = routers.iter().map(|router| router.stats().attempts).sum();
            println!(
                "{arm:?} n={replicas}: {attempts} attempts, {} grants",
                list.len()
            );
        }
    }
}

/// A process with a full queue could pass a key on forever: it must leave it to
/// another process's queue again and again.
#[tokio::test]
async fn two_queues_share_a_key() {
    const WORKERS: usize = 8;
    const GRANTS: usize = 600;
    for arm in ARMS {
        for hold in [Duration::ZERO, ms(1)] {
            let cluster = Cluster::start(arm, 1);
            let grants = Grants::new();
            let mut crowd = JoinSet::new();
            for side in 0..2 {
                let router = cluster.router(1).await;
                for _ in 0..WORKERS {
                    let (router, grants) = (router.clone(), Arc::clone(&grants));
                    crowd.spawn(async move {
                        loop {
                            let guard = router.acquire(KEY).wait(12 * PROMPTLY).await.unwrap();
                            if grants.take(side, guard, hold).await >= GRANTS {
                                return;
                            }
                        }
                    });
                }
            }
            while let Some(one) = crowd.join_next().await {
                one.unwrap();
            }
            let list = grants.list.lock().unwrap();
            let share = list[..GRANTS].iter().filter(|(side, _)| *side == 0).count();
            let runs = list[..GRANTS].chunk_by(|(a, _), (b, _)| a == b);
            let longest = runs.map(<[_]>::len).max().unwrap_or(0);
            println!("{arm:?}, held for {hold:?}: {share} of {GRANTS}, longest run {longest}");
            assert!(
                (GRANTS / 3..=2 * GRANTS / 3).contains(&share),
                "{arm:?}: {share} of {GRANTS}"
            );
        }
    }
}
