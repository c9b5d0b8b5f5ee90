//! Nodes join and leave while locks are held, all in memory.
//!
//! ```sh
//! cargo run --example rebalance
//! ```

#![allow(clippy::print_stdout, reason = "an example talks")]

use std::sync::Arc;
use std::time::Duration;

use ringlock::{Change, Error, MemoryNode, NodeConfig, Router};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Router::builder().ttl(Duration::from_millis(900));
    for name in ["a", "b", "c"] {
        builder = builder.memory_node(MemoryNode::new(name));
    }
    // The node that joins later. Of a real node the URL is enough.
    let spare = MemoryNode::new("d");
    let router = builder
        .spare_node("d", Arc::new(spare))
        .configure(|config| {
            // A change waits for these: short here, so that the example is
            // quick.
            config.router.max_ttl = Duration::from_secs(1);
            config.router.view_lease = Duration::from_millis(500);
        })
        .connect()
        .await?;

    let orders: Vec<String> = (1..=1000).map(|order| format!("orders/{order}")).collect();
    let held = router.acquire_all(&orders).keep_alive().await?;
    println!("1000 locks are held on a, b and c\n");

    let rebalancer = router.rebalancer();
    let joining = Change::Add(NodeConfig::new("d", "memory://d"));
    let plan = rebalancer.plan([joining]).await?;
    println!("{plan}\n");
    let report = rebalancer
        .apply(&plan, |progress| {
            let left = progress.remaining.unwrap_or_default();
            println!(
                "{:>6.1?}  {}, {left:.1?} to go",
                progress.elapsed, progress.phase
            );
        })
        .await?;
    println!(
        "\nview {} is in force after {:.1?}",
        report.to, report.elapsed
    );

    let on_d = orders
        .iter()
        .filter(|order| owner(&router, order).is_ok_and(|name| name == "d"));
    println!(
        "{} of them are on d now, and all are held: {:?}",
        on_d.count(),
        held.loss()
    );
    held.release().await?;
    Ok(())
}

fn owner(router: &Router, key: &str) -> Result<String, Error> {
    Ok(router.route(key)?.owner.to_string())
}
