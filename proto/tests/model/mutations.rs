//! What mutants do to clients and coordinators.

use std::sync::Arc;
use std::time::Duration;

use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::{Reply, Request};
use ringlock_proto::operation::known::Known;
use ringlock_proto::operation::machine::Effects;
use ringlock_proto::quorum::Placement;
use ringlock_proto::time::{Instant, outwait};
use ringlock_ring::NodeIndex;

use crate::cluster::{key, member};
use crate::scenario::{Mutant, Scenario, at, span};

/// What an answer reveals about the entries.
pub(crate) fn seen<O>(scenario: &Scenario, effects: &Effects<O>) -> Known {
    known(
        scenario,
        Known {
            seen: effects.acknowledged,
            vouching: effects.vouching,
        },
    )
}

/// What is assumed to be known in place of `known`.
pub(crate) fn known(scenario: &Scenario, known: Known) -> Known {
    if scenario.is(Mutant::SeenVouches) {
        Known::vouched(known.seen.union(known.vouching))
    } else {
        known
    }
}

/// The longest ttl that a client requests.
pub(crate) fn max_ttl(scenario: &Scenario, view: &View) -> Duration {
    if scenario.is(Mutant::LongerTtlGranted) {
        view.longest_ttl()
    } else {
        view.max_ttl()
    }
}

/// The nodes that an attempt asks, the first group first.
pub(crate) fn placement(scenario: &Scenario, view: &View) -> Placement {
    let placement = view.place(&key());
    let mut groups = placement.groups().map(|group| {
        let nodes = group.iter().map(|voter| placement.node(voter));
        nodes.collect::<Vec<NodeIndex>>()
    });
    match (groups.next(), groups.next()) {
        (Some(old), Some(new)) if scenario.is(Mutant::NewGroupFirst) => {
            Placement::joint(placement.slot(), &new, &old)
        }
        (Some(old), Some(new)) if scenario.is(Mutant::GroupsCountedTogether) => {
            let mut both = old;
            both.extend(new);
            both.sort_unstable();
            both.dedup();
            Placement::stable(placement.slot(), &both)
        }
        _ => placement,
    }
}

/// The reading of a coordinator's clock. It runs ahead of the nodes' by the margin
/// of a wait, so that a wait of n ticks takes exactly n ticks.
pub(crate) fn coordinator_clock(tick: u8) -> Instant {
    at(tick) + Duration::from_millis(24) * u32::from(tick)
}

/// The reading that is used when the next step is chosen in `view`.
pub(crate) fn clock(scenario: &Scenario, view: &View, tick: u8) -> Instant {
    let now = coordinator_clock(tick);
    let tick = Duration::from_millis(1024);
    let is_joint = view.next().is_some();
    let ahead = match scenario.mutant {
        Some(Mutant::NoPassageWait) if is_joint => span(100),
        Some(Mutant::ShortPassageWait) if is_joint => tick,
        Some(Mutant::NoViewLeaseWait) if is_joint => view.longest_view_lease() + tick / 10,
        Some(Mutant::ShorterTtlWaited) if is_joint => {
            outwait(view.longest_ttl()) - outwait(view.max_ttl())
        }
        Some(Mutant::NoQuarantineWait) => span(100),
        Some(Mutant::ShortQuarantineWait) => tick,
        _ => Duration::ZERO,
    };
    now + ahead
}

/// The view that is put to the vote in place of `view`.
pub(crate) fn motion(scenario: &Scenario, view: View) -> View {
    match view.next() {
        Some(next) if scenario.is(Mutant::NoJointPhase) => {
            let mut nonces = view.nonces();
            nonces.retain(|name, _| next.nodes.iter().any(|node| node.name == *name));
            View::stable(view.id().epoch, next.clone(), &nonces).unwrap()
        }
        _ => view,
    }
}

/// The request that quarantines `to` in place of `request`.
pub(crate) fn quarantine(
    scenario: &Scenario,
    view: &View,
    to: usize,
    mut request: Request,
) -> Request {
    if let Request::Quarantine { nonce, .. } = &mut request
        && scenario.is(Mutant::NoQuarantine)
        && let Some(node) = member(view, to)
    {
        *nonce = Arc::clone(view.nonce(node));
    }
    request
}

/// Delivers a vote or quarantine request to a node.
pub(crate) fn obey(
    scenario: &Scenario,
    table: &mut LockTable,
    now: Instant,
    request: &Request,
) -> Reply {
    let reply = table.apply(now, request);
    match (&reply, request) {
        (Reply::Promised(_), _) if scenario.is(Mutant::AcceptedIgnored) => Reply::Promised(None),
        (Reply::Preempted(promised), Request::Accept { .. })
            if scenario.is(Mutant::PromiseIgnored) =>
        {
            let mut request = request.clone();
            if let Request::Accept { ballot, .. } = &mut request {
                *ballot = *promised;
            }
            table.apply(at(0), &request)
        }
        _ => reply,
    }
}

/// Whether a coordinator continues although its transition was taken back.
pub(crate) fn ignores_abort(scenario: &Scenario, was_joint: bool) -> bool {
    scenario.is(Mutant::AbortIgnored) || scenario.is(Mutant::UnseenAbortIgnored) && !was_joint
}
