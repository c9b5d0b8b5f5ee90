//! Building a router in code, and making its nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::acquire::clean_label;
use crate::cluster::bootstrap;
use crate::cluster::bootstrap::BootstrapOptions;
use crate::cluster::first_start::{ConnectProgress, Listener};
use crate::cluster::membership::Membership;
use crate::cluster::nodes::ViewNodes;
use crate::cluster::reconciler;
use crate::cluster::refresh::RefreshSignal;
use crate::cluster::registry::NodeRegistry;
use crate::config::{Config, ConfigError, Init, NodeConfig, first_duplicate};
use crate::error::Error;
use crate::lease::context::LeaseContext;
use crate::lease::manager::{Defaults, LeaseManager};
use crate::node::{MemoryNode, Node};
use crate::proto::membership::topology::Override;
use crate::router::Router;

/// A router that is not connected yet.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it connects"]
pub struct RouterBuilder {
    config: Config,
    /// Nodes that the caller provides, by name.
    given: Vec<(String, Arc<dyn Node>)>,
    listener: Listener,
}

impl From<Config> for RouterBuilder {
    fn from(config: Config) -> Self {
        Self {
            config,
            given: Vec::new(),
            listener: Listener::default(),
        }
    }
}

impl Router {
    /// A router built in code.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::default()
    }
}

impl RouterBuilder {
    /// Adds a node of weight 1 that is reached at `url`.
    pub fn node(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.config.nodes.push(NodeConfig::new(name, url));
        self
    }

    /// Adds a node with its full configuration.
    pub fn node_config(mut self, node: NodeConfig) -> Self {
        self.config.nodes.push(node);
        self
    }

    /// Adds an in-memory node, for which the caller can then simulate failures.
    pub fn memory_node(self, node: MemoryNode) -> Self {
        let name = node.name().to_owned();
        self.custom_node(name, Arc::new(node))
    }

    /// Adds a node that the caller implements.
    pub fn custom_node(mut self, name: impl Into<String>, node: Arc<dyn Node>) -> Self {
        let name = name.into();
        self.config
            .nodes
            .push(NodeConfig::new(&name, node.address()));
        self.given.push((name, node));
        self
    }

    /// Adds a node that the caller implements and that is not a member of a new
    /// cluster. It may become one by a change of membership.
    pub fn spare_node(mut self, name: impl Into<String>, node: Arc<dyn Node>) -> Self {
        self.given.push((name.into(), node));
        self
    }

    /// Replicas of a key: 1 (sharded mode, the default), 3 or 5 (quorum mode).
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.config.router.replicas = replicas;
        self
    }

    /// Replicas of the keys that begin with `prefix`; the longest match applies.
    pub fn override_replicas(mut self, prefix: impl Into<String>, replicas: usize) -> Self {
        self.config.overrides.push(Override {
            prefix: prefix.into(),
            replicas,
        });
        self
    }

    /// The ttl of a lease without an explicit one.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.router.ttl = ttl;
        self
    }

    /// How long a node may take to answer; the default is 5 % of the ttl, at
    /// least 50 ms and at most 1 s.
    pub fn node_timeout(mut self, node_timeout: Duration) -> Self {
        self.config.router.node_timeout = Some(node_timeout);
        self
    }

    /// What to do with nodes that have no state.
    pub fn init(mut self, init: Init) -> Self {
        self.config.router.init = init;
        self
    }

    /// Changes any other setting.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Calls `hear` with what [`connect`](Self::connect) waits for: nodes that do
    /// not answer, and at a first start the end of all earlier locks. `hear` runs
    /// during the connect, and must return quickly.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
    /// let router = ringlock::Router::builder()
    ///     .memory_node(ringlock::MemoryNode::new("a"))
    ///     .on_progress(|progress| eprintln!("{progress}"))
    ///     .connect()
    ///     .await?;
    /// # drop(router); Ok(()) }
    /// ```
    pub fn on_progress(mut self, hear: impl Fn(&ConnectProgress) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(hear);
        self
    }

    /// Connects; see [`Router::connect`].
    ///
    /// # Errors
    /// Like [`Router::connect`].
    ///
    /// # Cancel safety
    /// Like [`Router::connect`].
    pub async fn connect(self) -> Result<Router, Error> {
        let Self {
            config,
            given,
            listener,
        } = self;
        let names = config.nodes.iter().map(|node| node.name.as_str());
        if let Some(name) = first_duplicate(names) {
            let name = name.to_owned();
            return Err(ConfigError::from(
                crate::proto::membership::topology::TopologyError::from(
                    ringlock_ring::RingError::DuplicateName { name },
                ),
            )
            .into());
        }
        config.check()?;
        let registry = NodeRegistry::new(&config, given)?;
        let addresses: BTreeMap<_, _> = registry
            .seeds()
            .into_iter()
            .map(|handle| (handle.name, handle.node.address()))
            .collect();
        let address = |node: &NodeConfig| addresses.get(&*node.name).cloned().unwrap_or_default();
        let options = BootstrapOptions {
            topology: config.topology(address),
            init: config.router.init,
            on_mismatch: config.router.on_mismatch,
            tolerance: config.router.connect_timeout,
            least_epoch: 1,
            listener,
        };
        establish(&config, options, Arc::new(registry)).await
    }
}

/// Finds the view that the cluster serves, and starts the router's tasks.
async fn establish(
    config: &Config,
    options: BootstrapOptions,
    registry: Arc<NodeRegistry>,
) -> Result<Router, Error> {
    // Until a router owns the nodes, they are closed on every way out.
    let closing = Closing(Some(Arc::clone(&registry)));
    let (view, handles) = bootstrap::establish(&options, &registry, &registry.seeds()).await?;
    let context = Arc::new(LeaseContext::default());
    let nodes = ViewNodes::new(Arc::new(view), handles, Arc::new(RefreshSignal::default()))
        .with_node_timeout(config.router.node_timeout);
    let label = match &config.router.label {
        Some(label) => clean_label(label),
        None => clean_label(&host_and_pid()),
    };
    closing.keep();
    let scheduler = Arc::clone(&context.scheduler);
    let counters = Arc::clone(&context.counters);
    let membership = Membership::new(nodes, registry, counters, move || scheduler.hurry());
    let defaults = Defaults {
        ttl: config.router.ttl,
        wait: config.router.wait,
        max_hold: config.router.max_hold,
        max_local_handoffs: config.router.max_local_handoffs,
        label,
    };
    let reserved = config.router.reserved_keys();
    let leases = LeaseManager::start(Arc::clone(&membership), context, defaults, reserved);
    reconciler::start(&membership, options);
    Ok(Router { leases })
}

/// Closes the nodes if no router takes ownership.
struct Closing(Option<Arc<NodeRegistry>>);

impl Closing {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(registry) = &self.0 {
            registry.close();
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
