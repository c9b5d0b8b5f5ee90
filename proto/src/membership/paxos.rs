//! Deciding which view follows: single-decree Paxos among the nodes of the
//! current view (Leslie Lamport, “Paxos Made Simple”, 2001).
//!
//! Of two proposers one wins, and both then know what was decided. If one stops
//! half-way, the next proposer completes what it left.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringlock_ring::NodeIndex;

use crate::node::message::{Accepted, Answer, Ballot, NodeState, Reply, Request, ViewId};
use crate::operation::machine::Refusal;
use crate::quorum::majority;

/// A view that is put to the vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The view.
    pub view: ViewId,
    /// Its canonical document.
    pub document: Arc<str>,
}

/// The outcome of a vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BallotOutcome {
    /// This is the view that follows: perhaps not the one that was proposed.
    Decided(Proposal),
    /// Another proposer is active; vote again under a higher round than this.
    Preempted(Ballot),
    /// Some node serves a later view: it was decided before.
    Overtaken(ViewId),
    /// Too few nodes voted.
    TooFew {
        /// The number of nodes that voted.
        voted: usize,
        /// The other nodes' answers.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// What the machine requests.
#[must_use = "a request that is not sent is a vote lost"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The request to send to every decider.
    pub ask: Option<Request>,
    /// The outcome; reported once.
    pub ruling: Option<BallotOutcome>,
}

/// The machine of one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BallotRun {
    view: ViewId,
    deciders: BTreeSet<NodeIndex>,
    ballot: Ballot,
    motion: Proposal,
    stage: Stage,
    yes: BTreeSet<NodeIndex>,
    no: BTreeSet<NodeIndex>,
    /// The view with the highest accepted ballot among the promises.
    forced: Option<Accepted>,
    outbid: Option<Ballot>,
    overtaken: Option<ViewId>,
    refusals: Vec<(NodeIndex, Refusal)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Preparing,
    Accepting,
    Over,
}

impl BallotRun {
    /// A vote of the nodes of `view` on `motion`; call [`start`](Self::start).
    pub fn new(
        view: ViewId,
        deciders: impl IntoIterator<Item = NodeIndex>,
        ballot: Ballot,
        motion: Proposal,
    ) -> Self {
        Self {
            view,
            deciders: deciders.into_iter().collect(),
            ballot,
            motion,
            stage: Stage::Preparing,
            yes: BTreeSet::new(),
            no: BTreeSet::new(),
            forced: None,
            outbid: None,
            overtaken: None,
            refusals: Vec::new(),
        }
    }

    /// The nodes that vote.
    pub fn deciders(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        self.deciders.iter().copied()
    }

    /// Begins.
    pub fn start(&self) -> Outgoing {
        Outgoing {
            ask: Some(Request::Prepare {
                view: self.view,
                ballot: self.ballot,
            }),
            ruling: None,
        }
    }

    /// Processes the answer of a decider.
    pub fn on(&mut self, from: NodeIndex, answer: Answer) -> Outgoing {
        if self.stage == Stage::Over || !self.deciders.contains(&from) {
            return Outgoing::default();
        }
        match (self.stage, answer) {
            (Stage::Preparing, Ok(Reply::Promised(accepted))) => {
                if accepted.as_ref().map(|accepted| accepted.ballot)
                    > self.forced.as_ref().map(|forced| forced.ballot)
                {
                    self.forced = accepted.map(|accepted| *accepted);
                }
                self.yes.insert(from);
            }
            (Stage::Accepting, Ok(Reply::Done)) => {
                self.yes.insert(from);
            }
            // An answer to PREPARE that arrives after a majority has promised.
            (Stage::Accepting, Ok(Reply::Promised(_))) => return Outgoing::default(),
            (_, refusal) => self.refuse(from, refusal),
        }
        self.settle()
    }

    fn refuse(&mut self, from: NodeIndex, answer: Answer) {
        self.no.insert(from);
        match &answer {
            Ok(Reply::Preempted(ballot)) => self.outbid = self.outbid.max(Some(*ballot)),
            Ok(Reply::Refused(status)) => {
                if let NodeState::Serving(view) = status.standing()
                    && view.epoch > self.view.epoch
                {
                    self.overtaken = self.overtaken.max(Some(view));
                }
            }
            _ => {}
        }
        let refusal = match answer {
            Ok(Reply::Refused(status)) => Refusal::Stale(match status.standing() {
                NodeState::Serving(view) => Some(view),
                NodeState::Absent | NodeState::Quarantined => None,
            }),
            other => Refusal::of(other),
        };
        self.refusals.push((from, refusal));
    }

    fn settle(&mut self) -> Outgoing {
        let needed = majority(self.deciders.len());
        if self.yes.len() >= needed {
            return match self.stage {
                Stage::Preparing => self.propose(),
                Stage::Accepting | Stage::Over => {
                    self.close(BallotOutcome::Decided(self.motion.clone()))
                }
            };
        }
        if self.deciders.len() - self.no.len() >= needed {
            return Outgoing::default();
        }
        let ruling = match (self.overtaken, self.outbid) {
            (Some(view), _) => BallotOutcome::Overtaken(view),
            (None, Some(ballot)) => BallotOutcome::Preempted(ballot),
            (None, None) => BallotOutcome::TooFew {
                voted: self.yes.len(),
                refusals: std::mem::take(&mut self.refusals),
            },
        };
        self.close(ruling)
    }

    /// A majority has promised: the view that one of them accepted last may already
    /// be decided, so nothing else may be proposed.
    fn propose(&mut self) -> Outgoing {
        self.stage = Stage::Accepting;
        // A node that has not promised may still accept.
        self.yes.clear();
        self.no.clear();
        self.refusals.clear();
        if let Some(Accepted { view, document, .. }) = self.forced.take() {
            self.motion = Proposal { view, document };
        }
        Outgoing {
            ask: Some(Request::Accept {
                view: self.view,
                ballot: self.ballot,
                next: self.motion.view,
                document: Arc::clone(&self.motion.document),
            }),
            ruling: None,
        }
    }

    fn close(&mut self, ruling: BallotOutcome) -> Outgoing {
        self.stage = Stage::Over;
        Outgoing {
            ask: None,
            ruling: Some(ruling),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::message::{NodeError, NodeErrorKind, NodeStatus};

    const VIEW: ViewId = ViewId {
        epoch: 5,
        digest: 55,
    };
    const BALLOT: Ballot = Ballot {
        round: 4,
        proposer: 7,
    };

    fn motion(digest: u128) -> Proposal {
        Proposal {
            view: ViewId { epoch: 6, digest },
            document: format!("document {digest}").into(),
        }
    }

    fn ballot(round: u32) -> Ballot {
        Ballot { round, proposer: 9 }
    }

    /// This motion was accepted in this round.
    fn accepted(round: u32, digest: u128) -> Reply {
        let Proposal { view, document } = motion(digest);
        Reply::Promised(Some(Box::new(Accepted {
            ballot: ballot(round),
            view,
            document,
        })))
    }

    fn serves(serving: Option<ViewId>) -> Reply {
        Reply::Refused(Box::new(NodeStatus {
            serving,
            nonce: Some("n".into()),
            stamped: Some("run-1".into()),
            incarnation: "run-1".into(),
        }))
    }

    fn silence() -> Answer {
        Err(NodeError::new(NodeErrorKind::Timeout, "no answer"))
    }

    struct Script {
        decision: BallotRun,
    }

    impl Script {
        /// The vote of this many nodes on motion 1.
        fn of(deciders: u16) -> Self {
            let deciders: Vec<_> = (0..deciders).map(NodeIndex::new).collect();
            let decision = BallotRun::new(VIEW, deciders.clone(), BALLOT, motion(1));
            assert_eq!(decision.deciders().collect::<Vec<_>>(), deciders);
            let (view, ballot) = (VIEW, BALLOT);
            let ask = Some(Request::Prepare { view, ballot });
            assert_eq!(decision.start(), Outgoing { ask, ruling: None });
            Self { decision }
        }

        /// A vote on motion 1 that these first nodes have promised.
        fn promised_by(deciders: u16, promises: u16) -> Self {
            let mut script = Self::of(deciders);
            for node in 1..promises {
                script.waits_on(node, Reply::Promised(None));
            }
            script.proposes(1, 0, Reply::Promised(None));
            script
        }

        fn hears(&mut self, from: u16, answer: Answer) -> Outgoing {
            self.decision.on(NodeIndex::new(from), answer)
        }

        /// This answer decides nothing yet.
        #[track_caller]
        fn waits_on(&mut self, from: u16, reply: Reply) {
            assert_eq!(self.hears(from, Ok(reply)), Outgoing::default());
        }

        /// After this answer the motion of that digest is put to the vote.
        #[track_caller]
        fn proposes(&mut self, digest: u128, from: u16, reply: Reply) {
            let Proposal { view, document } = motion(digest);
            let ask = Some(Request::Accept {
                view: VIEW,
                ballot: BALLOT,
                next: view,
                document,
            });
            let call = self.hears(from, Ok(reply));
            assert_eq!(call, Outgoing { ask, ruling: None });
        }

        /// This answer ends the vote.
        #[track_caller]
        fn rules(&mut self, from: u16, answer: Answer) -> BallotOutcome {
            let call = self.hears(from, answer);
            assert_eq!(call.ask, None);
            call.ruling.expect("a ruling")
        }
    }

    #[test]
    fn most_promise_and_then_most_accept() {
        let mut script = Script::of(5);
        script.waits_on(4, Reply::Promised(None));
        script.waits_on(1, Reply::Promised(None));
        script.proposes(1, 0, Reply::Promised(None));
        // A node that accepts need not have promised.
        script.waits_on(2, Reply::Done);
        script.waits_on(3, Reply::Done);
        let ruling = script.rules(0, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn a_single_node_decides_alone() {
        let mut script = Script::of(1);
        script.proposes(1, 0, Reply::Promised(None));
        let ruling = script.rules(0, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn half_of_an_even_number_is_no_majority() {
        let mut script = Script::of(4);
        script.waits_on(0, Reply::Promised(None));
        script.waits_on(1, Reply::Promised(None));
        script.proposes(1, 2, Reply::Promised(None));
        script.waits_on(0, Reply::Done);
        script.waits_on(1, Reply::Done);
        let ruling = script.rules(3, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn each_node_votes_once() {
        let mut script = Script::of(3);
        script.waits_on(1, Reply::Promised(None));
        script.waits_on(1, Reply::Promised(None));
        script.proposes(1, 2, Reply::Promised(None));
        script.waits_on(1, Reply::Done);
        script.waits_on(1, Reply::Done);
    }

    #[test]
    fn the_last_accepted_view_is_proposed_instead() {
        for (first, second) in [((2, 20), (3, 30)), ((3, 30), (2, 20))] {
            let mut script = Script::of(5);
            script.waits_on(0, accepted(first.0, first.1));
            script.waits_on(1, Reply::Promised(None));
            script.proposes(30, 2, accepted(second.0, second.1));
            script.waits_on(0, Reply::Done);
            script.waits_on(1, Reply::Done);
            let ruling = script.rules(2, Ok(Reply::Done));
            assert_eq!(ruling, BallotOutcome::Decided(motion(30)));
        }
    }

    #[test]
    fn of_two_proposers_of_one_round_the_higher_one_counts() {
        let of_proposer = |proposer, digest| match accepted(3, digest) {
            Reply::Promised(Some(accepted)) => Reply::Promised(Some(Box::new(Accepted {
                ballot: Ballot { round: 3, proposer },
                ..*accepted
            }))),
            other => other,
        };
        let mut script = Script::of(3);
        script.waits_on(0, of_proposer(8, 80));
        script.proposes(80, 1, of_proposer(1, 10));
    }

    #[test]
    fn a_promise_that_comes_late_changes_nothing() {
        let mut script = Script::promised_by(5, 3);
        script.waits_on(3, accepted(3, 30));
        script.waits_on(4, Reply::Promised(None));
        script.waits_on(0, Reply::Done);
        script.waits_on(1, Reply::Done);
        let ruling = script.rules(2, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn a_node_that_does_not_promise_may_still_accept() {
        let mut script = Script::of(3);
        assert_eq!(script.hears(2, silence()), Outgoing::default());
        script.waits_on(1, Reply::Promised(None));
        script.proposes(1, 0, Reply::Promised(None));
        assert_eq!(script.hears(1, silence()), Outgoing::default());
        script.waits_on(2, Reply::Done);
        let ruling = script.rules(0, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn a_minority_that_is_against_stops_nothing() {
        let later = ViewId {
            epoch: 6,
            digest: 66,
        };
        let mut script = Script::of(5);
        script.waits_on(0, Reply::Preempted(ballot(8)));
        script.waits_on(1, serves(Some(later)));
        script.waits_on(2, Reply::Promised(None));
        script.waits_on(3, Reply::Promised(None));
        script.proposes(1, 4, Reply::Promised(None));
        script.waits_on(0, Reply::Preempted(ballot(8)));
        script.waits_on(1, serves(Some(later)));
        script.waits_on(2, Reply::Done);
        script.waits_on(3, Reply::Done);
        let ruling = script.rules(4, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn a_preempted_proposer_learns_the_highest_ballot() {
        let mut script = Script::of(5);
        script.waits_on(0, Reply::Preempted(ballot(7)));
        script.waits_on(1, Reply::Preempted(ballot(9)));
        let ruling = script.rules(2, Ok(Reply::Preempted(ballot(8))));
        assert_eq!(ruling, BallotOutcome::Preempted(ballot(9)));

        let mut script = Script::promised_by(3, 2);
        script.waits_on(0, Reply::Preempted(ballot(7)));
        let ruling = script.rules(1, silence());
        assert_eq!(ruling, BallotOutcome::Preempted(ballot(7)));
    }

    #[test]
    fn a_later_view_is_news_above_any_ballot() {
        let view = |epoch| ViewId { epoch, digest: 66 };
        let mut script = Script::of(5);
        script.waits_on(0, serves(Some(view(7))));
        script.waits_on(1, serves(Some(view(6))));
        let ruling = script.rules(2, Ok(Reply::Preempted(ballot(9))));
        assert_eq!(ruling, BallotOutcome::Overtaken(view(7)));

        let mut script = Script::promised_by(3, 2);
        script.waits_on(0, serves(Some(view(6))));
        let ruling = script.rules(1, Ok(Reply::Preempted(ballot(9))));
        assert_eq!(ruling, BallotOutcome::Overtaken(view(6)));
    }

    #[test]
    fn too_few_votes_are_reported_with_each_answer() {
        let earlier = ViewId {
            epoch: 4,
            digest: 44,
        };
        let twin = ViewId {
            epoch: 5,
            digest: 56,
        };
        let mut script = Script::of(7);
        script.waits_on(0, Reply::Promised(None));
        // None of these nodes serves a later view.
        script.waits_on(1, serves(Some(earlier)));
        script.waits_on(2, serves(Some(twin)));
        script.waits_on(3, serves(None));
        let timeout = silence().unwrap_err();
        let ruling = script.rules(4, Err(timeout.clone()));
        let refusals = [
            (1, Refusal::Stale(Some(earlier))),
            (2, Refusal::Stale(Some(twin))),
            (3, Refusal::Stale(None)),
            (4, Refusal::Failed(timeout)),
        ];
        let refusals = refusals.map(|(node, refusal)| (NodeIndex::new(node), refusal));
        let expected = BallotOutcome::TooFew {
            voted: 1,
            refusals: refusals.into(),
        };
        assert_eq!(ruling, expected);
    }

    #[test]
    fn only_refusals_of_the_second_phase_are_reported_for_it() {
        let mut script = Script::of(3);
        assert_eq!(script.hears(2, silence()), Outgoing::default());
        script.waits_on(1, Reply::Promised(None));
        script.proposes(1, 0, Reply::Promised(None));
        script.waits_on(2, Reply::Done);
        script.waits_on(1, serves(None));
        let ruling = script.rules(0, Ok(serves(None)));
        let refusals = [1, 0].map(|node| (NodeIndex::new(node), Refusal::Stale(None)));
        let expected = BallotOutcome::TooFew {
            voted: 1,
            refusals: refusals.into(),
        };
        assert_eq!(ruling, expected);
    }

    #[test]
    fn a_node_that_lost_its_data_is_not_ahead() {
        let mut status = NodeStatus {
            serving: Some(ViewId {
                epoch: 9,
                digest: 9,
            }),
            nonce: Some("n".into()),
            stamped: Some("run-0".into()),
            incarnation: "run-1".into(),
        };
        let mut script = Script::of(1);
        let ruling = script.rules(0, Ok(Reply::Refused(Box::new(status.clone()))));
        assert!(matches!(ruling, BallotOutcome::TooFew { voted: 0, .. }));
        status.stamped = Some("run-1".into());
        let ruling = Script::of(1).rules(0, Ok(Reply::Refused(Box::new(status))));
        assert!(matches!(ruling, BallotOutcome::Overtaken(_)));
    }

    #[test]
    fn an_answer_to_another_question_is_no_vote() {
        let mut script = Script::of(3);
        for node in [0, 1] {
            let call = script.hears(node, Ok(Reply::Done));
            assert_eq!(call.ask, None);
            assert_eq!(call.ruling.is_some(), node == 1);
        }
        let mut script = Script::promised_by(3, 2);
        script.waits_on(0, Reply::Released);
        let ruling = script.rules(1, Ok(Reply::Stale(None)));
        assert!(matches!(ruling, BallotOutcome::TooFew { voted: 0, .. }));
    }

    #[test]
    fn strangers_have_no_vote() {
        let mut script = Script::of(3);
        script.waits_on(0, Reply::Promised(None));
        script.waits_on(3, accepted(9, 90));
        script.waits_on(4, Reply::Preempted(ballot(9)));
        script.waits_on(5, Reply::Preempted(ballot(9)));
        script.proposes(1, 1, Reply::Promised(None));
        script.waits_on(0, Reply::Done);
        script.waits_on(3, Reply::Done);
        let ruling = script.rules(1, Ok(Reply::Done));
        assert_eq!(ruling, BallotOutcome::Decided(motion(1)));
    }

    #[test]
    fn the_ruling_is_given_once() {
        let mut script = Script::promised_by(3, 2);
        script.waits_on(0, Reply::Done);
        let _ = script.rules(1, Ok(Reply::Done));
        script.waits_on(2, Reply::Done);
        script.waits_on(2, Reply::Preempted(ballot(9)));

        let mut script = Script::of(3);
        script.waits_on(0, Reply::Preempted(ballot(9)));
        let _ = script.rules(1, silence());
        for node in [0, 1, 2] {
            script.waits_on(node, Reply::Promised(None));
        }
    }
}
