//! Every public future, dropped at every point at which it can wait.
//!
//! Each is polled once, twice, … until it completes, and dropped after that
//! many polls: at once, a random moment later, or after it was woken and before
//! it is polled again. Whatever it had started must then be undone within one
//! round trip, and nothing of it may block the next caller.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::{Acquire, Init, MemoryNode, Released, Router, RouterBuilder};
use ringlock_test_support::{Arm, Cluster, KEY, PROMPTLY, RedisServer, TestNode, eventually, name};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Far longer than anything here takes: an expiry would hide a leak.
const TTL: Duration = Duration::from_secs(10);

/// A future that needs more polls than this never completes.
const MAX_POLLS: usize = 300;

/// Where a future is cut off.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The number of polls …
    polls: usize,
    /// … and what happens then.
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    AtOnce,
    /// Some or all answers have arrived by then.
    After(Duration),
    /// It was woken, and is not polled again.
    OnceWoken,
}

#[derive(Default)]
struct Wakes(Notify);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// Polls `future` up to the cut, then drops it; returns its output if it
/// completed before.
async fn cut_off<F: Future>(future: F, cut: Cut) -> Option<F::Output> {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut future = Box::pin(future);
    for poll in 1..=cut.polls {
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        match cut.then {
            _ if poll < cut.polls => wakes.0.notified().await,
            Then::AtOnce => {}
            Then::After(pause) => {
                let _ = timeout(pause, std::future::pending::<()>()).await;
            }
            Then::OnceWoken => wakes.0.notified().await,
        }
    }
    None
}

/// How long to wait for a key that does not become free.
const IN_VAIN: Duration = Duration::from_millis(20);

/// A future of the public API, and its surroundings.
#[derive(Clone, Copy, Debug)]
enum Call {
    Acquire,
    /// This process holds the key; the call waits without success.
    AcquireBehindOwn,
    /// Another router holds the key; the call waits without success.
    AcquireBehindOther,
    /// As before, but the call polls.
    PollBehindOther,
    /// Another caller of this process waits behind it, and must get the key.
    AcquireBeforeAnother,
    TryAcquire,
    KeepAlive,
    With,
    Extend,
    ExtendTo,
    Release,
    Lost,
    AcquireAll,
    /// This process holds a key in the middle; the call waits without success.
    AcquireAllBehindOwn,
    /// Another router holds a key in the middle; the call waits without
    /// success.
    AcquireAllBehindOther,
    WithAll,
    ExtendAll,
    ReleaseAll,
    LostAll,
    AcquireMany,
    NextOfMany,
    Drained,
}

/// Sorted; nothing else contends for the first and the last.
const KEYS: [&str; 3] = ["a", KEY, "z"];

const CALLS: [Call; 22] = [
    Call::Acquire,
    Call::AcquireBehindOwn,
    Call::AcquireBehindOther,
    Call::PollBehindOther,
    Call::AcquireBeforeAnother,
    Call::TryAcquire,
    Call::KeepAlive,
    Call::With,
    Call::Extend,
    Call::ExtendTo,
    Call::Release,
    Call::Lost,
    Call::AcquireAll,
    Call::AcquireAllBehindOwn,
    Call::AcquireAllBehindOther,
    Call::WithAll,
    Call::ExtendAll,
    Call::ReleaseAll,
    Call::LostAll,
    Call::AcquireMany,
    Call::NextOfMany,
    Call::Drained,
];

struct Bench {
    cluster: Cluster,
    router: Router,
    other: Router,
}

impl Bench {
    async fn new(arm: Arm, replicas: usize) -> Self {
        let cluster = Cluster::start(arm, replicas);
        let router = cluster.builder().replicas(replicas).ttl(TTL);
        let router = router.connect().await.unwrap();
        let other = cluster.router(replicas).await;
        for (index, node) in cluster.nodes.iter().enumerate() {
            if let TestNode::Memory(node) = node {
                // Answers arrive one after the other, as from servers.
                node.set_delay(Duration::from_micros(500 * (1 + index as u64)));
            }
        }
        Self {
            cluster,
            router,
            other,
        }
    }

    fn locked(&self) -> Vec<String> {
        self.cluster
            .nodes
            .iter()
            .flat_map(TestNode::locked)
            .collect()
    }

    /// Makes the call and cuts it off; true if it completed before.
    async fn make(&self, call: Call, cut: Cut) -> bool {
        let router = &self.router;
        let acquire = || router.acquire(KEY);
        match call {
            Call::Acquire => cut_off(acquire().into_future(), cut).await.is_some(),
            Call::AcquireBehindOwn => {
                let _guard = acquire().await.unwrap();
                let waiting = acquire().wait(IN_VAIN).into_future();
                cut_off(waiting, cut).await.is_some()
            }
            Call::AcquireBehindOther => self.wait_behind_other(acquire(), cut).await,
            Call::PollBehindOther => {
                let polling = acquire().retry_delay(IN_VAIN / 8);
                self.wait_behind_other(polling, cut).await
            }
            Call::AcquireBeforeAnother => {
                // Spawned: it queues behind the first poll of the first call.
                let second = tokio::spawn(acquire().wait(PROMPTLY).into_future());
                let is_over = cut_off(acquire().into_future(), cut).await.is_some();
                let guard = timeout(PROMPTLY, second).await.expect("its turn");
                drop(guard.unwrap().expect("the key"));
                is_over
            }
            Call::TryAcquire => {
                let trying = router.try_acquire(KEY).into_future();
                cut_off(trying, cut).await.is_some()
            }
            Call::KeepAlive => {
                let kept = acquire().keep_alive().into_future();
                cut_off(kept, cut).await.is_some()
            }
            Call::With => {
                let work = router.with(KEY, async |lease| {
                    tokio::task::yield_now().await;
                    lease.fence()
                });
                cut_off(work, cut).await.is_some()
            }
            Call::Extend | Call::ExtendTo => {
                let guard = acquire().await.unwrap();
                let before = guard.valid_until();
                let is_over = match call {
                    Call::Extend => cut_off(guard.extend(), cut).await.is_some(),
                    _ => cut_off(guard.extend_to(2 * TTL), cut).await.is_some(),
                };
                assert!(guard.valid_until() >= before, "an extend shortened");
                assert_eq!(guard.loss(), None);
                assert!(!self.locked().is_empty(), "an extend released");
                assert_eq!(guard.release().await.unwrap(), Released::InTime);
                is_over
            }
            Call::Release => {
                let guard = acquire().await.unwrap();
                cut_off(guard.release(), cut).await.is_some()
            }
            Call::Lost => {
                let guard = acquire().ttl(Duration::from_millis(60)).await.unwrap();
                cut_off(guard.lost(), cut).await.is_some()
            }
            Call::Drained => {
                drop(acquire().await.unwrap());
                let done = cut_off(router.drained(), cut).await;
                assert_ne!(done, Some(false));
                done.is_some()
            }
            of_many => self.make_of_many(of_many, cut).await,
        }
    }

    /// Like [`Self::make`], for the calls for many keys.
    async fn make_of_many(&self, call: Call, cut: Cut) -> bool {
        let acquire = || self.router.acquire_all(KEYS);
        let in_vain = Duration::from_millis(20);
        match call {
            Call::AcquireAll => cut_off(acquire().into_future(), cut).await.is_some(),
            Call::AcquireAllBehindOwn => {
                let _guard = self.router.acquire(KEY).await.unwrap();
                let waiting = acquire().wait(in_vain).into_future();
                cut_off(waiting, cut).await.is_some()
            }
            Call::AcquireAllBehindOther => {
                let guard = self.other.acquire(KEY).await.unwrap();
                let waiting = acquire().wait(in_vain).into_future();
                let is_over = cut_off(waiting, cut).await.is_some();
                assert_eq!(guard.release().await.unwrap(), Released::InTime);
                is_over
            }
            Call::WithAll => {
                let work = acquire().with(async |_| tokio::task::yield_now().await);
                cut_off(work, cut).await.is_some()
            }
            Call::ExtendAll => {
                let guards = acquire().await.unwrap();
                let before = guards.valid_until();
                let is_over = cut_off(guards.extend(), cut).await.is_some();
                assert!(guards.valid_until() >= before, "an extend shortened");
                assert_eq!(guards.loss(), None);
                assert_eq!(guards.release().await.unwrap(), Released::InTime);
                is_over
            }
            Call::ReleaseAll => {
                let guards = acquire().await.unwrap();
                cut_off(guards.release(), cut).await.is_some()
            }
            Call::LostAll => {
                let guards = acquire().ttl(Duration::from_millis(60)).await.unwrap();
                cut_off(guards.lost(), cut).await.is_some()
            }
            Call::AcquireMany => {
                let acquire = self.router.acquire_many(KEYS).into_future();
                cut_off(acquire, cut).await.is_some()
            }
            Call::NextOfMany => {
                let mut outcomes = self.router.acquire_many(KEYS).outcomes();
                cut_off(outcomes.next(), cut).await.is_some()
            }
            of_one => unreachable!("{of_one:?} is of one key"),
        }
    }

    async fn wait_behind_other(&self, acquire: Acquire, cut: Cut) -> bool {
        let guard = self.other.acquire(KEY).await.unwrap();
        let waiting = acquire.wait(IN_VAIN).into_future();
        let is_over = cut_off(waiting, cut).await.is_some();
        assert_eq!(guard.release().await.unwrap(), Released::InTime);
        is_over
    }

    /// Asserts that nothing is left of the earlier call.
    async fn assert_clean(&self, of: &impl Debug) {
        for router in [&self.router, &self.other] {
            let is_done = router.drained().await;
            assert!(is_done, "{of:?}: releases are still owed");
        }
        assert_eq!(self.locked(), [""; 0], "{of:?} left it locked");
        let again = self.router.acquire(KEY).attempts(1).into_future();
        let guard = timeout(PROMPTLY, again).await.expect("no queue is stuck");
        let guard = guard.unwrap_or_else(|error| panic!("after {of:?}: {error}"));
        assert_eq!(guard.release().await.unwrap(), Released::InTime, "{of:?}");
        assert!(self.router.drained().await);
        assert_eq!(self.locked(), [""; 0], "after {of:?}");
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("RINGLOCK_SEED") {
        Ok(seed) => seed.parse().expect("RINGLOCK_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("RINGLOCK_SEED={seed}");
    seed
}

fn cuts(polls: usize, random: &mut StdRng) -> [Cut; 3] {
    let pause = Duration::from_micros(random.random_range(50..2_000));
    [Then::AtOnce, Then::After(pause), Then::OnceWoken].map(|then| Cut { polls, then })
}

async fn drop_every_call_everywhere(arm: Arm) {
    let mut random = StdRng::seed_from_u64(seed());
    let mut total = 0;
    for replicas in [1, 3, 5] {
        let bench = Bench::new(arm, replicas).await;
        for call in CALLS {
            let mut reached = 0;
            for polls in 0.. {
                assert!(polls < MAX_POLLS, "{call:?} does not end");
                let mut is_over = true;
                for cut in cuts(polls, &mut random) {
                    is_over &= bench.make(call, cut).await;
                    bench.assert_clean(&(call, cut)).await;
                }
                if is_over {
                    break;
                }
                reached = polls;
            }
            println!("{arm:?} n={replicas} {call:?}: {reached} await points");
            total += reached;
        }
    }
    println!("{arm:?}: {total} await points in all");
    assert!(total > 45, "hardly anything was cut: {total}");
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_in_memory() {
    drop_every_call_everywhere(Arm::Memory).await;
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_on_servers() {
    drop_every_call_everywhere(Arm::Redis).await;
}

/// Servers for any number of clusters that no router has connected to yet.
struct Ground {
    arm: Arm,
    nodes: usize,
    servers: Cluster,
}

impl Ground {
    fn new(arm: Arm, nodes: usize) -> Self {
        let servers = match arm {
            Arm::Memory => 0,
            Arm::Redis => nodes,
        };
        Self {
            arm,
            nodes,
            servers: Cluster::start(Arm::Redis, servers),
        }
    }

    /// Builders for one fresh cluster: with its own in-memory nodes, or with
    /// its own namespace on the servers.
    fn fresh(&self, namespace: &str) -> impl Fn() -> RouterBuilder + use<> {
        let namespace = namespace.to_owned();
        let nodes: Vec<Either> = match self.arm {
            Arm::Memory => (0..self.nodes)
                .map(|index| MemoryNode::new(name(index)))
                .inspect(|node| node.set_delay(Duration::from_millis(1)))
                .map(Either::Memory)
                .collect(),
            Arm::Redis => {
                let urls = self.servers().map(RedisServer::url);
                urls.map(Either::Url).collect()
            }
        };
        move || {
            let builder = Router::builder().init(Init::Now).configure(|config| {
                config.router.key_prefix = format!("ringlock:{namespace}:");
                config.router.namespace = format!("ringlock!{namespace}");
                config.router.max_ttl = Duration::from_millis(200);
                config.router.ttl = Duration::from_millis(200);
            });
            let nodes = nodes.iter().enumerate();
            nodes.fold(builder, |builder, (index, node)| match node {
                Either::Memory(node) => builder.memory_node(node.clone()),
                Either::Url(url) => builder.node(name(index), url.as_str()),
            })
        }
    }

    fn servers(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.nodes.iter().map(|node| match node {
            TestNode::Redis(server) => server,
            TestNode::Memory(_) => unreachable!("servers are started"),
        })
    }

    /// Connections of routers that never finished connecting are closed too.
    async fn assert_closed(&self) {
        for server in self.servers() {
            let mut client = server.client();
            eventually(PROMPTLY, "all connections are closed", || {
                let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
                list.lines().count() == 1
            })
            .await;
        }
    }
}

#[derive(Clone)]
enum Either {
    Memory(MemoryNode),
    Url(String),
}

/// The number of polls of a connect that is not cut off.
async fn polls_of_connect(ground: &Ground) -> usize {
    let mut polls = 0;
    let mut connecting = Box::pin(ground.fresh("uncut")().connect());
    let counted = std::future::poll_fn(|context| {
        polls += 1;
        connecting.as_mut().poll(context)
    });
    let to_the_end = Cut {
        polls: MAX_POLLS,
        then: Then::AtOnce,
    };
    let router = cut_off(counted, to_the_end).await.expect("it ends");
    drop(router.unwrap());
    polls
}

/// Taking over from a dead router takes seconds: all cuts run concurrently,
/// each in its own cluster.
async fn drop_connect_everywhere(arm: Arm, nodes: usize) {
    let ground = Ground::new(arm, nodes);
    let polls = polls_of_connect(&ground).await;
    let mut random = StdRng::seed_from_u64(seed());
    let mut runs = JoinSet::new();
    for cut in (0..=polls).flat_map(|polls| cuts(polls, &mut random)) {
        let namespace: String = format!("{}-{:?}", cut.polls, cut.then);
        let builder = ground.fresh(&namespace);
        runs.spawn(async move {
            let first = cut_off(builder().connect(), cut).await;
            let is_over = first.is_some();
            drop(first.transpose().unwrap());
            // The first may have died as the referee of a first start.
            let router = timeout(4 * PROMPTLY, builder().connect()).await;
            let router = router.expect("no connect for ever");
            let router = router.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
            let guard = router.acquire(KEY).await;
            let guard = guard.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
            guard.release().await.unwrap();
            is_over
        });
    }
    let is_over = runs.join_all().await;
    let cut_short = is_over.iter().filter(|&&is_over| !is_over).count();
    println!("{arm:?} {nodes} nodes: connect has {polls} polls; {cut_short} cut short");
    assert!(cut_short > polls, "{cut_short} of {}", is_over.len());
    ground.assert_closed().await;
}

#[tokio::test]
async fn a_dropped_connect_is_continued_by_the_next() {
    tokio::join!(
        drop_connect_everywhere(Arm::Memory, 1),
        drop_connect_everywhere(Arm::Memory, 5),
        drop_connect_everywhere(Arm::Redis, 1),
        drop_connect_everywhere(Arm::Redis, 3),
    );
}
