//! What an acquire and its release may allocate in the client, and what a held lease
//! and an idle waiter may occupy. That does not depend on how busy the machine is,
//! unlike any time. `scripts/instructions.sh` counts instructions.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

use std::alloc::System;
use std::pin::Pin;
use std::task::{Context, Waker};

use ringlock::Router;
use ringlock_bench::cost;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Pairs that each task makes before they are counted, and pairs that are counted.
const WARM_UP: usize = 20;
const COUNTED: usize = 60;

/// The most allocations and bytes of one pair.
struct Budget {
    nodes: usize,
    replicas: usize,
    tasks: usize,
    allocations: f64,
    bytes: f64,
}

/// Few tasks share batches less: each pair bears more of its batches' cost.
const BUDGETS: [Budget; 4] = [
    Budget {
        nodes: 1,
        replicas: 1,
        tasks: 1,
        allocations: 9.6,
        bytes: 2_200.0,
    },
    Budget {
        nodes: 1,
        replicas: 1,
        tasks: 16,
        allocations: 7.0,
        bytes: 2_200.0,
    },
    Budget {
        nodes: 1,
        replicas: 1,
        tasks: 256,
        allocations: 5.6,
        bytes: 2_100.0,
    },
    Budget {
        nodes: 5,
        replicas: 5,
        tasks: 256,
        allocations: 7.8,
        bytes: 4_300.0,
    },
];

/// Leases and waiters that are counted.
const COUNTED_AT_REST: usize = 2_000;

/// The most bytes of a lease that is kept alive, with its guard.
const LEASE_BYTES: usize = 560;

/// The most bytes of a caller that waits for a lease of its own process.
const WAITER_BYTES: usize = 870;

// One test: the allocator counts for the whole process.
#[test]
fn budgets_are_kept() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let mut over = Vec::new();
    for budget in &BUDGETS {
        let (allocations, bytes) = runtime.block_on(measure(budget));
        let Budget {
            nodes,
            replicas,
            tasks,
            ..
        } = budget;
        let line = format!(
            "{replicas} of {nodes} nodes, {tasks} tasks: {allocations:.2} allocations (of {}), {bytes:.0} bytes (of {})",
            budget.allocations, budget.bytes
        );
        println!("{line}");
        if allocations > budget.allocations || bytes > budget.bytes {
            over.push(line);
        }
    }
    let (lease, waiter) = runtime.block_on(at_rest());
    for (what, bytes, most) in [
        ("lease", lease, LEASE_BYTES),
        ("waiter", waiter, WAITER_BYTES),
    ] {
        let line = format!("a {what}: {bytes} bytes (of {most})");
        println!("{line}");
        if bytes > most {
            over.push(line);
        }
    }
    assert!(over.is_empty(), "over the budget: {over:#?}");
}

/// The bytes that a held lease occupies, and those of an idle waiter, on average.
async fn at_rest() -> (usize, usize) {
    let (_servers, router) = cost::start(1, 1).await.unwrap();
    // What is allocated only once is not counted.
    drop(hold(&router, "warm").await);
    let mut guards = Vec::with_capacity(COUNTED_AT_REST);
    let region = Region::new(ALLOCATOR);
    for key in 0..COUNTED_AT_REST {
        guards.push(hold(&router, &format!("lock:{key:08}")).await);
    }
    let lease = each(&region) + size_of::<ringlock::Guard>();
    let mut waiters = Vec::with_capacity(COUNTED_AT_REST);
    let mut context = Context::from_waker(Waker::noop());
    let region = Region::new(ALLOCATOR);
    for _ in 0..COUNTED_AT_REST {
        let mut waiter = router.acquire("lock:00000000").into_future();
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        waiters.push(waiter);
    }
    let waiter = each(&region) + size_of_val(&waiters[0]);
    (lease, waiter)
}

async fn hold(router: &Router, key: &str) -> ringlock::Guard {
    router.acquire(key).keep_alive().await.unwrap()
}

/// The bytes that each of those that are counted has kept since `region` began.
fn each(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated)
        / COUNTED_AT_REST
}

/// Allocations and bytes of a pair, on average.
async fn measure(budget: &Budget) -> (f64, f64) {
    let started = cost::start(budget.nodes, budget.replicas).await;
    let (_servers, router) = started.unwrap();
    cost::pairs(&router, budget.tasks, WARM_UP).await.unwrap();
    let region = Region::new(ALLOCATOR);
    cost::pairs(&router, budget.tasks, COUNTED).await.unwrap();
    let change = region.change();
    let all = (budget.tasks * COUNTED) as f64;
    let allocations = (change.allocations + change.reallocations) as f64 / all;
    (allocations, change.bytes_allocated as f64 / all)
}
