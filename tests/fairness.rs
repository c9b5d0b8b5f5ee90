//! A key that several processes request continuously: no process starves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and tells what it measured"
)]

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use ringlock::{Fence, Router, RouterBuilder};
use ringlock_test_support::{Arm, Cluster, KEY, ms};

/// Contenders, each with its own thread, runtime and connections, as separate
/// processes have.
const PROCESSES: usize = 4;

/// The default of `router.max_local_handoffs`.
const MAX_LOCAL_HANDOFFS: usize = 16;

const HOLD: Duration = Duration::from_micros(300);

/// One contender, until `end`: acquire, hold, drop, again.
fn contend(builder: RouterBuilder, replicas: usize, start: &Barrier, span: Duration) -> Vec<Fence> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let router = builder.replicas(replicas).connect().await.unwrap();
        start.wait();
        let end = Instant::now() + span;
        let mut fences = Vec::new();
        while Instant::now() < end {
            let guard = router.acquire(KEY).wait(Duration::from_secs(60)).await;
            let guard = guard.unwrap();
            fences.push(guard.fence());
            tokio::time::sleep(HOLD).await;
            drop(guard);
        }
        assert!(router.shutdown().await);
        fences
    })
}

/// The fences of each contender's grants.
fn scene(cluster: &Cluster, replicas: usize, contenders: usize, span: Duration) -> Vec<Vec<Fence>> {
    let start = Arc::new(Barrier::new(contenders));
    let threads: Vec<_> = (0..contenders)
        .map(|_| {
            let (builder, start) = (cluster.builder(), Arc::clone(&start));
            std::thread::spawn(move || contend(builder, replicas, &start, span))
        })
        .collect();
    threads.into_iter().map(|one| one.join().unwrap()).collect()
}

/// Jain's index of fairness: 1 where all have the same number, 1/n where one
/// has all.
fn jain(rounds: &[usize]) -> f64 {
    let sum: f64 = rounds.iter().map(|&n| n as f64).sum();
    let squares: f64 = rounds.iter().map(|&n| (n as f64).powi(2)).sum();
    sum * sum / (rounds.len() as f64 * squares)
}

/// The lengths of consecutive grants to one contender, in the order of the
/// fences.
fn runs(fences: &[Vec<Fence>]) -> Vec<usize> {
    let mut grants: Vec<(Fence, usize)> = fences
        .iter()
        .enumerate()
        .flat_map(|(side, fences)| fences.iter().map(move |&fence| (fence, side)))
        .collect();
    grants.sort_unstable();
    let runs = grants.chunk_by(|(_, a), (_, b)| a == b);
    runs.map(<[_]>::len).collect()
}

#[test]
fn no_process_starves() {
    let seconds = std::env::var("RINGLOCK_SCENE_SECONDS");
    let seconds = seconds.map_or(5, |text| text.parse().unwrap());
    for arm in [Arm::Redis, Arm::Memory] {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, replicas);
            let fences = scene(&cluster, replicas, PROCESSES, Duration::from_secs(seconds));
            let rounds: Vec<usize> = fences.iter().map(Vec::len).collect();
            let runs = runs(&fences);
            let (jain, longest) = (jain(&rounds), runs.iter().max().unwrap());
            let over = runs.iter().filter(|&&run| run > MAX_LOCAL_HANDOFFS).count();
            println!(
                "{arm:?} n={replicas}: {rounds:?} rounds, Jain {jain:.3}, longest run {longest}, {over} of {} runs above {MAX_LOCAL_HANDOFFS}",
                runs.len()
            );
            // On a shared machine a waiter may miss its chance, or start late.
            // If one contender gets everything, the index is 0.25, in one run.
            assert!(jain > 0.45, "{arm:?} n={replicas}: {rounds:?} rounds");
            assert!(
                *longest <= 32 * MAX_LOCAL_HANDOFFS,
                "{arm:?} n={replicas}: {longest}"
            );
            assert!(2 * over <= runs.len(), "{arm:?} n={replicas}: {over} runs");
        }
    }
}

/// The number of grants of these keys in `span`, one after the other.
async fn grants(router: &Router, keys: &[String], span: Duration) -> usize {
    let end = Instant::now() + span;
    let mut grants = 0;
    for key in keys.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        drop(router.acquire(key).await.unwrap());
        grants += 1;
    }
    grants
}

/// One key again and again, which other clients might wait for, against many
/// keys in turn, which are left to others in between.
#[tokio::test]
async fn a_key_that_nobody_else_wants_costs_no_more() {
    for (arm, replicas) in [(Arm::Redis, 1), (Arm::Redis, 3), (Arm::Memory, 1)] {
        let cluster = Cluster::start(arm, replicas);
        let router = cluster.router(replicas).await;
        let many: Vec<String> = (0..500).map(|number| format!("key/{number:03}")).collect();
        let one = vec!["key/one".to_owned()];
        let (mut alone, mut in_turn) = (0, 0);
        for _ in 0..20 {
            alone += grants(&router, &one, ms(50)).await;
            in_turn += grants(&router, &many, ms(50)).await;
        }
        let share = alone as f64 / in_turn as f64;
        println!("{arm:?} n={replicas}: {alone} grants of one key, {in_turn} of many: {share:.3}");
        assert!(share > 0.7, "{arm:?} n={replicas}: {share:.3}");
    }
}
