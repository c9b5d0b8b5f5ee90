//! The operators' actions: the first cluster, and random changes of it.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use ringlock_proto::lease::Key;
use ringlock_proto::membership::topology::{Node, Override, Topology};
use ringlock_proto::membership::view::{Nonces, View};
use ringlock_proto::node::message::{Nonce, Request};
use ringlock_ring::Format;

use crate::core::{Clock, Core};
use crate::server::{Server, index_of};

/// Number of servers, members or not.
pub(crate) const SERVERS: usize = 9;

/// Number of keys, in two parts: one with its own number of replicas.
const KEYS: usize = 240;

const OVERRIDDEN: &str = "b/";

/// Enough points for every node to get its share of so few keys.
const VNODES: u32 = 12;

/// Attempts to find a change that does not contradict itself.
const TRIES: usize = 20;

fn node(index: usize) -> Node {
    Node {
        name: format!("n{index}"),
        address: format!("memory://n{index}"),
        weight: 1,
        zone: None,
        host: None,
        anchor: None,
    }
}

fn is_sound(topology: &Topology) -> bool {
    let nonce = |node: &Node| (node.name.clone(), Nonce::from("0"));
    let nonces: Nonces = topology.nodes.iter().map(nonce).collect();
    View::stable(1, topology.clone(), &nonces).is_ok()
}

fn replicas(core: &mut Core, nodes: usize) -> usize {
    let fitting: Vec<usize> = [1, 1, 3, 3, 5]
        .into_iter()
        .filter(|&n| n <= nodes)
        .collect();
    fitting.choose(&mut core.random).copied().unwrap_or(1)
}

/// Creates servers, keys, and a first view that is served.
pub(crate) fn found(core: &mut Core) {
    core.servers = (0..SERVERS)
        .map(|index| Server::new(index, Clock::drawn(&mut core.random)))
        .collect();
    core.keys = (0..KEYS)
        .map(|key| {
            let part = if key % 2 == 0 { "a/" } else { OVERRIDDEN };
            Key::new(format!("{part}{key}")).unwrap()
        })
        .collect();
    core.history.keys = KEYS;
    let members = core.random.random_range(3..=7);
    let topology = Topology {
        cluster: String::new(),
        nodes: (0..members).map(node).collect(),
        format: Format::Xxh3,
        vnodes: VNODES,
        replicas: replicas(core, members),
        overrides: vec![Override {
            prefix: OVERRIDDEN.into(),
            replicas: replicas(core, members),
        }],
        max_ttl_ms: core.between(1_000, 4_000),
        view_lease_ms: core.between(300, 1_200),
    };
    let nonces: BTreeMap<String, Nonce> = topology
        .nodes
        .iter()
        .map(|node| (node.name.clone(), core.fresh().to_string().into()))
        .collect();
    let view = View::stable(1, topology, &nonces).unwrap();
    let view = core.read(view.id(), view.document()).unwrap();
    for (name, nonce) in nonces {
        let index = index_of(&name);
        let quarantine = Request::Quarantine {
            expected_nonce: None,
            expected_view: None,
            nonce: nonce.clone(),
        };
        let adopt = Request::Adopt {
            view: view.id(),
            document: view.document().clone(),
            nonce,
        };
        let _ = core.carry_out(index, &quarantine);
        let _ = core.carry_out(index, &adopt);
    }
}

/// A random topology that may follow `from`.
pub(crate) fn changed(core: &mut Core, from: &Topology) -> Option<Topology> {
    for _ in 0..TRIES {
        let mut to = from.clone();
        for _ in 0..core.random.random_range(1..=2) {
            change(core, &mut to);
        }
        let to = to.canonical();
        if to != *from && is_sound(&to) {
            return Some(to);
        }
    }
    None
}

fn change(core: &mut Core, topology: &mut Topology) {
    let size = topology.nodes.len();
    let any = core.random.random_range(0..size);
    let spare: Vec<usize> = (0..SERVERS)
        .filter(|&index| !topology.nodes.contains(&named(topology, index)))
        .collect();
    let spare = spare.choose(&mut core.random).copied();
    match (core.random.random_range(0..10), spare) {
        (0 | 1, Some(spare)) => topology.nodes.push(node(spare)),
        (2 | 3, _) if size > 3 => {
            topology.nodes.remove(any);
        }
        (4 | 5, Some(spare)) => topology.nodes[any] = node(spare),
        (6, _) => topology.nodes[any].weight = core.random.random_range(1..=3),
        (7, _) => topology.replicas = replicas(core, size),
        (8, _) => topology.overrides[0].replicas = replicas(core, size),
        _ => match core.random.random_range(0..3) {
            0 => topology.max_ttl_ms = core.between(1_000, 4_000),
            1 => topology.view_lease_ms = core.between(300, 1_200),
            _ => {
                let zone = core.random.random_range(0..4);
                topology.nodes[any].zone = (zone > 0).then(|| format!("zone {zone}"));
            }
        },
    }
}

/// The member of this number, or a new node.
fn named(topology: &Topology, index: usize) -> Node {
    let name = format!("n{index}");
    let found = topology.nodes.iter().find(|node| node.name == name);
    found.cloned().unwrap_or_else(|| node(index))
}
