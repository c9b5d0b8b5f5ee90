//! Tasks that lock and unlock while a cluster changes, and the results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::{Guard, Router};
use tokio::task::JoinSet;

use ringlock_test_support::ms;
use ringlock_test_support::node::now;

/// Few, so that tasks contend.
const KEYS: usize = 24;

/// One lease as its holder saw it; times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Tenure {
    pub(crate) key: String,
    pub(crate) fence: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Tenure {
    /// Of a lease that was granted before `from` and is not released yet.
    pub(crate) fn of(guard: &Guard, from: u64) -> Self {
        Self {
            key: guard.key().to_string(),
            fence: guard.fence().get(),
            from,
            to: now().as_nanos().min(guard.valid_until().as_nanos()),
        }
    }
}

/// Two holders of one key at once, or a fence that does not grow.
pub(crate) fn fault(history: &mut [Tenure]) -> Option<String> {
    history.sort_by(|a, b| a.key.cmp(&b.key).then(a.from.cmp(&b.from)));
    history.windows(2).find_map(|pair| {
        let [before, after] = pair else { return None };
        let is_same = before.key == after.key;
        let is_fine = after.from >= before.to && after.fence > before.fence;
        (is_same && !is_fine).then(|| format!("{before:?}, then {after:?}"))
    })
}

#[test]
fn a_fault_is_seen() {
    let tenure = |from, to, fence| Tenure {
        key: "k".into(),
        fence,
        from,
        to,
    };
    assert_eq!(fault(&mut [tenure(10, 20, 2), tenure(0, 10, 1)]), None);
    assert!(fault(&mut [tenure(9, 20, 2), tenure(0, 10, 1)]).is_some());
    assert!(fault(&mut [tenure(10, 20, 1), tenure(0, 10, 1)]).is_some());
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Crew {
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<(Vec<Tenure>, Vec<String>)>,
}

/// The result of a crew.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) history: Vec<Tenure>,
    pub(crate) errors: Vec<String>,
}

impl Crew {
    /// Starts tasks that lock random keys for `ttl` and a moment, with these
    /// routers in turn.
    pub(crate) fn start(routers: &[Router], tasks: usize, ttl: Duration, seed: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for task in 0..tasks {
            let (router, is_over) = (routers[task % routers.len()].clone(), Arc::clone(&is_over));
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(task as u64));
            set.spawn(async move {
                let (mut history, mut errors) = (Vec::new(), Vec::new());
                while !is_over.load(Ordering::Relaxed) {
                    let key = format!("crew-{}", random.random_range(0..KEYS));
                    let acquire = router.acquire(&key).ttl(ttl).wait(ms(10_000));
                    match acquire.await {
                        Ok(guard) => {
                            let from = now().as_nanos();
                            tokio::time::sleep(ms(random.random_range(0..8))).await;
                            history.push(Tenure::of(&guard, from));
                            // The history shows whether it was in time.
                            let _ = guard.release().await;
                        }
                        Err(error) => errors.push(format!("{error:#}")),
                    }
                }
                (history, errors)
            });
        }
        Self {
            is_over,
            tasks: set,
        }
    }

    /// Lets them finish.
    pub(crate) async fn stop(self) -> Work {
        self.is_over.store(true, Ordering::Relaxed);
        let mut work = Work {
            history: Vec::new(),
            errors: Vec::new(),
        };
        for (history, errors) in self.tasks.join_all().await {
            work.history.extend(history);
            work.errors.extend(errors);
        }
        work
    }
}

impl Work {
    /// Asserts that there was no error and no overlap, and that fences grow.
    pub(crate) fn check(mut self, least: usize) {
        println!("{} leases", self.history.len());
        assert_eq!(self.errors, Vec::<String>::new());
        assert_eq!(fault(&mut self.history), None);
        assert!(self.history.len() >= least, "it hardly worked");
    }
}
