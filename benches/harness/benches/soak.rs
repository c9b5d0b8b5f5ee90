//! Half an hour of ordinary work with ordinary faults, and the memory that
//! remains in use.
//!
//! ```sh
//! cargo bench --bench soak
//! cargo bench --bench soak -- --minutes 120
//! ```
//!
//! One router on five real servers, three replicas per key: tasks that acquire
//! and release ever new keys and a few contended ones, leases that are kept
//! alive, waiters that give up, futures that are dropped. From time to time
//! connections are killed, and a server comes back empty. Fails if two tasks
//! hold a key at once, a fence goes back, a kept lease is lost, or the process
//! grows after its first third.

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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::{Guard, Router};
use ringlock_bench::resources::memory;
use ringlock_bench::servers::Server;
use ringlock_bench::{arguments, cluster};
use tokio::task::JoinSet;

const NODES: usize = 5;
const TASKS: usize = 48;
const KEPT: usize = 1_000;

/// Keys that are contended for.
const HOT: usize = 16;

/// The pause between two calls of a task: it leaves the machine time for
/// others.
const PAUSE: Duration = Duration::from_millis(20);

/// How often connections are killed, and a server loses everything.
const KILLS: Duration = Duration::from_secs(10);
const LOSSES: Duration = Duration::from_secs(120);

/// By how much the process may grow after its first third: allocators keep some
/// memory that they no longer need.
const GROWTH: f64 = 0.10;

/// What is known of one hot key.
#[derive(Debug, Default)]
struct Hot {
    holders: AtomicU64,
    fence: AtomicU64,
}

#[derive(Debug, Default)]
struct Record {
    granted: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    overlaps: AtomicU64,
    reversals: AtomicU64,
    hot: [Hot; HOT],
    is_over: AtomicBool,
}

impl Record {
    /// Holds a hot key for a moment, and checks whether another task does.
    async fn hold(&self, key: usize, guard: Guard, pause: Duration) {
        let hot = &self.hot[key];
        if hot.holders.fetch_add(1, Ordering::SeqCst) > 0 {
            self.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        if hot.fence.fetch_max(guard.fence().get(), Ordering::SeqCst) >= guard.fence().get() {
            self.reversals.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(pause.min(guard.remaining() / 2)).await;
        hot.holders.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
    }

    async fn work(&self, router: Router, mut random: StdRng) {
        while !self.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE.mul_f64(2.0 * random.random::<f64>())).await;
            let key = random.random_range(0..HOT);
            let is_hot = random.random_bool(0.3);
            let name = if is_hot {
                format!("hot-{key}")
            } else {
                format!("cold-{}", random.random::<u64>())
            };
            let acquire = router.acquire(name).wait(Duration::from_millis(500));
            let patience = Duration::from_micros(random.random_range(0..40_000));
            let is_dropped = random.random_bool(0.1);
            let acquired = if is_dropped {
                match tokio::time::timeout(patience, acquire.into_future()).await {
                    Ok(acquired) => acquired,
                    Err(_) => {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                }
            } else {
                acquire.await
            };
            let Ok(guard) = acquired else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.granted.fetch_add(1, Ordering::Relaxed);
            if is_hot {
                self.hold(key, guard, patience / 10).await;
            } else if random.random_bool(0.5) {
                let _ = guard.release().await;
            }
        }
    }
}

/// Kills connections and data until the run is over; returns how often.
fn trouble(servers: &Mutex<Vec<Server>>, record: &Record, span: Duration) -> (u32, u32) {
    let (start, mut kills, mut losses) = (Instant::now(), 0, 0);
    while !record.is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let spent = start.elapsed();
        let mut servers = servers.lock();
        if spent >= KILLS * (kills + 1) {
            let server = &servers[kills as usize % NODES];
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal");
            kill.exec(&mut server.client().expect("a connection"))
                .expect("CLIENT KILL");
            kills += 1;
        }
        // A server that is lost near the end would not be back in time.
        if spent >= LOSSES * (losses + 1) && spent + LOSSES < span {
            servers[losses as usize % NODES]
                .restart()
                .expect("a restart");
            losses += 1;
        }
    }
    (kills, losses)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let is_bench = arguments::is_measurement();
    let minutes = arguments::number_or("--minutes", 30.0, 0.05);
    let span = Duration::from_secs_f64(60.0 * minutes);

    let servers = Server::start_all(NODES).expect("servers");
    let builder = cluster::builder(servers.iter().map(Server::socket_url)).replicas(3);
    let router = builder.connect().await.expect("a router");
    let mut kept = Vec::new();
    for lease in 0..KEPT {
        let acquire = router.acquire(format!("kept-{lease}")).keep_alive();
        kept.push(acquire.await.expect("a lease"));
    }
    let (record, servers) = (Arc::new(Record::default()), Arc::new(Mutex::new(servers)));
    let mut random = StdRng::seed_from_u64(arguments::seed());
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (record, router) = (Arc::clone(&record), router.clone());
        let random = StdRng::seed_from_u64(random.random());
        tasks.spawn(async move { record.work(router, random).await });
    }
    let troubling = std::thread::spawn({
        let (record, servers) = (Arc::clone(&record), Arc::clone(&servers));
        move || trouble(&servers, &record, span)
    });

    println!(
        "{:>9} {:>10} {:>9} {:>9} {:>6}",
        "minutes", "granted", "refused", "dropped", "MB"
    );
    let mut megabytes = Vec::new();
    for tenth in 0..=12 {
        let due = span * tenth / 12;
        tokio::time::sleep(due.saturating_sub(span * tenth.saturating_sub(1) / 12)).await;
        megabytes.push(memory() as f64 / f64::from(1 << 20));
        println!(
            "{:>9.1} {:>10} {:>9} {:>9} {:>6.1}",
            due.as_secs_f64() / 60.0,
            record.granted.load(Ordering::Relaxed),
            record.refused.load(Ordering::Relaxed),
            record.dropped.load(Ordering::Relaxed),
            megabytes[megabytes.len() - 1],
        );
    }
    record.is_over.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let (kills, losses) = troubling.join().expect("whoever makes trouble");
    let lost = kept.iter().filter(|guard| guard.loss().is_some()).count();
    let overlaps = record.overlaps.load(Ordering::SeqCst);
    let reversals = record.reversals.load(Ordering::SeqCst);
    println!(
        "{kills} times connections killed, {losses} times a server came back empty: {overlaps} overlaps, {reversals} reversals, {lost} of {KEPT} kept leases lost"
    );
    let (third, end) = (megabytes[4], megabytes[12]);
    println!(
        "memory: {:.1} MB at first, {third:.1} after a third, {:.1} at half, {end:.1} at the end",
        megabytes[0], megabytes[6]
    );
    let has_grown = is_bench && end > third * (1.0 + GROWTH);
    arguments::verdict(!has_grown && overlaps + reversals == 0 && lost == 0)
}
