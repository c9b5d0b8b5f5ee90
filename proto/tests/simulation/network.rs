//! The network: one connection from a host to a node at a time, ordered in both
//! directions, and subject to delays, breaks and partitions.
//!
//! A request is sent once; what a broken connection had in flight is lost or
//! executed later, once, and not answered. In addition, requests that are
//! idempotent are sometimes repeated. ACQUIRE is not repeated: it counts.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::rngs::SmallRng;
use ringlock_proto::node::message::{Reply, Request};
use ringlock_proto::operation::machine::Step;

use crate::core::{Clock, Core, Event};
use crate::history::{MS, SECOND, Time};
use crate::report::Fault;

/// Identifies a request of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) operation: u64,
    pub(crate) step: Step,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) host: usize,
    pub(crate) node: usize,
    connection: u32,
    /// The server process to which it was sent.
    boot: u32,
    pub(crate) ticket: Ticket,
    pub(crate) request: Request,
    /// Its connection is gone, or it is a repetition: no answer is sent.
    is_stray: bool,
}

/// An answer in flight.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) host: usize,
    pub(crate) node: usize,
    connection: u32,
    pub(crate) ticket: Ticket,
    pub(crate) reply: Reply,
}

/// The owner of timers and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client(usize),
    Coordinator(usize),
}

/// A process that communicates with nodes.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) role: Role,
    pub(crate) clock: Clock,
    pub(crate) paused_until: Time,
    pub(crate) is_dead: bool,
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    connection: u32,
    /// When the last request and the last answer arrive.
    requested: Time,
    answered: Time,
}

/// The direction that a partition cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    ToNodes,
    ToHosts,
}

/// Hosts and nodes on one side do not hear those on the other.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) until: Time,
    pub(crate) nodes: BTreeSet<usize>,
    pub(crate) hosts: BTreeSet<usize>,
    pub(crate) way: Way,
}

/// The general quality of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The usual time of a message in flight.
    usual: Time,
    /// The fraction of messages that are slow, and very slow.
    slow: f64,
    /// The fraction of requests at which the connection breaks.
    breaks: f64,
    /// The fraction of requests that are repeated.
    repeats: f64,
}

impl Weather {
    pub(crate) fn drawn(random: &mut SmallRng) -> Self {
        Self {
            usual: [MS / 4, MS, 8 * MS][random.random_range(0..3)],
            slow: [0.0, 0.02, 0.1][random.random_range(0..3)],
            breaks: [0.0, 0.002, 0.02][random.random_range(0..3)],
            repeats: [0.0, 0.01, 0.05][random.random_range(0..3)],
        }
    }

    pub(crate) fn calm() -> Self {
        Self {
            usual: MS,
            slow: 0.0,
            breaks: 0.0,
            repeats: 0.0,
        }
    }
}

impl Core {
    /// A new process, with its own clock unless one is given.
    pub(crate) fn host(&mut self, role: Role, clock: Option<Clock>) -> usize {
        let clock = clock.unwrap_or_else(|| Clock::drawn(&mut self.random));
        self.hosts.push(Host {
            role,
            clock,
            paused_until: 0,
            is_dead: false,
            links: vec![Link::default(); self.servers.len()],
        });
        self.hosts.len() - 1
    }

    pub(crate) fn send(&mut self, host: usize, node: usize, ticket: Ticket, request: Request) {
        self.tally.requests += 1;
        if self.weather.breaks > 0.0 && self.chance(self.weather.breaks) {
            self.tally.fault(Fault::Break);
            self.break_link(host, node);
        }
        let message = Message {
            host,
            node,
            connection: self.hosts[host].links[node].connection,
            boot: self.servers[node].boot,
            ticket,
            request,
            is_stray: false,
        };
        let is_repeatable = !matches!(message.request, Request::Acquire { .. });
        if is_repeatable && self.weather.repeats > 0.0 && self.chance(self.weather.repeats) {
            self.tally.fault(Fault::Repeat);
            let again = Message {
                is_stray: true,
                ..message.clone()
            };
            let late = self.between(MS, 2 * SECOND);
            self.after(late, Event::Arrive(Box::new(again)));
        }
        let delay = self.delay();
        let link = &mut self.hosts[host].links[node];
        link.requested = (link.requested + 1).max(self.now + delay);
        let at = link.requested;
        self.at(at, Event::Arrive(Box::new(message)));
    }

    /// A connection breaks; the next one starts without its backlog.
    pub(crate) fn break_link(&mut self, host: usize, node: usize) {
        let link = &mut self.hosts[host].links[node];
        *link = Link {
            connection: link.connection + 1,
            requested: 0,
            answered: 0,
        };
    }

    fn delay(&mut self) -> Time {
        let Weather { usual, slow, .. } = self.weather;
        if slow > 0.0 && self.chance(slow) {
            self.tally.fault(Fault::Delay);
            return match self.random.random_range(0..10) {
                0 => self.between(100 * MS, 1_500 * MS),
                1..4 => self.between(20 * MS, 150 * MS),
                _ => self.between(usual, 20 * MS.max(usual)),
            };
        }
        self.between(usual / 4, usual)
    }

    fn is_cut(&self, host: usize, node: usize, way: Way) -> bool {
        self.partitions.iter().any(|partition| {
            (partition.way == Way::Both || partition.way == way)
                && self.now < partition.until
                && partition.hosts.contains(&host) != partition.nodes.contains(&node)
        })
    }

    /// A request reaches its node, or is stopped before it.
    pub(crate) fn arrive(&mut self, mut message: Box<Message>) {
        let Message {
            host,
            node,
            connection,
            ..
        } = *message;
        let server = &self.servers[node];
        if server.boot != message.boot {
            return;
        }
        if server.paused_until > self.now {
            return self.at(server.paused_until, Event::Arrive(message));
        }
        if self.is_cut(host, node, Way::ToNodes) {
            self.tally.fault(Fault::Loss);
            if connection == self.hosts[host].links[node].connection {
                self.break_link(host, node);
            }
            return;
        }
        if connection != self.hosts[host].links[node].connection && !message.is_stray {
            // A request that a broken connection had in flight.
            message.is_stray = true;
            match self.random.random_range(0..4) {
                0 | 1 => return self.tally.fault(Fault::Loss),
                2 => {
                    self.tally.fault(Fault::Late);
                    let late = self.between(MS, 5 * SECOND);
                    return self.after(late, Event::Arrive(message));
                }
                _ => {}
            }
        }
        let reply = self.carry_out(node, &message.request);
        self.say(|| {
            let stray = if message.is_stray { " (stray)" } else { "" };
            format!(
                "{host}->{node}{stray} {:?}\n              = {reply:?}",
                message.request
            )
        });
        if message.is_stray {
            return;
        }
        let delay = self.delay();
        let link = &mut self.hosts[host].links[node];
        link.answered = (link.answered + 1).max(self.now + delay);
        let at = link.answered;
        let answered = Answered {
            host,
            node,
            connection,
            ticket: message.ticket,
            reply,
        };
        self.at(at, Event::Answer(Box::new(answered)));
    }

    /// Whether an answer arrives: not across a partition, and not on an older
    /// connection.
    pub(crate) fn is_heard(&mut self, answered: &Answered) -> bool {
        let Answered {
            host,
            node,
            connection,
            ..
        } = *answered;
        if self.hosts[host].links[node].connection != connection {
            return false;
        }
        let is_cut = self.is_cut(host, node, Way::ToHosts);
        if is_cut {
            self.tally.fault(Fault::Loss);
            self.break_link(host, node);
        }
        !is_cut
    }
}
