//! Clusters that look the same to a test whether they are real or in memory.

use ringlock::{Init, MemoryNode, Router, RouterBuilder};

use crate::name;
use crate::server::RedisServer;

/// One node of a cluster under test.
#[derive(Debug)]
pub enum TestNode {
    /// In memory.
    Memory(MemoryNode),
    /// A real server.
    Redis(RedisServer),
}

impl TestNode {
    /// Makes it unreachable or unresponsive; its data stays.
    pub fn stop(&self) {
        match self {
            Self::Memory(node) => node.stop(),
            Self::Redis(server) => server.freeze(),
        }
    }

    /// Undoes [`Self::stop`].
    pub fn start(&self) {
        match self {
            Self::Memory(node) => node.start(),
            Self::Redis(server) => server.thaw(),
        }
    }

    /// Restarts it with no data.
    pub fn wipe(&mut self) {
        match self {
            Self::Memory(node) => node.wipe(),
            Self::Redis(server) => server.restart(),
        }
    }

    /// The keys that are locked on it now, without ringlock's own state.
    pub fn locked(&self) -> Vec<String> {
        match self {
            Self::Memory(node) => node
                .locked()
                .into_iter()
                .map(|(key, _)| key.to_string())
                .collect(),
            Self::Redis(server) => {
                let keys: Vec<String> = redis::cmd("KEYS")
                    .arg("ringlock:*")
                    .query(&mut server.client())
                    .expect("KEYS");
                keys.iter()
                    .map(|key| key["ringlock:".len()..].to_owned())
                    .collect()
            }
        }
    }
}

/// Which arm of a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// On nodes in memory.
    Memory,
    /// On real servers.
    Redis,
}

/// Both arms.
pub const ARMS: [Arm; 2] = [Arm::Memory, Arm::Redis];

/// Nodes `a`, `b`, … for routers to connect to.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, by name.
    pub nodes: Vec<TestNode>,
}

impl Cluster {
    /// Starts this many nodes.
    pub fn start(arm: Arm, nodes: usize) -> Self {
        let node = |index| match arm {
            Arm::Memory => TestNode::Memory(MemoryNode::new(name(index))),
            Arm::Redis => TestNode::Redis(RedisServer::start()),
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
        }
    }

    /// A builder with the cluster's nodes, which initialises them at once.
    pub fn builder(&self) -> RouterBuilder {
        self.builder_of(self.nodes.len())
    }

    /// A builder with the first nodes of the cluster.
    pub fn builder_of(&self, members: usize) -> RouterBuilder {
        let builder = Router::builder().init(Init::Now);
        self.nodes
            .iter()
            .take(members)
            .enumerate()
            .fold(builder, |builder, (index, node)| match node {
                TestNode::Memory(memory) => builder.memory_node(memory.clone()),
                TestNode::Redis(server) => builder.node(name(index), server.url()),
            })
    }

    /// A router with this many replicas per key.
    pub async fn router(&self, replicas: usize) -> Router {
        self.builder()
            .replicas(replicas)
            .connect()
            .await
            .expect("a router")
    }

    /// The node that owns `key`.
    pub fn owner(&mut self, router: &Router, key: &str) -> &mut TestNode {
        let owner = router.route(key).expect("a route").owner;
        let index = usize::from(owner.as_bytes()[0] - b'a');
        &mut self.nodes[index]
    }
}
