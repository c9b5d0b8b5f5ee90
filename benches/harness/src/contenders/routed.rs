//! ringlock itself.

use std::sync::Arc;
use std::time::Duration;

use ringlock::{Guard, Init, Released, Router};

use super::TTL_MS;
use crate::Fault;
use crate::keys::KeySpace;
use crate::load::{Locker, ReleaseOutcome};

/// A router, used through its public interface.
#[derive(Clone)]
pub(crate) struct Routed {
    pub(crate) router: Router,
    keys: Arc<KeySpace>,
}

impl Routed {
    /// Connects to the nodes at `urls` as a cluster named `namespace`.
    pub(crate) async fn connect(
        urls: &[String],
        replicas: usize,
        namespace: &str,
        keys: &Arc<KeySpace>,
    ) -> Result<Self, Fault> {
        Self::connect_with(urls, replicas, namespace, keys, None).await
    }

    /// The same, with acquires that give up after `wait`.
    pub(crate) async fn connect_with(
        urls: &[String],
        replicas: usize,
        namespace: &str,
        keys: &Arc<KeySpace>,
        wait: Option<Duration>,
    ) -> Result<Self, Fault> {
        let nodes = urls.iter().enumerate();
        let builder = nodes.fold(Router::builder(), |builder, (index, url)| {
            builder.node(format!("node-{}", index + 1), url)
        });
        let router = builder
            .replicas(replicas)
            .init(Init::Now)
            .ttl(Duration::from_millis(TTL_MS))
            .configure(|config| {
                config.router.namespace = namespace.to_owned();
                config.router.key_prefix = format!("{namespace}:");
                config.router.wait = wait.unwrap_or(config.router.wait);
            })
            .connect()
            .await?;
        Ok(Self {
            router,
            keys: Arc::clone(keys),
        })
    }

    /// The same router for other keys.
    pub(crate) fn with_keys(&self, keys: &Arc<KeySpace>) -> Self {
        Self {
            router: self.router.clone(),
            keys: Arc::clone(keys),
        }
    }
}

impl Locker for Routed {
    type Lease = Guard;

    async fn acquire(&self, _: usize, key: usize) -> Result<Guard, Fault> {
        Ok(self.router.acquire(self.keys.get(key)).await?)
    }

    fn fence(lease: &Guard) -> Option<u64> {
        Some(lease.fence().get())
    }

    async fn release(&self, lease: Guard) -> Result<ReleaseOutcome, Fault> {
        Ok(match lease.release().await? {
            Released::InTime => ReleaseOutcome::InTime,
            Released::TooLate => ReleaseOutcome::Late,
            Released::Unknown => return Err("a release was not answered".into()),
        })
    }
}
