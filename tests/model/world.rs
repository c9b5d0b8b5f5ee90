//! States of the world, and the steps that each allows.

use std::sync::atomic::AtomicU32;

use ringlock::proto::quorum::majority;
use ringlock::proto::table::LockTable;
use stateright::{Model, Property};

use crate::client::Client;
use crate::post::{Address, Kind, Letter};
use crate::properties::Claim;
use crate::running::Running;
use crate::scenario::{Change, Loss, Mutant, Scenario, at, view};
use crate::shared::Shared;
use crate::tamper;

/// A scenario under the checker.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) scenario: Scenario,
    /// What was come across. Kept outside the states, which it would double.
    pub(crate) seen: AtomicU32,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct World {
    pub(crate) tick: u8,
    pub(crate) nodes: Vec<Shared<LockTable>>,
    pub(crate) clients: [Shared<Client>; 2],
    /// On the way, by address.
    pub(crate) post: Vec<Shared<Letter>>,
    /// Fences granted, or the last.
    pub(crate) fences: Vec<u64>,
    pub(crate) repeats: u8,
    pub(crate) drops: u8,
    pub(crate) losses: u8,
    /// When the operator quarantined the nodes.
    pub(crate) quarantined_at: Option<u8>,
    /// A claim that the last step broke.
    pub(crate) broken: Option<Claim>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    /// Time passes.
    Tick,
    /// A client begins an attempt.
    Acquire(usize),
    /// It extends its lease for so many ticks.
    Extend(usize, u8),
    /// It releases its lease.
    Release(usize),
    /// It drops its attempt.
    Abandon(usize),
    /// It waits no longer.
    GiveUp(usize),
    /// It hears of epoch 2.
    Learn(usize),
    /// A letter arrives, and the answer to it at once.
    Deliver(Address),
    /// A letter arrives; the answer takes its time, or is lost.
    Defer(Address),
    /// It is lost.
    Drop(Address),
    /// It stays on its way although nobody needs it any more.
    Linger(Address),
    /// A request will arrive twice.
    Repeat(Address),
    /// A node loses what it held, or all but its entries.
    Lose(usize, Entries),
    /// The operator quarantines the nodes within reach.
    Quarantine,
    /// A node adopts epoch 2.
    Adopt(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Entries {
    Kept,
    Gone,
}

impl Model for Explored {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let scenario = &self.scenario;
        let client = Shared::new(Client::new(scenario));
        let counts = scenario.counts.iter().take(scenario.nodes);
        vec![World {
            tick: 0,
            nodes: counts
                .map(|&count| Shared::new(tamper::first(count, scenario)))
                .collect(),
            clients: [client.clone(), client],
            post: Vec::new(),
            fences: Vec::new(),
            repeats: 0,
            drops: 0,
            losses: 0,
            quarantined_at: None,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.broken.is_some() {
            return;
        }
        if let Some(address) = world.undecided() {
            self.fates(world, address, acts);
            return;
        }
        if world.tick < self.scenario.horizon {
            acts.push(Act::Tick);
        }
        for who in 0..world.clients.len() {
            self.acts_of(world, who, acts);
        }
        let replies = world
            .post
            .iter()
            .filter(|letter| letter.address.is_reply)
            .count();
        for letter in &world.post {
            let address = letter.address;
            if !self.is_renaming(world, &address) {
                acts.push(Act::Deliver(address));
                if !address.is_reply && !address.is_echo && replies < self.scenario.slow {
                    acts.push(Act::Defer(address));
                }
            }
            let is_repeatable = !address.is_reply
                && !address.is_echo
                && matches!(address.kind, Kind::Main | Kind::WriteBack);
            if is_repeatable && world.repeats < self.scenario.repeats {
                acts.push(Act::Repeat(address));
            }
        }
        self.blows(world, acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        self.step(&mut next, act);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.all_properties()
    }
}

impl Explored {
    pub(crate) fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            seen: AtomicU32::new(0),
        }
    }

    /// What may become of a request that its client needs no more.
    fn fates(&self, world: &World, address: Address, acts: &mut Vec<Act>) {
        acts.push(Act::Deliver(address));
        if world.drops < self.scenario.drops {
            acts.push(Act::Drop(address));
        }
        let late = world.post.iter().filter(|letter| letter.is_late);
        let mut ways: Vec<_> = late.map(|letter| letter.address.way()).collect();
        ways.dedup();
        if ways.contains(&address.way()) || ways.len() < self.scenario.late {
            acts.push(Act::Linger(address));
        }
    }

    fn acts_of(&self, world: &World, who: usize, acts: &mut Vec<Act>) {
        let scenario = &self.scenario;
        let client = &world.clients[who];
        if let Some(op) = &client.op {
            if scenario.abandons && matches!(op.running, Running::Attempt(_)) {
                acts.push(Act::Abandon(who));
            }
            // Within its first tick an operation has no reason to.
            if world.tick > op.t0 {
                acts.push(Act::GiveUp(who));
            }
            return;
        }
        let is_epoch_2_known = || {
            let mut nodes = world.nodes.iter();
            nodes.any(|table| tamper::served(table) == Some(view(2)))
        };
        if scenario.change != Change::Never && client.epoch == 1 && is_epoch_2_known() {
            acts.push(Act::Learn(who));
        }
        if let Some(lease) = &client.lease {
            acts.push(Act::Release(who));
            let is_placed_alike =
                scenario.placement(client.epoch) == scenario.placement(lease.epoch);
            if client.extends < scenario.extends[who] && is_placed_alike {
                let ticks = scenario.extend_ttls.iter();
                acts.extend(ticks.map(|&ticks| Act::Extend(who, ticks)));
            }
        } else {
            let is_first_named = who == 0
                || world.clients[0].attempts > 0
                || scenario.attempts[0] != scenario.attempts[1]
                || scenario.extends[0] != scenario.extends[1];
            if client.attempts < scenario.attempts[who] && is_first_named {
                acts.push(Act::Acquire(who));
            }
        }
    }

    /// What befalls the nodes.
    fn blows(&self, world: &World, acts: &mut Vec<Act>) {
        let scenario = &self.scenario;
        for (to, table) in world.nodes.iter().enumerate() {
            let has_entry = table.live(at(world.tick)).next().is_some();
            match scenario.loss {
                Some(Loss::Vanish) if has_entry => acts.push(Act::Lose(to, Entries::Gone)),
                Some(Loss::Wipe) if world.losses < scenario.losses => {
                    acts.push(Act::Lose(to, Entries::Gone));
                }
                Some(Loss::Restart) if world.losses < scenario.losses => {
                    acts.push(Act::Lose(to, Entries::Gone));
                    if !scenario.is(Mutant::StampSurvives) {
                        acts.push(Act::Lose(to, Entries::Kept));
                    }
                }
                _ => {}
            }
            let is_due = match scenario.change {
                Change::Never => false,
                Change::Adopt => true,
                Change::Reinitialise { .. } | Change::Force { .. } => world
                    .quarantined_at
                    .is_some_and(|since| world.tick >= since + scenario.wait()),
            };
            let is_cut_off = matches!(scenario.change, Change::Force { .. }) && to == 0;
            if is_due && !is_cut_off && tamper::served(table) != Some(view(2)) {
                acts.push(Act::Adopt(to));
            }
        }
        let is_coming = matches!(
            scenario.change,
            Change::Reinitialise { .. } | Change::Force { .. }
        );
        if is_coming && world.quarantined_at.is_none() {
            acts.push(Act::Quarantine);
        }
    }

    /// Nodes bear their numbers in the order in which client 0's first request
    /// reaches them; any other order is this one under other names.
    fn is_renaming(&self, world: &World, address: &Address) -> bool {
        let is_first = |address: &Address| {
            let Address {
                client,
                attempt,
                serial,
                kind,
                ..
            } = *address;
            let is_request = !address.is_reply && !address.is_echo;
            is_request && (client, attempt, serial, kind) == (0, 1, 0, Kind::Main)
        };
        self.scenario.is_symmetric()
            && is_first(address)
            && world.post.iter().any(|letter| {
                let other = &letter.address;
                is_first(other) && other.node < address.node
            })
    }
}

impl World {
    /// The first request of a token that its client is done with, as long as
    /// it is open whether it arrives now, later or never.
    fn undecided(&self) -> Option<Address> {
        let is_open = |letter: &&Shared<Letter>| {
            let used = &self.clients[letter.address.client].token;
            !letter.is_late
                && letter
                    .token()
                    .is_some_and(|token| used.as_ref() != Some(token))
        };
        self.post.iter().find(is_open).map(|letter| letter.address)
    }

    /// Marks leases whose own entries, together with nodes that serve nobody,
    /// leave others a quorum to be had. That a node was wiped right after it
    /// vouched for an entry is beyond the knowledge of any client.
    pub(crate) fn watch(&mut self, scenario: &Scenario) {
        for who in 0..self.clients.len() {
            let Some(lease) = &self.clients[who].lease else {
                continue;
            };
            let is_over = at(self.tick) >= lease.valid_until;
            if is_over || lease.has_gap || scenario.extends[who] == 0 {
                continue;
            }
            let placement = scenario.placement(lease.epoch);
            let is_open = |to: &usize| {
                let mut live = self.nodes[*to].live(at(self.tick));
                !live.any(|(_, token, _)| *token == lease.token)
                    && tamper::served(&self.nodes[*to]).is_some()
            };
            let nodes = placement.nodes().iter().map(|node| node.get());
            if nodes.filter(is_open).count() >= majority(scenario.replicas) {
                self.clients[who].update(|client| {
                    if let Some(lease) = &mut client.lease {
                        lease.has_gap = true;
                    }
                });
            }
        }
    }
}
