//! Many keys in one call: each on its own, and all as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use ringlock::{
    Config, Error, Fence, GuardSet, Key, KeyError, Loss, MemoryNode, Released, Router, WithError,
};
use ringlock_test_support::{ARMS, Arm, Cluster, PROMPTLY, TestNode, ms, seed};
use tokio::task::JoinSet;
use tokio::time::timeout;

const THOUSANDS: usize = 10_000;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("key/{index:05}")).collect()
}

/// All locked keys, once per node that has the entry.
fn locked(cluster: &Cluster) -> Vec<String> {
    let mut locked: Vec<String> = cluster.nodes.iter().flat_map(TestNode::locked).collect();
    locked.sort();
    locked
}

fn memory(cluster: &Cluster, index: usize) -> &MemoryNode {
    match &cluster.nodes[index] {
        TestNode::Memory(node) => node,
        TestNode::Redis(_) => panic!("no in-memory node"),
    }
}

/// Whether each of `keys`, and nothing else, is locked on at least a majority
/// of its replicas: the slowest replicas may lag behind.
fn are_locked(cluster: &Cluster, keys: &[impl AsRef<str>], replicas: usize) -> bool {
    let mut nodes = BTreeMap::<String, usize>::new();
    for key in locked(cluster) {
        *nodes.entry(key).or_default() += 1;
    }
    let is_locked = |key: &str| nodes.get(key).is_some_and(|&count| count > replicas / 2);
    nodes.len() == keys.len() && keys.iter().all(|key| is_locked(key.as_ref()))
}

/// Asserts that nothing is locked once the pending releases are answered.
async fn assert_free(cluster: &Cluster, router: &Router) {
    assert!(router.drained().await, "releases are still owed");
    assert_eq!(locked(cluster), [""; 0]);
}

#[tokio::test]
async fn each_key_has_a_result_of_its_own() {
    for (arm, replicas) in ARMS.into_iter().flat_map(|arm| [(arm, 1), (arm, 3)]) {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let theirs = other.acquire_all(["b", "d"]).await.unwrap();
        let own = router.acquire("e").await.unwrap();
        let too_long = "x".repeat(1025);
        let keys = ["a", "b", "", "c", "d", "a", &too_long, "e"];

        let results = router.acquire_many(keys).attempts(1).await;
        assert!(results.iter().map(|(key, _)| *key).eq(keys), "{arm:?}");
        for (index, (key, result)) in results.iter().enumerate() {
            let is_as_expected = match (index, result) {
                (0 | 3, Ok(guard)) => guard.key().as_bytes() == key.as_bytes(),
                (1 | 4 | 7, Err(error)) => error.is_contention(),
                (2, Err(Error::Key(KeyError::Empty))) => true,
                (5, Err(Error::Duplicate { key })) => key.as_bytes() == b"a",
                (6, Err(Error::Key(KeyError::TooLong { len: 1025 }))) => true,
                _ => false,
            };
            assert!(is_as_expected, "{arm:?} n={replicas} {key}: {result:?}");
        }
        drop((results, own));
        assert!(router.drained().await);
        assert!(are_locked(&cluster, &["b", "d"], replicas), "{arm:?}");
        theirs.release().await.unwrap();
        assert_free(&cluster, &other).await;
        assert!(router.acquire_many([""; 0]).await.is_empty());
    }
}

#[tokio::test]
async fn results_arrive_as_they_become_known() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(3).await;
        let other = cluster.router(3).await;
        let keys = names(2_000);
        let busy = &keys[0];
        let mut theirs = Some(other.acquire(busy).await.unwrap());
        let mut outcomes = router.acquire_many(&keys).wait(2 * PROMPTLY).outcomes();
        let mut guards = BTreeMap::new();
        while let Some((key, result)) = outcomes.next().await {
            guards.insert(key, result.unwrap());
            if guards.len() == keys.len() - 1 {
                assert!(!guards.contains_key(busy), "{arm:?}: it is held");
                drop(theirs.take());
            }
        }
        assert!(guards.keys().copied().eq(&keys), "{arm:?}");
        assert!(outcomes.next().await.is_none());
        drop((guards, outcomes));
        assert_free(&cluster, &router).await;
    }
}

/// Attempts at the keys of a node that does not answer do not use up the places
/// of other keys.
#[tokio::test]
async fn a_hanging_node_delays_only_its_own_keys() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let router = cluster.router(1).await;
    memory(&cluster, 1).hang();
    let keys = names(6_000);
    let is_stuck = |key: &str| &*router.route(key).unwrap().owner == "b";
    let stuck = keys.iter().filter(|key| is_stuck(key)).count();
    assert!(stuck > 1_024, "{stuck}");
    let mut outcomes = router.acquire_many(&keys).wait(ms(2_000)).outcomes();
    let mut guards = Vec::new();
    let mut failures = 0;
    while let Some((key, result)) = outcomes.next().await {
        assert_eq!(result.is_err(), is_stuck(key), "{key}: {result:?}");
        match result {
            Ok(guard) => {
                assert_eq!(failures, 0, "{key} had to wait");
                guards.push(guard);
            }
            Err(error) => {
                assert!(!error.is_contention(), "{error}");
                failures += 1;
            }
        }
    }
    assert_eq!((guards.len(), failures), (keys.len() - stuck, stuck));
}

/// Fences by key.
type Fences = BTreeMap<String, Fence>;

async fn lock_each(router: &Router, keys: &[String]) -> (Fences, impl Sized + use<>) {
    let results = router.acquire_many(keys).keep_alive().await;
    let guards: Vec<_> = results
        .into_iter()
        .map(|(key, result)| result.unwrap_or_else(|error| panic!("{key}: {error}")))
        .collect();
    let fences = guards
        .iter()
        .map(|guard| (guard.key().to_string(), guard.fence()));
    (fences.collect(), guards)
}

fn fences_of(guards: &GuardSet) -> Fences {
    let fences = guards.fences();
    fences
        .map(|(key, fence)| (key.to_string(), fence))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_in_one_call() {
    for (arm, replicas) in ARMS.into_iter().flat_map(|arm| [(arm, 1), (arm, 3)]) {
        let cluster = Cluster::start(arm, 3);
        // Time for the nodes to answer, even on a busy machine.
        let builder = cluster.builder().replicas(replicas);
        let router = builder
            .ttl(Duration::from_secs(30))
            .node_timeout(Duration::from_secs(15))
            .connect()
            .await
            .unwrap();
        let mut keys = names(THOUSANDS);
        keys.shuffle(&mut StdRng::seed_from_u64(seed()));

        let (first, guards) = lock_each(&router, &keys).await;
        assert_eq!(first.len(), THOUSANDS);
        assert!(
            are_locked(&cluster, &keys, replicas),
            "{arm:?} n={replicas}"
        );
        drop(guards);
        assert_free(&cluster, &router).await;

        let guards = router.acquire_all(&keys).await.unwrap();
        assert!(
            are_locked(&cluster, &keys, replicas),
            "{arm:?} n={replicas}"
        );
        let second = fences_of(&guards);
        assert!(
            first.iter().all(|(key, fence)| second[key] > *fence),
            "{arm:?} n={replicas}: a fence did not grow"
        );
        let before = guards.valid_until();
        guards.extend().await.unwrap();
        assert!(guards.valid_until() > before);
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
        assert_free(&cluster, &router).await;

        drop(router.acquire_all(&keys).await.unwrap());
        assert_free(&cluster, &router).await;
        let stats = router.stats();
        assert_eq!(stats.granted, 3 * THOUSANDS as u64);
        assert_eq!(stats.attempts, stats.granted, "one round each");
    }
}

/// The number of each key's holder.
struct Holders(Vec<AtomicUsize>);

impl Holders {
    async fn visit(&self, caller: usize, keys: &BTreeSet<usize>) {
        for &key in keys {
            assert_eq!(self.0[key].swap(caller, Ordering::SeqCst), 0, "key {key}");
        }
        tokio::task::yield_now().await;
        for &key in keys {
            assert_eq!(self.0[key].swap(0, Ordering::SeqCst), caller, "key {key}");
        }
    }
}

/// Overlapping sets in any order, with four routers instead of four processes:
/// all callers complete, and no two hold the same key.
async fn contend(arm: Arm, replicas: usize) {
    const KEYS: usize = 9;
    const CALLERS: usize = 12;
    const ROUNDS: usize = 25;
    let cluster = Cluster::start(arm, 3);
    let mut routers = Vec::new();
    for _ in 0..4 {
        routers.push(cluster.router(replicas).await);
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        if let TestNode::Memory(node) = node {
            // Answers arrive one after the other, as from servers.
            node.set_delay(Duration::from_micros(500 * (1 + index as u64)));
        }
    }
    let holders = Arc::new(Holders((0..KEYS).map(|_| AtomicUsize::new(0)).collect()));
    let seed = seed();
    let mut callers = JoinSet::new();
    for caller in 1..=CALLERS {
        let router = routers[caller % 4].clone();
        let holders = Arc::clone(&holders);
        let mut random = StdRng::seed_from_u64(seed + caller as u64);
        callers.spawn(async move {
            for round in 0..ROUNDS {
                let mut keys: Vec<usize> = (0..KEYS).collect();
                keys.shuffle(&mut random);
                keys.truncate(random.random_range(2..=5));
                let names = keys.iter().map(|key| format!("{key}"));
                let acquire = router.acquire_all(names).wait(6 * PROMPTLY);
                let guards = acquire.retry_delay(ms(10)).await;
                let guards = guards.unwrap_or_else(|e| panic!("{caller}/{round} {keys:?}: {e}"));
                holders.visit(caller, &keys.into_iter().collect()).await;
                match random.random_range(0..3) {
                    0 => drop(guards),
                    _ => assert_eq!(guards.release().await.unwrap(), Released::InTime),
                }
            }
        });
    }
    callers.join_all().await;
    let contended: u64 = routers.iter().map(|router| router.stats().contended).sum();
    println!("{arm:?} n={replicas}: {contended} attempts found their key held");
    assert!(contended > 20, "nobody was in anybody's way");
    for router in &routers {
        assert!(router.drained().await);
    }
    assert_eq!(locked(&cluster), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_in_any_order_neither_deadlock_nor_overlap() {
    for (arm, replicas) in ARMS.into_iter().flat_map(|arm| [(arm, 1), (arm, 3)]) {
        contend(arm, replicas).await;
    }
}

#[tokio::test]
async fn a_failure_leaves_nothing_locked() {
    for (arm, replicas) in ARMS.into_iter().flat_map(|arm| [(arm, 1), (arm, 3)]) {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let keys = names(300);
        for (holder, busy) in [(&other, 0), (&other, 150), (&router, 299)] {
            let theirs = holder.acquire(&keys[busy]).await.unwrap();
            let error = router.acquire_all(&keys).wait(ms(500)).await.unwrap_err();
            let Error::TimedOut { last, .. } = &error else {
                panic!("{arm:?}: {error}");
            };
            let Error::Contended { key, .. } = &**last else {
                panic!("{arm:?}: {error}");
            };
            assert_eq!(key.to_string(), keys[busy], "{arm:?}");
            assert_eq!(theirs.release().await.unwrap(), Released::InTime);
            assert_free(&cluster, &router).await;
        }
        assert!(other.drained().await);
        let guards = router.acquire_all(&keys).await.unwrap();
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
    }
}

/// The call does not wait for answers about keys behind a busy one: it would
/// release those keys again in any case.
#[tokio::test]
async fn a_busy_key_is_waited_for_whatever_is_behind_it() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let router = cluster.router(1).await;
    let other = cluster.router(1).await;
    let keys = names(100);
    let on = |name: &str, key: &&String| &*router.route(key).unwrap().owner == name;
    let busy = keys.iter().find(|key| on("a", key)).unwrap();
    let stuck = keys.iter().rfind(|key| on("b", key)).unwrap();
    assert!(busy < stuck);
    let theirs = other.acquire(busy).await.unwrap();
    memory(&cluster, 1).hang();
    let acquire = router.acquire_all([stuck, busy]).wait(2 * PROMPTLY);
    let acquiring = tokio::spawn(acquire.into_future());
    let is_tried_again = || router.stats().attempts >= 3;
    ringlock_test_support::eventually(PROMPTLY, "it is tried again", is_tried_again).await;
    assert_eq!(
        router.stats().failed,
        0,
        "the node that hangs was waited for"
    );
    memory(&cluster, 1).start();
    theirs.release().await.unwrap();
    let guards = acquiring.await.unwrap().unwrap();
    assert_eq!(guards.release().await.unwrap(), Released::InTime);
    assert_free(&cluster, &router).await;
}

#[tokio::test]
async fn invalid_sets_are_refused_before_any_request() {
    let router = Router::in_memory(3).await.unwrap();
    let none = router.acquire_all([""; 0]).await.unwrap_err();
    assert!(matches!(none, Error::NoKeys), "{none}");
    let bad = router.acquire_all(["a", "", "b"]).await.unwrap_err();
    assert!(matches!(bad, Error::Key(KeyError::Empty)), "{bad}");
    let short = router.acquire_all(["a"]).ttl(ms(1)).await.unwrap_err();
    assert!(matches!(short, Error::Ttl(_)), "{short}");
    let keys = names(16_385);
    let many = router.acquire_all(&keys).await.unwrap_err();
    let text = "16385 keys are too many for one call: give at most 16384 at a time";
    assert_eq!(many.to_string(), text);
    let results = router.acquire_many(&keys).await;
    assert_eq!(results.len(), keys.len());
    let is_refused = |error: &Error| matches!(error, Error::TooManyKeys { .. });
    assert!(
        results
            .iter()
            .all(|(_, r)| r.as_ref().is_err_and(is_refused))
    );
    assert_eq!(router.stats().attempts, 0);
}

#[tokio::test]
async fn a_key_named_twice_is_locked_once() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(1).await;
        let guards = router.acquire_all(["b", "a", "b", "c", "a"]).await.unwrap();
        let keys: Vec<String> = guards.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(locked(&cluster), ["a", "b", "c"]);
        assert_eq!(guards.fences().len(), 3);
        assert!(
            guards
                .fences()
                .all(|(key, f)| guards.fence(key.as_bytes()) == Some(f))
        );
        assert_eq!(guards.fence("aa"), None);
        assert!(guards.remaining() > Duration::ZERO);
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
        assert_free(&cluster, &router).await;
    }
}

#[tokio::test]
async fn one_set_spans_both_modes() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let builder = cluster.builder().override_replicas("billing/", 3);
        let router = builder.connect().await.unwrap();
        let guards = router.acquire_all(["orders/1", "billing/1"]).await.unwrap();
        let nodes_of = |name: &str| locked(&cluster).iter().filter(|key| *key == name).count();
        assert!(nodes_of("billing/1") >= 2, "{arm:?}: no quorum");
        assert_eq!(nodes_of("orders/1"), 1, "{arm:?}");
        assert_eq!(fences_of(&guards).len(), 2);
        guards.extend().await.unwrap();
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
        assert_free(&cluster, &router).await;
    }
}

/// The lease that was granted first is still fresh when the last is granted,
/// long after its ttl.
#[tokio::test]
async fn leases_outlast_the_wait_for_the_others() {
    const TTL: Duration = Duration::from_millis(400);
    for (arm, replicas) in ARMS.into_iter().flat_map(|arm| [(arm, 1), (arm, 3)]) {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let theirs = other.acquire("c").ttl(3 * TTL).await.unwrap();
        let acquire = router.acquire_all(["a", "b", "c", "d"]).ttl(TTL);
        let acquiring = tokio::spawn(acquire.wait(2 * PROMPTLY).into_future());
        theirs.lost().await;
        assert!(!acquiring.is_finished(), "{arm:?}");
        assert!(
            locked(&cluster).contains(&"a".to_owned()),
            "{arm:?}: given up"
        );
        assert!(
            !locked(&cluster).contains(&"d".to_owned()),
            "{arm:?}: held out of order"
        );
        drop(theirs);
        let guards = acquiring.await.unwrap().unwrap();
        let extended = router.stats().extended;
        assert!(extended >= 4, "{arm:?}: only {extended} extends");
        let left = guards.remaining();
        assert!(left > TTL / 3, "{arm:?}: {left:?} left");
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
        assert_free(&cluster, &router).await;
    }
}

/// If a key is lost while the set is incomplete, the call waits for it again,
/// in order.
#[tokio::test]
async fn a_lease_lost_on_the_way_is_taken_again() {
    const TTL: Duration = Duration::from_millis(400);
    let cluster = Cluster::start(Arm::Memory, 1);
    let router = cluster.router(1).await;
    let other = cluster.router(1).await;
    let theirs = other.acquire("c").keep_alive().await.unwrap();
    let acquire = router
        .acquire_all(["a", "b", "c"])
        .ttl(TTL)
        .wait(2 * PROMPTLY);
    let acquiring = tokio::spawn(acquire.into_future());
    ringlock_test_support::eventually(PROMPTLY, "the first are locked", || {
        locked(&cluster).len() == 3
    })
    .await;
    let node = memory(&cluster, 0);
    node.locked().iter().for_each(|(key, _)| {
        if key.as_bytes() == b"b" {
            node.delete(key);
        }
    });
    let thief = other.acquire("b").ttl(2 * TTL).await.unwrap();
    ringlock_test_support::eventually(PROMPTLY, "the loss is seen", || router.stats().lost == 1)
        .await;
    drop(theirs);
    assert!(!acquiring.is_finished());
    thief.release().await.unwrap();
    let guards = acquiring.await.unwrap().unwrap();
    assert_eq!(guards.loss(), None);
    assert_eq!(locked(&cluster), ["a", "b", "c"]);
    assert_eq!(guards.release().await.unwrap(), Released::InTime);
    assert!(other.drained().await);
    assert_free(&cluster, &router).await;
}

/// The last extends of the leases that were granted early count towards the wait.
#[tokio::test]
async fn a_set_is_given_up_in_time_while_a_node_hangs() {
    const TTL: Duration = Duration::from_secs(4);
    const WAIT: Duration = Duration::from_millis(1_700);
    let cluster = Cluster::start(Arm::Memory, 3);
    let slow = |config: &mut Config| config.router.node_timeout = Some(TTL / 2);
    let router = cluster.builder().replicas(1).configure(slow);
    let router = router.connect().await.unwrap();
    let owner = |key: &str| router.route(key).unwrap().owner;
    let keys = names(100);
    let early = keys.iter().find(|key| *owner(key) == *"a").unwrap();
    let mut behind = keys.iter().filter(|key| *key > early);
    let late = behind.find(|key| *owner(key) != *"a").unwrap();

    let other = cluster.router(1).await;
    let theirs = other.acquire(late).await.unwrap();
    let acquire = router.acquire_all([early, late]).ttl(TTL).wait(WAIT);
    let began = Instant::now();
    let acquiring = tokio::spawn(acquire.into_future());
    let granted = || locked(&cluster).contains(early);
    ringlock_test_support::eventually(PROMPTLY, "the first is locked", granted).await;
    memory(&cluster, 0).hang();
    // By then a third of the ttl has passed.
    tokio::time::sleep_until((began + WAIT - ms(200)).into()).await;
    theirs.release().await.unwrap();
    let error = acquiring.await.unwrap().unwrap_err();
    let took = began.elapsed();
    assert!(took < WAIT + PROMPTLY / 5, "{took:?}");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(!error.is_contention(), "{error}");
}

#[tokio::test]
async fn a_lost_lease_loses_the_set() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Memory, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let guards = router.acquire_all(["a", "b", "c"]).await.unwrap();
        let lost = tokio::spawn(guards.lost());
        for node in (0..3).map(|index| memory(&cluster, index)) {
            for (key, _) in node.locked() {
                if key.as_bytes() == b"b" {
                    node.delete(&key);
                }
            }
        }
        let thief = other.acquire("b").await.unwrap();
        assert_eq!(guards.loss(), None, "nobody knows yet");
        let error = guards.extend().await.unwrap_err();
        assert!(
            matches!(&error, Error::Lost { key, .. } if key.as_bytes() == b"b"),
            "{error}"
        );
        let (key, loss) = timeout(PROMPTLY, lost).await.expect("the signal").unwrap();
        assert_eq!((key.as_bytes(), loss), (&b"b"[..], Loss::TakenOver));
        assert_eq!(guards.loss(), Some((&key, Loss::TakenOver)));
        assert_eq!(guards.remaining(), Duration::ZERO);
        assert_eq!(guards.release().await.unwrap(), Released::TooLate);
        assert!(router.drained().await);
        assert!(are_locked(&cluster, &["b"], replicas), "the thief's stays");
        assert_eq!(thief.release().await.unwrap(), Released::InTime);
    }
}

#[tokio::test]
async fn a_set_is_over_when_its_first_lease_is() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let router = cluster.router(1).await;
    let guards = router.acquire_all(names(50)).ttl(ms(100)).await.unwrap();
    let end = guards.valid_until();
    let (key, loss) = timeout(PROMPTLY, guards.lost()).await.expect("the end");
    assert_eq!(loss, Loss::Expired);
    assert!(
        ringlock_test_support::node::now() >= end,
        "{key} was signalled too early"
    );
    assert_eq!(guards.remaining(), Duration::ZERO);
    assert_eq!(guards.release().await.unwrap(), Released::TooLate);
    assert_free(&cluster, &router).await;
}

/// An extend cannot move the end that `max_hold` sets.
#[tokio::test]
async fn a_set_with_a_short_max_hold_is_not_extended_while_it_gathers() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let (router, other) = (cluster.router(1).await, cluster.router(1).await);
        let held = other.acquire("b").await.unwrap();
        let acquire = router.acquire_all(["a", "b"]).ttl(Duration::from_secs(20));
        let acquire = acquire.keep_alive().max_hold(PROMPTLY).wait(PROMPTLY);
        let release = async {
            tokio::time::sleep(ms(200)).await;
            held.release().await.unwrap()
        };
        let (guards, _) = tokio::join!(acquire.into_future(), release);
        let guards = guards.unwrap();
        assert_eq!(router.stats().extended, 0, "{arm:?}");
        assert!(guards.remaining() <= PROMPTLY, "{arm:?}");
        assert_eq!(guards.release().await.unwrap(), Released::InTime);
    }
}

#[tokio::test]
async fn keep_alive_holds_the_set_past_its_ttl() {
    const TTL: Duration = Duration::from_millis(300);
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let router = cluster.router(1).await;
        let keys = names(200);
        let (kept, once) = keys.split_at(199);
        let guards = router
            .acquire_all(kept)
            .ttl(TTL)
            .keep_alive()
            .await
            .unwrap();
        let measure = router.acquire(&once[0]).ttl(3 * TTL).await.unwrap();
        measure.lost().await;
        assert_eq!(guards.loss(), None, "{arm:?}");
        assert_eq!(guards.release().await.unwrap(), Released::InTime);

        let all = router.acquire_all(kept).ttl(TTL);
        let measure = router.acquire(&once[0]).ttl(3 * TTL);
        let fences = all
            .with(async |guards| {
                measure.await.unwrap().lost().await;
                guards.fences().len()
            })
            .await;
        assert_eq!(fences.unwrap(), kept.len(), "{arm:?}");
        assert_free(&cluster, &router).await;

        let brief = router.acquire_all(kept).ttl(TTL).max_hold(ms(50));
        let outcome = brief.with(async |guards| guards.lost().await).await;
        let is_max_hold = |error: &WithError<(Key, Loss)>| {
            matches!(
                error,
                WithError::Lost {
                    output: (_, Loss::MaxHold),
                    reason: Loss::MaxHold,
                    ..
                }
            )
        };
        assert!(
            outcome.as_ref().is_err_and(is_max_hold),
            "{arm:?}: {outcome:?}"
        );
        assert_free(&cluster, &router).await;
    }
}
