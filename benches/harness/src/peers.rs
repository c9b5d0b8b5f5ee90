//! Other crates that are measured along with ringlock. The bench target `modes`
//! has them, because they are no dependencies of the program.

use std::sync::Arc;

use crate::Fault;
use crate::contenders::bare::Owners;
use crate::keys::KeySpace;
use crate::load::{Boxed, Checked, Contender, Locker, ReleaseOutcome};

/// Another crate.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its name in tables.
    pub name: &'static str,
    /// What it can be compared in.
    pub kind: Kind,
    /// Connects a contender.
    pub make: fn(Site) -> Making,
}

/// A contender that is being connected.
pub type Making = Boxed<'static, Result<Arc<dyn Contender>, Fault>>;

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lock library, which locks several nodes as a quorum.
    Library,
    /// A client without lock logic, which sends the commands of one node.
    Commands,
}

/// Where a contender locks, and what.
#[derive(Clone, Debug)]
pub struct Site {
    urls: Vec<String>,
    /// Where the nodes are shards.
    owners: Option<Owners>,
    keys: Arc<KeySpace>,
}

impl Site {
    /// One node, or a quorum of several.
    pub(crate) fn together(urls: Vec<String>, keys: Arc<KeySpace>) -> Self {
        let owners = None;
        Self { urls, owners, keys }
    }

    /// Several nodes, each with its own part of the keys.
    pub(crate) fn sharded(urls: Vec<String>, owners: Owners, keys: Arc<KeySpace>) -> Self {
        let owners = Some(owners);
        Self { urls, owners, keys }
    }

    /// A contender of the lockers that `connect` makes: one for all nodes or,
    /// where the nodes are shards, one for each.
    pub async fn contender<L: Locker>(
        self,
        connect: impl AsyncFn(Vec<String>, Arc<KeySpace>) -> Result<L, Fault>,
    ) -> Result<Arc<dyn Contender>, Fault> {
        let Self { urls, owners, keys } = self;
        let Some(owners) = owners else {
            let locker = connect(urls, Arc::clone(&keys)).await?;
            return Ok(Arc::new(Checked::new(locker, keys)));
        };
        let mut shards = Vec::new();
        for url in urls {
            shards.push(connect(vec![url], Arc::clone(&keys)).await?);
        }
        let shards = shards.into();
        Ok(Arc::new(Checked::new(Sharded { shards, owners }, keys)))
    }
}

/// A locker for each node.
#[derive(Clone)]
struct Sharded<L> {
    shards: Arc<[L]>,
    owners: Owners,
}

impl<L: Locker> Locker for Sharded<L> {
    type Lease = (usize, L::Lease);

    async fn acquire(&self, task: usize, key: usize) -> Result<Self::Lease, Fault> {
        let shard = usize::from(self.owners[key]);
        Ok((shard, self.shards[shard].acquire(task, key).await?))
    }

    fn fence((_, lease): &Self::Lease) -> Option<u64> {
        L::fence(lease)
    }

    async fn release(&self, (shard, lease): Self::Lease) -> Result<ReleaseOutcome, Fault> {
        self.shards[shard].release(lease).await
    }
}
