//! How quorum mode performs while some of its five nodes are out.
//!
//! ```sh
//! cargo bench --bench outage
//! ```
//!
//! Five real servers, five replicas per key, and tasks that lock their own
//! keys, while none, one, two or three of the servers are down (killed),
//! stalled (SIGSTOP) or slow (100 ms for each reply). Fails unless every lock
//! is granted with up to two servers out and none with three down or stalled,
//! and no error comes late.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringlock::Router;
use ringlock_bench::proxy::Proxy;
use ringlock_bench::servers::Server;
use ringlock_bench::statistics::percentile;
use ringlock_bench::{arguments, cluster};
use tokio::task::JoinSet;

const NODES: usize = 5;
const TASKS: usize = 16;

/// How long a call waits.
const WAIT: Duration = Duration::from_secs(1);

/// By how much longer replies of a slow node take.
const SLOW: Duration = Duration::from_millis(100);

/// By how much an error may come after the wait.
const LATE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Down,
    Stalled,
    Slow,
}

/// What the tasks saw.
#[derive(Debug, Default)]
struct Seen {
    /// How long until a lock was granted.
    had: Vec<Duration>,
    refused: usize,
    latest: Duration,
}

async fn work(router: &Router, span: Duration) -> Seen {
    let end = Instant::now() + span;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let router = router.clone();
        tasks.spawn(async move {
            let (mut seen, mut turn) = (Seen::default(), 0);
            while Instant::now() < end {
                turn += 1;
                let start = Instant::now();
                let acquired = router.acquire(format!("{task}-{turn}")).wait(WAIT).await;
                let took = start.elapsed();
                match acquired {
                    Ok(guard) => {
                        seen.had.push(took);
                        // A majority has replied; the releases on the other
                        // nodes continue.
                        let _ = guard.release().await;
                    }
                    Err(_) => {
                        seen.refused += 1;
                        seen.latest = seen.latest.max(took.saturating_sub(WAIT));
                    }
                }
            }
            seen
        });
    }
    let mut all = Seen::default();
    for seen in tasks.join_all().await {
        all.had.extend(seen.had);
        all.refused += seen.refused;
        all.latest = all.latest.max(seen.latest);
    }
    all
}

/// One scene; false if it fails.
async fn scene(trouble: Trouble, count: usize, span: Duration) -> bool {
    let mut servers = Server::start_all(NODES).expect("servers");
    let slow = if trouble == Trouble::Slow { count } else { 0 };
    let before =
        |server: &Server| Proxy::delaying_replies(&server.address(), SLOW).expect("a proxy");
    let proxies: Vec<Proxy> = servers.iter().take(slow).map(before).collect();
    let direct = servers.iter().skip(slow).map(Server::socket_url);
    let urls = proxies.iter().map(Proxy::url).chain(direct);
    let builder = cluster::builder(urls).replicas(NODES);
    let router = builder.connect().await.expect("a router");
    drop(router.try_acquire("first").await.expect("a lease"));
    for server in servers.iter_mut().take(count) {
        match trouble {
            Trouble::Down => server.kill(),
            Trouble::Stalled => server.freeze().expect("SIGSTOP"),
            Trouble::Slow => {}
        }
    }
    let mut seen = work(&router, span).await;
    let total = seen.had.len() + seen.refused;
    let share = seen.had.len() as f64 / total.max(1) as f64;
    let [p50, p95] = [0.5, 0.95].map(|share| percentile(&mut seen.had, share));
    println!(
        "{count} {:<8} {:>8} {:>8.2} % {:>9.2} {:>9.2} {:>9} {:>11.1}",
        format!("{trouble:?}").to_lowercase(),
        total,
        100.0 * share,
        1e3 * p50.as_secs_f64(),
        1e3 * p95.as_secs_f64(),
        seen.refused,
        1e3 * seen.latest.as_secs_f64(),
    );
    if trouble == Trouble::Stalled {
        for server in servers.iter().take(count) {
            server.thaw().expect("SIGCONT");
        }
    }
    let is_minority = count <= NODES / 2;
    let expected = match trouble {
        Trouble::Slow => seen.refused == 0,
        _ if is_minority => seen.refused == 0,
        _ => seen.had.is_empty(),
    };
    expected && total > 0 && seen.latest <= LATE
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let span = match arguments::is_measurement() {
        true => Duration::from_secs(4),
        false => Duration::from_millis(300),
    };
    println!("{NODES} nodes, {NODES} replicas, {TASKS} tasks, wait {WAIT:?}");
    println!(
        "{:<10} {:>8} {:>10} {:>9} {:>9} {:>9} {:>11}",
        "", "calls", "had", "p50 ms", "p95 ms", "refused", "latest ms"
    );
    let mut is_good = true;
    for trouble in [Trouble::Down, Trouble::Stalled, Trouble::Slow] {
        for count in 0..=3 {
            if count > 0 || trouble == Trouble::Down {
                is_good &= scene(trouble, count, span).await;
            }
        }
    }
    arguments::verdict(is_good)
}
