//! A run: clients, coordinators and nodes, from the first view to the end.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::IndexedRandom;
use ringlock_proto::node::message::Request;

use crate::admin;
use crate::client::{Alarm, Client};
use crate::coordinator::{Coordinator, Intent};
use crate::core::{Clock, Core, Event, Task};
use crate::history::{Action, History, MS, SECOND, Time};
use crate::mutants::Mutant;
use crate::network::{Answered, Role, Weather};
use crate::report::{Fault, Tally};
use crate::server::{Server, index_of};

/// Maximum duration of a run after the last fault.
const LONGEST_END: Time = 90 * SECOND;

/// Maximum number of coordinators active at the same time.
const MOST_COORDINATORS: usize = 5;

/// Keys that are acquired at the same time at the end.
const SWEEPERS: usize = 24;

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) clients: Vec<Client>,
    coordinators: Vec<Coordinator>,
    healed_at: Time,
    is_settled: bool,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>, is_traced: bool) -> (History, Tally) {
    let mut core = Core::new(seed, mutant, is_traced);
    admin::found(&mut core);
    let length = core.between(14 * SECOND, 26 * SECOND);
    let mut world = World {
        core,
        clients: Vec::new(),
        coordinators: Vec::new(),
        healed_at: length,
        is_settled: false,
    };
    for _ in 0..world.core.random.random_range(3..=8) {
        world.add_client();
    }
    world.core.at(300 * MS, Event::Fault);
    world.core.at(500 * MS, Event::Operate);
    world.core.at(length, Event::Heal);
    while !world.is_over()
        && let Some(event) = world.core.pop()
    {
        world.happen(event);
    }
    world.core.tally.runs = 1;
    (world.core.history, world.core.tally)
}

impl World {
    fn is_over(&self) -> bool {
        self.core.swept == self.core.keys.len() || self.core.now > self.healed_at + LONGEST_END
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(message) => self.core.arrive(message),
            Event::Answer(answered) => self.answer(answered),
            Event::Wake(host, alarm) => self.wake(host, alarm),
            Event::Fault if !self.core.is_healed => {
                self.strike();
                let pause = self.core.between(50 * MS, 900 * MS);
                self.core.after(pause, Event::Fault);
            }
            Event::Operate if !self.core.is_healed => {
                let intent = match self.core.random.random_range(0..10) {
                    0..7 => Intent::Change,
                    7 => Intent::Abort,
                    _ => Intent::Keep,
                };
                self.coordinate(intent, None);
                let pause = self.core.between(300 * MS, 5 * SECOND);
                self.core.after(pause, Event::Operate);
            }
            Event::Lose(node) if !self.core.is_healed => self.core.lose(node),
            Event::Force(node, key, token) => {
                let _ = self.core.carry_out(node, &Request::Release { key, token });
            }
            Event::Fault | Event::Operate | Event::Lose(_) => {}
            Event::Heal => self.heal(),
            Event::Check => self.check(),
        }
        if std::mem::take(&mut self.core.is_served_anew) {
            self.look_at_leases();
        }
        for task in std::mem::take(&mut self.core.tasks) {
            self.grant(task);
        }
    }

    /// Leases must be safe from every view that is served from now on, whether or not
    /// another client asks for their keys. A dead client's leases are as valid as any.
    fn look_at_leases(&mut self) {
        for client in &self.clients {
            for (lease, key) in client.valid(&self.core) {
                if !self.core.is_exclusive(lease, &self.core.keys[key]) {
                    self.core.note(Action::Exposed { lease });
                }
            }
        }
    }

    fn answer(&mut self, answered: Box<Answered>) {
        let host = &self.core.hosts[answered.host];
        if host.is_dead {
            return;
        }
        if host.paused_until > self.core.now {
            return self.core.at(host.paused_until, Event::Answer(answered));
        }
        let role = host.role;
        if !self.core.is_heard(&answered) {
            return;
        }
        match role {
            Role::Client(who) => self.clients[who].hear(&mut self.core, *answered),
            Role::Coordinator(who) => self.coordinators[who].hear(&mut self.core, *answered),
        }
    }

    fn wake(&mut self, host: usize, alarm: Alarm) {
        let process = &self.core.hosts[host];
        if process.is_dead {
            return;
        }
        if process.paused_until > self.core.now {
            let until = process.paused_until;
            return self.core.at(until, Event::Wake(host, alarm));
        }
        match (process.role, alarm) {
            (Role::Client(who), _) => self.clients[who].on_alarm(&mut self.core, alarm),
            (Role::Coordinator(who), Alarm::Round(round)) => {
                self.coordinators[who].on_alarm(&mut self.core, round);
            }
            (Role::Coordinator(_), _) => {}
        }
    }

    pub(crate) fn add_client(&mut self) {
        let host = self.core.host(Role::Client(self.clients.len()), None);
        let mut client = Client::new(host);
        let users = self.core.random.random_range(2..=5);
        client.is_eager = self.clients.is_empty();
        client.start(&mut self.core, users);
        self.clients.push(client);
    }

    fn coordinate(&mut self, intent: Intent, clock: Option<Clock>) {
        let running = self.coordinators.iter().filter(|other| !other.is_over());
        if running.count() >= MOST_COORDINATORS {
            return;
        }
        let role = Role::Coordinator(self.coordinators.len());
        let host = self.core.host(role, clock);
        if self.core.is(Mutant::ShortWait) {
            self.core.hosts[host].clock.fast += 111_111;
        }
        let mut coordinator = Coordinator::new(host, intent);
        coordinator.start(&mut self.core);
        self.coordinators.push(coordinator);
    }

    fn grant(&mut self, task: Task) {
        match task {
            Task::Readmit(host) => {
                let clock = self.core.hosts[host].clock;
                let mut others = self.coordinators.iter();
                if !others.any(|other| !other.is_over() && other.intent == Intent::Keep) {
                    self.coordinate(Intent::Keep, Some(clock));
                }
            }
            Task::Decided(_) | Task::Granted(_) if self.core.is_healed => {}
            Task::Granted(node) => {
                if self.core.chance(0.005) {
                    self.core.lose(node);
                }
            }
            Task::Decided(host) => {
                let clients: Vec<usize> = self.clients.iter().map(|client| client.host).collect();
                match self.core.random.random_range(0..10) {
                    0..4 => {
                        let eager = self.core.chance(0.7).then_some(clients[0]);
                        let left = eager.or_else(|| clients.choose(&mut self.core.random).copied());
                        self.core.leave_behind(left.into_iter().collect());
                    }
                    4 => {
                        // The coordinator is cut off together with its decision.
                        self.core.leave_behind(BTreeSet::from([host]));
                    }
                    5 => {
                        let paused = clients.choose(&mut self.core.random).copied();
                        let until = self.core.now + self.core.between(100 * MS, 4 * SECOND);
                        if let Some(host) = paused {
                            self.core.hosts[host].paused_until = until;
                            self.core.tally.fault(Fault::ClientPause);
                        }
                    }
                    6 => {
                        // Two nodes will soon be without memory.
                        for _ in 0..2 {
                            let node = self.core.random.random_range(0..admin::SERVERS);
                            let soon = self.core.between(0, 3 * SECOND);
                            self.core.after(soon, Event::Lose(node));
                        }
                    }
                    _ => {}
                }
            }
            Task::Gone => {
                let intent = if self.core.chance(0.2) {
                    Intent::Abort
                } else {
                    Intent::Change
                };
                self.coordinate(intent, None);
            }
        }
    }

    fn heal(&mut self) {
        let core = &mut self.core;
        core.is_healed = true;
        core.partitions.clear();
        core.weather = Weather::calm();
        for server in &mut core.servers {
            server.paused_until = 0;
        }
        for host in &mut core.hosts {
            host.paused_until = 0;
        }
        core.note(Action::Healed);
        core.after(250 * MS, Event::Check);
    }

    /// Whether all changes are over; then whether every key can be acquired.
    fn check(&mut self) {
        if self.is_settled {
            return;
        }
        self.core.after(250 * MS, Event::Check);
        if self.coordinators.iter().any(|other| !other.is_over()) {
            return;
        }
        // A view that was decided but not distributed is completed by the next change.
        let served = self.core.servers.iter().filter_map(Server::served);
        let newest = served.max().and_then(|id| self.core.known(id));
        let is_served = newest.is_some_and(|view| {
            let serves = |name: &str| {
                let server = &self.core.servers[index_of(name)];
                server.served() == Some(view.id())
            };
            view.next().is_none() && view.members().all(|node| serves(&node.name))
        });
        if !is_served {
            return self.coordinate(Intent::Settle, None);
        }
        self.is_settled = true;
        self.core.note(Action::Settled);
        let host = self.core.host(Role::Client(self.clients.len()), None);
        let mut sweeper = Client::new(host);
        sweeper.sweep = Some((0..self.core.keys.len()).collect());
        sweeper.start(&mut self.core, SWEEPERS);
        self.clients.push(sweeper);
    }
}
