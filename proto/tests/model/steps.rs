//! The effect of each step.

use ringlock_proto::lease::Token;
use ringlock_proto::node::lock_table::LockTable;

use crate::client::Client;
use crate::cluster::{SECOND_NONCE, key};
use crate::cow::Shared;
use crate::faults;
use crate::network::{Address, Body, Kind, Message};
use crate::outcomes::Context;
use crate::pipeline::{self, Advance};
use crate::properties::{Claim, Seen};
use crate::scenario::{Change, Loss, Mutant, Scenario, at};
use crate::world::{Act, Entries, Explored, World};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answering {
    AtOnce,
    Later,
}

impl Act {
    /// Whether nodes or coordinators take the step, and no client.
    fn is_of_nodes(&self) -> bool {
        matches!(
            self,
            Act::Spread(..)
                | Act::Obey(_)
                | Act::Observe(_)
                | Act::Proceed(_)
                | Act::Lose(..)
                | Act::Start(_)
                | Act::Follow(..)
        )
    }
}

impl Explored {
    /// `None` if the step has no effect.
    pub(crate) fn step(&self, world: &mut World, act: Act) -> Option<()> {
        let is_of_nodes = act.is_of_nodes();
        match act {
            Act::Tick => self.tick(world),
            Act::Acquire(who) => self.turn(world, who, Client::acquire),
            Act::Extend(who, ticks) => {
                self.turn(world, who, |client, context| client.extend(context, ticks));
            }
            Act::Release(who) => self.turn(world, who, Client::release),
            Act::Abandon(who) => self.turn(world, who, Client::abandon),
            Act::GiveUp(who) => self.turn(world, who, Client::give_up),
            Act::Learn(who, epoch) => {
                let served = world
                    .nodes
                    .iter()
                    .find_map(|table| faults::served(table).filter(|served| served.epoch == epoch));
                let view = self.library.find(served?);
                self.turn(world, who, |client, _| client.learn(&view));
            }
            Act::Deliver(address) => self.deliver(world, address, Answering::AtOnce),
            Act::Defer(address) => self.deliver(world, address, Answering::Later),
            Act::Drop(address) => {
                world.drops += 1;
                world.post.retain(|message| message.address != address);
            }
            Act::Linger(address) => {
                if let Some(index) = position(world, address) {
                    world.post[index].update(|message| message.is_late = true);
                }
            }
            Act::Repeat(address) => {
                world.repeats += 1;
                if let Some(index) = position(world, address) {
                    let mut message = (*world.post[index]).clone();
                    message.address.is_echo = true;
                    world.post.push(Shared::new(message));
                }
            }
            Act::Lose(to, entries) => self.lose(world, to, entries),
            Act::Quarantine => self.quarantine(world),
            Act::Adopt(to) => {
                let view = self.second.as_ref()?;
                world.nodes[to].update(|table| faults::adopt(table, view, to));
            }
            Act::Spread(epoch, to) => self.spread(world, epoch, to),
            Act::Observe(who) => {
                self.look(world, who);
                if self.scenario.is_eager {
                    // Even if nothing follows, the observation counts.
                    let _ = self.act(world, who);
                }
            }
            Act::Proceed(who) => self.act(world, who)?,
            Act::Obey(order) => self.obey(world, &order),
            Act::Quit(who) => self.quit(world, who),
            Act::Start(who) => self.start(world, who),
            Act::Follow(who, to) => self.follow(world, who, to),
        }
        world.forget();
        world.post.sort_unstable_by_key(|message| message.address);
        world.orders.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        world.watch(self);
        world.check_freed(self);
        if is_of_nodes && self.scenario.claims.contains(&Claim::NeverStuck) && self.is_stuck(world)
        {
            world.broken = world.broken.or(Some(Claim::NeverStuck));
        }
        Some(())
    }

    fn tick(&self, world: &mut World) {
        world.tick += 1;
        let now = at(world.tick);
        for table in &mut world.nodes {
            if table.live(at(world.tick - 1)).count() > table.live(now).count() {
                table.update(|table| table.sweep(now));
            }
        }
        for who in 0..world.clients.len() {
            self.turn(world, who, Client::look_at_clock);
        }
    }

    fn turn(&self, world: &mut World, who: usize, act: impl FnOnce(&mut Client, &mut Context<'_>)) {
        let mut context = Context {
            model: self,
            who,
            tick: world.tick,
            fences: &mut world.fences,
            outbox: Vec::new(),
            broken: None,
        };
        let before = world.clients[who].token.clone();
        world.clients[who].update(|client| act(client, &mut context));
        let Context { outbox, broken, .. } = context;
        world.post.extend(outbox.into_iter().map(Shared::new));
        world.broken = world.broken.or(broken);
        if let Some(token) = before
            && world.clients[who].token.as_ref() != Some(&token)
        {
            let mut nodes = 0..world.nodes.len();
            if nodes.any(|node| world.is_left_on(node, &token)) {
                world.accuse(Claim::NoOrphan, &self.scenario);
            }
        }
    }

    fn deliver(&self, world: &mut World, address: Address, answering: Answering) {
        let Some(index) = position(world, address) else {
            return;
        };
        let message = world.post.remove(index);
        if let Body::Send(reply) = &message.body {
            self.turn(world, address.client, |client, context| {
                client.hear(context, address, reply);
            });
            return;
        }
        if self.scenario.is_ordered && !self.scenario.is(Mutant::ReleaseOvertakes) {
            let lost = |other: &Shared<Message>| other.address.precedes(&address);
            world.post.retain(|other| !lost(other));
        }
        if let Some(token) = message.token()
            && message.releases(token, address.node)
            && world.is_coming(address.node, token)
        {
            world.accuse(Claim::NoOrphan, &self.scenario);
        }
        let reply = match pipeline::advance(&self.scenario, world, &message) {
            Advance::Whole => faults::carry_out(&self.scenario, world, &message),
            Advance::Done(reply) => Some(reply),
            Advance::Part(progress) => {
                let mut rest = (*message).clone();
                rest.progress = Some(progress);
                world.post.push(Shared::new(rest));
                return;
            }
        };
        let Some(reply) = reply else {
            return;
        };
        if matches!(reply, ringlock_proto::node::message::Reply::Made { .. }) {
            self.see(Seen::Healed);
        }
        let address = Address {
            is_reply: true,
            ..address
        };
        if address.is_echo || !world.clients[address.client].reads(&address) {
            return;
        }
        match answering {
            Answering::AtOnce => self.turn(world, address.client, |client, context| {
                client.hear(context, address, &reply);
            }),
            Answering::Later => world.post.push(Shared::new(Message {
                address,
                is_late: false,
                progress: None,
                body: Body::Send(reply),
            })),
        }
    }

    fn lose(&self, world: &mut World, to: usize, entries: Entries) {
        world.losses += 1;
        match self.scenario.loss {
            Some(Loss::Wipe) => world.nodes[to] = faults::wiped(self, to),
            Some(Loss::Resync) => world.nodes[to] = faults::resynced(self, to),
            Some(Loss::Restart) => world.nodes[to].update(|table| {
                if entries == Entries::Gone {
                    table.delete(&key());
                }
                if !self.scenario.is(Mutant::StampSurvives) {
                    table.restart("run-2");
                }
            }),
            Some(Loss::Vanish) => {
                world.losses -= 1;
                world.nodes[to].update(|table| table.delete(&key()));
            }
            Some(Loss::Forced) => {
                world.losses -= 1;
                world.forced |= 1 << to;
                world.nodes[to].update(|table| table.delete(&key()));
            }
            None => {}
        }
    }

    fn quarantine(&self, world: &mut World) {
        world.quarantined_at = Some(world.tick);
        let is_force = matches!(self.scenario.change, Change::Force { .. });
        for table in world.nodes.iter_mut().skip(usize::from(is_force)) {
            if !is_force {
                *table = Shared::new(LockTable::new("run-2"));
            }
            table.update(|table| faults::quarantine(table, SECOND_NONCE));
        }
    }
}

fn position(world: &World, address: Address) -> Option<usize> {
    let mut requests = world.post.iter();
    requests.position(|message| message.address == address)
}

impl World {
    fn accuse(&mut self, claim: Claim, scenario: &Scenario) {
        if scenario.claims.contains(&claim) {
            self.broken = self.broken.or(Some(claim));
        }
    }

    pub(crate) fn is_entry(&self, node: usize, token: &Token) -> bool {
        let mut live = self.nodes[node].live(at(self.tick));
        live.any(|(_, holder, _)| holder == token)
    }

    /// Whether a request is in flight that would create an entry.
    fn is_coming(&self, node: usize, token: &Token) -> bool {
        let mut requests = self.post.iter();
        requests.any(|message| message.address.node == node && message.makes(token))
    }

    /// Whether a node has or may get an entry that no request will delete.
    fn is_left_on(&self, node: usize, token: &Token) -> bool {
        let mut requests = self.post.iter();
        (self.is_entry(node, token) || self.is_coming(node, token))
            && !requests.any(|message| message.releases(token, node))
    }

    /// Drops what can no longer make a difference, so that states with the same
    /// behaviour are one.
    fn forget(&mut self) {
        let clients = &self.clients;
        self.post.retain(|message| {
            let address = &message.address;
            let is_wanted = address.is_reply || address.kind == Kind::Probe;
            !is_wanted || clients[address.client].reads(address)
        });
        // Of a token that no client uses, only requests that create, raise or delete
        // an entry matter.
        let is_inert = |message: &Shared<Message>| {
            let Address { client, node, .. } = message.address;
            message.token().is_some_and(|token| {
                self.clients[client].token.as_ref() != Some(token)
                    && !self.is_entry(node, token)
                    && !self.is_coming(node, token)
                    && !self.clients[client].reads(&message.address)
            })
        };
        let inert: Vec<bool> = self.post.iter().map(is_inert).collect();
        let mut inert = inert.into_iter();
        self.post.retain(|_| inert.next() != Some(true));
        let Self { clients, post, .. } = self;
        for (who, client) in clients.iter_mut().enumerate() {
            let is_awaited = |serial| {
                post.iter().any(|message| {
                    let Address {
                        client,
                        serial: own,
                        kind,
                        ..
                    } = message.address;
                    (client, own) == (who, serial) && matches!(kind, Kind::Main | Kind::Heal)
                })
            };
            if client.is_resting_late() {
                client.update(Client::rest);
            }
            if client.tail().is_some_and(|serial| !is_awaited(serial)) {
                client.update(Client::cut_tail);
            }
        }
    }
}
