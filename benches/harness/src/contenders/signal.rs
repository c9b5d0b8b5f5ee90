//! The protocol of python-redis-lock, ported to the redis crate: waiters block
//! in BLPOP on a list that the release script pushes to. Each waiter has its
//! own connection, because a blocking command occupies it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::{TTL_MS, token};
use crate::Fault;
use crate::load::{Locker, ReleaseOutcome};

/// The UNLOCK script of python-redis-lock, verbatim except for the layout.
const RELEASE: &str = "
    if redis.call('get', KEYS[1]) ~= ARGV[1] then
        return 1
    else
        redis.call('del', KEYS[2])
        redis.call('lpush', KEYS[2], 1)
        redis.call('pexpire', KEYS[2], ARGV[2])
        redis.call('del', KEYS[1])
        return 0
    end";

/// The lifetime of a signal, in milliseconds.
const SIGNAL_EXPIRE: u64 = 1000;

#[derive(Clone)]
pub(crate) struct SignalList {
    /// One per task.
    connections: Arc<[MultiplexedConnection]>,
    lock: Arc<str>,
    signal: Arc<str>,
    release: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    task: usize,
    token: String,
}

impl SignalList {
    /// Connects `tasks` waiters for one key.
    pub(crate) async fn connect(url: &str, key: &str, tasks: usize) -> Result<Self, Fault> {
        let client = redis::Client::open(url)?;
        // A waiter waits longer for a signal than for any other reply.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connections = Vec::new();
        let mut release = String::new();
        for _ in 0..tasks {
            let connection = client.get_multiplexed_async_connection_with_config(&patient);
            let mut connection = connection.await?;
            release = redis::cmd("SCRIPT")
                .arg("LOAD")
                .arg(RELEASE)
                .query_async(&mut connection)
                .await?;
            connections.push(connection);
        }
        Ok(Self {
            connections: connections.into(),
            lock: format!("lock:{key}").into(),
            signal: format!("lock-signal:{key}").into(),
            release: release.into(),
        })
    }
}

impl Locker for SignalList {
    type Lease = Lease;

    async fn acquire(&self, task: usize, _: usize) -> Result<Lease, Fault> {
        let mut connection = self.connections[task].clone();
        let token = token();
        let seconds = Duration::from_millis(TTL_MS).as_secs();
        loop {
            let taken: Option<String> = redis::cmd("SET")
                .arg(&*self.lock)
                .arg(&token)
                .arg("NX")
                .arg("EX")
                .arg(seconds)
                .query_async(&mut connection)
                .await?;
            if taken.is_some() {
                return Ok(Lease { task, token });
            }
            let _signal: Option<(String, String)> = redis::cmd("BLPOP")
                .arg(&*self.signal)
                .arg(seconds)
                .query_async(&mut connection)
                .await?;
        }
    }

    async fn release(&self, lease: Lease) -> Result<ReleaseOutcome, Fault> {
        let refused: u64 = redis::cmd("EVALSHA")
            .arg(&*self.release)
            .arg(2)
            .arg(&*self.lock)
            .arg(&*self.signal)
            .arg(&lease.token)
            .arg(SIGNAL_EXPIRE)
            .query_async(&mut self.connections[lease.task].clone())
            .await?;
        Ok(match refused {
            0 => ReleaseOutcome::InTime,
            _ => ReleaseOutcome::Late,
        })
    }
}
