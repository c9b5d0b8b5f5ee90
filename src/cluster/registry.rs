//! The nodes of a router, by name. A node is made when a view first names it, and
//! dropped when no view names it anymore.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cluster::nodes::NodeHandle;
use crate::config::{Config, ConfigError, NodeConfig, substitute};
use crate::node::{MemoryNode, Node};
use crate::proto::membership::view::View;
use crate::telemetry::metrics::NodeMeter;

/// Nodes by name, and the configuration to make more.
pub(crate) struct NodeRegistry {
    config: Config,
    known: Mutex<BTreeMap<String, KnownNode>>,
}

struct KnownNode {
    node: Arc<dyn Node>,
    meter: NodeMeter,
    /// The node's address in the newest view; `None` before a view has named it.
    address: Option<String>,
    /// Provided by the caller: never made again or dropped.
    is_given: bool,
}

impl NodeRegistry {
    /// The nodes of `config`, and those that the caller provides.
    pub(crate) fn new(
        config: &Config,
        given: Vec<(String, Arc<dyn Node>)>,
    ) -> Result<Self, ConfigError> {
        let known = |name: &str, node, is_given| KnownNode {
            node,
            meter: NodeMeter::of(name),
            address: None,
            is_given,
        };
        let mut nodes: BTreeMap<String, KnownNode> = given
            .into_iter()
            .map(|(name, node)| {
                let known = known(&name, node, true);
                (name, known)
            })
            .collect();
        for node in &config.nodes {
            if !nodes.contains_key(&node.name) {
                let made = make(config, node)?;
                let known = known(&node.name, made, false);
                nodes.insert(node.name.clone(), known);
            }
        }
        Ok(Self {
            config: config.clone(),
            known: Mutex::new(nodes),
        })
    }

    /// The nodes that the configuration names.
    pub(crate) fn seeds(&self) -> Vec<NodeHandle> {
        let known = self.known.lock();
        let is_seed = |name: &String| self.config.named(name).is_some();
        let seeds = known.iter().filter(|(name, _)| is_seed(name));
        seeds.map(|(name, known)| known.handle(name)).collect()
    }

    /// The members of `view`, in its order. A member that the configuration names
    /// is reached by its configured url, until a view reports that it has moved.
    /// Any other member is reached at the address in the view, as the user of the
    /// first configured node.
    pub(crate) fn members(&self, view: &View) -> Result<Vec<NodeHandle>, ConfigError> {
        view.members()
            .map(|node| self.member(&node.name, &node.address))
            .collect()
    }

    /// The node of this name, reached at `address` unless a better address is
    /// known.
    pub(crate) fn member(&self, name: &str, address: &str) -> Result<NodeHandle, ConfigError> {
        let mut nodes = self.known.lock();
        if let Some(known) = nodes.get_mut(name) {
            let has_moved = known.address.as_ref().is_some_and(|old| old != address);
            known.address = Some(address.into());
            if known.is_given || !has_moved {
                return Ok(known.handle(name));
            }
        }
        let node = self.config.reach_at(name, address);
        let known = KnownNode {
            node: make(&self.config, &node)?,
            meter: NodeMeter::of(name),
            address: Some(address.into()),
            is_given: false,
        };
        let handle = known.handle(name);
        nodes.insert(name.into(), known);
        Ok(handle)
    }

    /// Adds a node that will become a member, reached by `url`.
    pub(crate) fn introduce(&self, node: &NodeConfig) -> Result<NodeHandle, ConfigError> {
        let mut nodes = self.known.lock();
        if let Some(known) = nodes.get(&node.name).filter(|known| known.is_given) {
            return Ok(known.handle(&node.name));
        }
        let mut node = node.clone();
        if node.username.is_none() && node.password.is_none() {
            // Uses the url that the operator gave, which may name no user.
            let reached = self.config.reach_at(&node.name, &node.url);
            node.url = reached.url;
            (node.username, node.password) = (reached.username, reached.password);
        }
        let made = make(&self.config, &node)?;
        let known = KnownNode {
            address: Some(made.address()),
            node: made,
            meter: NodeMeter::of(&node.name),
            is_given: false,
        };
        let handle = known.handle(&node.name);
        nodes.insert(node.name.clone(), known);
        Ok(handle)
    }

    /// Drops the nodes that neither `view` nor the configuration names. A node
    /// closes when its last lease is over.
    pub(crate) fn retire(&self, view: &View) {
        let is_wanted =
            |name: &str| view.index_of(name).is_some() || self.config.named(name).is_some();
        let mut nodes = self.known.lock();
        nodes.retain(|name, known| {
            if view.index_of(name).is_none() {
                known.meter.left();
            }
            known.is_given || is_wanted(name)
        });
    }

    /// Closes every node.
    pub(crate) fn close(&self) {
        let nodes = self.known.lock();
        nodes.values().for_each(|known| known.node.close());
    }
}

impl KnownNode {
    fn handle(&self, name: &str) -> NodeHandle {
        NodeHandle {
            name: name.into(),
            node: Arc::clone(&self.node),
            meter: self.meter.clone(),
        }
    }
}

impl fmt::Debug for NodeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.lock().keys()).finish()
    }
}

/// Makes the node that a URL describes.
fn make(config: &Config, node: &NodeConfig) -> Result<Arc<dyn Node>, ConfigError> {
    let problem = |problem: String| ConfigError::Url {
        node: node.name.clone(),
        problem,
    };
    let url = substitute(&node.url, |name| std::env::var(name).ok()).map_err(problem)?;
    if url.starts_with("memory://") {
        return Ok(Arc::new(MemoryNode::new(&*node.name)));
    }
    #[cfg(feature = "redis")]
    {
        let redis = crate::node::redis::RedisNode::from_config(config, node, &url);
        redis
            .map(|redis| Arc::new(redis) as Arc<dyn Node>)
            .map_err(problem)
    }
    #[cfg(not(feature = "redis"))]
    {
        let _ = config;
        Err(problem(
            "needs the feature `redis`; only memory:// works without it".into(),
        ))
    }
}
