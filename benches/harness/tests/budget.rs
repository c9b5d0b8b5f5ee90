//! What an acquire and its release may allocate in the client. That does not depend
//! on how busy the machine is, unlike any time. `scripts/instructions.sh` counts
//! instructions.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

use std::alloc::System;

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
        allocations: 9.5,
        bytes: 3_600.0,
    },
    Budget {
        nodes: 1,
        replicas: 1,
        tasks: 16,
        allocations: 7.0,
        bytes: 3_100.0,
    },
    Budget {
        nodes: 1,
        replicas: 1,
        tasks: 256,
        allocations: 5.6,
        bytes: 2_950.0,
    },
    Budget {
        nodes: 5,
        replicas: 5,
        tasks: 256,
        allocations: 7.8,
        bytes: 5_500.0,
    },
];

#[test]
fn a_pair_keeps_to_its_budget() {
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
    assert!(over.is_empty(), "over the budget: {over:#?}");
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
