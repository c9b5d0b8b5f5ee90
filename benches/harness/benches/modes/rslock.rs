//! The crate `rslock`. Its retries are as short as the bench's own; its other
//! settings are the defaults.

use std::sync::Arc;
use std::time::Duration;

use ringlock_bench::Fault;
use ringlock_bench::contenders::TTL_MS;
use ringlock_bench::contenders::patient::PAUSE;
use ringlock_bench::keys::KeySpace;
use ringlock_bench::load::{Locker, ReleaseOutcome};
use ringlock_bench::peers::{Kind, Making, Peer, Site};
use rslock::{Lock, LockManager};

pub(crate) const PEER: Peer = Peer {
    name: "rslock",
    kind: Kind::Library,
    make,
};

fn make(site: Site) -> Making {
    Box::pin(site.contender(async |urls, keys| {
        let mut manager = LockManager::new(urls);
        // It gives up after three tries otherwise. These take half a minute at least:
        // a node that is gone does not keep the bench forever.
        manager.set_retry(30_000, PAUSE);
        Ok(Rslock { manager, keys })
    }))
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
