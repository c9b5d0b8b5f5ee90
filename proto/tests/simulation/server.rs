//! The nodes: the table that specifies them, on its own clock, and the faults that
//! hit it.

use std::sync::Arc;

use ringlock_proto::lease::{Key, Token};
use ringlock_proto::membership::topology::{Node, Topology};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::{NodeState, NodeStatus, Reply, Request, ViewId};
use ringlock_proto::quorum::{Placement, majority};
use ringlock_proto::time::Instant;
use ringlock_ring::NodeIndex;

use crate::core::{Clock, Core};
use crate::history::{Action, MS, Time};

/// One server process and its disk.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) table: LockTable,
    pub(crate) clock: Clock,
    pub(crate) paused_until: Time,
    /// How often it was started.
    pub(crate) boot: u32,
    /// The state on its disk.
    pub(crate) snapshot: Option<LockTable>,
    /// The status that it reports.
    pub(crate) status: NodeStatus,
    /// Whether it has accepted a stable view as the next one.
    pub(crate) has_accepted: bool,
}

impl Server {
    pub(crate) fn new(index: usize, clock: Clock) -> Self {
        let mut server = Self {
            name: format!("n{index}"),
            table: LockTable::new(incarnation(index, 0)),
            clock,
            paused_until: 0,
            boot: 0,
            snapshot: None,
            status: NodeStatus::default(),
            has_accepted: false,
        };
        server.look();
        server
    }

    /// Servers count in milliseconds.
    pub(crate) fn now(&self, at: Time) -> Instant {
        let nanos = self.clock.read(at).as_nanos();
        Instant::from_nanos(nanos / MS * MS)
    }

    fn look(&mut self) {
        if let Reply::Status(status) = self.table.apply(Instant::default(), &Request::Status) {
            self.status = *status;
        }
    }

    /// The view that it actually serves.
    pub(crate) fn served(&self) -> Option<ViewId> {
        match self.status.standing() {
            NodeState::Serving(view) => Some(view),
            NodeState::Absent | NodeState::Quarantined => None,
        }
    }
}

/// The incarnation of a server process.
pub(crate) fn incarnation(node: usize, boot: u32) -> String {
    format!("run {boot} of n{node}")
}

/// The lease that a token belongs to.
pub(crate) fn lease_of(token: &Token) -> u64 {
    u64::from_str_radix(&token.to_string()[16..32], 16).unwrap()
}

/// The number that a nonce consists of.
pub(crate) fn number(nonce: &str) -> u64 {
    nonce.parse().unwrap()
}

/// The node of this name.
pub(crate) fn index_of(name: &str) -> usize {
    name[1..].parse().unwrap()
}

impl Core {
    /// A node executes a request.
    pub(crate) fn carry_out(&mut self, node: usize, request: &Request) -> Reply {
        let forged = self.forged(node, request);
        let request = forged.as_ref().unwrap_or(request);
        let server = &mut self.servers[node];
        let now = server.now(self.now);
        let reply = server.table.apply(now, request);
        match request {
            Request::Acquire {
                key, token, ttl, ..
            }
            | Request::Extend {
                key, token, ttl, ..
            } => self.note_entry(node, (key, token), now + ttl.get(), (now, &reply)),
            Request::Quarantine { .. } | Request::Adopt { .. } | Request::Restamp { .. } => {
                let before = server.served();
                server.look();
                let after = server.served();
                if after != before {
                    server.has_accepted = false;
                }
                if let (true, Some(view)) = (after != before, after) {
                    self.is_served_anew = true;
                    self.note(Action::Decided(view));
                }
            }
            Request::Accept { next, .. } if reply == Reply::Done => {
                let is_last = self
                    .views
                    .get(next)
                    .is_none_or(|view| view.next().is_none());
                server.has_accepted = is_last;
            }
            _ => {}
        }
        reply
    }

    fn note_entry(
        &mut self,
        node: usize,
        (key, token): (&Key, &Token),
        end: Instant,
        (now, reply): (Instant, &Reply),
    ) {
        match reply {
            Reply::Granted { .. } | Reply::Kept { .. } | Reply::Made { .. } => {
                let lease = lease_of(token);
                let until = end.as_nanos();
                let known = self.landed.entry((node, key.clone()));
                let landed = known.or_insert((lease, until));
                let same = landed.0 == lease;
                *landed = (lease, if same { landed.1.max(until) } else { until });
                let nonce = self.servers[node].status.nonce.as_deref();
                let nonce = nonce.map_or(0, number);
                if self.held.insert((lease, node, nonce)) {
                    self.history
                        .note(self.now, Action::Held { lease, node, nonce });
                }
            }
            Reply::Busy(rival) => {
                let left = rival.remaining.unwrap_or_default();
                let landed = self.landed.get(&(node, key.clone()));
                self.history.note(
                    self.now,
                    Action::Blocked {
                        node,
                        until: (now + left).as_nanos(),
                        landed: landed.map_or(0, |&(_, until)| until),
                    },
                );
            }
            _ => {}
        }
    }

    /// Restarts a server with `table`, which was on its disk, or with nothing.
    pub(crate) fn reboot(&mut self, node: usize, table: Option<LockTable>) {
        let now = self.now;
        let server = &mut self.servers[node];
        server.boot += 1;
        let name = incarnation(node, server.boot);
        server.table = match table {
            Some(mut table) => {
                table.restart(name);
                table
            }
            None => LockTable::new(name),
        };
        server.snapshot = None;
        server.has_accepted = false;
        server.look();
        self.landed.retain(|(at, _), _| *at != node);
        let server = &self.servers[node];
        let live = server.table.live(server.now(now));
        self.landed.extend(live.map(|(key, token, end)| {
            let entry = (lease_of(token), end.map_or(Time::MAX, Instant::as_nanos));
            ((node, key.clone()), entry)
        }));
    }

    /// Its disk had all data, and the operator asserts so.
    pub(crate) fn reboot_durably(&mut self, node: usize) {
        let table = self.servers[node].table.clone();
        let status = self.servers[node].status.clone();
        self.reboot(node, Some(table));
        // This does not hold if it had come back from an older state before.
        let stamped = status.stamped;
        if let Some(expected) = stamped.filter(|stamped| *stamped == status.incarnation) {
            let _ = self.carry_out(node, &Request::Restamp { expected });
        }
    }

    /// Whether a majority of a topology's nodes still has its memory, as `view`
    /// lists them, after the loss of `lost`.
    fn keeps_majority(&self, view: &View, topology: &Topology, lost: usize) -> bool {
        let is_whole = |node: &&Node| {
            let index = index_of(&node.name);
            let status = &self.servers[index].status;
            let nonce = view.index_of(&node.name).map(|member| view.nonce(member));
            index != lost
                && status.nonce.as_ref() == nonce
                && status.stamped.as_ref() == Some(&status.incarnation)
        };
        let nodes = &topology.nodes;
        nodes.iter().filter(is_whole).count() >= majority(nodes.len())
    }

    /// Whether a node may lose its memory: a majority of the deciders must keep
    /// theirs, and a majority of those that may soon decide.
    pub(crate) fn may_lose(&self, node: usize) -> bool {
        let is_voting =
            self.voting_until > self.now || self.servers.iter().any(|server| server.has_accepted);
        let decided = self.decided();
        decided.iter().take(2).all(|view| {
            let heirs = view.next().filter(|_| is_voting);
            let mut deciders = std::iter::once(view.topology()).chain(heirs);
            deciders.all(|topology| self.keeps_majority(view, topology, node))
        })
    }

    /// Whether no client but `lease` could be granted `key` right now: no view that
    /// most nodes serve has an open quorum for another lease.
    pub(crate) fn is_exclusive(&self, lease: u64, key: &Key) -> bool {
        let mut served: Vec<ViewId> = self.servers.iter().filter_map(Server::served).collect();
        served.sort_unstable();
        served.dedup();
        served.iter().all(|&id| {
            let Some(view) = self.known(id) else {
                return true;
            };
            let server = |node: NodeIndex| &self.servers[index_of(&view.member(node).name)];
            let serves = |node| server(node).served() == Some(id);
            !view.has_majority(serves) || !self.is_open(view, lease, key, &serves)
        })
    }

    fn is_open(
        &self,
        view: &Arc<View>,
        lease: u64,
        key: &Key,
        serves: &impl Fn(NodeIndex) -> bool,
    ) -> bool {
        let placement: Placement = view.place(key);
        let free = placement.voters().iter().filter(|&voter| {
            let node = placement.node(voter);
            let index = index_of(&view.member(node).name);
            let server = &self.servers[index];
            let entry = self.landed.get(&(index, key.clone()));
            let is_own = entry.is_some_and(|&(holder, _)| holder == lease)
                && server.table.is_held(key, server.now(self.now));
            serves(node) && !is_own
        });
        placement.has_quorum(free.collect())
    }
}
