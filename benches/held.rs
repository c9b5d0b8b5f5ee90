//! The cost of holding many leases, and of waiting for one: memory, processor
//! time and requests, on real servers.
//!
//! ```sh
//! cargo bench --bench held
//! ```
//!
//! 100,000 leases are kept alive for longer than their ttl; at the end every
//! one must still be valid and every entry on its server.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::alloc::System;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::RedisServer;
use ringlock::{Guard, Init, Router};
use rustix::time::{ClockId, clock_gettime};
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
    // As with criterion: cargo passes --bench for a measurement.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let plan = if is_bench {
        Plan {
            leases: 100_000,
            waiters: 10_000,
            ttl: Duration::from_secs(10),
            watched: Duration::from_secs(15),
        }
    } else {
        Plan {
            leases: 1_000,
            waiters: 100,
            ttl: Duration::from_secs(1),
            watched: Duration::from_millis(1_500),
        }
    };
    let servers: Vec<RedisServer> = (0..NODES).map(|_| RedisServer::start()).collect();
    let router = connect(&servers).await;
    hold(&plan, &servers, &router).await;
    wait(&plan, &router).await;
}

async fn connect(servers: &[RedisServer]) -> Router {
    let nodes = servers.iter().enumerate();
    let builder = nodes.fold(Router::builder(), |builder, (index, server)| {
        builder.node(format!("n{index}"), server.url())
    });
    builder.init(Init::Now).connect().await.unwrap()
}

async fn hold(plan: &Plan, servers: &[RedisServer], router: &Router) {
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

    let before = Reading::of(servers, router);
    let mut spread = Vec::new();
    let mut extended = before.extended;
    while before.at.elapsed() < plan.watched {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = router.stats().extended;
        spread.push((now - extended) as f64);
        extended = now;
    }
    let after = Reading::of(servers, router);

    assert!(
        guards.iter().all(|guard| guard.loss().is_none()),
        "a lease was lost"
    );
    let entries: usize = servers.iter().map(count).sum();
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

    drop(guards);
    assert!(router.drained().await, "releases are under way");
    assert_eq!(
        servers.iter().map(count).sum::<usize>(),
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
    fn of(servers: &[RedisServer], router: &Router) -> Self {
        let infos: Vec<String> = servers.iter().map(info).collect();
        let sum = |read: fn(&str) -> f64| infos.iter().map(|info| read(info)).sum::<f64>();
        let own = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            at: Instant::now(),
            extended: router.stats().extended,
            scripts: sum(|info| {
                let line = info
                    .lines()
                    .find(|line| line.starts_with("cmdstat_evalsha:"));
                number(line.unwrap_or_default(), "calls=")
            }) as u64,
            client: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
            servers: sum(|info| number(info, "used_cpu_user:") + number(info, "used_cpu_sys:")),
        }
    }
}

/// The number that follows `name`.
fn number(text: &str, name: &str) -> f64 {
    let rest = text.split_once(name).map_or("", |(_, rest)| rest);
    let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.');
    rest[..end.unwrap_or(rest.len())].parse().unwrap_or(0.0)
}

fn info(server: &RedisServer) -> String {
    let everything = redis::cmd("INFO")
        .arg("everything")
        .query(&mut server.client());
    everything.unwrap()
}

fn count(server: &RedisServer) -> usize {
    let keys = redis::cmd("KEYS")
        .arg("ringlock:lock:*")
        .query::<Vec<String>>(&mut server.client());
    keys.unwrap().len()
}
