//! The router: the nodes of a cluster, and the calls that lock keys on them.

pub(crate) mod builder;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use ringlock_ring::{MAX_MEMBERS, RingError};
use tokio::task::JoinHandle;

pub use self::builder::RouterBuilder;
use crate::acquire::many::{AcquireAll, AcquireMany};
use crate::acquire::{Acquire, clean_label};
use crate::clock;
use crate::cluster::bootstrap;
use crate::cluster::bootstrap::Charter;
use crate::cluster::nodes::{Fleet, Peer};
use crate::cluster::reconciler::Watchman;
use crate::cluster::refresh::Lookout;
use crate::cluster::registry::Roster;
use crate::config::Config;
use crate::error::Error;
use crate::lease::context::LeaseContext;
use crate::lease::guard::Guard;
use crate::lease::local_queue::Gate;
use crate::lease::scoped::WithError;
use crate::node::MemoryNode;
use crate::proto::lease::{Key, KeyError};
use crate::proto::membership::topology::TopologyError;
use crate::proto::membership::view::View;
use crate::proto::node::message::ViewId;
use crate::proto::quorum::majority;
use crate::rebalancer::Rebalancer;
use crate::runtime::lifecycle::Life;
use crate::runtime::task;
use crate::telemetry::events;
use crate::telemetry::hot_keys::HotKey;
use crate::telemetry::stats::{Counters, Stats};

/// How long a shutdown waits for releases that are under way.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Routes locks to the nodes of one cluster.
///
/// A clone is another handle to the same router. The router's tasks end, and
/// its connections close, when the last handle and the last guard are gone.
///
/// The tasks run on the runtime that made the router. If that ends before, or
/// the router is [shut down](Self::shutdown), every call fails at once with
/// [`Error::Closed`]; a router in a `static` outlives the runtime of the
/// `#[tokio::test]` that made it, so give each test its own.
///
/// A forked child must make a router of its own: calls on the one that it has
/// from its parent fail with [`Error::Forked`], and to drop it, or a guard,
/// does nothing.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    defaults: Defaults,
    roster: Arc<Roster>,
    fleet: RwLock<Arc<Fleet>>,
    gate: Arc<Gate>,
    context: Arc<LeaseContext>,
    watchman: Mutex<Option<JoinHandle<()>>>,
    /// What a key must not begin with: with the prefix before it, it would
    /// name ringlock's own state.
    reserved: Option<String>,
}

/// What an acquire does that says nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) ttl: Duration,
    pub(crate) wait: Duration,
    pub(crate) max_hold: Duration,
    pub(crate) hand_overs: u32,
    pub(crate) label: Option<Arc<str>>,
}

/// Where a key lives; see [`Router::route`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The node first clockwise of the key.
    pub owner: Arc<str>,
    /// The owner and the successors that hold the key with it.
    pub replicas: Vec<Arc<str>>,
    /// How many of them must agree.
    pub quorum: usize,
    /// Every node in the order in which it would follow.
    pub successors: Vec<Arc<str>>,
    /// The view by which this is so.
    pub view: ViewId,
}

impl Router {
    /// Connects to the nodes of `config` and finds the view that they serve;
    /// a new cluster is initialised as [`Init`](crate::Init) says. With the
    /// default, its first start waits for `max_ttl`, also where it was begun by
    /// another process: what that has waited counts. So does a cluster of which
    /// most nodes lost their data, and all answer. What is waited for is told by
    /// [`RouterBuilder::on_progress`].
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
    /// A dropped call leaves nothing that the next one does not take up.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        RouterBuilder::from(config).connect().await
    }

    /// A router over `nodes` embedded in-memory nodes, named `node-1` on: for
    /// trying things out and for tests. Locks are seen by this router alone.
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

    pub(crate) async fn establish(
        config: &Config,
        charter: Charter,
        roster: Arc<Roster>,
    ) -> Result<Self, Error> {
        // Until a router owns them, the nodes are closed whatever happens.
        let closing = Closing(Some(Arc::clone(&roster)));
        let (view, peers) = bootstrap::establish(&charter, &roster, &roster.seeds()).await?;
        let context = Arc::new(LeaseContext::default());
        let lookout = Arc::new(Lookout::default());
        let fleet = Fleet::new(Arc::new(view), peers, Arc::clone(&lookout))
            .with_node_timeout(config.router.node_timeout);
        let label = match &config.router.label {
            Some(label) => clean_label(label),
            None => clean_label(&host_and_pid()),
        };
        closing.keep();
        let view = &fleet.view;
        let meter = &context.counters.meter;
        meter.moved(view.id(), view.next().is_some());
        let router = Self {
            shared: Arc::new(Shared {
                defaults: Defaults {
                    ttl: config.router.ttl,
                    wait: config.router.wait,
                    max_hold: config.router.max_hold,
                    hand_overs: config.router.hand_overs,
                    label,
                },
                roster: Arc::clone(&roster),
                fleet: RwLock::new(Arc::new(fleet)),
                gate: Gate::new(Arc::clone(&context.counters)),
                context,
                watchman: Mutex::default(),
                reserved: config.router.reserved_keys(),
            }),
        };
        let shared = Arc::downgrade(&router.shared);
        let context = Arc::clone(&router.shared.context);
        task::spawn(Arc::clone(&context.scheduler).run(), {
            let shared = Weak::clone(&shared);
            move || {
                context.lifecycle.end();
                context.scheduler.end();
                if let Some(shared) = shared.upgrade() {
                    shared.wake_all();
                }
            }
        });
        let watchman = Watchman::new(Arc::clone(&lookout), roster, charter, shared);
        let watching = task::spawn(watchman.run(), move || lookout.close());
        *router.shared.watchman.lock() = Some(watching);
        Ok(router)
    }

    /// Locks `key`, waiting for it where it must: a builder that is also the
    /// future.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// # let router = ringlock::Router::in_memory(5).await?;
    /// let guard = router.acquire("orders/42").await?;
    /// println!("fence {}", guard.fence());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn acquire(&self, key: impl AsRef<[u8]>) -> Acquire {
        Acquire::new(self.clone(), key, false)
    }

    /// Locks `key` if it is free: a single attempt.
    ///
    /// Where this process itself holds the key, no server is asked. A node has
    /// 5 % of the ttl to answer, at least 50 ms and at most 1 s, unless
    /// `router.node_timeout` is configured; where nodes are silent while the
    /// cluster's membership changes, it takes up to three times as long. A
    /// process that has had a key again and again leaves it to others first:
    /// see `router.hand_overs`.
    pub fn try_acquire(&self, key: impl AsRef<[u8]>) -> Acquire {
        Acquire::new(self.clone(), key, true)
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
    /// As [`Acquire::with`].
    ///
    /// # Cancel safety
    /// As [`Acquire::with`].
    pub async fn with<T>(
        &self,
        key: impl AsRef<[u8]>,
        work: impl AsyncFnOnce(&Guard) -> T,
    ) -> Result<T, WithError<T>> {
        self.acquire(key).with(work).await
    }

    /// Locks each of `keys` for itself: a builder that gives one result per
    /// key, as they come or all at the end.
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
        AcquireMany::new(self.clone(), keys.into_iter().collect())
    }

    /// Locks all of `keys`, across nodes and modes, or none: a builder that is
    /// also the future. A key that is named twice is locked once.
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
        AcquireAll::new(self.clone(), keys)
    }

    /// Where `key` lives, and who must agree on it. Asks no server.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Forked`].
    pub fn route(&self, key: impl AsRef<[u8]>) -> Result<Route, Error> {
        self.life().check_origin()?;
        let key = self.check_key(key)?;
        let fleet = self.fleet();
        let name = |node| Arc::clone(&fleet.peer(node).name);
        let placement = fleet.view.place(&key);
        let replicas: Vec<Arc<str>> = placement.nodes().iter().copied().map(name).collect();
        Ok(Route {
            owner: Arc::clone(&replicas[0]),
            quorum: majority(replicas.len()),
            replicas,
            successors: fleet
                .view
                .ring()
                .successors(key.as_bytes())
                .map(name)
                .collect(),
            view: fleet.view.id(),
        })
    }

    /// The view in force, as far as this router knows: which nodes there are,
    /// and in a joint view what it leads to. Asks no server.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.fleet().view)
    }

    /// Changes the cluster's membership; see [`rebalancer`](crate::rebalancer).
    pub fn rebalancer(&self) -> Rebalancer {
        Rebalancer::new(self.clone())
    }

    /// What the router has done so far, and what it is at. The same and more
    /// is reported with the feature `metrics`: see
    /// [`guide::observability`](crate::guide::observability).
    pub fn stats(&self) -> Stats {
        self.counters().snapshot()
    }

    /// The keys that calls of this router found taken the most in the last one
    /// to two minutes, the hottest first: 128 at the most.
    ///
    /// Of all such occasions in a minute, a key with more than a 128th is
    /// always among them. Only calls that cannot have a key at once are
    /// counted: the others cost nothing. Asks no server; what other processes
    /// fight over, `ringlock status --hot` tells.
    pub fn hot_keys(&self) -> Vec<HotKey> {
        self.counters().hot.list()
    }

    /// Waits until releases that are under way have been answered, for two
    /// seconds at most; false if some have not, or never will. The router stays
    /// open.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drained(&self) -> bool {
        if self.life().origin.is_elsewhere() {
            return false;
        }
        let deadline = clock::now() + SHUTDOWN_LIMIT;
        self.shared.context.scheduler.drained(deadline).await
    }

    /// Closes the router, all handles to it: every call that waits, and every
    /// one that comes later, fails with [`Error::Closed`]. Leases go on: they
    /// are kept alive, and can be extended and released.
    ///
    /// Then waits as [`drained`](Self::drained) does. Call it before the process
    /// ends, so that no key stays locked for its ttl.
    ///
    /// # Cancel safety
    /// A dropped call has closed the router all the same.
    pub async fn shutdown(self) -> bool {
        if self.life().origin.is_elsewhere() {
            return false;
        }
        self.shared.context.lifecycle.shut();
        self.shared.wake_all();
        self.drained().await
    }

    /// Whether every call fails with [`Error::Closed`] or [`Error::Forked`]: it
    /// was shut down, the runtime that made it has ended, or it belongs to the
    /// process that this one was forked from. Make another one then.
    pub fn is_closed(&self) -> bool {
        self.life().check().is_err()
    }

    pub(crate) fn life(&self) -> &Life {
        &self.shared.context.lifecycle
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.shared.context.counters
    }

    pub(crate) fn lease_context(&self) -> &Arc<LeaseContext> {
        &self.shared.context
    }

    pub(crate) fn defaults(&self) -> &Defaults {
        &self.shared.defaults
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.shared.gate
    }

    pub(crate) fn fleet(&self) -> Arc<Fleet> {
        self.shared.fleet()
    }

    pub(crate) fn roster(&self) -> &Roster {
        &self.shared.roster
    }

    /// Follows the cluster to `view`, whose members `peers` are; never down.
    pub(crate) fn move_up(&self, view: View, peers: Vec<Peer>) {
        self.shared.move_up(view, peers);
    }

    pub(crate) fn max_ttl(&self) -> Duration {
        self.shared.fleet.read().view.max_ttl()
    }

    pub(crate) fn check_key(&self, key: impl AsRef<[u8]>) -> Result<Key, KeyError> {
        let key = Key::new(key)?;
        if let Some(reserved) = &self.shared.reserved
            && key.as_bytes().starts_with(reserved.as_bytes())
        {
            let (key, reserved) = (key.to_string(), reserved.clone());
            return Err(KeyError::Reserved { key, reserved });
        }
        Ok(key)
    }
}

impl Shared {
    pub(crate) fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.read())
    }

    /// Has all who wait look again, for the router has been closed.
    fn wake_all(&self) {
        self.gate.close();
        self.fleet().left.notify_waiters();
    }

    /// Follows the cluster to `view`, whose members `peers` are; never down.
    pub(crate) fn move_up(&self, view: View, peers: Vec<Peer>) {
        let mut fleet = self.fleet.write();
        if fleet.view.id().epoch >= view.id().epoch {
            return;
        }
        events::moved(fleet.view.id(), view.id(), view.next().is_some());
        let meter = &self.context.counters.meter;
        meter.moved(view.id(), view.next().is_some());
        self.roster.retire(&view);
        *fleet = fleet.followed_by(Arc::new(view), peers);
        drop(fleet);
        self.context.scheduler.hurry();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let task = self.watchman.get_mut().take();
        if self.context.lifecycle.origin.is_elsewhere() {
            // All of it is a copy of the parent's, down to the sockets.
            let (roster, gate, context) = (&self.roster, &self.gate, &self.context);
            std::mem::forget((Arc::clone(roster), Arc::clone(gate), Arc::clone(context)));
            std::mem::forget((Arc::clone(self.fleet.get_mut()), task));
            return;
        }
        if let Some(task) = task {
            task.abort();
        }
        self.context.scheduler.close();
        self.roster.close();
    }
}

/// Closes nodes that no router came to own.
struct Closing(Option<Arc<Roster>>);

impl Closing {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(roster) = &self.0 {
            roster.close();
        }
    }
}

fn host_and_pid() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{host}:{}", std::process::id())
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("view", &self.fleet().view)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
