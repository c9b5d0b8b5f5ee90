//! The possible changes of a cluster.

use std::time::Duration;

use super::RebalanceError;
use crate::config::NodeConfig;
use crate::proto::membership::topology::{Node, Override, Topology};

/// One change of a cluster's topology. One plan may contain several changes, and
/// takes no longer than for one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A node joins. If the node that replaced it took over its place on the ring,
    /// it gets the place that its replacement would have.
    Add(NodeConfig),
    /// A node leaves. It need not be reachable.
    Remove {
        /// Its name.
        node: String,
    },
    /// A node leaves and another takes its place on the ring: only the keys of the
    /// node that leaves move.
    Replace {
        /// The name of the node that leaves. It need not be reachable.
        node: String,
        /// The node that joins, under a different name.
        by: NodeConfig,
    },
    /// A node gets another share of the keys.
    Reweight {
        /// Its name.
        node: String,
        /// Its share, relative to the other nodes'.
        weight: u32,
    },
    /// The address of a node changes. It must be the same server with its data.
    Move {
        /// Its name.
        node: String,
        /// The new address.
        url: String,
    },
    /// A node's labels change.
    Relabel {
        /// Its name.
        node: String,
        /// Its failure domain, or none.
        zone: Option<String>,
        /// Its machine, or none.
        host: Option<String>,
    },
    /// The number of replicas changes for some keys.
    Replicas {
        /// The keys that begin with this; `None`: all keys without an override.
        prefix: Option<String>,
        /// The number; `None` removes the override.
        replicas: Option<usize>,
    },
    /// The longest ttl changes.
    MaxTtl(Duration),
    /// The time for which a router may rely on a confirmed view changes.
    ViewLease(Duration),
}

impl Change {
    /// The node that needs to be reached by a URL for this change.
    pub(super) fn introduces(&self) -> Option<NodeConfig> {
        match self {
            Self::Add(node) | Self::Replace { by: node, .. } => Some(node.clone()),
            Self::Move { node, url } => Some(NodeConfig::new(node, url)),
            _ => None,
        }
    }

    /// Makes the change; `address` returns the address of a node by its name.
    pub(super) fn apply(
        &self,
        topology: &mut Topology,
        address: impl Fn(&str) -> String,
    ) -> Result<(), RebalanceError> {
        match self {
            Self::Add(node) => join(topology, node, address(&node.name))?,
            Self::Remove { node } => {
                leave(topology, node)?;
            }
            Self::Replace { node, by } => {
                let left = leave(topology, node)?;
                join(topology, by, address(&by.name))?;
                if let Some(joined) = topology.nodes.last_mut() {
                    // A node without an explicit share keeps that of its
                    // predecessor.
                    if by.weight == 1 {
                        joined.weight = left.weight;
                    }
                    if by.anchor.is_none() {
                        joined.anchor = Some(left.anchor.unwrap_or(left.name));
                    }
                }
            }
            Self::Reweight { node, weight } => find(topology, node)?.weight = *weight,
            Self::Move { node, .. } => find(topology, node)?.address = address(node),
            Self::Relabel { node, zone, host } => {
                let node = find(topology, node)?;
                node.zone.clone_from(zone);
                node.host.clone_from(host);
            }
            Self::Replicas { prefix, replicas } => {
                set_replicas(topology, prefix.as_deref(), *replicas);
            }
            Self::MaxTtl(span) => topology.max_ttl_ms = millis(*span),
            Self::ViewLease(span) => topology.view_lease_ms = millis(*span),
        }
        Ok(())
    }
}

fn join(topology: &mut Topology, node: &NodeConfig, address: String) -> Result<(), RebalanceError> {
    if topology.nodes.iter().any(|other| other.name == node.name) {
        let name = node.name.clone();
        return Err(RebalanceError::NameTaken { name });
    }
    topology.nodes.push(Node {
        name: node.name.clone(),
        address,
        weight: node.weight,
        zone: node.zone.clone(),
        host: node.host.clone(),
        anchor: node.anchor.clone().or_else(|| free_anchor(topology, node)),
    });
    Ok(())
}

/// The anchor of a node whose own place on the ring was taken over by a replacement
/// while it was away: the place that the replacement would have.
fn free_anchor(topology: &Topology, node: &NodeConfig) -> Option<String> {
    let usurper = |place: &str| {
        let mut nodes = topology.nodes.iter();
        nodes.find(|other| other.anchor.as_deref() == Some(place))
    };
    // Each step leads to another node: no two nodes share a place.
    let mut last = usurper(&node.name)?;
    while let Some(next) = usurper(&last.name) {
        last = next;
    }
    Some(last.name.clone())
}

fn leave(topology: &mut Topology, name: &str) -> Result<Node, RebalanceError> {
    let found = topology.nodes.iter().position(|node| node.name == name);
    let unknown = || RebalanceError::UnknownNode { name: name.into() };
    Ok(topology.nodes.remove(found.ok_or_else(unknown)?))
}

fn find<'t>(topology: &'t mut Topology, name: &str) -> Result<&'t mut Node, RebalanceError> {
    let mut nodes = topology.nodes.iter_mut();
    let unknown = || RebalanceError::UnknownNode { name: name.into() };
    nodes.find(|node| node.name == name).ok_or_else(unknown)
}

fn set_replicas(topology: &mut Topology, prefix: Option<&str>, replicas: Option<usize>) {
    match (prefix, replicas) {
        (None, Some(replicas)) => topology.replicas = replicas,
        (None, None) => {}
        (Some(prefix), replicas) => {
            topology.overrides.retain(|known| known.prefix != prefix);
            topology.overrides.extend(replicas.map(|replicas| Override {
                prefix: prefix.into(),
                replicas,
            }));
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
