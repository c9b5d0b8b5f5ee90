//! The nodes of a run, and the contenders on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::contenders::bare::{Bare, Owners};
use super::contenders::routed::Routed;
use super::keys::KeySpace;
use super::load::{Checked, Contender};
use super::probe::Probe;
use super::proxy::Proxy;
use super::servers::Server;
use crate::Fault;

/// The nodes that the contenders share.
pub(crate) struct Stage {
    pub(crate) nodes: Vec<StageNode>,
    /// Kept as long as the stage.
    _servers: Vec<Server>,
    pub(crate) keys: usize,
    pub(crate) hot_share: f64,
    /// Distinguishes this run's state from any other's.
    tag: String,
    namespaces: Mutex<Vec<String>>,
    routed: BTreeMap<(usize, usize), (Routed, Arc<dyn Contender>)>,
    bare: BTreeMap<usize, Arc<dyn Contender>>,
    /// Keep the requested delay in force.
    _proxies: Vec<Proxy>,
}

/// One node, and how the bench itself reaches it.
pub(crate) struct StageNode {
    pub(crate) url: String,
    /// `host:port`, if it can be reached without a login.
    pub(crate) address: Option<String>,
    /// `None` for a node in memory.
    pub(crate) probe: Option<Arc<Probe>>,
}

impl Stage {
    /// Uses `nodes` if there are any. Otherwise starts servers or, where none
    /// is installed, uses nodes in memory.
    pub(crate) fn set(
        nodes: &[String],
        delay: Duration,
        keys: usize,
        hot_share: f64,
    ) -> Result<Self, Fault> {
        const NODES: usize = 5;
        let mut servers = Vec::new();
        let mut urls = nodes.to_vec();
        if urls.is_empty() {
            while servers.len() < NODES
                && let Some(server) = Server::start()?
            {
                servers.push(server);
            }
            urls = servers.iter().map(Server::url).collect();
        }
        let mut proxies = Vec::new();
        let mut stage_nodes = Vec::new();
        for (index, url) in urls.into_iter().enumerate() {
            // Named by its number: the URL may hold a password.
            let probe = Probe::connect(&url)
                .map_err(|fault| format!("node {} of {}: {fault}", index + 1, nodes.len()))?;
            let mut node = StageNode {
                probe: Some(Arc::new(probe)),
                address: plain_address(&url),
                url,
            };
            if !delay.is_zero() {
                let address = node.address.as_deref();
                let address = address.ok_or("--delay needs nodes of the form redis://host:port")?;
                let proxy = Proxy::delaying(address, delay)?;
                node.url = proxy.url();
                node.address = Some(proxy.address().to_string());
                proxies.push(proxy);
            }
            stage_nodes.push(node);
        }
        if stage_nodes.is_empty() {
            let in_memory = |_| StageNode {
                url: "memory://".into(),
                address: None,
                probe: None,
            };
            stage_nodes = (0..NODES).map(in_memory).collect();
        }
        Ok(Self {
            nodes: stage_nodes,
            _servers: servers,
            keys,
            hot_share,
            tag: format!("bench-{:08x}", rand::random::<u32>()),
            namespaces: Mutex::new(vec![]),
            routed: BTreeMap::new(),
            bare: BTreeMap::new(),
            _proxies: proxies,
        })
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.nodes.iter().all(|node| node.probe.is_none())
    }

    /// URLs of the first `n` nodes.
    pub(crate) fn urls(&self, n: usize) -> Vec<String> {
        let urls = self.nodes.iter().map(|node| node.url.clone());
        urls.take(n).collect()
    }

    pub(crate) fn probes(&self, n: usize) -> Vec<Arc<Probe>> {
        let nodes = self.nodes.iter().take(n);
        nodes.filter_map(|node| node.probe.clone()).collect()
    }

    /// Keys that no other contender locks.
    pub(crate) fn key_space(&self, of: &str) -> Arc<KeySpace> {
        Arc::new(self.keys(of, self.hot_share))
    }

    /// The same, drawn by Zipf's law.
    pub(crate) fn skewed_key_space(&self, of: &str, exponent: f64) -> Arc<KeySpace> {
        Arc::new(self.keys(of, 0.0).skewed(exponent))
    }

    fn keys(&self, of: &str, hot_share: f64) -> KeySpace {
        let prefix = format!("{}:{of}:", self.tag);
        KeySpace::new(&prefix, self.keys, hot_share)
    }

    /// The name of a separate cluster on the same servers.
    pub(crate) fn namespace(&self, of: &str) -> String {
        let namespace = format!("{}-{of}", self.tag);
        self.namespaces.lock().push(namespace.clone());
        namespace
    }

    /// ringlock on the first `nodes` nodes.
    pub(crate) async fn routed(
        &mut self,
        nodes: usize,
        replicas: usize,
    ) -> Result<(Routed, Arc<dyn Contender>), Fault> {
        if let Some(known) = self.routed.get(&(nodes, replicas)) {
            return Ok(known.clone());
        }
        let name = format!("{nodes}n{replicas}r");
        let keys = Arc::new(KeySpace::new("lock:", self.keys, self.hot_share));
        let namespace = self.namespace(&name);
        let routed = Routed::connect(&self.urls(nodes), replicas, &namespace, &keys).await?;
        let contender: Arc<dyn Contender> = Arc::new(Checked::new(routed.clone(), keys));
        let made = (routed, contender);
        self.routed.insert((nodes, replicas), made.clone());
        Ok(made)
    }

    /// The bare crate on the first `nodes` nodes, with the same owner per key
    /// as ringlock.
    pub(crate) async fn bare(&mut self, nodes: usize) -> Result<Arc<dyn Contender>, Fault> {
        if let Some(known) = self.bare.get(&nodes) {
            return Ok(Arc::clone(known));
        }
        let keys = self.key_space(&format!("bare{nodes}"));
        let owners = if nodes > 1 {
            Some(self.owners(nodes).await?)
        } else {
            None
        };
        let bare = Bare::connect(&self.urls(nodes), owners, Arc::clone(&keys)).await?;
        let contender: Arc<dyn Contender> = Arc::new(Checked::new(bare, keys));
        self.bare.insert(nodes, Arc::clone(&contender));
        Ok(contender)
    }

    /// The owner of each key among the first `nodes` nodes, by ringlock's ring.
    pub(crate) async fn owners(&mut self, nodes: usize) -> Result<Owners, Fault> {
        let (routed, _) = self.routed(nodes, 1).await?;
        let keys = KeySpace::new("lock:", self.keys, 0.0);
        let owner = |index| -> Result<u8, Fault> {
            let route = routed.router.route(keys.get(index))?;
            let number = route.owner.strip_prefix("node-").unwrap_or_default();
            Ok(number.parse::<u8>()? - 1)
        };
        (0..keys.len()).map(owner).collect()
    }

    /// Deletes the clusters' state from nodes that stay. The lock keys of the
    /// run are gone: released, or soon expired.
    pub(crate) fn clear(&self) -> Result<(), Fault> {
        let namespaces = self.namespaces.lock();
        let state = |namespace: &String| ["id", "m", "c"].map(|key| format!("{namespace}!{key}"));
        let state: Vec<String> = namespaces.iter().flat_map(state).collect();
        for probe in self.nodes.iter().filter_map(|node| node.probe.as_ref()) {
            let _: u64 = probe.query(redis::cmd("DEL").arg(&state))?;
        }
        Ok(())
    }
}

/// `host:port` of a URL without a login.
fn plain_address(url: &str) -> Option<String> {
    let address = url.strip_prefix("redis://")?.split('/').next()?;
    let is_plain = !address.contains('@');
    is_plain.then(|| match address.rsplit_once(':') {
        Some(_) => address.to_owned(),
        None => format!("{address}:6379"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_plain_urls_only() {
        assert_eq!(plain_address("redis://h:1/2").as_deref(), Some("h:1"));
        assert_eq!(plain_address("redis://h").as_deref(), Some("h:6379"));
        assert_eq!(plain_address("redis://u:p@h:1"), None);
        assert_eq!(plain_address("unix:///s"), None);
    }
}
