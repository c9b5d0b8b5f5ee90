//! Whether a cluster can be brought to a stable state, whatever has happened to it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ringlock_proto::lease::EPOCH_LEAP;
use ringlock_proto::membership::new_start::{NewStart, VoteOutlook, vote_outlook};
use ringlock_proto::membership::paxos::{BallotOutcome, BallotRun, Proposal};
use ringlock_proto::membership::transition::{Goal, Move, Transition};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::{Ballot, NodeStatus, Reply, Request};

use crate::cluster::{home, home_of, key, name};
use crate::faults;
use crate::mutations;
use crate::scenario::{Mutant, at};
use crate::world::{Explored, World};

/// Steps within which an undisturbed coordinator must reach that state.
const PATIENCE: usize = 40;

impl Explored {
    /// Whether an undisturbed coordinator that reaches every node fails to readmit
    /// members that lost their data, to finish the change in progress or take it
    /// back, and to make every member serve the outcome.
    pub(crate) fn is_stuck(&self, world: &World) -> bool {
        let mut nodes: Vec<LockTable> = world.nodes.iter().map(|node| (**node).clone()).collect();
        nodes.iter_mut().for_each(|node| node.delete(&key()));
        let mut hasher = DefaultHasher::new();
        (&nodes, &world.decided).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(&is_stuck) = self.rescued.lock().get(&hash) {
            return is_stuck;
        }
        let known = world.decided.last().unwrap().id().epoch;
        let is_stuck = [Way::On, Way::Back]
            .into_iter()
            .any(|way| !Recovery::new(self, nodes.clone(), known, way).succeeds());
        self.rescued.lock().insert(hash, is_stuck);
        is_stuck
    }
}

#[derive(Clone, Copy)]
enum Way {
    On,
    Back,
}

struct Recovery<'a> {
    model: &'a Explored,
    nodes: Vec<LockTable>,
    transition: Transition,
    way: Way,
    round: u32,
    nonces: u32,
    /// The highest epoch that was ever decided.
    known: u32,
}

impl<'a> Recovery<'a> {
    fn new(model: &'a Explored, nodes: Vec<LockTable>, known: u32, way: Way) -> Self {
        let served = nodes.iter().filter_map(faults::served).max();
        let view = served.map_or_else(|| Arc::clone(&model.first), |id| model.library.find(id));
        Self {
            model,
            nodes,
            transition: Transition::new(goal(&view, way), view),
            way,
            round: 0,
            nonces: 0,
            known,
        }
    }

    fn succeeds(mut self) -> bool {
        self.start_again();
        let mut now = mutations::coordinator_clock(0);
        for _ in 0..PATIENCE {
            for name in self.transition.everybody() {
                let status = faults::status(&self.nodes[home_of(&name)]);
                self.transition.saw(now, &name, Some(status));
            }
            let nonces = &mut self.nonces;
            let next = self.transition.next(now, || {
                *nonces += 1;
                format!("nonce-rescue-{nonces}").into()
            });
            match next.unwrap() {
                Move::Send(requests) => {
                    for (name, request) in requests {
                        let _ = self.nodes[home_of(&name)].apply(at(0), &request);
                    }
                }
                Move::Propose(view) => self.vote(*view),
                Move::Wait { until, .. } => now = until,
                Move::Done => {
                    let view = Arc::clone(self.transition.view());
                    if view.next().is_none() {
                        return self.is_served(&view);
                    }
                    self.transition = Transition::new(goal(&view, self.way), view);
                }
                Move::Blocked(_) | Move::Superseded => return false,
            }
            now = now + Duration::from_millis(1);
        }
        false
    }

    /// What every router does where no majority can vote, step by step.
    fn start_again(&mut self) {
        let view = Arc::clone(self.transition.view());
        let statuses =
            |nodes: &[LockTable]| -> Vec<NodeStatus> { nodes.iter().map(faults::status).collect() };
        let seen = statuses(&self.nodes);
        let vote_outlook = vote_outlook(&view, |name| Some(&seen[home_of(name)]));
        if vote_outlook != VoteOutlook::StartsAnew || self.model.scenario.is(Mutant::NoNewStart) {
            return;
        }
        let homes: Vec<usize> = view.members().map(|node| home_of(&node.name)).collect();
        let nonce = |home: &usize| format!("nonce-rescue-start-{home}").into();
        let nonces = homes.iter().map(nonce).collect();
        let mut start = NewStart::new(
            nonces,
            (view.longest_ttl(), Duration::ZERO),
            self.known + EPOCH_LEAP,
        );
        let mut pasts = Vec::new();
        for (member, &home) in homes.iter().enumerate() {
            let request = start.quarantine(member, &seen[home]);
            assert_eq!(self.nodes[home].apply(at(0), &request), Reply::Done);
            match self.nodes[home].apply(at(0), &Request::PriorState) {
                Reply::PriorState(past) => pasts.push(past),
                other => panic!("{other:?}"),
            }
        }
        start.heard(at(0), &pasts);
        let nonces = homes.iter().zip(start.nonces());
        let nonces = nonces.map(|(&home, nonce)| (name(home).into(), Arc::clone(nonce)));
        let topology = view.topology().clone();
        let next = View::stable(start.epoch(), topology, &nonces.collect()).unwrap();
        for &home in &homes {
            faults::adopt(&mut self.nodes[home], &next, home);
        }
        let next = Arc::new(next);
        self.model.library.shelve(&next);
        self.transition = Transition::new(goal(&next, self.way), next);
    }

    fn vote(&mut self, motion: View) {
        self.round += 1;
        let ballot = Ballot {
            round: self.round,
            proposer: 99,
        };
        self.model.library.shelve(&Arc::new(motion.clone()));
        let paper = Proposal {
            view: motion.id(),
            document: Arc::clone(motion.document()),
        };
        let view = Arc::clone(self.transition.view());
        let mut decision = BallotRun::new(view.id(), view.deciders(), ballot, paper);
        let mut call = decision.start();
        while let Some(request) = call.ask.take() {
            for node in view.deciders() {
                let table = &mut self.nodes[home(&view, node)];
                let step = decision.on(node, Ok(table.apply(at(0), &request)));
                call.ask = call.ask.or(step.ask);
                call.ruling = call.ruling.or(step.ruling);
            }
        }
        match call.ruling {
            Some(BallotOutcome::Decided(motion)) => {
                let view = self.model.library.read(motion.view, &motion.document);
                self.move_to(view);
            }
            Some(BallotOutcome::Preempted(ballot)) => self.round = ballot.round,
            Some(BallotOutcome::Overtaken(id)) => self.move_to(self.model.library.find(id)),
            Some(BallotOutcome::TooFew { .. }) | None => {}
        }
    }

    /// The decided view may be another coordinator's proposal, for another goal.
    fn move_to(&mut self, view: Arc<View>) {
        self.transition.moved(Arc::clone(&view));
        if matches!(self.way, Way::On) {
            self.transition = Transition::new(goal(&view, self.way), view);
        }
    }

    fn is_served(&self, view: &View) -> bool {
        let mut members = view.members();
        members.all(|node| faults::served(&self.nodes[home_of(&node.name)]) == Some(view.id()))
    }
}

/// Leads out of a transition if there is one; otherwise keeps the current state.
fn goal(view: &View, way: Way) -> Goal {
    match (view.next(), way) {
        (None, _) => Goal::Keep,
        (Some(_), Way::Back) => Goal::Abort,
        (Some(next), Way::On) => Goal::Reach {
            from: view.topology().clone(),
            to: next.clone(),
        },
    }
}
