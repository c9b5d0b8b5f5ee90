//! The nodes' names and the views that they may be in.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ringlock_proto::lease::Key;
use ringlock_proto::membership::topology::{Node, Topology};
use ringlock_proto::membership::view::{Nonces, View};
use ringlock_proto::node::message::ViewId;
use ringlock_ring::{Format, NodeIndex};

use crate::scenario::{Change, Scenario, span};

/// In every topology, the key's owner is the first of them, and its successors
/// follow in this order, due to the positions of their points on the ring.
const NAMES: [&str; 4] = ["a8", "b2", "c2", "d4"];

/// The one key.
pub(crate) fn key() -> Key {
    Key::new("k").unwrap()
}

pub(crate) fn name(home: usize) -> &'static str {
    NAMES[home]
}

/// The node of this name.
pub(crate) fn home_of(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}

/// The node that is `member` of `view`.
pub(crate) fn home(view: &View, member: NodeIndex) -> usize {
    home_of(&view.member(member).name)
}

/// The index of `home` in `view`, if it is a member.
pub(crate) fn member(view: &View, home: usize) -> Option<NodeIndex> {
    view.index_of(name(home))
}

/// A topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its first node, the owner of the key, and the end of the range.
    pub(crate) nodes: (usize, usize),
    /// Replicas of the key.
    pub(crate) replicas: usize,
    /// Ticks of the longest ttl.
    pub(crate) max_ttl: u8,
    /// Ticks that a view counts as confirmed.
    pub(crate) view_lease: u8,
}

impl Plan {
    pub(crate) fn topology(&self) -> Topology {
        let (from, to) = self.nodes;
        let millis = |ticks: u8| span(ticks).as_millis() as u64;
        let nodes = (from..to).map(|home| Node {
            name: name(home).into(),
            address: String::new(),
            weight: 1,
            zone: None,
            host: None,
            anchor: None,
        });
        Topology {
            cluster: String::new(),
            nodes: nodes.collect(),
            format: Format::Xxh3,
            vnodes: 1,
            replicas: self.replicas,
            overrides: Vec::new(),
            max_ttl_ms: millis(self.max_ttl),
            view_lease_ms: millis(self.view_lease),
        }
    }

    /// The nodes of both plans, each with its nonce from `nonce`.
    pub(crate) fn nonces(&self, other: &Self, nonce: impl Fn(usize) -> String) -> Nonces {
        let homes = |plan: &Self| plan.nodes.0..plan.nodes.1;
        let all = homes(self).chain(homes(other));
        all.map(|home| (name(home).into(), nonce(home).into()))
            .collect()
    }
}

/// All views that were ever decided or proposed, by id.
#[derive(Debug, Default)]
pub(crate) struct Library(Mutex<BTreeMap<ViewId, Arc<View>>>);

impl Library {
    /// The view of this document.
    pub(crate) fn read(&self, id: ViewId, document: &str) -> Arc<View> {
        let mut views = self.0.lock();
        let view = views.entry(id);
        Arc::clone(view.or_insert_with(|| Arc::new(View::read(id, document).unwrap())))
    }

    pub(crate) fn shelve(&self, view: &Arc<View>) {
        self.0.lock().insert(view.id(), Arc::clone(view));
    }

    /// The view of this id, which some node serves.
    pub(crate) fn find(&self, id: ViewId) -> Arc<View> {
        Arc::clone(&self.0.lock()[&id])
    }
}

/// The nonce under which nodes are first admitted.
pub(crate) const FIRST_NONCE: &str = "nonce-1";
/// The nonce that quarantine assigns when a cluster is initialised again.
pub(crate) const SECOND_NONCE: &str = "nonce-2";

/// The views that a scenario defines; all others are decided during the run.
pub(crate) fn given(scenario: &Scenario) -> Vec<Arc<View>> {
    let plan = scenario.plan();
    let nonces = plan.nonces(&plan, |_| FIRST_NONCE.into());
    let mut views = vec![View::stable(1, plan.topology(), &nonces).unwrap()];
    let cut = |plan: Plan| Plan {
        nodes: (1, plan.nodes.1),
        ..plan
    };
    let second = match scenario.change {
        Change::Never => None,
        Change::Adopt => Some((plan, FIRST_NONCE)),
        Change::Reinitialise { .. } => Some((plan, SECOND_NONCE)),
        Change::Force { .. } => Some((cut(plan), SECOND_NONCE)),
    };
    views.extend(second.map(|(plan, nonce)| {
        let nonces = plan.nonces(&plan, |_| nonce.into());
        View::stable(2, plan.topology(), &nonces).unwrap()
    }));
    if let Some(next) = &scenario.joint {
        let nonces = plan.nonces(next, |_| FIRST_NONCE.into());
        views.push(View::joint(2, plan.topology(), next.topology(), 2, &nonces).unwrap());
    }
    views.into_iter().map(Arc::new).collect()
}
