//! A process that takes locks, and may be killed at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::log::Log;
use crate::process::{self, Reported};
use crate::recorder::Recorder;
use crate::settings::TASKS;
use crate::workload::LeaseHandle;

/// How long tasks may take to end: the longest wait, hold and release, one
/// after the other.
pub(crate) const LEAVE: Duration = Duration::from_secs(20);

/// How often a worker checks whether the run is over.
const GLANCE: Duration = Duration::from_millis(20);

pub(crate) async fn work(reported: Reported, log: Arc<Log>, is_over: Arc<AtomicBool>) {
    let Some(router) = reported.connect(&is_over).await else {
        return;
    };
    tokio::spawn(process::beat(Arc::clone(&log), router.clone()));
    let recorder = Arc::new(Recorder::new(
        &reported,
        router.clone(),
        log,
        Arc::clone(&is_over),
    ));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let random = StdRng::seed_from_u64(reported.seed.wrapping_add(task as u64));
        tasks.spawn(LeaseHandle::new(Arc::clone(&recorder), random).run());
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
