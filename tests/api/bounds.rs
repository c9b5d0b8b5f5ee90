//! Every duration and count of the public calls at its limits: nothing panics,
//! overflows or waits forever, and each value means what its documentation
//! says.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use ringlock::rebalancer::RebalanceError;
use ringlock::{
    Acquire, AcquireAll, AcquireMany, Change, Config, ConfigError, Error, MemoryNode, Router,
    RouterBuilder,
};
use ringlock_test_support::{ARMS, Arm, Cluster, KEY, MARGIN, PROMPTLY, TestNode, ms};
use tokio::time::timeout;

const NANO: Duration = Duration::from_nanos(1);

const ENDS: [Duration; 3] = [Duration::ZERO, NANO, Duration::MAX];

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Granted,
    Contended,
    Outage,
    TtlRefused,
    HoldRefused,
}

fn outcome<T>(result: Result<T, Error>) -> Outcome {
    match result {
        Ok(_) => Outcome::Granted,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains("0 attempts"), "{text}");
            match error {
                Error::Ttl(_) => Outcome::TtlRefused,
                Error::MaxHold { .. } => Outcome::HoldRefused,
                error if error.is_contention() => Outcome::Contended,
                error if error.is_transient() => Outcome::Outage,
                error => panic!("{error:?}"),
            }
        }
    }
}

/// One setting, for each of the three kinds of call that have it.
struct Setting {
    name: &'static str,
    one: fn(Acquire, Duration) -> Acquire,
    all: fn(AcquireAll, Duration) -> AcquireAll,
    many: fn(AcquireMany<&'static str>, Duration) -> AcquireMany<&'static str>,
    /// The outcome at each of the limits, where the key is free.
    free: [Outcome; 3],
    /// The same where another process holds the key; `None`: the call waits.
    held: [Option<Outcome>; 3],
}

const SETTINGS: [Setting; 6] = {
    use Outcome::{Contended, Granted, HoldRefused, TtlRefused};
    const WAITS: Option<Outcome> = None;
    [
        Setting {
            name: "ttl",
            one: |call, value| call.ttl(value),
            all: |call, value| call.ttl(value),
            many: |call, value| call.ttl(value),
            free: [TtlRefused; 3],
            held: [Some(TtlRefused); 3],
        },
        Setting {
            name: "wait",
            one: |call, value| call.wait(value),
            all: |call, value| call.wait(value),
            many: |call, value| call.wait(value),
            free: [Granted; 3],
            held: [Some(Contended), Some(Contended), WAITS],
        },
        Setting {
            name: "retry_delay",
            one: |call, value| call.wait(ms(20)).retry_delay(value),
            all: |call, value| call.wait(ms(20)).retry_delay(value),
            many: |call, value| call.wait(ms(20)).retry_delay(value),
            free: [Granted; 3],
            held: [Some(Contended); 3],
        },
        Setting {
            name: "keep_alive_every",
            one: |call, value| call.wait(ms(20)).keep_alive_every(value),
            all: |call, value| call.wait(ms(20)).keep_alive_every(value),
            many: |call, value| call.wait(ms(20)).keep_alive_every(value),
            free: [Granted; 3],
            held: [Some(Contended); 3],
        },
        Setting {
            name: "max_hold",
            one: |call, value| call.wait(ms(20)).max_hold(value),
            all: |call, value| call.wait(ms(20)).max_hold(value),
            many: |call, value| call.wait(ms(20)).max_hold(value),
            free: [HoldRefused, HoldRefused, Granted],
            held: [Some(HoldRefused), Some(HoldRefused), Some(Contended)],
        },
        Setting {
            name: "max_hold, kept alive",
            one: |call, value| call.wait(ms(20)).keep_alive().max_hold(value),
            all: |call, value| call.wait(ms(20)).keep_alive().max_hold(value),
            many: |call, value| call.wait(ms(20)).keep_alive().max_hold(value),
            free: [HoldRefused, HoldRefused, Granted],
            held: [Some(HoldRefused), Some(HoldRefused), Some(Contended)],
        },
    ]
};

/// Makes the three kinds of call with this setting, one after the other, and
/// measures each.
async fn calls(router: &Router, setting: &Setting, value: Duration) -> [(Outcome, Duration); 3] {
    let started = Instant::now();
    let one = (setting.one)(router.acquire(KEY), value).await;
    let one = outcome(one.inspect(|guard| assert_eq!(guard.loss(), None)));
    let one = (one, started.elapsed());
    let started = Instant::now();
    let all = (setting.all)(router.acquire_all([KEY, "other"]), value).await;
    let all = outcome(all.inspect(|guards| assert_eq!(guards.loss(), None)));
    let all = (all, started.elapsed());
    let started = Instant::now();
    let mut many = (setting.many)(router.acquire_many([KEY]), value).await;
    [one, all, (outcome(many.remove(0).1), started.elapsed())]
}

/// The shortest time that nodes have to answer.
const LEAST_ATTEMPT: Duration = Duration::from_millis(50);

/// Whether the outcome is as expected. On a busy machine, a server that takes
/// longer than it was given is accepted as an outage.
fn is_as_expected(arm: Arm, expected: Outcome, got: (Outcome, Duration)) -> bool {
    let was_late = arm == Arm::Redis && got.1 >= LEAST_ATTEMPT;
    got.0 == expected || was_late && got.0 == Outcome::Outage
}

async fn in_time<F: IntoFuture>(what: impl Debug, future: F) -> F::Output {
    let limited = timeout(2 * PROMPTLY, future.into_future()).await;
    limited.unwrap_or_else(|_| panic!("{what:?} hangs"))
}

#[tokio::test]
async fn every_setting_of_a_call_at_its_ends() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            for setting in &SETTINGS {
                for (index, value) in ENDS.into_iter().enumerate() {
                    let what = (arm, replicas, setting.name, value);
                    let free = in_time(what, calls(&router, setting, value)).await;
                    let fits = |expected| move |&got: &_| is_as_expected(arm, expected, got);
                    let are_granted = free.iter().all(fits(setting.free[index]));
                    assert!(are_granted, "{what:?}, free: {free:?}");
                    let guard = in_time(what, other.acquire(KEY)).await.unwrap();
                    match setting.held[index] {
                        Some(expected) => {
                            let held = in_time(what, calls(&router, setting, value)).await;
                            let are_reported = held.iter().all(fits(expected));
                            assert!(are_reported, "{what:?}, held: {held:?}");
                        }
                        None => {
                            let waiting = calls(&router, setting, value);
                            timeout(ms(50), waiting).await.expect_err("it waits");
                        }
                    }
                    guard.release().await.unwrap();
                }
            }
            assert!(in_time("shutdown", router.shutdown()).await);
        }
    }
}

/// Free keys are granted and busy ones refused, whatever the wait: the nodes
/// determine how soon.
#[tokio::test]
async fn no_wait_is_a_single_try() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            // Longer than any step may take.
            let connect = || cluster.builder().replicas(replicas).node_timeout(PROMPTLY);
            let router = connect().connect().await.unwrap();
            let other = connect().connect().await.unwrap();
            let times = |wait| (0..50).map(move |number| (wait, number));
            for (wait, number) in times(Duration::ZERO).chain(times(NANO)) {
                let key = format!("{wait:?}/{number}");
                let before = router.stats().attempts;
                let started = Instant::now();
                let guard = router.acquire(&key).wait(wait).await;
                let took = started.elapsed();
                assert_eq!(router.stats().attempts - before, 1);
                // Without a wait, a node has its whole timeout to answer.
                let is_late = wait == NANO && took >= LEAST_ATTEMPT;
                let Ok(_guard) = guard else {
                    assert!(is_late, "{arm:?} n={replicas} {wait:?}: {guard:?}");
                    continue;
                };
                // Both from this process and from another.
                for asking in [&router, &other] {
                    let started = Instant::now();
                    let all = asking.acquire_all([&*key, "x"]).wait(wait);
                    let many = asking.acquire_many([&*key]).wait(wait);
                    let errors = [
                        asking.acquire(&key).wait(wait).await.unwrap_err(),
                        asking.try_acquire(&key).wait(wait).await.unwrap_err(),
                        all.await.unwrap_err(),
                        many.await.remove(0).1.unwrap_err(),
                    ];
                    let is_late = wait == NANO && started.elapsed() >= LEAST_ATTEMPT;
                    for error in errors {
                        let reported = outcome::<()>(Err(error.clone()));
                        let fits = reported == Outcome::Contended || is_late;
                        assert!(fits, "{arm:?} n={replicas} {wait:?}: {error}");
                    }
                }
            }
            let before = other.stats().attempts;
            let _guard = router.acquire(KEY).await.unwrap();
            let _ = other.acquire(KEY).wait(Duration::ZERO).await;
            let _ = other.acquire_all([KEY]).wait(Duration::ZERO).await;
            let _ = other.acquire_many([KEY]).wait(Duration::ZERO).await;
            assert_eq!(other.stats().attempts - before, 3, "{arm:?} n={replicas}");
        }
    }
}

/// Without a wait the call waits for nobody; with one a single try becomes a
/// wait.
#[tokio::test]
async fn the_last_word_on_waiting_counts() {
    let router = Router::in_memory(1).await.unwrap();
    let guard = router.acquire(KEY).await.unwrap();
    let started = Instant::now();
    let error = router.try_acquire(KEY).wait(ms(50)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(started.elapsed() >= ms(50));
    let waiting = router.try_acquire(KEY).wait(Duration::MAX).into_future();
    let waiting = tokio::spawn(waiting);
    tokio::task::yield_now().await;
    drop(guard);
    let granted = in_time("a wait without end", waiting).await;
    drop(granted.unwrap().unwrap());
}

#[tokio::test]
async fn counted_attempts_with_any_pause_come_to_an_end() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let (router, other) = (cluster.router(1).await, cluster.router(1).await);
        for delay in ENDS {
            for attempts in [0, 1, 2, u32::MAX] {
                let what = (arm, delay, attempts);
                let acquire = router.acquire(KEY).attempts(attempts).retry_delay(delay);
                drop(in_time(what, acquire.into_future()).await.unwrap());
                let many = router.acquire_many([KEY]).attempts(attempts);
                drop(in_time(what, many.retry_delay(delay).into_future()).await);
            }
            // Even the longest pause ends with the rival's lease.
            let guard = other.acquire(KEY).ttl(ms(200)).await.unwrap();
            std::mem::forget(guard);
            let acquire = router.acquire(KEY).attempts(2).retry_delay(delay);
            let granted = in_time((arm, delay), acquire.into_future()).await;
            let expected = delay == Duration::MAX;
            assert_eq!(granted.is_ok(), expected, "{arm:?} {delay:?}: {granted:?}");
            tokio::time::sleep(ms(250)).await;
        }
        // Where no lease will end, the pause ends at once.
        if let TestNode::Memory(node) = &cluster.nodes[0] {
            node.stop();
            let acquire = router.acquire(KEY).attempts(2).retry_delay(Duration::MAX);
            let error = in_time("an outage", acquire.into_future())
                .await
                .unwrap_err();
            assert_eq!(outcome::<()>(Err(error)), Outcome::Outage);
        }
    }
}

#[tokio::test]
async fn no_pause_is_so_short_that_nodes_are_hammered() {
    for arm in ARMS {
        for delay in [Duration::ZERO, NANO] {
            let cluster = Cluster::start(arm, 1);
            let (router, other) = (cluster.router(1).await, cluster.router(1).await);
            let _guard = other.acquire(KEY).await.unwrap();
            let waiting = router.acquire(KEY).wait(ms(500)).retry_delay(delay);
            assert!(waiting.await.unwrap_err().is_contention());
            let attempts = router.stats().attempts;
            println!("{arm:?}: {attempts} attempts in 500 ms");
            assert!((3..=500).contains(&attempts), "{arm:?}: {attempts}");
        }
    }
}

#[tokio::test]
async fn extends_at_the_ends_are_refused() {
    let router = Router::in_memory(3).await.unwrap();
    let guard = router.acquire(KEY).await.unwrap();
    for ttl in ENDS {
        let extended = guard.extend_to(ttl).await;
        assert!(matches!(extended, Err(Error::Ttl(_))), "{ttl:?}");
        assert_eq!(guard.loss(), None);
    }
}

/// An in-memory node that answers at once, late or never.
#[tokio::test]
async fn a_node_may_be_as_slow_as_it_likes() {
    for (delay, expected) in [
        (Duration::ZERO, Outcome::Granted),
        (NANO, Outcome::Granted),
        (Duration::MAX, Outcome::Outage),
    ] {
        let node = MemoryNode::new("a");
        let router = Router::builder().memory_node(node.clone()).connect().await;
        let router = router.unwrap();
        node.set_delay(delay);
        let tried = in_time(delay, router.try_acquire(KEY).into_future()).await;
        assert_eq!(outcome(tried), expected, "{delay:?}");
    }
}

type Change1 = fn(&mut Config, Duration);

/// Every duration of the configuration, in code and as text, and at which
/// limits a router accepts it.
const SPANS: [(&str, Change1, [bool; 3]); 7] = [
    ("ttl", |c, value| c.router.ttl = value, [false; 3]),
    ("max_ttl", |c, value| c.router.max_ttl = value, [false; 3]),
    (
        "view_lease",
        |c, value| c.router.view_lease = value,
        [false; 3],
    ),
    ("wait", |c, value| c.router.wait = value, [true; 3]),
    (
        "max_hold",
        |c, value| c.router.max_hold = value,
        [false, false, true],
    ),
    (
        "connect_timeout",
        |c, value| c.router.connect_timeout = value,
        [true; 3],
    ),
    (
        "node_timeout",
        |c, value| c.router.node_timeout = Some(value),
        [false; 3],
    ),
];

fn one_node() -> RouterBuilder {
    Router::builder().memory_node(MemoryNode::new("a"))
}

#[tokio::test]
async fn every_span_of_the_configuration_at_its_ends() {
    let longest = format!("{}s", u64::MAX);
    for (name, change, fits) in SPANS {
        for ((value, text), fits) in ENDS.into_iter().zip(["0s", "1ns", &longest]).zip(fits) {
            let what = (name, value);
            let builder = one_node().configure(|config| change(config, value));
            let connected = in_time(what, builder.connect()).await;
            assert_eq!(connected.is_ok(), fits, "{what:?}: {connected:?}");
            match connected {
                Ok(router) => {
                    let guard = in_time(what, router.acquire(KEY).keep_alive().into_future());
                    assert_eq!(guard.await.unwrap().loss(), None);
                    assert!(in_time(what, router.shutdown()).await);
                }
                Err(error) => assert!(matches!(error, Error::Config(_)), "{what:?}: {error}"),
            }
            let text = format!(
                "[router]\n{name} = \"{text}\"\n[[node]]\nname = \"a\"\nurl = \"memory://a\""
            );
            let config = text.parse::<Config>().and_then(|config| config.check());
            assert_eq!(config.is_ok(), fits, "{text}: {config:?}");
        }
    }
}

/// Every count of the configuration, at its limits.
#[tokio::test]
async fn every_count_of_the_configuration_at_its_ends() {
    type Count = (&'static str, fn(&mut Config, u32), [bool; 2]);
    let counts: [Count; 5] = [
        (
            "max_local_handoffs",
            |c, n| c.router.max_local_handoffs = n,
            [true, false],
        ),
        (
            "replicas",
            |c, n| c.router.replicas = n as usize,
            [false; 2],
        ),
        ("vnodes", |c, n| c.ring.vnodes = n, [false; 2]),
        ("weight", |c, n| c.nodes[0].weight = n, [false; 2]),
        (
            "override",
            |c, n| {
                let toml = format!("[[override]]\nprefix = \"p\"\nreplicas = {n}");
                c.overrides = toml.parse::<Config>().unwrap().overrides;
            },
            [false; 2],
        ),
    ];
    for (name, change, fits) in counts {
        for (value, fits) in [0, u32::MAX].into_iter().zip(fits) {
            let what = (name, value);
            let builder = one_node().configure(|config| change(config, value));
            let connected = in_time(what, builder.connect()).await;
            assert_eq!(connected.is_ok(), fits, "{what:?}: {connected:?}");
            if let Ok(router) = connected {
                for _ in 0..5 {
                    drop(
                        in_time(what, router.acquire(KEY).into_future())
                            .await
                            .unwrap(),
                    );
                }
            }
        }
    }
    for nodes in [0, usize::MAX] {
        let refused = in_time(nodes, Router::in_memory(nodes)).await;
        let error = refused.expect_err("no such router");
        assert!(
            matches!(
                error,
                Error::Config(ConfigError::Topology(_) | ConfigError::Setting { .. })
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn changes_of_membership_at_the_ends_are_refused() {
    let router = one_node().connect().await.unwrap();
    let weight = |weight| Change::Reweight {
        node: "a".into(),
        weight,
    };
    let replicas = |replicas| Change::Replicas {
        prefix: None,
        replicas: Some(replicas),
    };
    let spans = ENDS.map(|span| [Change::MaxTtl(span), Change::ViewLease(span)]);
    let counts = [
        weight(0),
        weight(u32::MAX),
        replicas(0),
        replicas(usize::MAX),
    ];
    for change in spans.into_iter().flatten().chain(counts) {
        let planned = in_time(&change, router.rebalancer().plan([change.clone()])).await;
        assert!(
            matches!(planned, Err(RebalanceError::Cluster(Error::Config(_)))),
            "{change:?}: {planned:?}"
        );
    }
    for patience in ENDS {
        let rebalancer = router.rebalancer().patience(patience);
        let change = Change::MaxTtl(Duration::from_secs(20));
        let planned = in_time(patience, rebalancer.plan([change])).await;
        assert!(planned.is_ok(), "{patience:?}: {planned:?}");
    }
}

/// The node timeout is as configured; for a shorter lease it is half of the
/// ttl.
#[tokio::test]
async fn nodes_are_waited_for_as_long_as_configured() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Memory, 3);
        for (node_timeout, ttl, least, fits) in [
            (None, ms(400), ms(50), false),
            (Some(ms(600)), ms(2000), ms(600), true),
            (Some(ms(600)), ms(400), ms(200), true),
            (Some(ms(20)), ms(2000), ms(20), false),
        ] {
            let builder = cluster.builder().replicas(replicas);
            let router = match node_timeout {
                Some(node_timeout) => builder.node_timeout(node_timeout),
                None => builder,
            };
            let router = router.connect().await.unwrap();
            let nodes = || {
                cluster.nodes.iter().map(|node| match node {
                    TestNode::Memory(node) => node,
                    TestNode::Redis(_) => panic!("no in-memory node"),
                })
            };
            // Healthy nodes of a busy machine.
            nodes().for_each(|node| node.set_delay(ms(100)));
            let slow = router.try_acquire(KEY).ttl(ttl).await;
            assert_eq!(
                slow.is_ok(),
                fits,
                "n={replicas} {node_timeout:?}: {slow:?}"
            );
            nodes().for_each(|node| node.set_delay(Duration::ZERO));
            drop(slow);
            assert!(router.drained().await);
            nodes().for_each(MemoryNode::hang);
            let started = Instant::now();
            let error = router.try_acquire("hung").ttl(ttl).await.unwrap_err();
            let took = started.elapsed();
            nodes().for_each(MemoryNode::start);
            assert!(!error.is_contention());
            assert!(
                took >= least && took < least + MARGIN,
                "n={replicas} {node_timeout:?}: {took:?}"
            );
        }
    }
}
