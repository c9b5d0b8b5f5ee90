//! A process that takes locks, and may be killed at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::desk::Desk;
use crate::hand::Hand;
use crate::log::Log;
use crate::process::{self, Told};
use crate::settings::TASKS;

/// How long tasks may take to end: the longest wait, hold and release, one
/// after the other.
pub(crate) const LEAVE: Duration = Duration::from_secs(20);

/// How often a worker checks whether the run is over.
const GLANCE: Duration = Duration::from_millis(20);

pub(crate) async fn work(told: Told, log: Arc<Log>, is_over: Arc<AtomicBool>) {
    let Some(router) = told.connect(&is_over).await else {
        return;
    };
    tokio::spawn(process::beat(Arc::clone(&log), router.clone()));
    let desk = Arc::new(Desk::new(&told, router.clone(), log, Arc::clone(&is_over)));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let random = StdRng::seed_from_u64(told.seed.wrapping_add(task as u64));
        tasks.spawn(Hand::new(Arc::clone(&desk), random).run());
    }
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(GLANCE).await;
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.expect("a task");
        }
    };
    tokio::time::timeout(LEAVE, all).await.expect("tasks end");
    router.shutdown().await;
}
