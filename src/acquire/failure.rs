//! An attempt that did not win: its cause, what is counted, and its error.

use std::sync::Arc;

use crate::acquire::retry::Deadlines;
use crate::acquire::wait::Conflict;
use crate::cluster::nodes::ViewNodes;
use crate::error::Error;
use crate::lease::state::LeaseState;
use crate::proto::lease::Holder;
use crate::proto::node::message::{CurrentHolder, NodeErrorKind};
use crate::proto::operation::acquire::{Denied, DenyReason};
use crate::proto::operation::machine::Refusal;
use crate::proto::quorum::Placement;
use crate::proto::time::Instant;

/// An attempt that did not win.
pub(crate) struct FailedAttempt {
    /// The nodes on which it was made.
    pub(crate) view_nodes: Arc<ViewNodes>,
    began: Instant,
    pub(crate) error: Error,
    /// The other holders that blocked it.
    pub(crate) conflict: Conflict,
    /// Nodes serve another view, or none.
    pub(crate) is_outdated: bool,
    /// Nodes that did not answer in time are the cause: the others alone could not
    /// have refused it.
    is_silence: bool,
}

impl FailedAttempt {
    /// The nodes did not grant it.
    pub(crate) fn of(lease: &LeaseState, denied: Denied) -> Self {
        let view_nodes = &lease.view_nodes;
        let refusals = &denied.refusals;
        let is_outdated = refusals
            .iter()
            .any(|(node, refusal)| refusal.is_stale() && !view_nodes.is_returning(*node));
        let placement = lease.placement();
        let is_silence = is_silence(lease, &placement, &denied);
        let conflict = Conflict::of(&placement, denied.granted, refusals);
        let is_contended = is_contended(&placement, &denied);
        count(lease, is_contended);
        let error = match is_contended {
            true => contended(lease, &denied),
            false => reason(lease, &placement, denied),
        };
        Self {
            view_nodes: Arc::clone(view_nodes),
            began: lease.asked_at,
            error,
            conflict,
            is_outdated,
            is_silence,
        }
    }

    /// The router's tasks have stopped: no answer will arrive, in time or late.
    pub(crate) fn deserted(lease: &LeaseState) -> Self {
        count(lease, false);
        Self {
            view_nodes: Arc::clone(&lease.view_nodes),
            began: lease.asked_at,
            error: Error::Closed,
            conflict: Conflict::of(&lease.placement(), 0, &[]),
            is_outdated: false,
            is_silence: false,
        }
    }

    /// Whether the only cause is that nodes did not answer in the rest of the wait.
    /// An attempt with its full time has a more useful error. So has an attempt
    /// that could not reach nodes.
    pub(crate) fn is_less_specific(&self, deadlines: Deadlines) -> bool {
        let needed = self.view_nodes.node_timeout(deadlines.ttl);
        let is_cut_short = deadlines
            .answer_by()
            .is_some_and(|answer_by| self.began + needed > answer_by);
        is_cut_short && self.is_silence && !self.error.is_contention()
    }
}

/// The entries of other holders.
fn conflict(denied: &Denied) -> impl Iterator<Item = Option<&CurrentHolder>> {
    let refusals = denied.refusals.iter();
    refusals.filter_map(|(_, refusal)| match refusal {
        Refusal::Busy(rival) => Some(rival.as_ref()),
        _ => None,
    })
}

/// Whether other holders are the cause. They are not where outages alone are
/// enough to block a quorum.
fn is_contended(placement: &Placement, denied: &Denied) -> bool {
    let refusals = denied.refusals.iter();
    let outages = refusals
        .filter(|(_, refusal)| !matches!(refusal, Refusal::Busy(_)))
        .filter_map(|(node, _)| placement.voter(*node))
        .collect();
    let is_outage = placement.is_blocked_by(outages) || conflict(denied).next().is_none();
    denied.reason == DenyReason::Votes && !is_outage
}

fn count(lease: &LeaseState, is_contended: bool) {
    let counters = &lease.context.counters;
    if is_contended {
        counters.hot.note(&lease.key);
        counters.contended.add_one();
    } else {
        counters.failed.add_one();
    }
}

/// Names the holder whose entry lasts longest.
fn contended(lease: &LeaseState, denied: &Denied) -> Error {
    let lasts = |rival: &&CurrentHolder| {
        let holder = rival.holder.as_ref();
        (holder.is_some_and(Holder::never_expires), rival.remaining)
    };
    let strongest = conflict(denied).flatten().max_by_key(lasts);
    Error::Contended {
        key: lease.key.clone(),
        holder: strongest.and_then(|rival| rival.holder.clone()),
        remaining: strongest.and_then(|rival| rival.remaining),
    }
}

fn reason(lease: &LeaseState, placement: &Placement, denied: Denied) -> Error {
    let (view_nodes, key) = (&lease.view_nodes, lease.key.clone());
    let Denied {
        reason,
        granted,
        refusals,
    } = denied;
    match reason {
        DenyReason::Votes | DenyReason::Fence => {
            view_nodes.no_quorum(&key, granted, placement, refusals)
        }
        DenyReason::Expired => Error::TooSlow {
            key,
            ttl: lease.ttl.get(),
        },
        DenyReason::Unconfirmed => Error::Unconfirmed {
            key,
            needed: view_nodes.view.majority(),
            causes: view_nodes.causes(refusals),
        },
    }
}

/// Whether an attempt with more time might have been granted: what nodes answered
/// leaves a quorum, or a majority that confirms the view.
fn is_silence(lease: &LeaseState, placement: &Placement, denied: &Denied) -> bool {
    let refusals = denied.refusals.iter();
    let mut definite = refusals
        .filter(|(_, refusal)| !is_unanswered(refusal))
        .map(|(node, _)| *node);
    match denied.reason {
        DenyReason::Votes | DenyReason::Fence => {
            let no = definite.filter_map(|node| placement.voter(node));
            !placement.is_blocked_by(no.collect())
        }
        DenyReason::Unconfirmed => {
            let no: Vec<_> = definite.collect();
            lease
                .view_nodes
                .view
                .has_majority(|node| !no.contains(&node))
        }
        DenyReason::Expired => definite.next().is_none(),
    }
}

/// Whether a node only failed to answer in time, or another client holds the key
/// there.
fn is_unanswered(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Busy(_) => true,
        Refusal::Stale(_) | Refusal::Gone => false,
        Refusal::Failed(error) => matches!(
            error.kind(),
            NodeErrorKind::Timeout | NodeErrorKind::Overloaded
        ),
    }
}
