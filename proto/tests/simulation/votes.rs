//! A coordinator's votes on the next view, and the distribution of decisions.

use std::sync::Arc;

use rand::RngExt;
use ringlock_proto::membership::paxos::{BallotOutcome, BallotRun, Outgoing, Proposal};
use ringlock_proto::membership::transition::{Transition, adopt};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::{Answer, Ballot, Request};
use ringlock_ring::NodeIndex;

use crate::coordinator::{Coordinator, LOOK_AGAIN, Stage};
use crate::core::{Core, Task};
use crate::history::{Action, SECOND, Time};
use crate::server::index_of;

/// Requests of a vote that arrive later than this count as lost.
const LONGEST_VOTE: Time = 8 * SECOND;

impl Coordinator {
    pub(crate) fn propose(&mut self, core: &mut Core, view: View) {
        let Some(transition) = &self.transition else {
            return;
        };
        let current = transition.view();
        let view = core.skipped(view);
        let motion = Proposal {
            view: view.id(),
            document: Arc::clone(view.document()),
        };
        let ballot = Ballot {
            round: self.ballot,
            proposer: core.random.random(),
        };
        if view.next().is_none() {
            core.voting_until = core.now + LONGEST_VOTE;
        }
        let decision = BallotRun::new(current.id(), current.deciders(), ballot, motion);
        let call = decision.start();
        self.decision = Some(decision);
        self.vote = 0;
        self.carry_on(core, call);
    }

    pub(crate) fn voted(&mut self, core: &mut Core, node: usize, answer: Answer) {
        let name = &core.servers[node].name;
        let view = self.transition.as_ref().map(Transition::view);
        let from = view.and_then(|view| view.index_of(name));
        let (Some(from), Some(decision)) = (from, &mut self.decision) else {
            return;
        };
        let call = decision.on(from, answer);
        self.carry_on(core, call);
    }

    fn carry_on(&mut self, core: &mut Core, call: Outgoing) {
        if let (Some(request), Some(decision), Some(transition)) =
            (call.ask, &self.decision, &self.transition)
        {
            let view = transition.view();
            let server = |node: NodeIndex| index_of(&view.member(node).name);
            let requests = decision.deciders().map(server);
            let requests = requests.map(|node| (node, request.clone())).collect();
            self.ask(core, Stage::Vote, requests);
            if self.vote == 0 {
                self.vote = self.round;
            }
        }
        match call.ruling {
            None => {}
            Some(BallotOutcome::Decided(motion)) => self.decided(core, &motion),
            Some(BallotOutcome::Preempted(ballot)) => {
                self.ballot = ballot.round + 1;
                self.pause_for(core, LOOK_AGAIN / 3);
            }
            Some(BallotOutcome::Overtaken(_)) => self.look(core),
            Some(BallotOutcome::TooFew { .. }) => self.pause_for(core, LOOK_AGAIN),
        }
    }

    fn decided(&mut self, core: &mut Core, motion: &Proposal) {
        let view = core.read(motion.view, &motion.document).unwrap();
        core.note(Action::Decided(motion.view));
        core.tasks.push(Task::Decided(self.host));
        self.ballot = 0;
        let Some(transition) = &mut self.transition else {
            return;
        };
        let old = Arc::clone(transition.view());
        core.tally.decisions += 1;
        core.tally.joint += u64::from(view.next().is_some());
        let is_readmission = old.topology() == view.topology() && old.next() == view.next();
        core.tally.readmitted += u64::from(is_readmission);
        transition.moved(Arc::clone(&view));
        if self.dies(core) {
            return;
        }
        let all = old.members().chain(view.members());
        let mut names: Vec<&str> = all.map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let message = |name: &str| {
            let request = match (view.index_of(name), old.index_of(name)) {
                (Some(node), _) => adopt(&view, node),
                // A retired node teaches clients that still use the old view.
                (None, Some(node)) => Request::Adopt {
                    view: view.id(),
                    document: Arc::clone(view.document()),
                    nonce: Arc::clone(old.nonce(node)),
                },
                (None, None) => Request::Status,
            };
            (index_of(name), request)
        };
        let requests = names.into_iter().map(message).collect();
        self.ask(core, Stage::Send, requests);
    }
}
