//! Deciding which view follows: single-decree Paxos among the nodes of the
//! view in force (Leslie Lamport, “Paxos Made Simple”, 2001).
//!
//! Of two proposers one wins, and both then know what was decided; one that
//! dies half-way leaves nothing that the next does not take up.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringlock_ring::NodeIndex;

use super::quorum::majority;
use super::round::Refusal;
use super::wire::{Accepted, Answer, Ballot, Reply, Request, Standing, ViewId};

/// A view that is put to the vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Motion {
    /// The view.
    pub view: ViewId,
    /// Its canonical document.
    pub document: Arc<str>,
}

/// What a vote comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ruling {
    /// This is the view that follows: perhaps not the one that was proposed.
    Decided(Motion),
    /// Somebody else is at it; vote again under a higher round than this.
    Outbid(Ballot),
    /// Some node serves a later view: it was decided before.
    Overtaken(ViewId),
    /// Too few nodes voted.
    TooFew {
        /// How many did.
        voted: usize,
        /// What the others said.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// What the machine wants done.
#[must_use = "a request that is not sent is a vote lost"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Ask every decider this.
    pub ask: Option<Request>,
    /// What it has come to; given once.
    pub ruling: Option<Ruling>,
}

/// The machine of one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    view: ViewId,
    deciders: BTreeSet<NodeIndex>,
    ballot: Ballot,
    motion: Motion,
    stage: Stage,
    yes: BTreeSet<NodeIndex>,
    no: BTreeSet<NodeIndex>,
    /// Of what the promises told, what was accepted last.
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

impl Decision {
    /// A vote of the nodes of `view` on `motion`; call [`start`](Self::start).
    pub fn new(
        view: ViewId,
        deciders: impl IntoIterator<Item = NodeIndex>,
        ballot: Ballot,
        motion: Motion,
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
    pub fn start(&self) -> Call {
        Call {
            ask: Some(Request::Prepare {
                view: self.view,
                ballot: self.ballot,
            }),
            ruling: None,
        }
    }

    /// Takes in the answer of a decider.
    pub fn on(&mut self, from: NodeIndex, answer: Answer) -> Call {
        if self.stage == Stage::Over || !self.deciders.contains(&from) {
            return Call::default();
        }
        match (self.stage, answer) {
            (Stage::Preparing, Ok(Reply::Promised(accepted))) => {
                if accepted.as_ref().map(|accepted| accepted.ballot)
                    > self.forced.as_ref().map(|forced| forced.ballot)
                {
                    self.forced = accepted;
                }
                self.yes.insert(from);
            }
            (Stage::Accepting, Ok(Reply::Done)) => {
                self.yes.insert(from);
            }
            // An answer to PREPARE that comes after most have promised.
            (Stage::Accepting, Ok(Reply::Promised(_))) => return Call::default(),
            (_, refusal) => self.refuse(from, refusal),
        }
        self.settle()
    }

    fn refuse(&mut self, from: NodeIndex, answer: Answer) {
        self.no.insert(from);
        match &answer {
            Ok(Reply::Outbid(ballot)) => self.outbid = self.outbid.max(Some(*ballot)),
            Ok(Reply::Refused(status)) => {
                if let Standing::Serving(view) = status.standing()
                    && view.epoch > self.view.epoch
                {
                    self.overtaken = self.overtaken.max(Some(view));
                }
            }
            _ => {}
        }
        let refusal = match answer {
            Ok(Reply::Refused(status)) => Refusal::Stale(match status.standing() {
                Standing::Serving(view) => Some(view),
                Standing::Absent | Standing::Quarantined => None,
            }),
            other => Refusal::of(other),
        };
        self.refusals.push((from, refusal));
    }

    fn settle(&mut self) -> Call {
        let needed = majority(self.deciders.len());
        if self.yes.len() >= needed {
            return match self.stage {
                Stage::Preparing => self.propose(),
                Stage::Accepting | Stage::Over => self.close(Ruling::Decided(self.motion.clone())),
            };
        }
        if self.deciders.len() - self.no.len() >= needed {
            return Call::default();
        }
        let ruling = match (self.overtaken, self.outbid) {
            (Some(view), _) => Ruling::Overtaken(view),
            (None, Some(ballot)) => Ruling::Outbid(ballot),
            (None, None) => Ruling::TooFew {
                voted: self.yes.len(),
                refusals: std::mem::take(&mut self.refusals),
            },
        };
        self.close(ruling)
    }

    /// Most have promised: what one of them accepted last may be decided
    /// already, so nothing else may be proposed.
    fn propose(&mut self) -> Call {
        self.stage = Stage::Accepting;
        // Who has not promised may yet accept.
        self.yes.clear();
        self.no.clear();
        self.refusals.clear();
        if let Some(Accepted { view, document, .. }) = self.forced.take() {
            self.motion = Motion { view, document };
        }
        Call {
            ask: Some(Request::Accept {
                view: self.view,
                ballot: self.ballot,
                next: self.motion.view,
                document: Arc::clone(&self.motion.document),
            }),
            ruling: None,
        }
    }

    fn close(&mut self, ruling: Ruling) -> Call {
        self.stage = Stage::Over;
        Call {
            ask: None,
            ruling: Some(ruling),
        }
    }
}
