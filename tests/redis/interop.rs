//! Other Redlock clients on the same keys: with `key_prefix = ""` they exclude
//! ringlock and ringlock excludes them, and neither touches the other's lock.
//!
//! The foreign client is written by hand from the text at
//! <https://redis.io/docs/latest/develop/use/patterns/distributed-locks/>.
//! `RINGLOCK_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::{Error, Guard, Loss, Released, Router};
use ringlock_test_support::{Arm, Cluster, RedisServer, TestNode, seed};

const TTL: Duration = Duration::from_secs(20);

/// A client of the lock on one server, as the text describes it.
struct Foreign(redis::Connection);

impl Foreign {
    fn of(server: &RedisServer) -> Self {
        Self(server.client())
    }

    fn set(&mut self, key: &str, token: &str) -> bool {
        let ttl = TTL.as_millis() as u64;
        let done: Option<String> = redis::cmd("SET")
            .arg(key)
            .arg(token)
            .arg("NX")
            .arg("PX")
            .arg(ttl)
            .query(&mut self.0)
            .expect("SET NX PX");
        done.is_some()
    }

    /// Compare and delete.
    fn delete(&mut self, key: &str, token: &str) -> bool {
        self.eval(
            "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end",
            &[key, token],
        )
    }

    /// Compare and extend.
    fn extend(&mut self, key: &str, token: &str) -> bool {
        let ttl = TTL.as_millis().to_string();
        self.eval(
            "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) else return 0 end",
            &[key, token, &ttl],
        )
    }

    fn eval(&mut self, script: &str, arguments: &[&str]) -> bool {
        redis::cmd("EVAL")
            .arg(script)
            .arg(1)
            .arg(arguments)
            .query(&mut self.0)
            .expect("EVAL")
    }

    fn value(&mut self, key: &str) -> Option<String> {
        redis::cmd("GET").arg(key).query(&mut self.0).expect("GET")
    }

    /// When the key expires, by the server's clock.
    fn expires_at(&mut self, key: &str) -> i64 {
        redis::cmd("PEXPIRETIME")
            .arg(key)
            .query(&mut self.0)
            .expect("PEXPIRETIME")
    }
}

fn servers(cluster: &Cluster) -> impl Iterator<Item = &RedisServer> {
    cluster.nodes.iter().map(|node| match node {
        TestNode::Redis(server) => server,
        TestNode::Memory(_) => unreachable!("the arm is Redis"),
    })
}

async fn router(cluster: &Cluster, replicas: usize) -> Router {
    let builder = cluster.builder().replicas(replicas).ttl(TTL);
    let unprefixed = builder.configure(|config| config.router.key_prefix = String::new());
    unprefixed.connect().await.expect("a router")
}

/// Asserts that the refusal names a foreign client whose lock expires.
#[track_caller]
fn assert_foreign(refused: &Error) {
    let Error::Contended {
        holder: Some(holder),
        remaining: Some(remaining),
        ..
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert!(
        holder.is_foreign() && holder.label().is_none(),
        "{holder:?}"
    );
    assert!(!remaining.is_zero() && *remaining <= TTL, "{remaining:?}");
    let reported = format!("{refused:#}");
    assert!(
        reported.contains("a client other than ringlock"),
        "{reported}"
    );
}

/// Random calls of both clients on few keys, against a list of the holders.
#[tokio::test]
async fn a_key_is_held_by_one_client_exactly_if_the_other_fails() {
    enum Holder {
        Ours(Guard),
        Foreign(String),
    }
    const CALLS: usize = 4_000;
    let mut rng = StdRng::seed_from_u64(seed());
    let cluster = Cluster::start(Arm::Redis, 1);
    let router = router(&cluster, 1).await;
    let mut foreign = Foreign::of(servers(&cluster).next().expect("a server"));
    let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
    let mut collisions = [0, 0];
    for call in 0..CALLS {
        let key = format!("k{}", rng.random_range(0..4));
        let token = format!("{call}-4d2a");
        match (rng.random_range(0..4), holders.remove(&key)) {
            (0 | 1, None) if rng.random() => {
                let guard = router.try_acquire(&key).await.expect("it is free");
                holders.insert(key, Holder::Ours(guard));
            }
            (0 | 1, None) => {
                assert!(foreign.set(&key, &token), "{key} is free");
                holders.insert(key, Holder::Foreign(token));
            }
            (0 | 1, Some(Holder::Ours(guard))) => {
                let before = (foreign.value(&key), foreign.expires_at(&key));
                assert!(!foreign.set(&key, &token), "{key} is held by ringlock");
                assert!(!foreign.delete(&key, &token) && !foreign.extend(&key, &token));
                assert_eq!((foreign.value(&key), foreign.expires_at(&key)), before);
                collisions[0] += 1;
                holders.insert(key, Holder::Ours(guard));
            }
            (0 | 1, Some(Holder::Foreign(held))) => {
                let expires = foreign.expires_at(&key);
                let refused = router.try_acquire(&key).await.expect_err("it is held");
                assert_foreign(&refused);
                assert_eq!(foreign.value(&key).as_deref(), Some(&*held));
                assert_eq!(foreign.expires_at(&key), expires);
                collisions[1] += 1;
                holders.insert(key, Holder::Foreign(held));
            }
            (2, Some(Holder::Ours(guard))) => {
                guard.extend().await.expect("it is ours");
                holders.insert(key, Holder::Ours(guard));
            }
            (2, Some(Holder::Foreign(held))) => {
                assert!(foreign.extend(&key, &held));
                holders.insert(key, Holder::Foreign(held));
            }
            (_, Some(Holder::Ours(guard))) => {
                assert_eq!(guard.release().await.expect("an answer"), Released::InTime);
            }
            (_, Some(Holder::Foreign(held))) => assert!(foreign.delete(&key, &held)),
            (_, None) => assert!(!foreign.delete(&key, &token) && !foreign.extend(&key, &token)),
        }
    }
    println!("{CALLS} calls, {collisions:?} collisions");
    assert!(collisions.iter().all(|&count| count > CALLS / 20));
}

/// The lock of a guard has lapsed without its knowledge, and a foreign client
/// holds the key.
#[tokio::test]
async fn a_lease_that_is_gone_leaves_its_successor_alone() {
    for replicas in [1, 5] {
        let cluster = Cluster::start(Arm::Redis, 5);
        let router = router(&cluster, replicas).await;
        let guard = router.try_acquire("k").await.unwrap();
        let mut taken = Vec::new();
        for server in servers(&cluster) {
            let mut foreign = Foreign::of(server);
            let ours = foreign.value("k");
            assert!(ours.is_none_or(|token| foreign.delete("k", &token)));
            assert!(foreign.set("k", "theirs"));
            let expires = foreign.expires_at("k");
            taken.push((foreign, expires));
        }
        let lost = guard.extend().await.unwrap_err();
        let is_taken = matches!(
            lost,
            Error::Lost {
                reason: Loss::TakenOver,
                ..
            }
        );
        assert!(is_taken, "n={replicas}: {lost:?}");
        assert_eq!(guard.release().await.unwrap(), Released::TooLate);
        for (mut foreign, expires) in taken {
            assert_eq!(foreign.value("k").as_deref(), Some("theirs"));
            assert_eq!(foreign.expires_at("k"), expires);
        }
    }
}

#[tokio::test]
async fn a_foreign_lock_without_expiry_is_contention_without_end() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Redis, 3);
        let router = router(&cluster, replicas).await;
        for server in servers(&cluster) {
            redis::cmd("SET")
                .arg(&["k", "for ever"])
                .exec(&mut server.client())
                .expect("SET");
        }
        let refused = router.try_acquire("k").await.unwrap_err();
        let Error::Contended {
            holder: Some(holder),
            remaining: None,
            ..
        } = &refused
        else {
            panic!("n={replicas}: {refused:?}");
        };
        assert!(holder.is_foreign());
        let refused = router.acquire("k").attempts(3).await.unwrap_err();
        assert!(refused.is_contention(), "n={replicas}: {refused}");
    }
}

/// The foreign client over several servers: a quorum of `SET NX PX`, its time
/// deducted from the validity, all undone on failure.
struct Redlock(Vec<Foreign>);

impl Redlock {
    fn of(cluster: &Cluster) -> Self {
        Self(servers(cluster).map(Foreign::of).collect())
    }

    fn lock(&mut self, key: &str, token: &str) -> bool {
        let started = Instant::now();
        let mut granted = 0;
        for foreign in &mut self.0 {
            granted += usize::from(foreign.set(key, token));
        }
        let drift = TTL / 100 + Duration::from_millis(2);
        let is_valid = started.elapsed() + drift < TTL;
        let is_locked = granted > self.0.len() / 2 && is_valid;
        if !is_locked {
            self.unlock(key, token);
        }
        is_locked
    }

    fn unlock(&mut self, key: &str, token: &str) -> usize {
        let deleted = self.0.iter_mut().map(|foreign| foreign.delete(key, token));
        deleted.filter(|&is_ours| is_ours).count()
    }
}

#[tokio::test]
async fn a_foreign_redlock_and_a_quorum_exclude_each_other() {
    let cluster = Cluster::start(Arm::Redis, 5);
    let router = router(&cluster, 5).await;
    let mut redlock = Redlock::of(&cluster);
    let guard = router.try_acquire("k").await.unwrap();
    assert!(!redlock.lock("k", "theirs"), "ringlock has all five");
    guard.extend().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::InTime);

    assert!(redlock.lock("k", "theirs"));
    assert_foreign(&router.try_acquire("k").await.unwrap_err());
    assert_eq!(redlock.unlock("k", "theirs"), 5, "not one was touched");

    // Two of five are not a quorum, and block nobody.
    for foreign in &mut redlock.0[..2] {
        assert!(foreign.set("k", "theirs"));
    }
    let guard = router.try_acquire("k").await.unwrap();
    assert!(!redlock.lock("k", "others"), "ringlock has three");
    guard.extend().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
    assert_eq!(redlock.unlock("k", "theirs"), 2, "both are still theirs");
    assert!(redlock.lock("k", "theirs"), "nothing of ringlock's is left");
}

/// Both at once, as fast as possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_are_inside_at_once() {
    const TURNS: usize = 100;
    for replicas in [1, 5] {
        let cluster = Cluster::start(Arm::Redis, 5);
        let is_inside = Arc::new(AtomicBool::new(false));
        let turns = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let enter = {
            let (is_inside, turns) = (Arc::clone(&is_inside), Arc::clone(&turns));
            move |client: usize| {
                assert!(!is_inside.swap(true, Ordering::SeqCst), "two are inside");
                std::thread::yield_now();
                is_inside.store(false, Ordering::SeqCst);
                turns[client].fetch_add(1, Ordering::SeqCst);
            }
        };
        let is_over = {
            let turns = Arc::clone(&turns);
            move || {
                turns
                    .iter()
                    .all(|turns| turns.load(Ordering::SeqCst) >= TURNS)
            }
        };
        let router = router(&cluster, replicas).await;
        let mut redlock = Redlock::of(&cluster);
        if replicas == 1 {
            let owner = router.route("k").unwrap().owner;
            let index = usize::from(owner.as_bytes()[0] - b'a');
            redlock = Redlock(vec![redlock.0.remove(index)]);
        }
        let foreign = {
            let (enter, is_over) = (enter.clone(), is_over.clone());
            std::thread::spawn(move || {
                for turn in 0.. {
                    let token = format!("theirs {turn}");
                    if redlock.lock("k", &token) {
                        enter(1);
                        redlock.unlock("k", &token);
                    }
                    if is_over() {
                        return;
                    }
                    // As the text requires: a random pause, so that one of them
                    // wins eventually.
                    std::thread::sleep(Duration::from_micros(rand::random_range(0..3000)));
                }
            })
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_over() {
            assert!(Instant::now() < deadline, "n={replicas}: {turns:?}");
            let retry = Duration::from_millis(3);
            match router.acquire("k").attempts(10).retry_delay(retry).await {
                Ok(guard) => {
                    enter(0);
                    guard.release().await.expect("an answer");
                }
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
        foreign.join().expect("the foreign client");
        println!("n={replicas}: {turns:?} turns");
    }
}
