//! An attempt that did not win: its cause, what is counted, and its error.

use std::sync::Arc;

use crate::acquire::retry::Terms;
use crate::acquire::wait::Rivals;
use crate::cluster::nodes::ViewNodes;
use crate::error::Error;
use crate::lease::state::LeaseState;
use crate::proto::lease::Holder;
use crate::proto::node::message::{NodeErrorKind, Rival};
use crate::proto::operation::acquire::{Refused, Shortfall};
use crate::proto::operation::machine::Refusal;
use crate::proto::time::Instant;

/// An attempt that did not win.
pub(crate) struct FailedAttempt {
    /// The nodes on which it was made.
    pub(crate) fleet: Arc<ViewNodes>,
    began: Instant,
    pub(crate) error: Error,
    /// The other holders that blocked it.
    pub(crate) rivals: Rivals,
    /// Nodes serve another view, or none.
    pub(crate) is_outdated: bool,
    /// The nodes that did not grant it did not answer in time, and nothing else is
    /// known of them.
    is_silence: bool,
}

impl FailedAttempt {
    /// The nodes did not grant it.
    pub(crate) fn of(held: &LeaseState, refused: Refused) -> Self {
        let fleet = &held.fleet;
        let refusals = &refused.refusals;
        let is_outdated = refusals
            .iter()
            .any(|(node, refusal)| refusal.is_stale() && !fleet.is_returning(*node));
        let is_silence = refusals.iter().all(|(_, refusal)| is_silence(refusal));
        let rivals = Rivals::of(&held.placement, refused.granted, refusals);
        let is_contended = is_contended(held, &refused);
        count(held, is_contended);
        let error = match is_contended {
            true => contended(held, &refused),
            false => shortfall(held, refused),
        };
        Self {
            fleet: Arc::clone(fleet),
            began: held.asked_at,
            error,
            rivals,
            is_outdated,
            is_silence,
        }
    }

    /// The router's tasks have stopped: no answer will arrive, in time or late.
    pub(crate) fn deserted(held: &LeaseState) -> Self {
        count(held, false);
        Self {
            fleet: Arc::clone(&held.fleet),
            began: held.asked_at,
            error: Error::Closed,
            rivals: Rivals::of(&held.placement, 0, &[]),
            is_outdated: false,
            is_silence: false,
        }
    }

    /// Whether the only cause is that nodes did not answer in the rest of the wait.
    /// An attempt with its full time has a more useful error. So has an attempt
    /// that could not reach nodes.
    pub(crate) fn tells_less(&self, terms: Terms) -> bool {
        let needed = self.fleet.node_timeout(terms.ttl);
        let is_cut_short = terms
            .answer_by()
            .is_some_and(|answer_by| self.began + needed > answer_by);
        is_cut_short && self.is_silence && !self.error.is_contention()
    }
}

/// The entries of other holders.
fn rivals(refused: &Refused) -> impl Iterator<Item = Option<&Rival>> {
    let refusals = refused.refusals.iter();
    refusals.filter_map(|(_, refusal)| match refusal {
        Refusal::Busy(rival) => Some(rival.as_ref()),
        _ => None,
    })
}

/// Whether other holders are the cause. They are not where outages alone are
/// enough to block a quorum.
fn is_contended(held: &LeaseState, refused: &Refused) -> bool {
    let refusals = refused.refusals.iter();
    let outages = refusals
        .filter(|(_, refusal)| !matches!(refusal, Refusal::Busy(_)))
        .filter_map(|(node, _)| held.placement.seat(*node))
        .collect();
    let is_outage = held.placement.is_blocked_by(outages) || rivals(refused).next().is_none();
    refused.shortfall == Shortfall::Votes && !is_outage
}

fn count(held: &LeaseState, is_contended: bool) {
    let counters = &held.context.counters;
    if is_contended {
        counters.hot.note(&held.key);
        counters.contended.add_one();
    } else {
        counters.failed.add_one();
    }
}

/// Names the holder whose entry lasts longest.
fn contended(held: &LeaseState, refused: &Refused) -> Error {
    let lasts = |rival: &&Rival| {
        let holder = rival.holder.as_ref();
        (holder.is_some_and(Holder::never_expires), rival.remaining)
    };
    let strongest = rivals(refused).flatten().max_by_key(lasts);
    Error::Contended {
        key: held.key.clone(),
        holder: strongest.and_then(|rival| rival.holder.clone()),
        remaining: strongest.and_then(|rival| rival.remaining),
    }
}

fn shortfall(held: &LeaseState, refused: Refused) -> Error {
    let (fleet, key) = (&held.fleet, held.key.clone());
    let Refused {
        shortfall,
        granted,
        refusals,
    } = refused;
    match shortfall {
        Shortfall::Votes | Shortfall::Fence => {
            fleet.no_quorum(&key, granted, &held.placement, refusals)
        }
        Shortfall::Expired => Error::TooSlow {
            key,
            ttl: held.ttl.get(),
        },
        Shortfall::Unconfirmed => Error::Unconfirmed {
            key,
            needed: fleet.view.majority(),
            causes: fleet.causes(refusals),
        },
    }
}

/// Whether a node only failed to answer in time, or another client holds the key
/// there.
fn is_silence(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Busy(_) => true,
        Refusal::Stale(_) | Refusal::Gone => false,
        Refusal::Failed(error) => matches!(
            error.kind(),
            NodeErrorKind::Timeout | NodeErrorKind::Overloaded
        ),
    }
}
