//! Coordinators: the driver around [`Transition`] and [`BallotRun`].
//!
//! An observation is one atomic reading of every node; the resulting step may follow
//! at any later time. Votes and quarantines are messages that arrive late or never,
//! which also covers lost answers. A decided view may be adopted at any time, so no
//! coordinator need send it.

use std::sync::Arc;
use std::time::Duration;

use ringlock_proto::membership::paxos::{BallotOutcome, BallotRun, Outgoing, Proposal};
use ringlock_proto::membership::transition::{Goal, Move, Transition};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::{
    Answer, Ballot, NodeError, NodeErrorKind, NodeState, NodeStatus, Reply, Request,
};

use crate::cluster::{home, home_of, member, name};
use crate::cow::Shared;
use crate::faults;
use crate::mutations;
use crate::properties::{Claim, Seen};
use crate::scenario::{Aim, Mutant, at};
use crate::world::{Explored, World};

/// How long prepared spares have been in quarantine.
const LONG_AGO: Duration = Duration::from_secs(500);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Coordinator {
    transition: Transition,
    /// Number of aims reached.
    reached: usize,
    vote: Option<Vote>,
    /// Votes that it has called.
    ballots: u8,
    /// The highest round that it knows of.
    round: u32,
    /// Nonces that it has assigned.
    nonces: u8,
    /// Whether it has observed the nodes since it last acted.
    has_looked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vote {
    decision: BallotRun,
    /// The view in force.
    view: Arc<View>,
    /// The view that was proposed.
    motion: Arc<View>,
    waits: Vec<usize>,
}

/// A coordinator's message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Order {
    pub(crate) from: usize,
    pub(crate) kind: OrderKind,
    pub(crate) to: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum OrderKind {
    Quarantine(u8),
    Prepare(u8),
    Accept(u8),
}

impl Coordinator {
    pub(crate) fn new(model: &Explored, who: usize, world: &World) -> Self {
        let view = world.decided.last().unwrap();
        Self {
            transition: transition(model, world, (who, 0), view),
            reached: 0,
            vote: None,
            ballots: 0,
            round: 0,
            nonces: 0,
            has_looked: false,
        }
    }

    /// Whether it may observe now, and whether it may act on what it saw.
    pub(crate) fn may(&self) -> (bool, bool) {
        let is_idle = self.vote.is_none();
        (is_idle, is_idle && self.has_looked)
    }

    pub(crate) fn is_voting(&self) -> bool {
        self.vote.is_some()
    }

    /// Whether the coordinator waits for an answer to this order.
    pub(crate) fn awaits(&self, order: &Order) -> bool {
        match order.kind {
            OrderKind::Quarantine(_) => false,
            OrderKind::Prepare(serial) | OrderKind::Accept(serial) => {
                self.vote.is_some() && serial == self.ballots
            }
        }
    }
}

fn transition(
    model: &Explored,
    world: &World,
    (who, aim): (usize, usize),
    view: &Arc<View>,
) -> Transition {
    let goal = match model.scenario.coordinators[who][aim] {
        Aim::Keep => Goal::Keep,
        Aim::Abort | Aim::Outdate => Goal::Abort,
        Aim::Reach(from, to) => Goal::Reach {
            from: from.topology(),
            to: to.topology(),
        },
    };
    let mut transition = Transition::new(goal, Arc::clone(view));
    if model.scenario.coordinators[who][aim] == Aim::Outdate {
        transition = transition.with_plans_outdated();
    }
    if model.scenario.is_prepared {
        let long_ago = mutations::coordinator_clock(0) - LONG_AGO;
        for spare in model.scenario.nodes..world.nodes.len() {
            let status = faults::status(&world.nodes[spare]);
            transition.saw(long_ago, name(spare), Some(status));
        }
    }
    transition
}

impl Explored {
    fn status(&self, world: &World, home: usize) -> Option<NodeStatus> {
        let is_hidden = self.scenario.hidden.contains(&home);
        (!is_hidden).then(|| faults::status(&world.nodes[home]))
    }

    /// A coordinator learns of a newer view. A mutant forgets that its transition was
    /// taken back.
    fn hear(&self, world: &World, (who, coordinator): (usize, &mut Coordinator), view: Arc<View>) {
        let was_joint = coordinator.transition.view().next().is_some();
        coordinator.transition.moved(Arc::clone(&view));
        let is_stopped = coordinator.transition.taken_back().is_some();
        if is_stopped && mutations::ignores_abort(&self.scenario, was_joint) {
            coordinator.transition = transition(self, world, (who, coordinator.reached), &view);
        }
    }

    /// Reads every node.
    pub(crate) fn look(&self, world: &mut World, who: usize) {
        let now = mutations::coordinator_clock(world.tick);
        let mut coordinator = (*world.coordinators[who]).clone();
        let mut everybody: Vec<usize> = Vec::new();
        // A newer view may have more nodes.
        while everybody.len() < coordinator.transition.everybody().len() {
            let names = coordinator.transition.everybody();
            everybody = names.iter().map(|n| home_of(n)).collect();
            for &node in &everybody {
                if let Some(status) = self.status(world, node)
                    && let NodeState::Serving(id) = status.standing()
                    && id.epoch > coordinator.transition.view().id().epoch
                {
                    let view = self.library.find(id);
                    self.hear(world, (who, &mut coordinator), view);
                }
            }
        }
        for node in everybody {
            let status = self.status(world, node);
            coordinator.transition.saw(now, name(node), status);
        }
        coordinator.has_looked = !self.scenario.is_eager;
        world.coordinators[who] = Shared::new(coordinator);
    }

    /// Acts on what it saw; `None` if there is nothing to do.
    pub(crate) fn act(&self, world: &mut World, who: usize) -> Option<()> {
        let scenario = &self.scenario;
        let mut coordinator = (*world.coordinators[who]).clone();
        coordinator.has_looked = false;
        let now = mutations::clock(scenario, coordinator.transition.view(), world.tick);
        let mut nonces = coordinator.nonces;
        let next = coordinator.transition.next(now, || {
            nonces += 1;
            format!("nonce-{who}-{nonces}").into()
        });
        match next.unwrap() {
            Move::Send(requests) => {
                let view = coordinator.transition.view();
                let orders = requests.into_iter().filter_map(|(name, request)| {
                    let is_quarantine = matches!(request, Request::Quarantine { .. });
                    let to = home_of(&name);
                    is_quarantine.then(|| (to, mutations::quarantine(scenario, view, to, request)))
                });
                let orders: Vec<_> = orders.collect();
                let is_on_its_way = |to: usize| {
                    let mut orders = world.orders.iter();
                    orders.any(|(order, _)| {
                        matches!(order.kind, OrderKind::Quarantine(_))
                            && (order.from, order.to) == (who, to)
                    })
                };
                if orders.is_empty() || orders.iter().any(|(to, _)| is_on_its_way(*to)) {
                    return None;
                }
                coordinator.nonces = nonces;
                for (to, request) in orders {
                    let kind = OrderKind::Quarantine(nonces);
                    let order = Order {
                        from: who,
                        kind,
                        to,
                    };
                    world.orders.push((order, request));
                }
                world.coordinators[who] = Shared::new(coordinator);
                if scenario.is_eager && scenario.is_vote_brief {
                    self.hold(world, who);
                }
            }
            Move::Propose(view) if coordinator.ballots < scenario.ballots[who] => {
                let motion = Arc::new(mutations::motion(scenario, *view));
                self.library.shelve(&motion);
                self.call_vote(world, (who, coordinator), motion);
                if scenario.is_vote_brief {
                    self.hold(world, who);
                    self.quit(world, who);
                }
            }
            Move::Done if coordinator.reached + 1 < scenario.coordinators[who].len() => {
                coordinator.reached += 1;
                let view = Arc::clone(coordinator.transition.view());
                coordinator.transition = transition(self, world, (who, coordinator.reached), &view);
                world.coordinators[who] = Shared::new(coordinator);
            }
            Move::Superseded => {
                if coordinator.transition.taken_back().is_some() {
                    self.see(Seen::Stopped);
                }
                return None;
            }
            _ => return None,
        }
        Some(())
    }

    fn call_vote(
        &self,
        world: &mut World,
        (who, mut coordinator): (usize, Coordinator),
        motion: Arc<View>,
    ) {
        coordinator.ballots += 1;
        if self.scenario.is(Mutant::CompareAndSet) {
            self.decide(world, &motion);
            self.hear(world, (who, &mut coordinator), motion);
            world.coordinators[who] = Shared::new(coordinator);
            return;
        }
        coordinator.round += 1;
        let ballot = Ballot {
            round: coordinator.round,
            proposer: match self.scenario.is(Mutant::ForkedBallots) {
                true => 0,
                false => who as u64,
            },
        };
        let view = Arc::clone(coordinator.transition.view());
        let paper = Proposal {
            view: motion.id(),
            document: Arc::clone(motion.document()),
        };
        let mut decision = BallotRun::new(view.id(), view.deciders(), ballot, paper);
        let mut call = decision.start();
        if self.scenario.is(Mutant::NoPrepare) {
            for node in view.deciders() {
                let Outgoing { ask, .. } = decision.on(node, Ok(Reply::Promised(None)));
                call.ask = ask.or(call.ask);
            }
        }
        coordinator.vote = Some(Vote {
            decision,
            view,
            motion,
            waits: Vec::new(),
        });
        self.carry_on(world, (who, coordinator), call);
    }

    /// Delivers every message of a coordinator in order.
    fn hold(&self, world: &mut World, who: usize) {
        while let Some((order, _)) = world.orders.iter().find(|(order, _)| order.from == who) {
            let order = order.clone();
            self.obey(world, &order);
        }
    }

    fn carry_on(
        &self,
        world: &mut World,
        (who, mut coordinator): (usize, Coordinator),
        call: Outgoing,
    ) {
        let serial = coordinator.ballots;
        if let (Some(request), Some(vote)) = (call.ask, &mut coordinator.vote) {
            let deciders = vote.view.deciders().map(|node| home(&vote.view, node));
            vote.waits = deciders.collect();
            let kind = match request {
                Request::Prepare { .. } => OrderKind::Prepare(serial),
                _ => OrderKind::Accept(serial),
            };
            let in_reach = |to: &&usize| !self.scenario.hidden.contains(to);
            for &to in vote.waits.iter().filter(in_reach) {
                let (from, kind) = (who, kind.clone());
                world
                    .orders
                    .push((Order { from, kind, to }, request.clone()));
            }
        }
        if let Some(ruling) = call.ruling {
            self.rule(world, (who, &mut coordinator), ruling);
        }
        world.coordinators[who] = Shared::new(coordinator);
    }

    fn rule(
        &self,
        world: &mut World,
        (who, coordinator): (usize, &mut Coordinator),
        ruling: BallotOutcome,
    ) {
        let Some(vote) = coordinator.vote.take() else {
            return;
        };
        match ruling {
            BallotOutcome::Decided(motion) => {
                if motion.view != vote.motion.id() {
                    self.see(Seen::Forced);
                }
                let view = self.library.read(motion.view, &motion.document);
                self.decide(world, &view);
                self.hear(world, (who, coordinator), view);
            }
            BallotOutcome::Preempted(ballot) => {
                self.see(Seen::Preempted);
                coordinator.round = coordinator.round.max(ballot.round);
            }
            BallotOutcome::Overtaken(id) => {
                self.see(Seen::Overtaken);
                let view = self.library.find(id);
                self.hear(world, (who, coordinator), view);
            }
            BallotOutcome::TooFew { .. } => {}
        }
    }

    pub(crate) fn decide(&self, world: &mut World, view: &Arc<View>) {
        let epoch = view.id().epoch;
        let mut known = world.decided.iter();
        match known.find(|known| known.id().epoch == epoch) {
            Some(known) if known == view => {}
            Some(_) => world.broken = world.broken.or(Some(Claim::OneDocument)),
            None => {
                let before = world.decided.iter();
                let is_back = before.last().is_some_and(|before| {
                    before.next().is_some()
                        && view.next().is_none()
                        && view.topology() == before.topology()
                });
                if is_back {
                    self.see(Seen::Aborted);
                }
                if let Some(last) = world.decided.last()
                    && is_outdated_by(last, view)
                {
                    self.see(Seen::Outdated);
                }
                if self.scenario.claims.contains(&Claim::AbortWins)
                    && is_taken_back(&world.decided, view)
                {
                    world.broken = world.broken.or(Some(Claim::AbortWins));
                }
                world.decided.push(Arc::clone(view));
                world.decided.sort_by_key(|view| view.id());
                for &to in self.scenario.prompt {
                    let status = faults::status(&world.nodes[to]);
                    if faults::would_adopt(&self.scenario, &status, view, to) {
                        self.spread(world, epoch, to);
                    }
                }
            }
        }
    }

    /// A coordinator's message arrives; the answer at once, if it is needed.
    pub(crate) fn obey(&self, world: &mut World, order: &Order) {
        let position = world.orders.iter().position(|(other, _)| other == order);
        let (_, request) = world.orders.remove(position.unwrap());
        let scenario = &self.scenario;
        // The time of a quarantine matters only where a wait can be taken over.
        let now = at(if scenario.starters.is_empty() {
            0
        } else {
            world.tick
        });
        let is_turned = faults::is_turned(scenario, &world.nodes[order.to]);
        let reply = world.nodes[order.to].update(|table| {
            let obey = |table: &mut LockTable| mutations::obey(scenario, table, now, &request);
            if is_turned {
                let reply = faults::as_before(table, obey);
                faults::believed(scenario, table, &request, reply)
            } else {
                obey(table)
            }
        });
        let coordinator = &world.coordinators[order.from];
        if coordinator.awaits(order) {
            let coordinator = (**coordinator).clone();
            self.answer(world, (order.from, coordinator), order.to, Ok(reply));
        }
    }

    fn answer(
        &self,
        world: &mut World,
        (who, mut coordinator): (usize, Coordinator),
        from: usize,
        answer: Answer,
    ) {
        if let Some(vote) = &mut coordinator.vote {
            vote.waits.retain(|&other| other != from);
            let from = member(&vote.view, from).unwrap();
            let call = vote.decision.on(from, answer);
            self.carry_on(world, (who, coordinator), call);
        }
    }

    /// Stops waiting for nodes that have not voted.
    pub(crate) fn quit(&self, world: &mut World, who: usize) {
        let waits = world.coordinators[who].vote.as_ref();
        for from in waits.map(|vote| vote.waits.clone()).unwrap_or_default() {
            let coordinator = (*world.coordinators[who]).clone();
            let error = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.answer(world, (who, coordinator), from, Err(error));
        }
    }

    /// A node adopts a decided view.
    pub(crate) fn spread(&self, world: &mut World, epoch: u32, to: usize) {
        let mut decided = world.decided.iter();
        let Some(view) = decided.find(|view| view.id().epoch == epoch) else {
            return;
        };
        let view = Arc::clone(view);
        let node = member(&view, to).unwrap();
        let before = world.decided.iter().filter(|known| known.id() < view.id());
        let mut known = before.filter_map(|known| Some(known.nonce(member(known, to)?)));
        if known
            .next_back()
            .is_some_and(|nonce| nonce != view.nonce(node))
        {
            self.see(Seen::Readmitted);
        }
        world.nodes[to].update(|table| faults::adopt_as(&self.scenario, table, &view, node));
    }
}

/// Whether `view` puts the topology of `last` in force again, under the same
/// nonces: it outdates the plans based on `last`.
fn is_outdated_by(last: &View, view: &View) -> bool {
    last.next().is_none()
        && view.next().is_none()
        && last.topology() == view.topology()
        && last.nonces() == view.nonces()
}

/// Whether `view` leads to, or is, the goal of a transition among `decided` that
/// was taken back or outdated before. All coordinators of a scenario begin before
/// that.
fn is_taken_back(decided: &[Arc<View>], view: &View) -> bool {
    decided.windows(2).any(|pair| {
        let [before, back] = pair else { return false };
        let is_again = match before.next() {
            Some(to) if back.next().is_none() && back.topology() == before.topology() => {
                view.next() == Some(to) || view.topology() == to
            }
            _ => is_outdated_by(before, back) && view.next().is_some(),
        };
        is_again && back.id() < view.id()
    })
}
