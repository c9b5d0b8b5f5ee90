//! The faults, at random and at critical moments.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::IndexedRandom;
use ringlock_proto::membership::topology::Node;

use crate::core::{Core, Event};
use crate::history::{Action, MS, SECOND, Time};
use crate::network::{Partition, Way};
use crate::report::Fault;
use crate::server::index_of;
use crate::world::World;

impl World {
    /// Injects one more fault.
    pub(crate) fn strike(&mut self) {
        let core = &mut self.core;
        let node = core.random.random_range(0..core.servers.len());
        match core.random.random_range(0..22) {
            0..3 => core.divide(),
            3..5 => core.cut_one_way(),
            5..8 => {
                let until = core.now + core.between(20 * MS, 2 * SECOND);
                core.say(|| format!("node {node} pauses up to {}", until / MS));
                core.servers[node].paused_until = until;
                core.tally.fault(Fault::NodePause);
            }
            8..11 => self.pause_client(),
            11..14 => core.lose(node),
            14 => {
                let down = core.between(MS, 300 * MS);
                core.say(|| format!("node {node} is started again, durably"));
                core.reboot_durably(node);
                core.servers[node].paused_until = core.now + down;
                core.tally.fault(Fault::Restart);
            }
            15 | 16 => {
                let table = core.servers[node].table.clone();
                core.servers[node].snapshot = Some(table);
            }
            17 => self.kill_client(),
            20 | 21 => self.force(),
            _ => {
                for host in 0..core.hosts.len() {
                    core.break_link(host, node);
                }
                core.tally.fault(Fault::Break);
            }
        }
    }

    fn pause_client(&mut self) {
        let who = self.core.random.random_range(0..self.clients.len());
        let span = self.core.between(20 * MS, 3 * SECOND);
        let host = self.clients[who].host;
        self.core
            .say(|| format!("host {host} pauses for {}", span / MS));
        self.core.hosts[host].paused_until = self.core.now + span;
        self.core.tally.fault(Fault::ClientPause);
    }

    /// An operator releases a lease by force: its nodes are reached one after the
    /// other, sometimes with extends in between.
    fn force(&mut self) {
        let who = self.core.random.random_range(0..self.clients.len());
        let Some((lease, key, token)) = self.clients[who].any_held() else {
            return;
        };
        self.core
            .say(|| format!("lease {lease} is released by force"));
        self.core.note(Action::Forced { lease });
        let most = if self.core.chance(0.5) {
            5 * MS
        } else {
            SECOND
        };
        for node in 0..self.core.servers.len() {
            let soon = self.core.between(0, most);
            let (key, token) = (self.core.keys[key].clone(), token.clone());
            self.core.after(soon, Event::Force(node, key, token));
        }
        self.core.tally.fault(Fault::Force);
    }

    /// A client dies with all its leases; another one takes its place.
    fn kill_client(&mut self) {
        let who = self.core.random.random_range(0..self.clients.len());
        let host = self.clients[who].host;
        if self.core.hosts[host].is_dead {
            return;
        }
        self.core.say(|| format!("host {host} dies"));
        self.core.hosts[host].is_dead = true;
        self.core.tally.fault(Fault::ClientDeath);
        self.add_client();
    }
}

impl Core {
    /// Two sides that cannot hear each other.
    fn divide(&mut self) {
        let nodes = self.some(self.servers.len(), 0.35);
        let hosts = self.some(self.hosts.len(), 0.35);
        let span = self.between(100 * MS, 2 * SECOND);
        self.part(nodes, hosts, Way::Both, span);
    }

    fn cut_one_way(&mut self) {
        let nodes = self.some(self.servers.len(), 0.25);
        let hosts = self.some(self.hosts.len(), 0.25);
        let way = if self.chance(0.5) {
            Way::ToNodes
        } else {
            Way::ToHosts
        };
        let span = self.between(50 * MS, 2 * SECOND);
        self.part(nodes, hosts, way, span);
    }

    /// A host and a node or two do not hear of the view that was just decided,
    /// sometimes for as long as any client may rely on the one before: this is the
    /// worst moment. The nodes are preferably ones that leave the cluster.
    pub(crate) fn leave_behind(&mut self, hosts: BTreeSet<usize>) {
        let Some(view) = self.decided().into_iter().next() else {
            return;
        };
        let index = |node: &Node| index_of(&node.name);
        let is_leaving = |node: &&Node| match view.next() {
            Some(next) => !next.nodes.iter().any(|other| other.name == node.name),
            None => false,
        };
        let leaving: Vec<usize> = view.members().filter(is_leaving).map(index).collect();
        let all: Vec<usize> = view.members().map(index).collect();
        let among = if leaving.is_empty() || self.chance(0.3) {
            all
        } else {
            leaving
        };
        let many = if self.chance(0.7) { 1 } else { 2 };
        let nodes = among.sample(&mut self.random, many).copied().collect();
        let most = view.longest_ttl() + view.longest_view_lease();
        let span = if self.chance(0.5) {
            most.as_nanos() as Time + SECOND
        } else {
            self.between(300 * MS, 4 * SECOND)
        };
        self.part(nodes, hosts, Way::Both, span);
    }

    fn part(&mut self, nodes: BTreeSet<usize>, hosts: BTreeSet<usize>, way: Way, span: Time) {
        let until = self.now + span;
        self.say(|| {
            format!(
                "{way:?} cut up to {}: nodes {nodes:?}, hosts {hosts:?}",
                until / MS
            )
        });
        self.partitions
            .retain(|partition| partition.until > self.now);
        self.partitions.push(Partition {
            until,
            nodes,
            hosts,
            way,
        });
        self.tally.fault(match way {
            Way::Both => Fault::Partition,
            Way::ToNodes | Way::ToHosts => Fault::OneWay,
        });
    }

    fn some(&mut self, of: usize, share: f64) -> BTreeSet<usize> {
        (0..of).filter(|_| self.chance(share)).collect()
    }

    /// A node loses its memory, or comes back with an older state; but never so
    /// many at a time that no majority could decide.
    pub(crate) fn lose(&mut self, node: usize) {
        if !self.may_lose(node) {
            return;
        }
        let old = self.servers[node].snapshot.take();
        let fault = if old.is_some() {
            Fault::OldData
        } else {
            Fault::Wipe
        };
        self.say(|| format!("node {node}: {fault:?}"));
        self.reboot(node, old);
        let most = if self.chance(0.5) { 2 * MS } else { 500 * MS };
        let down = self.between(MS, most);
        self.servers[node].paused_until = self.now + down;
        self.tally.fault(fault);
    }
}
