//! A node that is a Redis or Valkey server.
//!
//! One connection. What is submitted first mostly reaches the server first, and
//! a release never overtakes the acquire that it cleans up after (see `pipeline/queue.rs`).
//! Who finds the connection idle sends at once, in its own call; while batches
//! are in flight the next gathers (group commit), and whoever settles one sends
//! it. The node's task reads, watches the clock, connects anew, and writes what
//! no caller could. A second connection, made when somebody waits for a key, is
//! told by the server when that may have become free.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use self::connection::address::Address;
use self::pipeline::state::{Lane, Pending};
use self::tracking::Tracker;
use super::{Interest, Node, ReplyTo, Watch};
use crate::config::{Config, NodeConfig, Password, TlsConfig};
use crate::proto::lease::Key;
use crate::proto::node::message::Request;
use crate::proto::time::Instant;
use crate::runtime::task;
use crate::telemetry::metrics::LaneMeter;

mod codec;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod inspect;
mod pipeline;
mod resp;
mod tracking;

pub use self::codec::encode::Encoding;

/// A Redis or Valkey server as a lock node.
pub struct RedisNode {
    address: Arc<Address>,
    lane: Arc<Lane>,
    driver: JoinHandle<()>,
    tracker: Arc<Tracker>,
}

/// How a node is spoken to, beside where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// What a key's name on the server begins with.
    pub key_prefix: String,
    /// Under which names ringlock keeps its own state: those that begin with
    /// it and `!`.
    pub namespace: String,
    /// The operator's word that the server keeps every write through a restart.
    pub durable: bool,
    /// The most that acquires and releases may be encoded with; `None` sets no
    /// limit to what the server can do.
    pub encoding: Option<Encoding>,
    /// Requests go out in the order in which they come, and the server is
    /// believed what it says of itself: to compare it with the specification.
    #[doc(hidden)]
    pub literal: bool,
    /// Certificates for `rediss://`.
    pub tls: TlsConfig,
    /// The user that `password` is of; `None`: the default user.
    pub username: Option<String>,
    /// A password that may change, instead of one in the URL.
    pub password: Option<Password>,
    /// How long an attempt to connect may take, with lookup, handshake, login
    /// and all questions: nine tenths of this, and at least two seconds.
    pub connect_timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        let defaults = crate::config::RouterConfig::default();
        Self {
            key_prefix: defaults.key_prefix,
            namespace: defaults.namespace,
            durable: false,
            encoding: None,
            literal: false,
            tls: TlsConfig::default(),
            username: None,
            password: None,
            connect_timeout: defaults.connect_timeout,
        }
    }
}

impl RedisOptions {
    fn from_config(config: &Config, node: &NodeConfig) -> Self {
        Self {
            key_prefix: config.router.key_prefix.clone(),
            namespace: config.router.namespace.clone(),
            durable: node.durable,
            encoding: None,
            literal: false,
            tls: config.tls.clone(),
            username: node.username.clone(),
            password: node.password.clone(),
            connect_timeout: config.router.connect_timeout,
        }
    }

    /// Under which names ringlock keeps its own state: those that begin with
    /// it and `!`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// What a key's name on the server begins with.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// The most that acquires and releases may be encoded with. Of that, each
    /// server gets what it can do and lets the user do.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// The operator's word that the server keeps every write through a restart
    /// (`appendonly yes`, `appendfsync always`).
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A password that may change, and the user that it is of; `None`: the
    /// default user.
    #[must_use]
    pub fn login(mut self, user: Option<&str>, password: Password) -> Self {
        self.username = user.map(Into::into);
        self.password = Some(password);
        self
    }

    /// How long an attempt to connect may take: nine tenths of this, and at least
    /// two seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}

impl RedisNode {
    /// A node at `url`; it connects by itself, again and again. Events and
    /// metrics name it by its address.
    ///
    /// Must be called within a tokio runtime with timers and I/O enabled.
    ///
    /// # Errors
    /// What is wrong with the URL, as the tail of a sentence about it; the URL
    /// itself is not shown, for it may hold a password.
    pub fn new(url: &str, options: RedisOptions) -> Result<Self, String> {
        let address = Arc::new(Address::of_node(url, &options)?);
        let name = address.to_string();
        Ok(Self::start(&name, address, options))
    }

    /// A node that is reported by its name.
    fn start(name: &str, address: Arc<Address>, options: RedisOptions) -> Self {
        let lane = Arc::new(Lane::new(LaneMeter::of(name), options.literal));
        let tracker = Tracker::new(Arc::clone(&address), &options);
        let tracking = Arc::clone(&tracker);
        task::spawn(Arc::clone(&tracker).run(), move || tracking.end());
        let driver = pipeline::connection_task::Driver::new(
            name,
            Arc::clone(&address),
            options,
            Arc::clone(&lane),
        );
        let driven = Arc::clone(&lane);
        let driver = task::spawn(driver.run(), move || driven.end());
        Self {
            address,
            lane,
            driver,
            tracker,
        }
    }

    pub(crate) fn from_config(
        config: &Config,
        node: &NodeConfig,
        url: &str,
    ) -> Result<Self, String> {
        let options = RedisOptions::from_config(config, node);
        let address = Arc::new(Address::of_node(url, &options)?);
        Ok(Self::start(&node.name, address, options))
    }
}

impl Node for RedisNode {
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo) {
        self.lane.submit(Pending {
            request,
            deadline,
            reply,
        });
    }

    fn watch(&self, key: &Key) -> Option<Watch> {
        self.tracker.watch(key)
    }

    fn want(&self, key: &Key) {
        self.tracker.want(key);
    }

    fn interest(&self, key: &Key) -> Interest {
        self.tracker.interest(key)
    }

    fn heed_longest_ttl(&self, ttl: Duration) {
        self.lane.heed_longest_ttl(ttl);
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn close(&self) {
        self.lane.close();
        self.tracker.close();
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        // Not aborted: it still sends what is queued, then ends by itself.
        self.close();
        let _ = &self.driver;
    }
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisNode")
            .field(&self.address.to_string())
            .finish()
    }
}
