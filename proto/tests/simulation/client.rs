//! A client: its users' work, and how it follows the cluster's views.
//!
//! It learns of views from STALE answers, reads their documents from the nodes
//! that serve them, moves only to higher views, and helps nodes that are behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use ringlock_proto::confirmation::Confirmations;
use ringlock_proto::lease_record::position::InView;
use ringlock_proto::membership::transition::adopt;
use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::{NodeState, NodeStatus, Request, ViewId};
use ringlock_proto::operation::machine::Event;
use ringlock_proto::time::Instant;
use ringlock_ring::NodeIndex;

use crate::core::{Core, Task};
use crate::history::{Action, MS, Time};
use crate::leases::{Lease, State};
use crate::mutants::Mutant;
use crate::node_requests::NodeRequest;
use crate::operations::{Operation, Running};
use crate::server::index_of;

/// A timer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alarm {
    /// A user of the client arrives.
    Work,
    /// Another attempt.
    Retry(Plan),
    /// A lease must be kept alive.
    Tend(u64),
    /// A user extends a lease at a random time.
    Fidget(u64),
    /// A user has finished.
    Finish(u64),
    /// A lease may be over.
    Lapse(u64),
    /// The nodes of an operation have had enough time to answer.
    GiveUp(u64),
    /// The node of an errand has had enough time to answer.
    NodeRequest(u64),
    /// A check of the cluster, if the client is unsure of it.
    Observe,
    /// A coordinator has waited long enough for answers, or for its next step.
    Round(u64),
}

/// How a user finishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Release,
    Drop,
    Lapse,
}

/// A user's plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) key: usize,
    pub(crate) ttl: Duration,
    pub(crate) attempts: u32,
    pub(crate) most_attempts: u32,
    pub(crate) keeps_alive: bool,
    pub(crate) fidgets: bool,
    pub(crate) hold: Duration,
    pub(crate) ending: Ending,
}

/// The nodes of one view, and when each was last seen to serve it.
#[derive(Debug)]
pub(crate) struct ViewNodes {
    pub(crate) view: Arc<View>,
    pub(crate) confirmations: Confirmations,
    nodes: Vec<usize>,
    /// A mutant: a node of the same name is the same one.
    ignores_nonces: bool,
}

impl ViewNodes {
    fn new(view: Arc<View>, ignores_nonces: bool) -> Arc<Self> {
        let nodes: Vec<usize> = view.members().map(|node| index_of(&node.name)).collect();
        Arc::new(Self {
            confirmations: Confirmations::new(nodes.len()),
            view,
            nodes,
            ignores_nonces,
        })
    }

    pub(crate) fn server(&self, node: NodeIndex) -> usize {
        self.nodes[node.get()]
    }

    pub(crate) fn member(&self, server: usize) -> Option<NodeIndex> {
        let index = self.nodes.iter().position(|&node| node == server)?;
        Some(NodeIndex::new(index as u16))
    }
}

impl InView for ViewNodes {
    fn view(&self) -> &View {
        &self.view
    }

    fn is_same_node(&self, node: NodeIndex, there: &Self, other: NodeIndex) -> bool {
        self.ignores_nonces || Arc::eq(self.view.nonce(node), there.view.nonce(other))
    }
}

/// One router.
pub(crate) struct Client {
    pub(crate) host: usize,
    pub(crate) view_nodes: Option<Arc<ViewNodes>>,
    pub(crate) leases: BTreeMap<u64, Lease>,
    pub(crate) operations: BTreeMap<u64, Operation>,
    pub(crate) node_requests: BTreeMap<u64, NodeRequest>,
    /// Keys to acquire one after the other, once each.
    pub(crate) sweep: Option<Vec<usize>>,
    /// It extends continuously, to the longest ttl, and never lacks confirmation.
    pub(crate) is_eager: bool,
    is_unsure: bool,
    /// Views whose documents it has requested, and nodes that it has helped.
    asked: BTreeSet<ViewId>,
    helped: BTreeMap<usize, Instant>,
}

/// Keys that all clients contend for.
const HOT_KEYS: usize = 8;

/// Minimum interval between two helps to a node.
const HELP_EVERY: Duration = Duration::from_millis(50);

impl Client {
    pub(crate) fn new(host: usize) -> Self {
        Self {
            host,
            view_nodes: None,
            leases: BTreeMap::new(),
            operations: BTreeMap::new(),
            node_requests: BTreeMap::new(),
            sweep: None,
            is_eager: false,
            is_unsure: true,
            asked: BTreeSet::new(),
            helped: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&mut self, core: &mut Core, users: usize) {
        self.look(core);
        for _ in 0..users {
            self.rest(core, 300);
        }
    }

    /// Leases that are valid now, and their keys.
    pub(crate) fn valid(&self, core: &Core) -> Vec<(u64, usize)> {
        let now = core.local(self.host);
        let is_valid =
            |lease: &Lease| lease.state == State::Held && now < lease.record.valid_until();
        let valid = self.leases.iter().filter(|(_, lease)| is_valid(lease));
        valid.map(|(&id, lease)| (id, lease.plan.key)).collect()
    }

    pub(crate) fn on_alarm(&mut self, core: &mut Core, alarm: Alarm) {
        match alarm {
            Alarm::Work => self.work(core),
            Alarm::Retry(plan) => self.attempt(core, plan),
            Alarm::Tend(lease) => self.tend(core, lease),
            Alarm::Fidget(lease) => self.fidget(core, lease),
            Alarm::Finish(lease) => self.finish(core, lease),
            Alarm::Lapse(lease) => self.lapse(core, lease),
            Alarm::GiveUp(operation) => self.give_up(core, operation),
            Alarm::NodeRequest(node_request) => self.run_node_request(core, node_request),
            Alarm::Observe => self.look(core),
            Alarm::Round(_) => {}
        }
    }

    /// The next user arrives after a while.
    pub(crate) fn rest(&mut self, core: &mut Core, most_ms: Time) {
        let pause = if self.sweep.is_some() {
            0
        } else {
            core.between(1, most_ms)
        };
        let at = core.local(self.host) + Duration::from_millis(pause);
        core.wake(self.host, at, Alarm::Work);
    }

    fn work(&mut self, core: &mut Core) {
        if let Some(keys) = &mut self.sweep {
            if let Some(key) = keys.pop() {
                let plan = Plan {
                    key,
                    ttl: Duration::from_millis(500),
                    attempts: 0,
                    most_attempts: u32::MAX,
                    keeps_alive: false,
                    fidgets: false,
                    hold: Duration::ZERO,
                    ending: Ending::Release,
                };
                self.attempt(core, plan);
            }
            return;
        }
        if core.is_healed {
            return;
        }
        let Some(view_nodes) = &self.view_nodes else {
            return self.rest(core, 200);
        };
        let max_ttl = view_nodes.view.max_ttl();
        let key = if core.chance(0.75) {
            core.random.random_range(0..HOT_KEYS)
        } else {
            core.random.random_range(0..core.keys.len())
        };
        let ttl = if core.chance(0.5) {
            max_ttl
        } else {
            Duration::from_millis(core.between(100, max_ttl.as_millis() as Time))
        };
        let ending = match core.random.random_range(0..10) {
            0..4 => Ending::Release,
            4..6 => Ending::Drop,
            _ => Ending::Lapse,
        };
        if self.is_eager {
            let plan = Plan {
                key,
                ttl: max_ttl,
                attempts: 0,
                most_attempts: 100,
                keeps_alive: true,
                fidgets: true,
                hold: Duration::from_millis(core.between(1_000, 8_000)),
                ending: Ending::Lapse,
            };
            return self.attempt(core, plan);
        }
        let plan = Plan {
            key,
            ttl,
            attempts: 0,
            most_attempts: core.random.random_range(4..40),
            keeps_alive: core.chance(0.3),
            fidgets: core.chance(0.3),
            hold: Duration::from_millis(core.between(1, 2_500)),
            ending,
        };
        self.attempt(core, plan);
    }

    /// Uses `view` from now on: attempts are made again, leases are carried over
    /// by their next extend.
    pub(crate) fn move_up(&mut self, core: &mut Core, view: Arc<View>) {
        let epoch = view.id().epoch;
        let known = self
            .view_nodes
            .as_ref()
            .map_or(0, |view_nodes| view_nodes.view.id().epoch);
        if epoch <= known {
            return;
        }
        core.tally.moves += 1;
        let client = self.host;
        core.note(Action::Moved { client, epoch });
        let view_nodes = ViewNodes::new(view, core.is(Mutant::AnyNonce));
        self.view_nodes = Some(Arc::clone(&view_nodes));
        let open: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| !operation.is_over)
            .map(|(&id, _)| id)
            .collect();
        for id in open {
            let Some(operation) = self.operations.get_mut(&id) else {
                continue;
            };
            if !matches!(operation.running, Running::Attempt(_)) {
                continue;
            }
            let lease = operation.lease;
            self.feed(core, id, Event::Abandoned);
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.is_over = true;
            }
            let plan = self.leases.get_mut(&lease).map(|lease| {
                lease.state = State::Over;
                lease.plan
            });
            if let Some(plan) = plan {
                self.attempt(core, plan);
            }
        }
    }

    /// A node serves another view than the client uses, or none.
    pub(crate) fn heard_stale(&mut self, core: &mut Core, node: usize, serving: Option<ViewId>) {
        let own = self
            .view_nodes
            .as_ref()
            .map(|view_nodes| view_nodes.view.id());
        match (serving, own) {
            (Some(view), _) if own.is_none_or(|own| own.epoch < view.epoch) => {
                if self.asked.insert(view) {
                    self.ask(core, node, NodeRequest::Document(view), Request::Document);
                }
            }
            (Some(view), Some(own)) if own == view => {}
            (serving, Some(_)) => {
                self.help(core, node);
                if serving.is_none() {
                    core.tasks.push(Task::Readmit(self.host));
                }
            }
            (_, None) => {}
        }
    }

    pub(crate) fn heard_document(&mut self, core: &mut Core, id: ViewId, text: Option<&str>) {
        self.asked.remove(&id);
        match text.and_then(|text| core.read(id, text)) {
            Some(view) => self.move_up(core, view),
            None => self.is_unsure = true,
        }
    }

    /// A node reported its status, asked at `sent_at`.
    pub(crate) fn heard_status(
        &mut self,
        core: &mut Core,
        (node, sent_at): (usize, Instant),
        status: &NodeStatus,
    ) {
        let serving = match status.standing() {
            NodeState::Serving(view) => Some(view),
            NodeState::Absent | NodeState::Quarantined => None,
        };
        if let Some(view_nodes) = self.view_nodes.clone()
            && serving == Some(view_nodes.view.id())
            && let Some(member) = view_nodes.member(node)
        {
            view_nodes.confirmations.saw(member, sent_at);
        }
        self.heard_stale(core, node, serving);
    }

    /// Gives the view to a node that is behind: the view is decided.
    fn help(&mut self, core: &mut Core, node: usize) {
        let Some(view_nodes) = self.view_nodes.clone() else {
            return;
        };
        let now = core.local(self.host);
        let last = self.helped.get(&node).copied().unwrap_or_default();
        if now < last + HELP_EVERY {
            return;
        }
        if let Some(member) = view_nodes.member(node) {
            self.helped.insert(node, now);
            self.ask(
                core,
                node,
                NodeRequest::Help,
                adopt(&view_nodes.view, member),
            );
        }
    }

    /// An operation of the client failed: it checks the cluster soon.
    pub(crate) fn doubt(&mut self) {
        self.is_unsure = true;
    }

    fn look(&mut self, core: &mut Core) {
        let is_eager = self.is_eager && !core.is_healed;
        if std::mem::take(&mut self.is_unsure) || self.view_nodes.is_none() || is_eager {
            self.asked.clear();
            let nodes = match &self.view_nodes {
                Some(view_nodes) => view_nodes.nodes.clone(),
                None => (0..core.servers.len()).collect(),
            };
            let now = core.local(self.host);
            for node in nodes {
                self.ask(core, node, NodeRequest::Status(now), Request::Status);
            }
        }
        let pause = if is_eager {
            core.between(20 * MS, 60 * MS)
        } else {
            core.between(200 * MS, 600 * MS)
        };
        let at = core.local(self.host) + Duration::from_nanos(pause);
        core.wake(self.host, at, Alarm::Observe);
    }
}
