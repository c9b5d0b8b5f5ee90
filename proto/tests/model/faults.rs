//! Nodes, and the mutants between them and the machines.

use ringlock_proto::lease::{Key, Token};
use ringlock_proto::membership::transition;
use ringlock_proto::membership::view::View;
use ringlock_proto::node::lock_table::LockTable;
use ringlock_proto::node::message::{
    CurrentHolder, IfMissing, NodeState, NodeStatus, Reply, Request, ViewId,
};
use ringlock_proto::operation::machine::Step;
use ringlock_proto::time::Instant;
use ringlock_ring::NodeIndex;

use crate::cluster::{FIRST_NONCE, key, member};
use crate::cow::Shared;
use crate::network::{Body, Message};
use crate::scenario::{Loss, Mutant, Scenario, at, span, ttl};
use crate::world::{Explored, World};

pub(crate) fn status(table: &LockTable) -> NodeStatus {
    match table.clone().apply(at(0), &Request::Status) {
        Reply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// The view that a node serves.
pub(crate) fn served(table: &LockTable) -> Option<ViewId> {
    match status(table).standing() {
        NodeState::Serving(view) => Some(view),
        NodeState::Absent | NodeState::Quarantined => None,
    }
}

pub(crate) fn serves(table: &LockTable, epoch: u32) -> bool {
    served(table).is_some_and(|view| view.epoch == epoch)
}

pub(crate) fn quarantine(table: &mut LockTable, nonce: &str) {
    let request = transition::quarantine(&status(table), nonce.into());
    assert_eq!(table.apply(at(0), &request), Reply::Done);
}

/// Makes a member of `view` serve it.
pub(crate) fn adopt(table: &mut LockTable, view: &View, home: usize) {
    let request = transition::adopt(view, member(view, home).unwrap());
    assert_eq!(table.apply(at(0), &request), Reply::Done);
}

/// The same for a node that may refuse.
pub(crate) fn adopt_as(scenario: &Scenario, table: &mut LockTable, view: &View, node: NodeIndex) {
    let mut request = transition::adopt(view, node);
    if let Request::Adopt { nonce, .. } = &mut request
        && scenario.is(Mutant::NonceUnchecked)
        && let Some(own) = status(table).nonce
    {
        *nonce = own;
    }
    let _ = table.apply(at(0), &request);
}

/// Whether a node would adopt `view`.
pub(crate) fn would_adopt(
    scenario: &Scenario,
    status: &NodeStatus,
    view: &View,
    home: usize,
) -> bool {
    let Some(node) = member(view, home) else {
        return false;
    };
    let is_listed = status.nonce.as_ref() == Some(view.nonce(node));
    let is_older = match status.standing() {
        NodeState::Absent => false,
        NodeState::Quarantined => true,
        NodeState::Serving(own) => own.epoch < view.id().epoch,
    };
    is_older && (is_listed || scenario.is(Mutant::NonceUnchecked))
}

/// A member of the first views, whose counter other keys have raised.
pub(crate) fn first(scenario: &Scenario, views: &[&View], home: usize, count: u64) -> LockTable {
    let mut table = LockTable::new("run-1");
    quarantine(&mut table, FIRST_NONCE);
    for view in views.iter().filter(|view| member(view, home).is_some()) {
        adopt(&mut table, view, home);
    }
    if let (Some(view), 1..) = (views.last(), count) {
        let token = Token::new(999, None);
        let other = Key::new("other").unwrap();
        let request = Request::Acquire {
            view: view.id(),
            key: other.clone(),
            token: token.clone(),
            ttl: ttl(1, span(scenario.max_ttl)),
            slot: view.place(&key()).slot(),
            floor: count,
        };
        let _ = table.apply(at(0), &request);
        let _ = table.apply(at(0), &Request::Release { key: other, token });
    }
    table
}

/// Delivers a request to its node, altered by the scenario's mutant.
pub(crate) fn carry_out(
    scenario: &Scenario,
    world: &mut World,
    message: &Message,
) -> Option<Reply> {
    let Body::Ask(request) = &message.body else {
        return None;
    };
    let to = message.address.node;
    let is_write_back = message.address.kind.step() == Step::WriteBack;
    if is_write_back && scenario.is(Mutant::NoWriteBack) {
        return Some(Reply::Kept { counter: 0 });
    }
    let request = forged(scenario, world, to, request);
    let now = at(world.tick);
    if is_turned(scenario, &world.nodes[to]) {
        return Some(world.nodes[to].update(|table| {
            let reply = as_before(table, |table| table.apply(now, &request));
            believed(scenario, table, &request, reply)
        }));
    }
    let reply = world.nodes[to].update(|table| {
        let reply = table.apply(now, &request);
        if scenario.is(Mutant::ExtendShortens) {
            shorten(table, now, &request, &reply);
        }
        reply
    });
    let nobody = CurrentHolder {
        holder: None,
        remaining: None,
    };
    Some(match reply {
        // The other holder matters to people, not to the machines.
        Reply::Busy(_) => Reply::Busy(nobody),
        Reply::Lost(Some(_)) => Reply::Lost(Some(nobody)),
        Reply::Made { counter } if scenario.is(Mutant::MadeVouches) => Reply::Kept { counter },
        other => other,
    })
}

/// The request that arrives in place of `request`.
fn forged(scenario: &Scenario, world: &World, to: usize, request: &Request) -> Request {
    let mut request = request.clone();
    if scenario.mutant.is_none() {
        return request;
    }
    let table = &world.nodes[to];
    let is_new_here = serves(table, 2);
    let is_old_somewhere = world.nodes.iter().any(|other| serves(other, 1));
    let is_any_view = scenario.is(Mutant::NoViewCheck)
        || scenario.is(Mutant::MixedViews) && is_new_here && is_old_somewhere;
    let any_token = scenario.is(Mutant::WriteBackAnyToken)
        && matches!(
            request,
            Request::Extend {
                if_missing: IfMissing::Report,
                ..
            }
        );
    if let Request::Acquire { view, .. } | Request::Extend { view, .. } = &mut request
        && is_any_view
        && let Some(served) = served(table)
    {
        *view = served;
    }
    if let Request::Extend { token, .. } = &mut request
        && any_token
        && let Some((_, holder, _)) = table.live(at(world.tick)).next()
    {
        *token = holder.clone();
    }
    if let Request::Extend { if_missing, .. } = &mut request
        && (scenario.is(Mutant::MadeVouches) || scenario.is(Mutant::HealsAtOnce))
    {
        *if_missing = IfMissing::Recreate;
    }
    request
}

/// Creates the entry of an extend again, for the requested time.
fn shorten(table: &mut LockTable, now: Instant, request: &Request, reply: &Reply) {
    if let (Request::Extend { key, token, .. }, Reply::Kept { .. }) = (request, reply) {
        let (key, token) = (key.clone(), token.clone());
        let _ = table.apply(now, &Request::Release { key, token });
        let mut request = request.clone();
        if let Request::Extend { if_missing, .. } = &mut request {
            *if_missing = IfMissing::Recreate;
        }
        let _ = table.apply(now, &request);
    }
}

/// A server that took over an older copy of its state, as another incarnation.
pub(crate) fn resynced(model: &Explored, home: usize) -> Shared<LockTable> {
    let mut table = first(&model.scenario, &[&model.first], home, 0);
    table.restart("run-2");
    Shared::new(table)
}

/// Whether connections are open to a node that became another one under them.
pub(crate) fn is_turned(scenario: &Scenario, table: &LockTable) -> bool {
    let status = status(table);
    scenario.loss == Some(Loss::Resync)
        && status.serving.is_some()
        && status.standing() == NodeState::Absent
}

/// The behaviour of a server on a connection that was made before it became
/// another: it compares views, and does not know of incarnations.
pub(crate) fn as_before(table: &mut LockTable, act: impl FnOnce(&mut LockTable) -> Reply) -> Reply {
    table.restart("run-1");
    let reply = act(table);
    table.restart("run-2");
    reply
}

/// A client's interpretation of such a reply: the server's identity is verified
/// after what changed it, so that only a release is believed.
pub(crate) fn believed(
    scenario: &Scenario,
    table: &LockTable,
    request: &Request,
    reply: Reply,
) -> Reply {
    match request {
        _ if scenario.is(Mutant::IdentityOnce) => match reply {
            Reply::Busy(_) => Reply::Busy(CurrentHolder {
                holder: None,
                remaining: None,
            }),
            Reply::Lost(_) => Reply::Lost(None),
            other => other,
        },
        Request::Release { .. } => reply,
        Request::Status => Reply::Status(Box::new(status(table))),
        Request::Acquire { .. } | Request::Extend { .. } => Reply::Stale(None),
        _ => Reply::Refused(Box::new(status(table))),
    }
}

/// A server that lost its disk.
pub(crate) fn wiped(model: &Explored, home: usize) -> Shared<LockTable> {
    Shared::new(if model.scenario.is(Mutant::StampSurvives) {
        first(&model.scenario, &[&model.first], home, 0)
    } else {
        LockTable::new("run-2")
    })
}
