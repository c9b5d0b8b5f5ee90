//! The cost of holding many leases, and of waiting for one: memory, processor
//! time and requests, on real servers.
//!
//! ```sh
//! cargo bench --bench held                                   # 100,000 leases of 10 s
//! cargo bench --bench held -- --leases 1000000 --ttl 30      # some minutes
//! ```
//!
//! The leases are kept alive for longer than their ttl; at the end every one must
//! still be valid and every entry on its server.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::alloc::System;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ringlock::{Guard, Router};
use ringlock_bench::probe::{Info, Probe};
use ringlock_bench::resources::processor_time;
use ringlock_bench::servers::Server;
use ringlock_bench::{arguments, cluster};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NODES: usize = 3;

/// The most keys that one call takes.
const CALL: usize = 16_384;

struct Plan {
    leases: usize,
    waiters: usize,
    ttl: Duration,
    watched: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = arguments::number_or("--ttl", 10.0, 1.0);
    let plan = Plan {
        leases: arguments::number_or("--leases", 100_000.0, 1_000.0) as usize,
        waiters: arguments::number_or("--waiters", 10_000.0, 100.0) as usize,
        ttl: Duration::from_secs_f64(seconds),
        watched: Duration::from_secs_f64(1.5 * seconds),
    };
    let servers = Server::start_all(NODES).unwrap();
    let probe = |server: &Server| Probe::connect(&server.socket_url()).unwrap();
    let probes: Vec<Probe> = servers.iter().map(probe).collect();
    let builder = cluster::builder(servers.iter().map(Server::socket_url))
        .configure(|config| config.router.max_ttl = config.router.max_ttl.max(plan.ttl));
    let router = builder.connect().await.unwrap();
    hold(&plan, &probes, &router).await;
    wait(&plan, &router).await;
}

async fn hold(plan: &Plan, probes: &[Probe], router: &Router) {
    let keys: Vec<String> = (0..plan.leases).map(|i| format!("lock:{i:08}")).collect();
    let mut guards: Vec<Guard> = Vec::with_capacity(plan.leases);
    // Allocations that are made only once are not counted.
    drop(router.acquire("warm").keep_alive().await.unwrap());
    let region = Region::new(ALLOCATOR);
    for keys in keys.chunks(CALL) {
        let results = router.acquire_many(keys).ttl(plan.ttl).keep_alive().await;
        guards.extend(results.into_iter().map(|(_, guard)| guard.unwrap()));
    }
    let change = region.change();
    let kept = change.bytes_allocated as i64 - change.bytes_deallocated as i64;
    let per_lease = kept as f64 / plan.leases as f64 + size_of::<Guard>() as f64;

    let before = Reading::of(probes, router);
    let mut spread = Vec::new();
    let mut extended = before.extended;
    while before.at.elapsed() < plan.watched {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = router.stats().extended;
        spread.push((now - extended) as f64);
        extended = now;
    }
    let after = Reading::of(probes, router);

    assert!(
        guards.iter().all(|guard| guard.loss().is_none()),
        "a lease was lost"
    );
    let entries: usize = probes.iter().map(count).sum();
    assert_eq!(entries, plan.leases, "entries on the servers");

    let seconds = (after.at - before.at).as_secs_f64();
    let extends = (after.extended - before.extended) as f64;
    let scripts = (after.scripts - before.scripts) as f64;
    let mean = spread.iter().sum::<f64>() / spread.len() as f64;
    let most = spread.iter().copied().fold(0.0, f64::max);
    println!(
        "{} leases of {:?} kept alive for {seconds:.1} s on {NODES} nodes:\n",
        plan.leases, plan.ttl
    );
    println!("memory per lease, its guard included   {per_lease:>8.0} bytes");
    println!(
        "extends per second                     {:>8.0}",
        extends / seconds
    );
    println!(
        "extends per script call                {:>8.1}",
        extends / scripts
    );
    println!(
        "busiest 100 ms / mean                  {:>8.2}",
        most / mean
    );
    println!(
        "client's processor, of one core        {:>8.1} %",
        100.0 * (after.client - before.client) / seconds
    );
    println!(
        "servers' processors, of one core       {:>8.1} %\n",
        100.0 * (after.servers - before.servers) / seconds
    );

    // Not all at once: a node's queue is bounded, and releases that find it full are
    // left to the ttl.
    while !guards.is_empty() {
        guards.truncate(guards.len().saturating_sub(CALL));
        assert!(router.drained().await, "releases are under way");
    }
    assert_eq!(
        probes.iter().map(count).sum::<usize>(),
        0,
        "entries after release"
    );
}

/// Waiters that queue behind a lease of their own process.
async fn wait(plan: &Plan, router: &Router) {
    let guard = router
        .acquire("hot")
        .ttl(plan.ttl)
        .keep_alive()
        .await
        .unwrap();
    let mut waiters = Vec::with_capacity(plan.waiters);
    let mut context = Context::from_waker(Waker::noop());
    let region = Region::new(ALLOCATOR);
    for _ in 0..plan.waiters {
        let mut waiter = router.acquire("hot").into_future();
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        waiters.push(waiter);
    }
    let change = region.change();
    let kept = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    println!(
        "memory per idle waiter of {}       {:>8.0} bytes",
        plan.waiters,
        kept / plan.waiters as f64
    );
    drop(guard);
    let first = waiters.swap_remove(0);
    drop(first.await.unwrap());
}

/// Counts at one time.
struct Reading {
    at: Instant,
    extended: u64,
    scripts: u64,
    client: f64,
    servers: f64,
}

impl Reading {
    fn of(probes: &[Probe], router: &Router) -> Self {
        let infos = probes.iter().map(|probe| probe.info().unwrap());
        let infos: Vec<_> = infos.collect();
        Self {
            at: Instant::now(),
            extended: router.stats().extended,
            scripts: infos.iter().map(|info| info.calls("evalsha")).sum(),
            client: processor_time().as_secs_f64(),
            servers: infos.iter().map(Info::processor_time).sum(),
        }
    }
}

fn count(probe: &Probe) -> usize {
    let keys = probe.query::<Vec<String>>(redis::cmd("KEYS").arg("ringlock:lock:*"));
    keys.unwrap().len()
}
