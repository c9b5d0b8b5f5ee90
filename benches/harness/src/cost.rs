//! Pairs of acquire and release and nothing else, so that what they cost can be
//! counted from outside.

use ringlock::Router;
use tokio::task::JoinSet;

use crate::servers::Server;
use crate::{Fault, cluster};

/// Starts this many servers, and a router with this many replicas on them. The
/// servers end when they are dropped.
///
/// # Errors
/// No server is installed, or one cannot be reached.
pub async fn start(nodes: usize, replicas: usize) -> Result<(Vec<Server>, Router), Fault> {
    let servers = Server::start_all(nodes)?;
    let builder = cluster::builder(servers.iter().map(Server::socket_url));
    let router = builder.replicas(replicas).connect().await?;
    Ok((servers, router))
}

/// Runs this many tasks. Each locks and releases a key of its own this many times.
///
/// # Errors
/// The first error of a lock or of a task.
pub async fn pairs(router: &Router, tasks: usize, pairs: usize) -> Result<(), Fault> {
    let mut under_way = JoinSet::new();
    for task in 0..tasks {
        let router = router.clone();
        under_way.spawn(async move {
            let key = format!("cost:{task:08}");
            for _ in 0..pairs {
                router.acquire(&key).await?.release().await?;
            }
            Ok::<(), ringlock::Error>(())
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    Ok(())
}
