//! States of the world, and the steps that each allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::Request;
use ringlock_proto::quorum::Placement;
use stateright::{Model, Property};

use crate::client::{Client, is_confirmed_by_votes};
use crate::cluster::{Library, given, home, key};
use crate::coordinator::{Coordinator, Order};
use crate::cow::Shared;
use crate::faults;
use crate::network::{Address, Kind, Message};
use crate::properties::Claim;
use crate::running::Running;
use crate::scenario::{Aim, Change, Loss, Mutant, Scenario, at};
use crate::starter::Starter;

/// A scenario under the checker.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) scenario: Scenario,
    /// The view of epoch 1.
    pub(crate) first: Arc<View>,
    /// The view of epoch 2, where the scenario defines it.
    pub(crate) second: Option<Arc<View>>,
    pub(crate) library: Library,
    /// Whether a coordinator can bring a cluster to a stable state, by cluster.
    pub(crate) rescued: Mutex<BTreeMap<u64, bool>>,
    /// What was encountered. Kept outside the states, whose number it would double.
    pub(crate) seen: AtomicU32,
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct World {
    pub(crate) tick: u8,
    pub(crate) nodes: Vec<Shared<LockTable>>,
    pub(crate) clients: [Shared<Client>; 2],
    pub(crate) coordinators: Vec<Shared<Coordinator>>,
    pub(crate) starters: Vec<Shared<Starter>>,
    /// Coordinators' messages in flight.
    pub(crate) orders: Vec<(Order, Request)>,
    /// Views that were decided.
    pub(crate) decided: Vec<Arc<View>>,
    /// The last tick at which a majority was seen to serve each of them, where it
    /// takes more than the key's replicas.
    pub(crate) stood: Vec<Option<u8>>,
    /// Messages in flight, by address.
    pub(crate) post: Vec<Shared<Message>>,
    /// Fences granted, or only the last.
    pub(crate) fences: Vec<u64>,
    pub(crate) repeats: u8,
    pub(crate) drops: u8,
    pub(crate) losses: u8,
    /// Nodes where client 0's lease was released by force, as a bit mask.
    pub(crate) forced: u8,
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
    /// A client starts an attempt.
    Acquire(usize),
    /// It extends its lease for this many ticks.
    Extend(usize, u8),
    /// It releases its lease.
    Release(usize),
    /// It drops its attempt.
    Abandon(usize),
    /// It stops waiting.
    GiveUp(usize),
    /// It learns of a newer epoch.
    Learn(usize, u32),
    /// A message arrives, and the answer to it at once.
    Deliver(Address),
    /// A message arrives; the answer is late, or lost.
    Defer(Address),
    /// It is lost.
    Drop(Address),
    /// It stays in flight although no client needs it.
    Linger(Address),
    /// A request will arrive twice.
    Repeat(Address),
    /// A node loses all its data, or all but its entries.
    Lose(usize, Entries),
    /// The operator quarantines the reachable nodes.
    Quarantine,
    /// A node adopts epoch 2, as the operator requests.
    Adopt(usize),
    /// It adopts a decided view of this epoch.
    Spread(u32, usize),
    /// A coordinator observes every node.
    Observe(usize),
    /// It acts on what it saw.
    Proceed(usize),
    /// Its message arrives.
    Obey(Order),
    /// It stops waiting for votes.
    Quit(usize),
    /// A starter takes a step.
    Start(usize),
    /// A node adopts what a starter has written.
    Follow(usize, usize),
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
        let mut decided = vec![Arc::clone(&self.first)];
        decided.extend(self.second.clone().filter(|_| scenario.joint.is_some()));
        let views: Vec<&View> = decided.iter().map(|view| &**view).collect();
        let table = |home: usize| {
            let is_member = home < scenario.nodes || scenario.joint.is_some();
            if is_member || scenario.is_prepared {
                let views = if is_member { &views[..] } else { &[] };
                let count = scenario.counts.get(home).copied().unwrap_or(0);
                faults::first(scenario, views, home, count)
            } else {
                LockTable::new("run-1")
            }
        };
        let nodes = (0..scenario.nodes + scenario.spares).map(|home| Shared::new(table(home)));
        let client = Shared::new(Client::new(Arc::clone(decided.last().unwrap())));
        let mut world = World {
            tick: 0,
            nodes: nodes.collect(),
            clients: [client.clone(), client],
            coordinators: Vec::new(),
            starters: (scenario.starters.iter())
                .map(|_| Shared::new(Starter::new()))
                .collect(),
            orders: Vec::new(),
            stood: vec![
                None;
                if scenario.is_standing_tracked() {
                    decided.len()
                } else {
                    0
                }
            ],
            decided,
            post: Vec::new(),
            fences: Vec::new(),
            repeats: 0,
            drops: 0,
            losses: 0,
            forced: 0,
            quarantined_at: None,
            broken: None,
        };
        let coordinators = 0..scenario.coordinators.len();
        let coordinators = coordinators.map(|who| Shared::new(Coordinator::new(self, who, &world)));
        world.coordinators = coordinators.collect();
        vec![world]
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
            .filter(|message| message.address.is_reply)
            .count();
        for message in &world.post {
            let address = message.address;
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
        self.acts_of_coordinators(world, acts);
        self.acts_of_starters(world, acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        self.step(&mut next, act)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.all_properties()
    }
}

impl Explored {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let views = given(&scenario);
        let library = Library::default();
        views.iter().for_each(|view| library.shelve(view));
        let mut views = views.into_iter();
        Self {
            scenario,
            first: views.next().unwrap(),
            second: views.next(),
            library,
            rescued: Mutex::default(),
            seen: AtomicU32::new(0),
        }
    }

    /// Whether the coordinators have reached their last aim.
    pub(crate) fn is_last(&self, view: &View) -> bool {
        let aims = self.scenario.coordinators.iter().copied().flatten();
        let mut goals = aims.filter_map(|aim| match aim {
            Aim::Reach(_, to) => Some(to.topology()),
            Aim::Keep | Aim::Abort | Aim::Outdate => None,
        });
        view.next().is_none() && goals.next_back().as_ref() == Some(view.topology())
    }

    /// The possible fates of a request that its client no longer needs.
    fn fates(&self, world: &World, address: Address, acts: &mut Vec<Act>) {
        acts.push(Act::Deliver(address));
        if world.drops < self.scenario.drops {
            acts.push(Act::Drop(address));
        }
        let late = world.post.iter().filter(|message| message.is_late);
        let mut ways: Vec<_> = late.map(|message| message.address.way()).collect();
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
            // Within its first tick an operation has no reason to give up.
            if world.tick > op.t0 {
                acts.push(Act::GiveUp(who));
            }
            return;
        }
        let mut epochs: Vec<u32> = world.served().collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs.retain(|&epoch| epoch > client.view.id().epoch);
        acts.extend(epochs.into_iter().map(|epoch| Act::Learn(who, epoch)));
        if let Some(lease) = &client.lease {
            acts.push(Act::Release(who));
            if client.extends < scenario.extends[who]
                && lease.is_extendable(&client.view, at(world.tick))
            {
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

    /// The faults that can hit the nodes.
    fn blows(&self, world: &World, acts: &mut Vec<Act>) {
        let scenario = &self.scenario;
        for (to, table) in world.nodes.iter().enumerate() {
            let is_losable = scenario.losable.contains(&to);
            let has_entry = table.live(at(world.tick)).next().is_some();
            match scenario.loss {
                Some(Loss::Vanish) if has_entry && is_losable => {
                    acts.push(Act::Lose(to, Entries::Gone))
                }
                Some(Loss::Wipe | Loss::Resync) if world.losses < scenario.losses && is_losable => {
                    acts.push(Act::Lose(to, Entries::Gone));
                }
                Some(Loss::Restart) if world.losses < scenario.losses => {
                    acts.push(Act::Lose(to, Entries::Gone));
                    if !scenario.is(Mutant::StampSurvives) {
                        acts.push(Act::Lose(to, Entries::Kept));
                    }
                }
                Some(Loss::Forced) if world.forced & 1 << to == 0 => {
                    let lease = world.clients[0].lease.as_ref();
                    if lease.is_some_and(|lease| world.is_entry(to, &lease.token)) {
                        acts.push(Act::Lose(to, Entries::Gone));
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
            if is_due && !is_cut_off && !faults::serves(table, 2) {
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

    fn acts_of_coordinators(&self, world: &World, acts: &mut Vec<Act>) {
        for (who, coordinator) in world.coordinators.iter().enumerate() {
            let (may_look, may_act) = coordinator.may();
            if may_look {
                acts.push(Act::Observe(who));
            }
            if may_act && !self.scenario.is_eager {
                acts.push(Act::Proceed(who));
            }
            if coordinator.is_voting() {
                acts.push(Act::Quit(who));
            }
        }
        acts.extend(
            world
                .orders
                .iter()
                .map(|(order, _)| Act::Obey(order.clone())),
        );
        let is_changing = !world.coordinators.is_empty();
        if !is_changing || !self.scenario.is_spread {
            return;
        }
        let in_reach = |(to, _): &(usize, _)| !self.scenario.hidden.contains(to);
        for (to, table) in world.nodes.iter().enumerate().filter(in_reach) {
            let status = faults::status(table);
            for view in &world.decided {
                if faults::would_adopt(&self.scenario, &status, view, to) {
                    acts.push(Act::Spread(view.id().epoch, to));
                }
            }
        }
    }

    fn acts_of_starters(&self, world: &World, acts: &mut Vec<Act>) {
        for who in 0..world.starters.len() {
            if self.may_start(world, who) {
                acts.push(Act::Start(who));
            }
            let nodes = 0..world.nodes.len();
            let followers = nodes.filter(|&to| self.would_follow(world, who, to));
            acts.extend(followers.map(|to| Act::Follow(who, to)));
        }
    }

    /// Nodes are numbered in the order in which client 0's first request reaches them;
    /// any other order is this one under other names.
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
            && world.post.iter().any(|message| {
                let other = &message.address;
                is_first(other) && other.node < address.node
            })
    }
}

impl World {
    /// The first request of a token that its client no longer uses, for which it
    /// is still open whether it arrives now, later or never.
    fn undecided(&self) -> Option<Address> {
        let is_open = |message: &&Shared<Message>| {
            let used = &self.clients[message.address.client].token;
            !message.is_late
                && message
                    .token()
                    .is_some_and(|token| used.as_ref() != Some(token))
        };
        self.post
            .iter()
            .find(is_open)
            .map(|message| message.address)
    }

    /// The epochs that are served.
    fn served(&self) -> impl Iterator<Item = u32> {
        let served = self.nodes.iter().map(|table| faults::served(table));
        served.flatten().map(|view| view.epoch)
    }

    /// Marks leases whose entries leave others a possible quorum in some view that
    /// can still be confirmed.
    pub(crate) fn watch(&mut self, model: &Explored) {
        let scenario = &model.scenario;
        self.note_standing(scenario);
        for who in 0..self.clients.len() {
            let Some(lease) = &self.clients[who].lease else {
                continue;
            };
            let is_over = at(self.tick) >= lease.record.valid_until();
            if is_over || lease.has_gap || scenario.extends[who] == 0 {
                continue;
            }
            let is_free = |home: usize| {
                let mut live = self.nodes[home].live(at(self.tick));
                !live.any(|(_, token, _)| *token == lease.token)
            };
            let second = model.second.iter();
            let views = self.decided.iter().chain(second).enumerate();
            let is_to_be_had = |(index, view): (usize, &Arc<View>)| {
                let placement = view.place(&key());
                let open = placement.voters().iter().filter(|&voter| {
                    let home = home(view, placement.node(voter));
                    is_free(home) && faults::served(&self.nodes[home]) == Some(view.id())
                });
                placement.has_quorum(open.collect()) && self.is_confirmable(index, view, &placement)
            };
            if views.into_iter().any(is_to_be_had) {
                self.clients[who].update(|client| {
                    if let Some(lease) = &mut client.lease {
                        lease.has_gap = true;
                    }
                });
            }
        }
    }

    /// Once every node was reached, a lease that was released by force must not
    /// have a quorum again.
    pub(crate) fn check_freed(&mut self, model: &Explored) {
        let all = (1 << self.nodes.len()) - 1;
        if self.forced != all || !model.scenario.claims.contains(&Claim::Freed) {
            return;
        }
        let Some(lease) = &self.clients[0].lease else {
            return;
        };
        let holds = |&to: &usize| self.is_entry(to, &lease.token);
        if 2 * (0..self.nodes.len()).filter(holds).count() > self.nodes.len() {
            self.broken = self.broken.or(Some(Claim::Freed));
        }
    }

    fn is_confirmable(&self, index: usize, view: &View, placement: &Placement) -> bool {
        let stood = self.stood.get(index).copied().flatten();
        is_confirmed_by_votes(view, placement)
            || stood.is_some_and(|tick| at(self.tick) < at(tick) + view.view_lease())
    }

    fn note_standing(&mut self, scenario: &Scenario) {
        if !scenario.is_standing_tracked() {
            return;
        }
        self.stood.resize(self.decided.len(), None);
        for (view, stood) in self.decided.iter().zip(&mut self.stood) {
            let serves = |node| faults::served(&self.nodes[home(view, node)]) == Some(view.id());
            if view.has_majority(serves) {
                *stood = Some(self.tick);
            }
        }
    }
}
