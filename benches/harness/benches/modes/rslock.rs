//! The crate `rslock`, with its default settings.

use std::sync::Arc;
use std::time::Duration;

use ringlock_bench::contenders::TTL_MS;
use ringlock_bench::keys::KeySpace;
use ringlock_bench::load::{Checked, Contender, Locker, ReleaseOutcome};
use ringlock_bench::{Fault, Peer};
use rslock::{Lock, LockManager};

pub(crate) const PEER: Peer = Peer {
    name: "rslock",
    make,
};

fn make(urls: &[String], keys: Arc<KeySpace>) -> Arc<dyn Contender> {
    let rslock = Rslock {
        manager: LockManager::new(urls.to_vec()),
        keys: Arc::clone(&keys),
    };
    Arc::new(Checked::new(rslock, keys))
}

#[derive(Clone)]
struct Rslock {
    manager: LockManager,
    keys: Arc<KeySpace>,
}

impl Locker for Rslock {
    type Lease = Lock;

    async fn acquire(&self, _: usize, key: usize) -> Result<Lock, Fault> {
        let ttl = Duration::from_millis(TTL_MS);
        let lock = self.manager.lock(self.keys.get(key), ttl).await;
        lock.map_err(|error| format!("{error:?}").into())
    }

    async fn release(&self, lease: Lock) -> Result<ReleaseOutcome, Fault> {
        self.manager.unlock(&lease).await;
        Ok(ReleaseOutcome::Untold)
    }
}
