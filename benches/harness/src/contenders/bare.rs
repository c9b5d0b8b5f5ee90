//! The redis crate alone: SET NX PX, and a compare-and-delete script, on one
//! multiplexed connection per node with the default settings.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::patient::Busy;
use super::{TTL_MS, token};
use crate::Fault;
use crate::keys::KeySpace;
use crate::load::{Locker, ReleaseOutcome};

/// Deletes the key if it holds the token.
pub const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// The node that owns each key.
pub type Owners = Arc<[u8]>;

#[derive(Clone)]
pub(crate) struct Bare {
    connections: Arc<[MultiplexedConnection]>,
    owners: Option<Owners>,
    keys: Arc<KeySpace>,
    release: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    key: usize,
    token: String,
}

impl Bare {
    /// No other contender may use `keys`: their names are the lock names.
    /// Without `owners` the first node owns all of them.
    pub(crate) async fn connect(
        urls: &[String],
        owners: Option<Owners>,
        keys: Arc<KeySpace>,
    ) -> Result<Self, Fault> {
        let mut connections = Vec::new();
        let mut release = String::new();
        for url in urls {
            let client = redis::Client::open(url.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            release = redis::cmd("SCRIPT")
                .arg("LOAD")
                .arg(RELEASE)
                .query_async(&mut connection)
                .await?;
            connections.push(connection);
        }
        Ok(Self {
            connections: connections.into(),
            owners,
            keys,
            release: release.into(),
        })
    }

    fn connection(&self, key: usize) -> MultiplexedConnection {
        let owner = self.owners.as_ref().map_or(0, |owners| owners[key]);
        self.connections[usize::from(owner)].clone()
    }
}

impl Locker for Bare {
    type Lease = Lease;

    async fn acquire(&self, _: usize, key: usize) -> Result<Lease, Fault> {
        let token = token();
        let taken: Option<String> = redis::cmd("SET")
            .arg(self.keys.get(key))
            .arg(&token)
            .arg("NX")
            .arg("PX")
            .arg(TTL_MS)
            .query_async(&mut self.connection(key))
            .await?;
        match taken {
            Some(_) => Ok(Lease { key, token }),
            None => Err(Busy.into()),
        }
    }

    async fn release(&self, lease: Lease) -> Result<ReleaseOutcome, Fault> {
        let deleted: u64 = redis::cmd("EVALSHA")
            .arg(&*self.release)
            .arg(1)
            .arg(self.keys.get(lease.key))
            .arg(&lease.token)
            .query_async(&mut self.connection(lease.key))
            .await?;
        Ok(match deleted {
            1 => ReleaseOutcome::InTime,
            _ => ReleaseOutcome::Late,
        })
    }
}
