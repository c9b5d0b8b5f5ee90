//! The driver around the machines: it sends their requests, receives the answers,
//! and keeps the lease.

use std::sync::Arc;

use ringlock_proto::confirmation::Confirmations;
use ringlock_proto::lease::Token;
use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::{Answer, NodeError, NodeErrorKind, Reply, Request};
use ringlock_proto::operation::acquire::{AcquireParams, Attempt};
use ringlock_proto::operation::extend::Extend;
use ringlock_proto::operation::machine::{Event, Machine, Step, vouches_for};
use ringlock_proto::operation::release::{Release, ReleaseOutcome};
use ringlock_proto::quorum::Placement;
use ringlock_proto::time::Instant;
use ringlock_ring::NodeIndex;

use crate::cluster::{home, key, member};
use crate::lease::Lease;
use crate::mutations;
use crate::network::{Address, Body, Kind, Message};
use crate::outcomes::Context;
use crate::properties::Seen;
use crate::running::{Outcome, Running};
use crate::scenario::{Loss, Mutant, at, span, ttl};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// The view that it uses.
    pub(crate) view: Arc<View>,
    /// Attempts started.
    pub(crate) attempts: u8,
    /// Extends started.
    pub(crate) extends: u8,
    /// Operations started since it was idle.
    pub(crate) serial: u8,
    /// The token in use, by an attempt or a lease.
    pub(crate) token: Option<Token>,
    pub(crate) op: Option<Op>,
    pub(crate) lease: Option<Lease>,
    /// Confirmations of the client's view; none where [`is_confirmed_by_votes`].
    confirmations: Confirmations,
}

/// An operation whose outcome is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Op {
    pub(crate) serial: u8,
    pub(crate) running: Running,
    pub(crate) view: Arc<View>,
    pub(crate) t0: u8,
    pub(crate) waits: Vec<(usize, Kind)>,
    /// Confirmations of its view, once the client uses another one.
    confirmations: Option<Confirmations>,
    /// Whether another client could have had a quorum before it began, in
    /// scenarios where no client can know what happens while it runs.
    pub(crate) has_gap: bool,
    /// The highest fence that was granted before it began; 0 where the order
    /// of the grants already shows it.
    pub(crate) before: u64,
}

impl Client {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self {
            confirmations: Confirmations::new(view.len()),
            view,
            attempts: 0,
            extends: 0,
            serial: 0,
            token: None,
            op: None,
            lease: None,
        }
    }

    pub(crate) fn acquire(&mut self, context: &mut Context<'_>) {
        let scenario = &context.model.scenario;
        self.attempts += 1;
        let fresh = if scenario.is(Mutant::TokenPerClient) {
            0
        } else {
            self.attempts
        };
        let drawn_by = if scenario.is(Mutant::ForkedTokens) {
            0
        } else {
            context.who
        };
        let token = Token::new(drawn_by as u128 * 100 + u128::from(fresh), None);
        self.token = Some(token.clone());
        let max_ttl = mutations::max_ttl(scenario, &self.view);
        let running = Running::Attempt(Attempt::new(AcquireParams {
            view: self.view.id(),
            view_lease: self.view.view_lease(),
            key: key(),
            token,
            ttl: ttl(scenario.ttl, max_ttl),
            placement: mutations::placement(scenario, &self.view),
            t0: context.now(),
        }));
        self.begin(context, running);
    }

    pub(crate) fn extend(&mut self, context: &mut Context<'_>, ticks: u8) {
        let Some(lease) = &mut self.lease else { return };
        let scenario = &context.model.scenario;
        self.extends += 1;
        let late = if scenario.is(Mutant::ExtendAfterLapse) {
            span(10)
        } else {
            span(0)
        };
        let record = &mut lease.record;
        record.move_to(Arc::clone(&self.view), &key(), context.now());
        let max_ttl = mutations::max_ttl(scenario, &self.view);
        let ttl = ttl(ticks, max_ttl);
        let params = record.extend_params(&key(), &lease.token, ttl, context.now());
        let mut params = params.expect("it is granted");
        params.valid_until = params.valid_until + late;
        if scenario.is(Mutant::LongerTtlGranted) {
            params.ttl = ttl;
        }
        self.begin(context, Running::Extend(Extend::new(params)));
    }

    /// Releases the lease. If the client waits for the answers, it learns whether
    /// the release was in time.
    pub(crate) fn release(&mut self, context: &mut Context<'_>) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.token = None;
        let Lease { token, record, .. } = lease;
        let base = record.base();
        let (view, placement) = (Arc::clone(&base.at), base.placement);
        let homes = |nodes: &mut dyn Iterator<Item = (&Arc<View>, NodeIndex)>| {
            nodes.fold(0_u8, |all, (view, node)| all | 1 << home(view, node))
        };
        let here = homes(&mut placement.nodes().iter().map(|&node| (&view, node)));
        let elsewhere = homes(&mut record.entries(context.now())) & !here;
        let machine = Release::new(key(), token.clone(), placement, context.now());
        let serial = self.serial;
        let released = (serial, Kind::ReleaseOutcome);
        if context.model.scenario.awaits_release {
            self.begin_in(context, Running::Release(machine), view);
        } else {
            for voter in placement.voters().iter() {
                let to = home(&view, placement.node(voter));
                let request = machine.request(Step::Main, voter);
                self.send(context, released, to, request);
            }
            self.serial += 1;
        }
        // A lease that was carried over has left entries on its earlier nodes.
        for to in (0..u8::BITS as usize).filter(|to| elsewhere & 1 << to != 0) {
            let (key, token) = (key(), token.clone());
            self.send(context, released, to, Request::Release { key, token });
        }
    }

    pub(crate) fn abandon(&mut self, context: &mut Context<'_>) {
        if let Some(op) = self.op.take() {
            self.feed(context, op, Event::Abandoned);
        }
        self.op = None;
        self.token = None;
    }

    /// Every node that has not answered counts as silent.
    pub(crate) fn give_up(&mut self, context: &mut Context<'_>) {
        let waits = self.op.as_mut().map(|op| std::mem::take(&mut op.waits));
        for (from, kind) in waits.into_iter().flatten() {
            let error = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.answered(context, from, kind.step(), Err(error));
        }
    }

    pub(crate) fn hear(&mut self, context: &mut Context<'_>, address: Address, reply: &Reply) {
        if let Reply::Stale(serving) = reply {
            context.model.see(Seen::Stale);
            if let Some(id) = serving.filter(|id| id.epoch > self.view.id().epoch) {
                self.learn(&context.model.library.find(id));
            }
        }
        let from = address.node;
        let answer: Answer = Ok(reply.clone());
        match &mut self.op {
            Some(op) if (self.attempts, op.serial) == (address.attempt, address.serial) => {
                op.waits.retain(|wait| *wait != (from, address.kind));
                if !matches!(op.running, Running::Release(_))
                    && !is_confirmed_by_votes(&op.view, &op.running.placement())
                    && vouches_for(&answer, op.view.id())
                    && let Some(node) = member(&op.view, from)
                {
                    let confirmations = op.confirmations.as_ref();
                    confirmations
                        .unwrap_or(&self.confirmations)
                        .saw(node, at(op.t0));
                }
                if context.model.scenario.is(Mutant::DoubleVote)
                    && matches!(reply, Reply::Granted { .. })
                {
                    let twin = (from + 1) % context.model.scenario.replicas;
                    self.answered(context, twin, Step::Main, answer.clone());
                }
                self.answered(context, from, address.kind.step(), answer);
            }
            _ => self.hear_late(context, (from, address.kind.step()), answer),
        }
    }

    /// Views only increase.
    pub(crate) fn learn(&mut self, view: &Arc<View>) {
        if view.id().epoch > self.view.id().epoch {
            let fresh = Confirmations::new(view.len());
            let former = std::mem::replace(&mut self.confirmations, fresh);
            if let Some(op) = self.op.as_mut().filter(|op| op.view == self.view) {
                op.confirmations = Some(former);
            }
            self.view = Arc::clone(view);
        }
    }

    /// Whether the client still needs the answer with this address.
    pub(crate) fn reads(&self, address: &Address) -> bool {
        if address.attempt != self.attempts {
            return false;
        }
        let is_late = self.tail() == Some(address.serial);
        is_late && matches!(address.kind, Kind::Main | Kind::Heal)
            || self.op.as_ref().is_some_and(|op| {
                op.serial == address.serial && op.waits.contains(&(address.node, address.kind))
            })
    }

    /// The operation for which late answers are still processed.
    pub(crate) fn tail(&self) -> Option<u8> {
        let (serial, ..) = self.lease.as_ref()?.tail.as_ref()?;
        Some(*serial)
    }

    /// Whether it is idle and still has the counter of its last operations.
    pub(crate) fn is_resting_late(&self) -> bool {
        self.op.is_none() && self.token.is_none() && self.serial != 0
    }

    /// Clears that counter.
    pub(crate) fn rest(&mut self) {
        self.serial = 0;
    }

    pub(crate) fn cut_tail(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.tail = None;
        }
    }

    fn begin(&mut self, context: &mut Context<'_>, running: Running) {
        let view = Arc::clone(&self.view);
        self.begin_in(context, running, view);
    }

    fn begin_in(&mut self, context: &mut Context<'_>, running: Running, view: Arc<View>) {
        let is_renewal = matches!(running, Running::Extend(_));
        let is_forced = context.model.scenario.loss == Some(Loss::Forced);
        let has_gap = (is_forced || context.model.scenario.loss == Some(Loss::Vanish))
            && self.lease.as_ref().is_some_and(|lease| lease.has_gap);
        let is_order_enough = context.is_fence_ordered() && !(is_renewal && is_forced);
        let op = Op {
            serial: self.serial,
            running,
            view,
            t0: context.tick,
            waits: Vec::new(),
            confirmations: None,
            has_gap,
            before: if is_order_enough {
                0
            } else {
                context.highest_fence()
            },
        };
        self.serial += 1;
        let placement = op.running.placement();
        let probes = if is_confirmed_by_votes(&op.view, &placement) {
            Vec::new()
        } else {
            self.confirmations.probes(&op.view, &placement, at(op.t0))
        };
        self.feed(context, op, Event::Start { probes });
    }

    fn answered(&mut self, context: &mut Context<'_>, from: usize, step: Step, answer: Answer) {
        if let Some(op) = self.op.take() {
            let Some(from) = member(&op.view, from) else {
                self.op = Some(op);
                return;
            };
            self.feed(context, op, Event::Answered { from, step, answer });
        }
    }

    fn feed(&mut self, context: &mut Context<'_>, mut op: Op, event: Event) {
        let confirmed_at = self.confirmed_at(context, &op);
        let effects = op.running.on(context.now(), confirmed_at, event);
        let placement = op.running.placement();
        if let Some((step, voters)) = effects.send {
            for voter in voters.iter() {
                let to = home(&op.view, placement.node(voter));
                op.waits.push((to, step.into()));
                let request = op.running.request(step, voter);
                self.send(context, (op.serial, step.into()), to, request);
            }
        }
        let has = mutations::seen(&context.model.scenario, &effects);
        for node in effects.probe {
            let to = home(&op.view, node);
            op.waits.push((to, Kind::Probe));
            self.send(context, (op.serial, Kind::Probe), to, Request::Status);
        }
        if let (false, Some(token)) = (effects.release.is_empty(), self.token.clone()) {
            for voter in effects.release.iter() {
                let (key, token) = (key(), token.clone());
                let to = home(&op.view, placement.node(voter));
                let request = Request::Release { key, token };
                self.send(context, (op.serial, Kind::ReleaseOutcome), to, request);
            }
        }
        if let Some(lease) = &mut self.lease {
            let record = &mut lease.record;
            record.acknowledge(&op.view, &placement, has, effects.disowned);
        }
        op.waits.sort_unstable();
        match effects.outcome {
            None => self.op = Some(op),
            Some(Outcome::Attempt(result)) => self.conclude(context, op, result),
            Some(Outcome::Extend(extension)) => self.renewed(context, op, &extension),
            Some(Outcome::Release(released)) => context.model.see(match released {
                ReleaseOutcome::Released => Seen::Released,
                _ => Seen::ReleasedTooLate,
            }),
        }
    }

    fn confirmed_at(&self, context: &Context<'_>, op: &Op) -> Instant {
        if context.model.scenario.is(Mutant::NoConfirmation) {
            return context.now();
        }
        if is_confirmed_by_votes(&op.view, &op.running.placement()) {
            return at(op.t0);
        }
        let confirmations = op.confirmations.as_ref();
        confirmations
            .unwrap_or(&self.confirmations)
            .for_operation(&op.view, at(op.t0))
    }

    pub(crate) fn send(
        &self,
        context: &mut Context<'_>,
        (serial, kind): (u8, Kind),
        to: usize,
        request: Request,
    ) {
        let address = Address {
            client: context.who,
            node: to,
            attempt: self.attempts,
            serial,
            kind,
            is_reply: false,
            is_echo: false,
        };
        let body = Body::Ask(request);
        context.outbox.push(Message {
            address,
            is_late: false,
            progress: None,
            body,
        });
    }
}

/// Where the key's replicas are the whole cluster, the votes themselves confirm the
/// view, as of the operation's start.
pub(crate) fn is_confirmed_by_votes(view: &View, placement: &Placement) -> bool {
    view.len() == placement.nodes().len()
}
