//! A tour: where keys live, how they are locked in both modes, and what
//! happens when things go wrong.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart -- --nodes redis://127.0.0.1:7001,redis://127.0.0.1:7002,…
//! ```

#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]
#![allow(clippy::unwrap_used, reason = "what is shown to fail must fail")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::node::{Node, ReplyTo};
use ringlock::proto::node::message::Request;
use ringlock::{Fence, Init, MemoryNode, NodeError, NodeErrorKind, Released, Router};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result {
    let nodes = nodes_from_arguments()?;
    let replicas = if nodes.len() % 2 == 1 {
        nodes.len().min(5)
    } else {
        nodes.len().min(6) - 1
    };

    // One router, both modes: a single owner for most keys, and a quorum for
    // those that must survive the loss of a node.
    let mut builder = Router::builder()
        .replicas(1)
        .override_replicas("billing/", replicas)
        .init(Init::Now)
        .configure(|config| config.router.namespace = "quickstart".into());
    for (index, node) in nodes.iter().enumerate() {
        builder = builder.custom_node(format!("node-{}", index + 1), Arc::clone(node) as _);
    }
    let router = builder
        .on_progress(|progress| println!("{progress}"))
        .connect()
        .await?;

    where_keys_live(&router)?;
    both_modes(&router).await?;
    contended(&router).await?;
    fenced(&router).await?;
    extended(&router).await?;
    lost(&router).await?;
    node_down(&router, &nodes).await?;

    println!("\nDone: {:?}", router.stats());
    router.shutdown().await;
    Ok(())
}

fn where_keys_live(router: &Router) -> Result {
    println!("1. Where ten keys live");
    for key in (1..=5).flat_map(|i| [format!("orders/{i}"), format!("billing/{i}")]) {
        let route = router.route(&key)?;
        let replicas = route.replicas.join(", ");
        println!("   {key:<10} on {replicas} ({} must agree)", route.quorum);
    }
    Ok(())
}

async fn both_modes(router: &Router) -> Result {
    println!("\n2. A lock in either mode, by the same call");
    for key in ["orders/42", "billing/42"] {
        let begun = Instant::now();
        let guard = router.acquire(key).await?;
        println!(
            "   {key:<10} in {:>6.1?}: fence {}, valid for {:.2?}",
            begun.elapsed(),
            guard.fence(),
            guard.remaining()
        );
        guard.release().await?;
    }
    let sum = router.with("orders/43", async |_lease| 6 * 7).await?;
    println!("   orders/43  scoped, kept alive, cannot leak: the work said {sum}");
    Ok(())
}

async fn contended(router: &Router) -> Result {
    println!("\n3. A contended lock");
    let first = router.acquire("orders/7").label("first").await?;
    let refused = router.try_acquire("orders/7").await.unwrap_err();
    println!("   without waiting: {refused}");
    let second = tokio::spawn({
        let router = router.clone();
        async move {
            let begun = Instant::now();
            let guard = router
                .acquire("orders/7")
                .wait(Duration::from_secs(2))
                .await?;
            Ok::<_, ringlock::Error>((begun.elapsed(), guard.fence()))
        }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    first.release().await?;
    let (waited, fence) = second.await??;
    println!("   waiting: got it after {waited:.0?}, fence {fence}");
    Ok(())
}

/// A resource that a lock guards. It remembers the highest fence that it has
/// seen: the fence, not the lock, reliably excludes a late writer.
#[derive(Default)]
struct Resource {
    newest: Option<Fence>,
}

impl Resource {
    fn write(&mut self, fence: Fence) -> std::result::Result<(), String> {
        match self.newest {
            Some(newest) if fence < newest => Err(format!("refused: {newest} was here before")),
            _ => {
                self.newest = Some(fence);
                Ok(())
            }
        }
    }
}

async fn fenced(router: &Router) -> Result {
    println!("\n4. A writer that comes too late");
    let mut resource = Resource::default();
    let slow = router
        .acquire("orders/8")
        .ttl(Duration::from_millis(50))
        .await?;
    let stale = slow.fence();
    slow.lost().await;
    println!("   fence {stale}: its holder slept past its lease");
    let next = router.acquire("orders/8").await?;
    resource.write(next.fence())?;
    println!("   fence {}: the next holder has written", next.fence());
    println!("   fence {stale}: {}", resource.write(stale).unwrap_err());
    Ok(())
}

async fn extended(router: &Router) -> Result {
    println!("\n5. A longer hold");
    let guard = router
        .acquire("billing/9")
        .ttl(Duration::from_millis(500))
        .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = guard.remaining();
    guard.extend().await?;
    println!(
        "   extended by hand: {before:.0?} left, then {:.0?}",
        guard.remaining()
    );
    guard.release().await?;
    let guard = router
        .acquire("billing/9")
        .ttl(Duration::from_millis(100))
        .keep_alive()
        .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!(
        "   kept alive: after three ttls {:.0?} are left",
        guard.remaining()
    );
    Ok(())
}

async fn lost(router: &Router) -> Result {
    println!("\n6. A lost lease says so");
    let begun = Instant::now();
    let guard = router
        .acquire("orders/10")
        .ttl(Duration::from_millis(100))
        .await?;
    let loss = guard.lost().await;
    println!("   after {:.0?} of a ttl of 100ms: {loss}", begun.elapsed());
    let refused = guard.extend().await.unwrap_err();
    println!("   extending it: {refused}");
    match guard.release().await? {
        Released::TooLate => println!("   releasing it: too late, which is news and no error"),
        Released::InTime => println!("   releasing it: in time"),
        Released::Unknown => println!("   releasing it: not answered, it is repeated"),
    }
    Ok(())
}

async fn node_down(router: &Router, nodes: &[Arc<Cuttable>]) -> Result {
    println!("\n7. Nodes go down");
    let route = router.route("billing/11")?;
    let down = route.replicas.len() - route.quorum;
    for (index, name) in route.replicas.iter().enumerate().take(down + 1) {
        let number: usize = name.trim_start_matches("node-").parse()?;
        nodes[number - 1].cut(true);
        let outcome = match router.try_acquire("billing/11").await {
            Ok(guard) => format!("still locked, fence {}", guard.fence()),
            Err(error) => error.to_string(),
        };
        println!(
            "   {} of {} down: {outcome}",
            index + 1,
            route.replicas.len()
        );
    }
    nodes.iter().for_each(|node| node.cut(false));
    println!(
        "   all back: fence {}",
        router.acquire("billing/11").await?.fence()
    );
    Ok(())
}

/// A node whose connection can be cut, to show what happens then.
#[derive(Debug)]
struct Cuttable {
    node: Arc<dyn Node>,
    is_cut: AtomicBool,
}

impl Cuttable {
    fn new(node: impl Node + 'static) -> Arc<Self> {
        Arc::new(Self {
            node: Arc::new(node),
            is_cut: AtomicBool::new(false),
        })
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Node for Cuttable {
    fn submit(&self, request: Request, deadline: ringlock::Instant, reply: ReplyTo) {
        if self.is_cut.load(Ordering::Relaxed) {
            return reply.send(Err(NodeError::new(NodeErrorKind::Unreachable, "cut off")));
        }
        self.node.submit(request, deadline, reply);
    }

    fn address(&self) -> String {
        self.node.address()
    }

    fn is_embedded(&self) -> bool {
        self.node.is_embedded()
    }

    fn close(&self) {
        self.node.close();
    }
}

/// Five nodes in memory, or the servers that `--nodes` names.
fn nodes_from_arguments() -> Result<Vec<Arc<Cuttable>>> {
    let mut arguments = std::env::args().skip(1);
    let Some(flag) = arguments.next() else {
        return Ok((1..=5)
            .map(|i| Cuttable::new(MemoryNode::new(format!("node-{i}"))))
            .collect());
    };
    let urls = arguments.next().filter(|_| flag == "--nodes");
    let urls = urls.ok_or("usage: quickstart [--nodes redis://host:port,redis://…]")?;
    urls.split(',')
        .map(|url| {
            let options = RedisOptions::default().namespace("quickstart");
            let node = RedisNode::new(url, options);
            Ok(Cuttable::new(
                node.map_err(|problem| format!("{url} {problem}"))?,
            ))
        })
        .collect()
}
