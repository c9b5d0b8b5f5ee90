//! What many more callers than the nodes can serve do to each other, and to the
//! holders of locks.
//!
//! ```sh
//! cargo bench --bench overload
//! cargo bench --bench overload -- --times 10 --replicas 3
//! ```
//!
//! Real servers behind proxies with little bandwidth. First, a crowd that just
//! keeps them busy measures what they can serve. Then callers come at a
//! multiple of that rate for some seconds, each for its own key, while other
//! leases are kept alive. Then all callers stop at once. Fails if a lease that
//! is kept alive is lost, if the served rate collapses, if an error comes late,
//! or if the nodes need more than a second to answer as before.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringlock::{Guard, Router};
use ringlock_bench::proxy::Proxy;
use ringlock_bench::resources::memory;
use ringlock_bench::servers::Server;
use ringlock_bench::statistics::percentile;
use ringlock_bench::{arguments, cluster};
use tokio::task::JoinSet;

const NODES: usize = 5;

/// Of all leases; those that are kept alive are renewed every third of it.
const TTL: Duration = Duration::from_secs(6);

/// How long a caller waits for its lock.
const WAIT: Duration = Duration::from_secs(2);

/// Tasks that keep the nodes busy without overloading them.
const BUSY: usize = 200;

/// By how much an error may come after the wait, at the 99th percentile.
const LATE: Duration = Duration::from_millis(100);

/// The time within which the nodes must answer as before.
const RECOVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Plan {
    replicas: usize,
    /// How many times as many callers as the nodes can serve.
    times: f64,
    leases: usize,
    /// The bandwidth of each node's proxy.
    bytes_per_second: u32,
    span: Duration,
    /// The share of what the nodes can serve that must be served under overload.
    least_served: f64,
}

impl Plan {
    fn of_arguments() -> Self {
        let number = arguments::number_or;
        Self {
            replicas: number("--replicas", 1.0, 1.0) as usize,
            times: number("--times", 10.0, 4.0),
            leases: number("--leases", 500.0, 50.0) as usize,
            bytes_per_second: number("--bytes", 100_000.0, 60_000.0) as u32,
            span: Duration::from_secs_f64(number("--seconds", 15.0, 2.0)),
            // A build without optimization is its own bottleneck.
            least_served: number("--least-served", 0.5, 0.1),
        }
    }
}

/// The results of some callers.
#[derive(Debug, Default)]
struct Tally {
    began: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    /// By how much errors came after the wait.
    late: Mutex<Vec<Duration>>,
    /// How long until a lock was granted.
    waits: Mutex<Vec<Duration>>,
}

impl Tally {
    async fn call(&self, router: &Router, key: u64) {
        self.began.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let acquired = router.acquire(format!("crowd-{key}")).wait(WAIT).await;
        let took = start.elapsed();
        match acquired {
            Ok(guard) => {
                self.waits.lock().push(took);
                if guard.release().await.is_ok() {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.late.lock().push(took.saturating_sub(WAIT));
            }
        }
    }
}

/// Leases that are kept alive, and the intervals of their renewals.
#[derive(Debug)]
struct Keep {
    guards: Arc<Vec<Guard>>,
    gaps: Arc<Mutex<Vec<Duration>>>,
    watch: tokio::task::JoinHandle<()>,
}

impl Keep {
    async fn hold(router: &Router, leases: usize) -> Self {
        let mut guards = Vec::new();
        for lease in 0..leases {
            let acquire = router.acquire(format!("kept-{lease}"));
            guards.push(acquire.wait(4 * WAIT).keep_alive().await.expect("a lease"));
        }
        let (guards, gaps) = (Arc::new(guards), Arc::new(Mutex::new(Vec::new())));
        let watch = tokio::spawn({
            let (guards, gaps) = (Arc::clone(&guards), Arc::clone(&gaps));
            async move {
                let mut known: Vec<_> = guards
                    .iter()
                    .map(|guard| (guard.valid_until(), Instant::now()))
                    .collect();
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    for (guard, (until, since)) in guards.iter().zip(&mut known) {
                        if guard.valid_until() != *until {
                            *until = guard.valid_until();
                            gaps.lock().push(since.elapsed());
                            *since = Instant::now();
                        }
                    }
                }
            }
        });
        Self {
            guards,
            gaps,
            watch,
        }
    }

    fn lost(&self) -> usize {
        let lost = self.guards.iter().filter(|guard| guard.loss().is_some());
        lost.count()
    }

    /// Renewals since the last call, and their intervals: the 50th and 99th
    /// percentile, and the maximum.
    fn renewals(&self) -> (usize, [Duration; 3]) {
        let mut gaps = std::mem::take(&mut *self.gaps.lock());
        let shares = [0.5, 0.99, 1.0].map(|share| percentile(&mut gaps, share));
        (gaps.len(), shares)
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Lets [`BUSY`] tasks take locks for `span`; returns the locks per second and
/// the median wait.
async fn busy(router: &Router, span: Duration, keys: &Arc<AtomicU64>) -> (f64, Duration) {
    let (tally, end) = (Arc::new(Tally::default()), Instant::now() + span);
    let mut tasks = JoinSet::new();
    for _ in 0..BUSY {
        let (router, tally, keys) = (router.clone(), Arc::clone(&tally), Arc::clone(keys));
        tasks.spawn(async move {
            while Instant::now() < end {
                let key = keys.fetch_add(1, Ordering::Relaxed);
                tally.call(&router, key).await;
            }
        });
    }
    tasks.join_all().await;
    let rate = tally.served.load(Ordering::Relaxed) as f64 / span.as_secs_f64();
    let p50 = percentile(&mut tally.waits.lock(), 0.5);
    (rate, p50)
}

/// Callers that come at `rate` for `span` and then stop; returns the peak of
/// memory.
async fn flood(
    router: &Router,
    rate: f64,
    span: Duration,
    tally: &Arc<Tally>,
    keys: &Arc<AtomicU64>,
) -> u64 {
    let (start, mut came, mut most) = (Instant::now(), 0_u64, 0);
    let mut tasks = JoinSet::new();
    while start.elapsed() < span {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        for _ in came..due {
            let (router, tally) = (router.clone(), Arc::clone(tally));
            let key = keys.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(async move { tally.call(&router, key).await });
        }
        came = due;
        while tasks.try_join_next().is_some() {}
        most = most.max(memory());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    most
}

/// How long until a free key is granted as quickly as before, ten times in a
/// row.
async fn recovery(router: &Router, usual: Duration, keys: &Arc<AtomicU64>) -> Duration {
    let relief = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 10 && relief.elapsed() < 10 * RECOVERY {
        let key = keys.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let acquired = router.acquire(format!("crowd-{key}")).wait(WAIT).await;
        let is_usual = start.elapsed() <= usual;
        if let Ok(guard) = acquired {
            let _ = guard.release().await;
            in_a_row = if is_usual { in_a_row + 1 } else { 0 };
        }
    }
    relief.elapsed()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let plan = Plan::of_arguments();
    let servers = Server::start_all(NODES).expect("servers");
    let throttled = |server: &Server| {
        Proxy::throttled(&server.address(), plan.bytes_per_second).expect("a proxy")
    };
    let proxies: Vec<Proxy> = servers.iter().map(throttled).collect();
    let builder = cluster::builder(proxies.iter().map(Proxy::url))
        .replicas(plan.replicas)
        .ttl(TTL);
    let router = builder.connect().await.expect("a router");
    let keys = Arc::new(AtomicU64::new(0));
    let keep = Keep::hold(&router, plan.leases).await;

    let (capacity, usual) = busy(&router, plan.span / 2, &keys).await;
    let (renewals, calm) = keep.renewals();
    println!(
        "{NODES} nodes, n = {}, {} bytes/s each; {} leases kept alive, ttl {TTL:?}",
        plan.replicas, plan.bytes_per_second, plan.leases
    );
    println!("{BUSY} callers at a time: {capacity:.0} locks/s, had after {usual:.1?} (p50)");
    println!("renewals: {renewals}, apart by p50, p99, most: {calm:.2?}");

    let earlier = router.stats();
    let (before, tally) = (memory(), Arc::new(Tally::default()));
    let rate = capacity * plan.times;
    let most = flood(&router, rate, plan.span, &tally, &keys).await;
    let recovered = recovery(&router, usual.max(Duration::from_millis(20)), &keys).await;
    let (renewals, kept) = keep.renewals();
    let began = tally.began.load(Ordering::Relaxed);
    let served = tally.served.load(Ordering::Relaxed) as f64 / plan.span.as_secs_f64();
    let late = [0.5, 0.99, 1.0].map(|share| percentile(&mut tally.late.lock(), share));
    let waits = [0.5, 0.99].map(|share| percentile(&mut tally.waits.lock(), share));
    let lost = keep.lost();
    println!("\n{} times as many, for {:?}:", plan.times, plan.span);
    println!(
        "offered {:.0}/s, served {served:.0}/s: {:.2} of what can be; had after p50, p99: {waits:.1?}",
        began as f64 / plan.span.as_secs_f64(),
        served / capacity,
    );
    println!(
        "refused {}, after their wait by p50, p99, most: {late:.1?}",
        tally.refused.load(Ordering::Relaxed)
    );
    println!("renewals: {renewals}, apart by p50, p99, most: {kept:.2?}; leases lost: {lost}");
    println!(
        "memory: {} MB before, {} MB at the most: {} bytes for each caller that came within a wait",
        before >> 20,
        most >> 20,
        most.saturating_sub(before) / ((rate * WAIT.as_secs_f64()) as u64).max(1),
    );
    let (stats, per) = (router.stats(), plan.span.as_secs_f64());
    println!(
        "attempts: {:.0}/s, of which granted {:.0}/s",
        (stats.attempts - earlier.attempts) as f64 / per,
        (stats.granted - earlier.granted) as f64 / per,
    );
    println!("as before after {recovered:.2?}");
    let is_good = lost == 0
        && served >= plan.least_served * capacity
        && late[1] <= LATE
        && recovered <= RECOVERY
        && renewals > 0;
    arguments::verdict(is_good)
}
