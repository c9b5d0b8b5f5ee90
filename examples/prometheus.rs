//! A service that takes locks and exports its metrics to Prometheus.
//!
//! ```sh
//! cargo run --example prometheus --features metrics
//! cargo run --example prometheus --features metrics -- --nodes redis://127.0.0.1:6379,redis://…
//! ```
//!
//! It runs until it is interrupted, and serves `/metrics` at the address that
//! it prints. With `--once` it scrapes itself, checks whether all metrics of
//! the guide are there, and ends.

#![allow(clippy::print_stdout, reason = "an example talks")]

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use ringlock::{Error, Init, MemoryNode, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Concurrent callers, and the keys that they lock: more than one for each.
const CALLERS: usize = 16;
const KEYS: usize = 200;

/// How long a call waits: short, so that some calls time out.
const WAIT: Duration = Duration::from_millis(100);

/// How often recorded values are put into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The time limit of a scrape, and the longest request.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
const LONGEST_REQUEST: usize = 8 * 1024;

/// How long the load runs before a single scrape.
const LOAD_BEFORE_SCRAPE: Duration = Duration::from_secs(1);

/// Metrics that nodes in memory do not have, because there is no server.
const OF_SERVERS: [&str; 4] = [
    "ringlock_node_connected",
    "ringlock_node_connections_lost_total",
    "ringlock_batch_size",
    "ringlock_queue",
];

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = arguments.iter().position(|argument| argument == "--nodes");
    let nodes = option.and_then(|at| arguments.get(at + 1));

    // Installed before the router connects, which registers its metrics then.
    let prometheus = install()?;
    let router = connect(nodes.map(String::as_str)).await?;
    for caller in 0..CALLERS {
        tokio::spawn(call(router.clone(), caller));
    }

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("http://{address}/metrics");
    let serving = tokio::spawn(serve(listener, prometheus));
    if arguments.iter().any(|argument| argument == "--once") {
        tokio::time::sleep(LOAD_BEFORE_SCRAPE).await;
        let page = scrape(TcpStream::connect(address).await?).await?;
        return check(&page, nodes.is_none());
    }
    serving.await?
}

/// The recorder: histograms in buckets, so that those of many processes add up.
fn install() -> Result<PrometheusHandle, BuildError> {
    let seconds = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0, 10.0, 60.0, 600.0,
    ];
    let sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &sizes)?
        .install_recorder()
}

async fn connect(nodes: Option<&str>) -> Result<Router, Error> {
    let mut builder = Router::builder()
        .init(Init::Now)
        .configure(|config| config.router.namespace = "prometheus".into());
    let urls: Vec<&str> = nodes.map_or_else(Vec::new, |urls| urls.split(',').collect());
    let name = |index| format!("node-{}", index + 1);
    for (index, url) in urls.iter().enumerate() {
        builder = builder.node(name(index), *url);
    }
    for index in 0..(if urls.is_empty() { 5 } else { 0 }) {
        builder = builder.memory_node(MemoryNode::new(name(index)));
    }
    if urls.is_empty() || urls.len() >= 3 {
        builder = builder.override_replicas("billing/", 3);
    }
    builder.connect().await
}

/// One caller: takes a lock, works under it, gives it back, again and again.
async fn call(router: Router, caller: usize) {
    for turn in caller.. {
        // Every fourth turn all callers request the same key.
        let number = if turn % 4 == 0 {
            0
        } else {
            (turn * 7919 + caller) % KEYS
        };
        let area = if number % 10 == 0 {
            "billing"
        } else {
            "orders"
        };
        let guard = router.acquire(format!("{area}/{number}")).wait(WAIT).await;
        let work = Duration::from_millis(1 + (turn % 5) as u64);
        match guard {
            Ok(guard) => {
                tokio::time::sleep(work).await;
                // The metrics report the outcome.
                let _ = guard.release().await;
            }
            Err(_) => tokio::time::sleep(work).await,
        }
    }
}

/// Answers one scrape after the other. Twenty lines are enough for that; the
/// exporter's own listener would add an HTTP library.
async fn serve(listener: TcpListener, prometheus: PrometheusHandle) -> Result<(), Failure> {
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            _ = upkeep.tick() => prometheus.run_upkeep(),
            accepted = listener.accept() => {
                let answering = answer(accepted?.0, &prometheus);
                match tokio::time::timeout(SCRAPE_LIMIT, answering).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => println!("a scrape failed: {error}"),
                    Err(_) => println!("a scrape took too long"),
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, prometheus: &PrometheusHandle) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", prometheus.render()),
        false => ("404 Not Found", "ask for /metrics\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}

async fn scrape(mut stream: TcpStream) -> Result<String, Failure> {
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut page = String::new();
    tokio::time::timeout(SCRAPE_LIMIT, stream.read_to_string(&mut page)).await??;
    Ok(page)
}

/// Whether every metric of the guide is there.
fn check(page: &str, is_in_memory: bool) -> Result<(), Failure> {
    let chapter = include_str!("../src/guide/observability.rs");
    let rows = chapter
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `ringlock_"));
    let names = rows.map(|row| format!("ringlock_{}", row.split('`').next().unwrap_or_default()));
    let names = names.filter(|name| !is_in_memory || !OF_SERVERS.contains(&name.as_str()));
    let names: Vec<String> = names.collect();
    let is_there = |name: &&String| page.contains(&format!("\n# TYPE {name} "));
    let missing: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
    if names.is_empty() || !missing.is_empty() {
        return Err(format!("of {} metrics these are missing: {missing:?}", names.len()).into());
    }
    for line in page
        .lines()
        .filter(|line| line.starts_with("ringlock_acquires_total"))
    {
        println!("{line}");
    }
    println!("all {} metrics are there", names.len());
    Ok(())
}
