//! The common part of all operations: a request to each node of a placement, and
//! the machine that turns events into effects.

use ringlock_ring::NodeIndex;

use crate::node::message::{Answer, CurrentHolder, NodeError, Reply, Request, ViewId};
use crate::quorum::{Placement, Voter, VoterSet};
use crate::time::Instant;

/// Which request of an operation an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The operation's own request.
    Main,
    /// The fence write-back.
    WriteBack,
    /// A STATUS, sent only to learn whether the view is still served.
    Probe,
    /// Creates an entry again where it is absent.
    Heal,
}

/// An input of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Begin. The view must be confirmed with these nodes in addition to those of
    /// the placement.
    Start {
        /// Nodes to send a STATUS to.
        probes: Vec<NodeIndex>,
    },
    /// A node answered, or is known not to answer.
    Answered {
        /// The node.
        from: NodeIndex,
        /// Which request it answers.
        step: Step,
        /// Its answer.
        answer: Answer,
    },
    /// No caller waits for the outcome.
    Abandoned,
}

/// What a machine requests, in this order.
#[must_use = "effects that are not carried out lose requests"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects<Outcome> {
    /// Send [`Machine::request`] of a step to these voters.
    pub send: Option<(Step, VoterSet)>,
    /// Send a STATUS to these nodes.
    pub probe: Vec<NodeIndex>,
    /// Send a RELEASE to these voters; the machine does not receive their answers.
    pub release: VoterSet,
    /// These voters are known to hold the entry.
    pub acknowledged: VoterSet,
    /// These vouch for the lease from now on.
    pub vouching: VoterSet,
    /// These voters are known not to hold it.
    pub disowned: VoterSet,
    /// The operation's outcome; reported once.
    pub outcome: Option<Outcome>,
}

impl<Outcome> Default for Effects<Outcome> {
    fn default() -> Self {
        Self {
            send: None,
            probe: Vec::new(),
            release: VoterSet::NONE,
            acknowledged: VoterSet::NONE,
            vouching: VoterSet::NONE,
            disowned: VoterSet::NONE,
            outcome: None,
        }
    }
}

/// One operation as a value: it takes events and returns effects. It reads no clock
/// and sends nothing itself.
pub trait Machine {
    /// The outcome of the operation.
    type Outcome;

    /// Processes one event. `now` is one reading of the clock; `confirmed_at` is
    /// the latest instant at which a majority is known to have served the machine's
    /// view, including this event's answer.
    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> Effects<Self::Outcome>;

    /// The request of a step, other than a probe, to one voter.
    fn request(&self, step: Step, to: Voter) -> Request;

    /// The nodes that the operation is sent to.
    fn placement(&self) -> &Placement;

    /// When the operation began: the send time that its answers vouch for.
    fn started_at(&self) -> Instant;
}

/// Why a node's answer did not count for an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Another client holds the key there.
    Busy(Option<CurrentHolder>),
    /// The node no longer has an entry of the lease.
    Gone,
    /// The node serves another view, or none.
    Stale(Option<ViewId>),
    /// The node gave no answer.
    Failed(NodeError),
}

impl Refusal {
    /// Whether the node serves another view, or none.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale(_))
    }

    /// The refusal in an answer other than the expected one.
    pub fn of(answer: Answer) -> Self {
        use crate::node::message::NodeErrorKind::Protocol;
        match answer {
            Ok(Reply::Busy(rival)) => Self::Busy(Some(rival)),
            Ok(Reply::Lost(Some(rival))) => Self::Busy(Some(rival)),
            Ok(Reply::Lost(None)) => Self::Gone,
            Ok(Reply::Foreign) => Self::Busy(None),
            Ok(Reply::Stale(serving)) => Self::Stale(serving),
            Ok(_) => Self::Failed(NodeError::new(
                Protocol,
                "the answer does not fit the request",
            )),
            Err(error) => Self::Failed(error),
        }
    }
}

/// Whether an answer proves that the node served exactly the requested view when it
/// answered.
pub fn vouches_for(answer: &Answer, view: ViewId) -> bool {
    match answer {
        Ok(
            Reply::Granted { .. }
            | Reply::Busy(_)
            | Reply::Kept { .. }
            | Reply::Made { .. }
            | Reply::Lost(_),
        ) => true,
        Ok(Reply::Status(status)) => {
            status.standing() == crate::node::message::NodeState::Serving(view)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::message::{NodeErrorKind, NodeStatus};

    const VIEW: ViewId = ViewId {
        epoch: 1,
        digest: 11,
    };

    fn status(serving: Option<ViewId>, stamped: &str) -> Answer {
        Ok(Reply::Status(Box::new(NodeStatus {
            serving,
            nonce: Some("n".into()),
            stamped: Some(stamped.into()),
            incarnation: "run-1".into(),
        })))
    }

    #[test]
    fn only_an_answer_that_passed_the_view_check_vouches() {
        let rival = CurrentHolder {
            holder: None,
            remaining: None,
        };
        for reply in [
            Reply::Granted { counter: 1 },
            Reply::Busy(rival.clone()),
            Reply::Kept { counter: 1 },
            Reply::Made { counter: 1 },
            Reply::Lost(Some(rival)),
            Reply::Lost(None),
        ] {
            assert!(vouches_for(&Ok(reply.clone()), VIEW), "{reply:?}");
        }
        // RELEASE has no view check.
        for reply in [
            Reply::Released,
            Reply::Missing,
            Reply::Foreign,
            Reply::Stale(None),
            Reply::Stale(Some(VIEW)),
            Reply::Document(None),
            Reply::Done,
        ] {
            assert!(!vouches_for(&Ok(reply.clone()), VIEW), "{reply:?}");
        }
        let timeout = NodeError::new(NodeErrorKind::Timeout, "no answer");
        assert!(!vouches_for(&Err(timeout), VIEW));
    }

    #[test]
    fn a_status_vouches_for_the_view_that_is_really_served() {
        let other = ViewId {
            epoch: 1,
            digest: 12,
        };
        assert!(vouches_for(&status(Some(VIEW), "run-1"), VIEW));
        assert!(!vouches_for(&status(Some(other), "run-1"), VIEW));
        assert!(!vouches_for(&status(None, "run-1"), VIEW));
        // Stamped by another incarnation: it may have lost its entries.
        assert!(!vouches_for(&status(Some(VIEW), "run-0"), VIEW));
    }

    #[test]
    fn an_answer_to_another_question_is_a_failure_of_the_node() {
        let refusal = Refusal::of(Ok(Reply::Released));
        assert!(
            matches!(&refusal, Refusal::Failed(error) if error.kind() == NodeErrorKind::Protocol)
        );
        assert_eq!(Refusal::of(Ok(Reply::Lost(None))), Refusal::Gone);
    }
}
