//! A node that is a Redis or Valkey server.
//!
//! Requests go over one connection. Mostly they reach the server in the order
//! in which they are submitted, and a release never overtakes the acquire that
//! it cleans up after (see `pipeline/queue.rs`). A caller that finds the
//! connection idle sends at once, within its own call. While batches are in
//! flight the next one gathers (group commit); it is sent when one of them is
//! settled. The node's task reads, watches the clock, reconnects, and writes
//! what no caller could. A second connection is opened when a caller waits for
//! a key. On it, the server pushes when that key may have become free.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use self::codec::request::PendingRequest;
use self::connection::address::Address;
use self::pipeline::state::Pipeline;
use self::tracking::Tracker;
use super::{Interest, Node, ReplyTo, Watch};
use crate::config::{Config, NodeConfig};
use crate::proto::lease::Key;
use crate::proto::node::message::Request;
use crate::proto::time::Instant;
use crate::runtime::task;
use crate::telemetry::metrics::PipelineMeter;

mod codec;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod inspect;
mod options;
mod pipeline;
mod resp;
mod tracking;

pub use self::options::{Encoding, RedisOptions};

/// A Redis or Valkey server as a lock node.
pub struct RedisNode {
    address: Arc<Address>,
    pipeline: Arc<Pipeline>,
    driver: JoinHandle<()>,
    tracker: Arc<Tracker>,
}

impl RedisNode {
    /// A node at `url`; it connects and reconnects by itself. Events and
    /// metrics name it by its address.
    ///
    /// Must be called within a tokio runtime with timers and I/O enabled.
    ///
    /// # Errors
    /// What is wrong with the URL, as the tail of a sentence about it. The URL
    /// itself is not shown, because it may hold a password.
    pub fn new(url: &str, options: RedisOptions) -> Result<Self, String> {
        let address = Arc::new(Address::of_node(url, &options)?);
        let name = address.to_string();
        Ok(Self::start(&name, address, options))
    }

    /// A node that is reported as `name`.
    fn start(name: &str, address: Arc<Address>, options: RedisOptions) -> Self {
        let pipeline = Arc::new(Pipeline::new(PipelineMeter::of(name), options.literal));
        let tracker = Tracker::new(Arc::clone(&address), &options);
        let tracking = Arc::clone(&tracker);
        task::spawn(Arc::clone(&tracker).run(), move || tracking.end());
        let driver = pipeline::connection_task::ConnectionTask::new(
            name,
            Arc::clone(&address),
            options,
            Arc::clone(&pipeline),
        );
        let driven = Arc::clone(&pipeline);
        let driver = task::spawn(driver.run(), move || driven.end());
        Self {
            address,
            pipeline,
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
        self.pipeline.submit(PendingRequest {
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

    fn set_longest_ttl(&self, ttl: Duration) {
        self.pipeline.set_longest_ttl(ttl);
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn close(&self) {
        self.pipeline.close();
        self.tracker.close();
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        // The task is not aborted: it still sends what is queued, then ends by
        // itself.
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
