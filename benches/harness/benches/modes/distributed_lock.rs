//! The crate `distributed-lock-redis`, with its default settings except for the
//! TTL, which every contender has in common.

use std::sync::Arc;
use std::time::Duration;

use distributed_lock_core::error::LockError;
use distributed_lock_core::traits::{DistributedLock, LockHandle, LockProvider};
use distributed_lock_redis::{RedisLockHandle, RedisLockProvider};
use ringlock_bench::Fault;
use ringlock_bench::contenders::TTL_MS;
use ringlock_bench::contenders::patient::{Busy, Patient};
use ringlock_bench::keys::KeySpace;
use ringlock_bench::load::{Locker, ReleaseOutcome};
use ringlock_bench::peers::{Kind, Making, Peer, Site};

pub(crate) const PEER: Peer = Peer {
    name: "distributed-lock",
    kind: Kind::Library,
    make,
};

fn make(site: Site) -> Making {
    Box::pin(site.contender(async |urls, keys| {
        let ttl = Duration::from_millis(TTL_MS);
        let provider = RedisLockProvider::builder()
            .urls(&urls)
            .expiry(ttl)
            // The shares of the TTL that its defaults have.
            .min_validity(ttl * 9 / 10)
            .extension_cadence(ttl / 3)
            .build()
            .await?;
        let provider = Arc::new(provider);
        // Its acquire tries once, whatever its time-out is.
        Ok(Patient(DistributedLocks { provider, keys }))
    }))
}

#[derive(Clone)]
struct DistributedLocks {
    provider: Arc<RedisLockProvider>,
    keys: Arc<KeySpace>,
}

impl Locker for DistributedLocks {
    type Lease = RedisLockHandle;

    async fn acquire(&self, _: usize, key: usize) -> Result<RedisLockHandle, Fault> {
        // The owner's token belongs to the lock object: each acquire needs its own.
        let lock = self.provider.create_lock(self.keys.get(key));
        match lock.try_acquire().await {
            Ok(Some(handle)) => Ok(handle),
            Ok(None) | Err(LockError::Timeout(_)) => Err(Busy.into()),
            Err(error) => Err(error.into()),
        }
    }

    async fn release(&self, lease: RedisLockHandle) -> Result<ReleaseOutcome, Fault> {
        lease.release().await?;
        Ok(ReleaseOutcome::Untold)
    }
}
