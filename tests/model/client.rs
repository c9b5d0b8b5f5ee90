//! What a driver does around the machines: it posts their letters, hears the
//! answers, and keeps the lease.

use ringlock::proto::attempt::{Attempt, Claim};
use ringlock::proto::lease::{Fence, Key, Token};
use ringlock::proto::quorum::{Seats, majority};
use ringlock::proto::release::{Farewell, Release};
use ringlock::proto::renewal::{Prolongation, Renewal};
use ringlock::proto::round::{Event, Machine, Step, vouches_for};
use ringlock::proto::time::Instant;
use ringlock::proto::wire::{Answer, NodeError, NodeErrorKind, Reply, Request};

use crate::outcomes::Desk;
use crate::post::{Address, Body, Kind, Letter};
use crate::properties::Seen;
use crate::running::{Outcome, Running};
use crate::scenario::{Mutant, Scenario, at, node, span, ttl, view};

/// The one key.
pub(crate) fn key() -> Key {
    Key::new("k").unwrap()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// Of the view that it goes by.
    pub(crate) epoch: u32,
    /// Attempts begun.
    pub(crate) attempts: u8,
    /// Extends begun.
    pub(crate) extends: u8,
    /// Operations begun since it was idle.
    pub(crate) serial: u8,
    /// The token in use, by an attempt or a lease.
    pub(crate) token: Option<Token>,
    pub(crate) op: Option<Op>,
    pub(crate) lease: Option<Lease>,
    /// Per node, when the newest request was sent that it answered under the
    /// client's view. Empty where the key's replicas are the whole cluster.
    seen_at: Vec<Option<u8>>,
}

/// An operation whose outcome is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Op {
    pub(crate) serial: u8,
    pub(crate) running: Running,
    pub(crate) t0: u8,
    pub(crate) waits: Vec<(usize, Kind)>,
    /// The highest fence that was granted before it began; 0 where the order
    /// of the grants says as much.
    pub(crate) before: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) valid_until: Instant,
    pub(crate) epoch: u32,
    pub(crate) fence: Fence,
    pub(crate) acknowledged: Seats,
    /// Whether somebody else could have had a quorum since the last success.
    pub(crate) has_gap: bool,
    /// The machine that was over last: it still hears late answers.
    pub(crate) tail: Option<(u8, Running)>,
}

impl Client {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let is_confirmed_by_votes = scenario.nodes == scenario.replicas;
        let seen = if is_confirmed_by_votes {
            0
        } else {
            scenario.nodes
        };
        Self {
            epoch: 1,
            attempts: 0,
            extends: 0,
            serial: 0,
            token: None,
            op: None,
            lease: None,
            seen_at: vec![None; seen],
        }
    }

    pub(crate) fn acquire(&mut self, desk: &mut Desk<'_>) {
        let scenario = &desk.model.scenario;
        self.attempts += 1;
        let fresh = if scenario.is(Mutant::TokenPerClient) {
            0
        } else {
            self.attempts
        };
        let token = Token::new(desk.who as u128 * 100 + u128::from(fresh), None);
        self.token = Some(token.clone());
        let running = Running::Attempt(Attempt::new(Claim {
            view: view(self.epoch),
            view_lease: span(scenario.view_lease),
            key: key(),
            token,
            ttl: ttl(scenario.ttl),
            placement: scenario.placement(self.epoch),
            t0: desk.now(),
        }));
        self.begin(desk, running);
    }

    pub(crate) fn extend(&mut self, desk: &mut Desk<'_>, ticks: u8) {
        let Some(lease) = &self.lease else { return };
        let scenario = &desk.model.scenario;
        self.extends += 1;
        let late = if scenario.is(Mutant::ExtendAfterLapse) {
            span(10)
        } else {
            span(0)
        };
        let running = Running::Renewal(Renewal::new(Prolongation {
            view: view(self.epoch),
            view_lease: span(scenario.view_lease),
            key: key(),
            token: lease.token.clone(),
            fence: lease.fence,
            ttl: ttl(ticks),
            placement: scenario.placement(self.epoch),
            established: 1,
            acknowledged: lease.acknowledged,
            valid_until: lease.valid_until + late,
            t0: desk.now(),
        }));
        self.begin(desk, running);
    }

    /// Lets go of the lease. Whoever waits for the answers learns whether it
    /// was in time.
    pub(crate) fn release(&mut self, desk: &mut Desk<'_>) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.token = None;
        let placement = desk.model.scenario.placement(lease.epoch);
        let machine = Release::new(key(), lease.token, placement, desk.now());
        if desk.model.scenario.awaits_release {
            self.begin(desk, Running::Release(machine));
        } else {
            for seat in placement.seats().iter() {
                let to = placement.node(seat).get();
                let request = machine.request(Step::Main, seat);
                self.post(desk, (self.serial, Kind::Farewell), to, request);
            }
            self.serial += 1;
        }
    }

    pub(crate) fn abandon(&mut self, desk: &mut Desk<'_>) {
        if let Some(op) = self.op.take() {
            self.feed(desk, op, Event::Abandoned);
        }
        self.op = None;
        self.token = None;
    }

    /// Every node that has not answered is taken for silent.
    pub(crate) fn give_up(&mut self, desk: &mut Desk<'_>) {
        let waits = self.op.as_mut().map(|op| std::mem::take(&mut op.waits));
        for (from, kind) in waits.into_iter().flatten() {
            let error = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.answered(desk, from, kind.step(), Err(error));
        }
    }

    pub(crate) fn hear(&mut self, desk: &mut Desk<'_>, address: Address, reply: &Reply) {
        if let Reply::Stale(serving) = reply {
            desk.model.see(Seen::Stale);
            self.learn(serving.map_or(0, |view| view.epoch));
        }
        let from = address.node;
        let answer: Answer = Ok(reply.clone());
        match &mut self.op {
            Some(op) if (self.attempts, op.serial) == (address.attempt, address.serial) => {
                op.waits.retain(|wait| *wait != (from, address.kind));
                let epoch = op.running.epoch();
                if epoch == Some(self.epoch)
                    && vouches_for(&answer, view(self.epoch))
                    && let Some(seen) = self.seen_at.get_mut(from)
                {
                    *seen = (*seen).max(Some(op.t0));
                }
                if desk.model.scenario.is(Mutant::DoubleVote)
                    && matches!(reply, Reply::Granted { .. })
                {
                    let twin = (from + 1) % desk.model.scenario.replicas;
                    self.answered(desk, twin, Step::Main, answer.clone());
                }
                self.answered(desk, from, address.kind.step(), answer);
            }
            _ => self.hear_late(desk, from, answer),
        }
    }

    /// Views only move up.
    pub(crate) fn learn(&mut self, epoch: u32) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.seen_at.fill(None);
        }
    }

    /// Whether somebody still wants the answer that bears this address.
    pub(crate) fn reads(&self, address: &Address) -> bool {
        if address.attempt != self.attempts {
            return false;
        }
        let tail = self.lease.as_ref().and_then(|lease| lease.tail.as_ref());
        let is_late = tail.is_some_and(|(serial, _)| *serial == address.serial);
        is_late && address.kind == Kind::Main
            || self.op.as_ref().is_some_and(|op| {
                op.serial == address.serial && op.waits.contains(&(address.node, address.kind))
            })
    }

    /// Which operation late answers are still heard for.
    pub(crate) fn tail(&self) -> Option<u8> {
        let tail = self.lease.as_ref()?.tail.as_ref()?;
        Some(tail.0)
    }

    /// Whether it is idle and remembers how it came to be.
    pub(crate) fn is_resting_late(&self) -> bool {
        self.op.is_none() && self.token.is_none() && self.serial > 0
    }

    /// Forgets how it came to be idle.
    pub(crate) fn rest(&mut self) {
        self.serial = 0;
    }

    pub(crate) fn cut_tail(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.tail = None;
        }
    }

    fn begin(&mut self, desk: &mut Desk<'_>, running: Running) {
        let op = Op {
            serial: self.serial,
            running,
            t0: desk.tick,
            waits: Vec::new(),
            before: if desk.is_fence_ordered() {
                0
            } else {
                desk.highest_fence()
            },
        };
        self.serial += 1;
        let scenario = &desk.model.scenario;
        let placement = scenario.placement(self.epoch);
        let confirmed_until = self.confirmed_at(desk, &op) + span(scenario.view_lease);
        let others = (0..scenario.nodes).filter(|&to| placement.seat(node(to)).is_none());
        let probes = if desk.now() < confirmed_until {
            Vec::new()
        } else {
            others.map(node).collect()
        };
        self.feed(desk, op, Event::Start { probes });
    }

    fn answered(&mut self, desk: &mut Desk<'_>, from: usize, step: Step, answer: Answer) {
        let from = node(from);
        if let Some(op) = self.op.take() {
            self.feed(desk, op, Event::Answered { from, step, answer });
        }
    }

    fn feed(&mut self, desk: &mut Desk<'_>, mut op: Op, event: Event) {
        let confirmed_at = self.confirmed_at(desk, &op);
        let effects = op.running.on(desk.now(), confirmed_at, event);
        let placement = op.running.placement();
        if let Some((step, seats)) = effects.send {
            for seat in seats.iter() {
                let to = placement.node(seat).get();
                op.waits.push((to, step.into()));
                let request = op.running.request(step, seat);
                self.post(desk, (op.serial, step.into()), to, request);
            }
        }
        for to in effects.probe {
            op.waits.push((to.get(), Kind::Probe));
            self.post(desk, (op.serial, Kind::Probe), to.get(), Request::Status);
        }
        if let (false, Some(token)) = (effects.release.is_empty(), self.token.clone()) {
            for seat in effects.release.iter() {
                let (key, token) = (key(), token.clone());
                let to = placement.node(seat).get();
                let request = Request::Release { key, token };
                self.post(desk, (op.serial, Kind::Farewell), to, request);
            }
        }
        if let Some(lease) = &mut self.lease {
            lease.acknowledged = lease
                .acknowledged
                .minus(effects.disowned)
                .union(effects.acknowledged);
        }
        op.waits.sort_unstable();
        match effects.outcome {
            None => self.op = Some(op),
            Some(Outcome::Attempt(result)) => self.conclude(desk, op, result),
            Some(Outcome::Renewal(extension)) => self.renewed(desk, op, &extension),
            Some(Outcome::Release(farewell)) => desk.model.see(match farewell {
                Farewell::Released => Seen::Released,
                _ => Seen::ReleasedTooLate,
            }),
        }
    }

    /// Where the key's replicas are the whole cluster, the votes themselves
    /// confirm the view, as of the operation's start.
    fn confirmed_at(&self, desk: &Desk<'_>, op: &Op) -> Instant {
        let scenario = &desk.model.scenario;
        if scenario.is(Mutant::NoConfirmation) {
            return desk.now();
        }
        if self.seen_at.is_empty() {
            return at(op.t0);
        }
        let mut seen_at = self.seen_at.clone();
        seen_at.sort_unstable();
        let majority_th = seen_at.len() - majority(seen_at.len());
        seen_at[majority_th].map_or(Instant::default(), at)
    }

    fn post(&self, desk: &mut Desk<'_>, (serial, kind): (u8, Kind), to: usize, request: Request) {
        let address = Address {
            client: desk.who,
            node: to,
            attempt: self.attempts,
            serial,
            kind,
            is_reply: false,
            is_echo: false,
        };
        let body = Body::Ask(request);
        desk.outbox.push(Letter {
            address,
            is_late: false,
            body,
        });
    }
}
