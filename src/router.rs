//! The router: the nodes of a cluster, and the calls that lock keys on them.

pub(crate) mod builder;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::{MAX_MEMBERS, RingError};
use serde::Serialize;

pub use self::builder::RouterBuilder;
use crate::acquire::Acquire;
use crate::acquire::many::{AcquireAll, AcquireMany};
use crate::clock;
use crate::config::Config;
use crate::error::Error;
use crate::lease::guard::Guard;
use crate::lease::manager::LeaseManager;
use crate::lease::scoped::WithError;
use crate::node::MemoryNode;
use crate::proto::lease::IntoKey;
use crate::proto::membership::topology::TopologyError;
use crate::proto::membership::view::View;
use crate::proto::node::message::ViewId;
use crate::proto::quorum::majority;
use crate::rebalancer::Rebalancer;
use crate::telemetry::hot_keys::HotKey;
use crate::telemetry::stats::Stats;

/// How long a shutdown waits for releases in flight.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Routes locks to the nodes of one cluster.
///
/// A clone is another handle to the same router. The router's tasks end, and
/// its connections close, when the last handle and the last guard are gone.
///
/// The tasks run on the runtime that made the router. If that runtime ends before
/// the router, or the router is [shut down](Self::shutdown), every call fails at
/// once with [`Error::Closed`]. A router in a `static` outlives the runtime of the
/// `#[tokio::test]` that made it, so give each test a separate router.
///
/// A forked child must make a new router: calls on its parent's router fail with
/// [`Error::Forked`], and dropping that router, or a guard, does nothing.
#[derive(Clone)]
pub struct Router {
    leases: Arc<LeaseManager>,
}

/// The nodes of a key; see [`Router::route`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Route {
    /// The first node clockwise of the key.
    pub owner: Arc<str>,
    /// The owner and the successors that hold the key with it.
    pub replicas: Vec<Arc<str>>,
    /// How many of them must agree.
    pub quorum: usize,
    /// All nodes in the order in which they succeed the owner.
    pub successors: Vec<Arc<str>>,
    /// The view from which this is computed.
    pub view: ViewId,
}

impl Router {
    /// Connects to the nodes of `config` and finds the view that they serve. A new
    /// cluster is initialised as [`Init`](crate::Init) specifies. With the default,
    /// its first start waits for `max_ttl`, also if another process began it; the
    /// time that the other process has waited counts. The same wait applies to a
    /// cluster in which most nodes lost their data and all nodes answer.
    /// [`RouterBuilder::on_progress`] reports what the call waits for.
    ///
    /// Must be called within a tokio runtime with timers and I/O enabled; the
    /// router's tasks run there.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Node`] (a server that must not be used),
    /// [`Error::SameServer`], [`Error::TopologyMismatch`],
    /// [`Error::Unreachable`], [`Error::InitRefused`], [`Error::Uninitialised`].
    ///
    /// # Cancel safety
    /// A dropped call leaves only state that the next call continues from.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        RouterBuilder::from(config).connect().await
    }

    /// A router over `nodes` embedded in-memory nodes, named `node-1` and up, for
    /// experiments and tests. Only this router sees its locks.
    ///
    /// # Errors
    /// [`Error::Config`]: no nodes, or more than a ring takes.
    pub async fn in_memory(nodes: usize) -> Result<Self, Error> {
        if nodes > MAX_MEMBERS {
            let too_many = RingError::TooManyMembers { members: nodes };
            return Err(TopologyError::from(too_many).into());
        }
        let nodes = (1..=nodes).map(|i| MemoryNode::new(format!("node-{i}")));
        nodes
            .fold(Self::builder(), RouterBuilder::memory_node)
            .connect()
            .await
    }

    /// Locks `key`, and waits for it if it is taken. Returns a builder that is also
    /// the future. A key is text, bytes or an integer (see [`IntoKey`]);
    /// [`Key::display`](crate::Key::display) makes one of anything that can be
    /// displayed. What cannot be a key is an error of the call, [`Error::Key`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let guard = router.acquire("orders/42").await?;
    /// println!("fence {}", guard.fence());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn acquire(&self, key: impl IntoKey) -> Acquire {
        Acquire::new(Arc::clone(&self.leases), key, false)
    }

    /// Locks `key` if it is free: a single attempt.
    ///
    /// If this process itself holds the key, no server is contacted. A node has 5 %
    /// of the ttl to answer, at least 50 ms and at most 1 s, unless
    /// `router.node_timeout` is configured. If nodes are silent while the cluster's
    /// membership changes, it takes up to three times as long. A process that has
    /// repeatedly held a key leaves it to others first: see `router.max_local_handoffs`.
    pub fn try_acquire(&self, key: impl IntoKey) -> Acquire {
        Acquire::new(Arc::clone(&self.leases), key, true)
    }

    /// Runs `work` under a lock on `key`; see [`Acquire::with`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// # struct Store; impl Store { async fn write(&self, _: u64) -> Result<(), std::io::Error> { Ok(()) } }
    /// # let store = Store;
    /// let written = router
    ///     .with("orders/42", async |lease| store.write(lease.fence().get()).await)
    ///     .await?;
    /// # written.unwrap(); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Like [`Acquire::with`].
    ///
    /// # Cancel safety
    /// Like [`Acquire::with`].
    pub async fn with<T>(
        &self,
        key: impl IntoKey,
        work: impl AsyncFnOnce(&Guard) -> T,
    ) -> Result<T, WithError<T>> {
        self.acquire(key).with(work).await
    }

    /// Locks each of `keys` for itself. Returns a builder that gives one result per
    /// key, as they arrive or all at the end.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let mut outcomes = router.acquire_many(["orders/42", "orders/43"]).outcomes();
    /// while let Some((key, result)) = outcomes.next().await {
    ///     match result {
    ///         Ok(guard) => println!("{key}: fence {}", guard.fence()),
    ///         Err(error) => println!("{key}: {error}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn acquire_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> AcquireMany<K> {
        AcquireMany::new(Arc::clone(&self.leases), keys.into_iter().collect())
    }

    /// Locks all of `keys`, across nodes and modes, or none. Returns a builder that
    /// is also the future. A key that is named twice is locked once.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let guards = router.acquire_all(["account/7", "account/9"]).await?;
    /// println!("{:?} {:?}", guards.fence("account/7"), guards.fence("account/9"));
    /// guards.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn acquire_all(&self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> AcquireAll {
        AcquireAll::new(Arc::clone(&self.leases), keys)
    }

    /// The nodes of `key`, and how many must agree on it. Contacts no server.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Forked`].
    pub fn route(&self, key: impl IntoKey) -> Result<Route, Error> {
        self.leases.lifecycle().check_origin()?;
        let key = self.leases.check_key(key)?;
        let view_nodes = self.leases.nodes();
        let name = |node| Arc::clone(&view_nodes.handle(node).name);
        let placement = view_nodes.view.place(&key);
        let replicas: Vec<Arc<str>> = placement.nodes().iter().copied().map(name).collect();
        Ok(Route {
            owner: Arc::clone(&replicas[0]),
            quorum: majority(replicas.len()),
            replicas,
            successors: view_nodes
                .view
                .ring()
                .successors(key.as_bytes())
                .map(name)
                .collect(),
            view: view_nodes.view.id(),
        })
    }

    /// The view in force, as far as this router knows: the nodes, and for a joint
    /// view the topology that follows. Contacts no server.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.leases.nodes().view)
    }

    /// Changes the cluster's membership; see [`rebalancer`](crate::rebalancer).
    pub fn rebalancer(&self) -> Rebalancer {
        Rebalancer::new(Arc::clone(&self.leases))
    }

    /// Counters of the router's past calls and current state. The feature `metrics`
    /// reports the same and more: see
    /// [`guide::observability`](crate::guide::observability).
    pub fn stats(&self) -> Stats {
        self.leases.counters().snapshot()
    }

    /// The keys that calls of this router most often found taken in the last one to
    /// two minutes, the hottest first: at most 128.
    ///
    /// A key with more than a 128th of all such calls in a minute is always among
    /// them. Only calls that do not get a key at once are counted, so other calls
    /// have no cost. Contacts no server; `ringlock status --hot` shows the keys for
    /// which other processes contend.
    pub fn hot_keys(&self) -> Vec<HotKey> {
        self.leases.counters().hot.list()
    }

    /// Waits until releases in flight have been answered, for two seconds at most;
    /// false if some have not, or never will. The router stays open.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drained(&self) -> bool {
        if self.leases.lifecycle().origin.is_elsewhere() {
            return false;
        }
        let deadline = clock::now() + SHUTDOWN_LIMIT;
        self.leases.context.scheduler.drained(deadline).await
    }

    /// Closes the router and all handles to it: every call that waits, and every
    /// later one, fails with [`Error::Closed`]. Leases continue: they are kept
    /// alive, and can be extended and released.
    ///
    /// Then waits like [`drained`](Self::drained). Call it before the process ends,
    /// so that no key stays locked for its ttl.
    ///
    /// # Cancel safety
    /// A dropped call has still closed the router.
    pub async fn shutdown(self) -> bool {
        if self.leases.lifecycle().origin.is_elsewhere() {
            return false;
        }
        self.leases.shut();
        self.drained().await
    }

    /// Whether every call fails with [`Error::Closed`] or [`Error::Forked`]: the
    /// router was shut down, the runtime that made it has ended, or it belongs to
    /// the process from which this one was forked. In that case make a new router.
    pub fn is_closed(&self) -> bool {
        self.leases.lifecycle().check().is_err()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("view", &self.leases.nodes().view)
            .finish_non_exhaustive()
    }
}
