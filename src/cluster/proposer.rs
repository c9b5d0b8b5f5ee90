//! The part that all coordinators share: proposing a view for a vote, and
//! distributing it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::NodeHandle;
use crate::cluster::snapshot::STEP_TIMEOUT;
use crate::error::Error;
use crate::node::{self, ReplyTo};
use crate::proto::backoff::Backoff;
use crate::proto::membership::paxos::{BallotOutcome, BallotRun, Proposal};
use crate::proto::membership::transition::{adopt, adopt_under};
use crate::proto::membership::view::View;
use crate::proto::node::message::{Ballot, Nonce};
use crate::proto::operation::machine::Refusal;
use crate::runtime::random;

/// Ballots of one vote, at most: a proposer that is outbid this often is not
/// needed.
const MAX_BALLOTS: u32 = 32;

/// The pause between two ballots, so that one of several proposers gets through.
const OUTBID: Backoff = Backoff {
    base: Duration::from_millis(10),
    cap: Duration::from_millis(500),
};

/// The result of a vote.
pub(crate) enum Vote {
    /// This view follows. It may differ from the one that was proposed.
    Decided(Box<View>),
    /// A later view is served already, or another proposer is about to decide.
    Overtaken,
    /// Too few nodes voted.
    TooFew {
        voted: usize,
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// A nonce that was never used.
pub(crate) fn fresh_nonce() -> Nonce {
    format!("{:032x}", random::unique()).into()
}

/// Lets the nodes of `view` decide on `proposal` as the next view.
///
/// Cancel safe: any process may resume what was started.
pub(crate) async fn decide(
    view: &View,
    handles: &[NodeHandle],
    proposal: &View,
) -> Result<Vote, Error> {
    let motion = Proposal {
        view: proposal.id(),
        document: Arc::clone(proposal.document()),
    };
    let mut round = 1;
    for ballots in 1..=MAX_BALLOTS {
        let ballot = Ballot {
            round,
            proposer: random::unique_id(),
        };
        let decision = BallotRun::new(view.id(), view.deciders(), ballot, motion.clone());
        match poll(decision, handles).await {
            BallotOutcome::Decided(motion) => {
                let decided = View::read(motion.view, &motion.document)?;
                return Ok(Vote::Decided(Box::new(decided)));
            }
            BallotOutcome::Overtaken(_) => return Ok(Vote::Overtaken),
            BallotOutcome::TooFew { voted, refusals } => {
                return Ok(Vote::TooFew { voted, refusals });
            }
            BallotOutcome::Preempted(higher) => {
                round = higher.round.saturating_add(1);
                let wait = OUTBID.wait(ballots, rand::random());
                clock::sleep_until(clock::now() + wait).await;
            }
        }
    }
    Ok(Vote::Overtaken)
}

/// Carries out one ballot.
async fn poll(mut decision: BallotRun, handles: &[NodeHandle]) -> BallotOutcome {
    let mut call = decision.start();
    while let Some(request) = call.ask.take() {
        let deadline = clock::now() + STEP_TIMEOUT;
        let deciders: Vec<NodeIndex> = decision.deciders().collect();
        let ask = |from: NodeIndex| {
            let (node, request) = (Arc::clone(&handles[from.get()].node), request.clone());
            async move { (from, node::call(&*node, request, deadline).await) }
        };
        let mut answers: FuturesUnordered<_> = deciders.into_iter().map(ask).collect();
        while let Some((from, answer)) = answers.next().await {
            call = decision.on(from, answer);
            if let Some(ruling) = call.ruling.take() {
                return ruling;
            }
            if call.ask.is_some() {
                break;
            }
        }
    }
    // The last answer gives a ruling, if no earlier one does.
    BallotOutcome::TooFew {
        voted: 0,
        refusals: Vec::new(),
    }
}

/// Distributes a decided view to its members and to those of the view before.
/// Members that the view does not name refer old clients to it.
pub(crate) fn spread(view: &View, handles: &[NodeHandle], before: Option<(&View, &[NodeHandle])>) {
    let node = |index: usize| NodeIndex::new(index as u16);
    let mut requests = Vec::new();
    for (index, handle) in handles.iter().enumerate() {
        requests.push((handle.clone(), adopt(view, node(index))));
    }
    if let Some((former, handles)) = before {
        for (index, handle) in handles.iter().enumerate() {
            if view.index_of(&handle.name).is_none() {
                requests.push((handle.clone(), adopt_under(view, former.nonce(node(index)))));
            }
        }
    }
    // Nodes that it does not reach get the view from the next client that contacts
    // them.
    let deadline = clock::now() + STEP_TIMEOUT;
    for (handle, request) in requests {
        handle.node.submit(request, deadline, ReplyTo::nobody());
    }
}
