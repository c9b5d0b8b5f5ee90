//! Pairs of acquire and release and nothing else, so that what they cost can be
//! counted from outside.

use ringlock::Router;
use tokio::task::JoinSet;

use crate::Fault;

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
