//! What one uncontended lock costs, in round trips, compared with a bare PING
//! and the `rslock` crate, all in one run on real servers.
//!
//! ```sh
//! cargo bench --bench latency
//! ```
//!
//! Contenders take turns in short rounds. Every figure is the median of the
//! rounds' ratios, because a shared machine changes its speed from one second
//! to the next. Every acquire checks that its fence exceeds the previous one.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::time::{Duration, Instant};

use ringlock::Router;
use ringlock_bench::proxy::Proxy;
use ringlock_bench::servers::Server;
use ringlock_bench::statistics::{median, ratios};
use ringlock_bench::{arguments, cluster};
use rslock::LockManager;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How long one contender's turn is, and how many turns it gets.
struct Plan {
    turn: Duration,
    rounds: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let plan = if !arguments::is_measurement() {
        Plan {
            turn: Duration::from_millis(5),
            rounds: 2,
        }
    } else {
        Plan {
            turn: Duration::from_millis(400),
            rounds: 11,
        }
    };
    let servers = Server::start_all(5).unwrap();
    let urls: Vec<String> = servers.iter().map(Server::socket_url).collect();
    uncontended(&plan, &servers, &urls).await;
    two_slow(&plan, &servers).await;
}

async fn uncontended(plan: &Plan, servers: &[Server], urls: &[String]) {
    let mut contenders = [
        Contender::ping(&servers[0]).await,
        Contender::ringlock("ringlock, 1 node", &urls[..1], 1).await,
        Contender::rslock("rslock, 1 node", &urls[..1]),
        Contender::ringlock("ringlock, quorum of 5", urls, 5).await,
        Contender::rslock("rslock, quorum of 5", urls),
    ];
    let turns = compete(plan, &mut contenders).await;
    println!(
        "One task, acquire and release of a free key ({} rounds):\n",
        plan.rounds
    );
    println!("{:<24} {:>10} {:>14}", "", "median", "PING round trips");
    for (contender, own) in contenders.iter().zip(&turns) {
        println!(
            "{:<24} {:>8.1}us {:>12.2}",
            contender.name,
            median(own),
            ratio(own, &turns[0])
        );
    }
    println!(
        "\nringlock / rslock, 1 node:      {:.2}",
        ratio(&turns[1], &turns[2])
    );
    println!(
        "ringlock / rslock, quorum of 5: {:.2}\n",
        ratio(&turns[3], &turns[4])
    );
}

/// A quorum answers at its third node: two slow ones change nothing.
async fn two_slow(plan: &Plan, servers: &[Server]) {
    // The fast ones go through a proxy too, so that only the delay differs.
    let delayed = |delay: u64, servers: &[Server]| -> Vec<Proxy> {
        let delay = Duration::from_millis(delay);
        servers
            .iter()
            .map(|server| Proxy::delaying_replies(&server.address(), delay).unwrap())
            .collect()
    };
    let fast: Vec<Proxy> = delayed(1, servers);
    let mixed: Vec<Proxy> = delayed(1, &servers[..3])
        .into_iter()
        .chain(delayed(20, &servers[3..]))
        .collect();
    let through = |proxies: &[Proxy]| proxies.iter().map(Proxy::url).collect::<Vec<_>>();
    let mut contenders = [
        Contender::ringlock("five fast", &through(&fast), 5).await,
        Contender::ringlock("two of five slow", &through(&mixed), 5).await,
        Contender::rslock("rslock, two slow", &through(&mixed)),
    ];
    let turns = compete(plan, &mut contenders).await;
    println!("Quorum of 5 behind 1 ms of delay, two of them behind 20 ms; acquire alone:\n");
    for (contender, own) in contenders.iter().zip(&turns) {
        let ratio = ratio(own, &turns[0]);
        println!(
            "{:<24} {:>8.1}us {ratio:>12.2} x five fast",
            contender.name,
            median(own)
        );
    }
}

/// Every contender's median time per turn, in microseconds, round by round.
async fn compete(plan: &Plan, contenders: &mut [Contender]) -> Vec<Vec<f64>> {
    let mut turns = vec![Vec::new(); contenders.len()];
    for _ in 0..plan.rounds {
        for (contender, own) in contenders.iter_mut().zip(&mut turns) {
            let mut times = Vec::new();
            let begun = Instant::now();
            while begun.elapsed() < plan.turn || times.len() < 3 {
                times.push(contender.once().await.as_secs_f64() * 1e6);
            }
            own.push(median(&times));
        }
    }
    turns
}

struct Contender {
    name: &'static str,
    kind: Kind,
    serial: u64,
}

enum Kind {
    Ping(UnixStream),
    Ringlock { router: Router, fence: u64 },
    Rslock(LockManager),
}

impl Contender {
    async fn ping(server: &Server) -> Self {
        let stream = UnixStream::connect(server.socket()).await.unwrap();
        Self {
            name: "PING, bare",
            kind: Kind::Ping(stream),
            serial: 0,
        }
    }

    async fn ringlock(name: &'static str, urls: &[String], replicas: usize) -> Self {
        // Separate clusters on the same servers.
        let namespace = name.replace([' ', ','], "-");
        let router = cluster::builder(urls.to_vec())
            .replicas(replicas)
            .configure(|config| {
                config.router.key_prefix = format!("{namespace}:");
                config.router.namespace = namespace;
            })
            .connect()
            .await
            .unwrap();
        Self {
            name,
            kind: Kind::Ringlock { router, fence: 0 },
            serial: 0,
        }
    }

    fn rslock(name: &'static str, urls: &[String]) -> Self {
        Self {
            name,
            kind: Kind::Rslock(LockManager::new(urls.to_vec())),
            serial: 0,
        }
    }

    /// Runs once; returns the time that counts.
    async fn once(&mut self) -> Duration {
        self.serial += 1;
        // One key again and again: its fences must grow.
        let key = "the-key";
        let begun = Instant::now();
        match &mut self.kind {
            Kind::Ping(stream) => {
                stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
                let mut reply = [0; 7];
                stream.read_exact(&mut reply).await.unwrap();
                assert_eq!(&reply, b"+PONG\r\n");
                begun.elapsed()
            }
            Kind::Ringlock { router, fence } => {
                let guard = router.acquire(key).await.unwrap();
                let acquired = begun.elapsed();
                assert!(guard.fence().get() > *fence, "a fence went back");
                *fence = guard.fence().get();
                guard.release().await.unwrap();
                if self.name.contains("five") {
                    acquired
                } else {
                    begun.elapsed()
                }
            }
            Kind::Rslock(manager) => {
                let lock = manager.lock(key, Duration::from_secs(10)).await.unwrap();
                let acquired = begun.elapsed();
                manager.unlock(&lock).await;
                if self.name.contains("slow") {
                    acquired
                } else {
                    begun.elapsed()
                }
            }
        }
    }
}

/// The median over the rounds of the ratio of `own` to `other`.
fn ratio(own: &[f64], other: &[f64]) -> f64 {
    median(&ratios(own, other))
}
