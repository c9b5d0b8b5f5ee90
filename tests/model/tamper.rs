//! Nodes, and the mutants that live between them and the machines.

use ringlock::proto::round::Step;
use ringlock::proto::table::LockTable;
use ringlock::proto::wire::{Absent, NodeStatus, Reply, Request, Rival, Standing, ViewId};

use crate::post::{Address, Body, Letter};
use crate::scenario::{Mutant, Scenario, at, view};
use crate::shared::Shared;
use crate::world::World;

pub(crate) const FIRST_NONCE: &str = "nonce-1";
const SECOND_NONCE: &str = "nonce-2";

fn status(table: &mut LockTable) -> NodeStatus {
    match table.apply(at(0), &Request::Status) {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

/// The view that a node serves.
pub(crate) fn served(table: &LockTable) -> Option<ViewId> {
    match status(&mut table.clone()).standing() {
        Standing::Serving(view) => Some(view),
        Standing::Absent | Standing::Quarantined => None,
    }
}

pub(crate) fn quarantine(table: &mut LockTable, nonce: &str) {
    let status = status(table);
    let request = Request::Quarantine {
        expected_nonce: status.nonce,
        expected_view: status.serving,
        nonce: nonce.into(),
    };
    assert_eq!(table.apply(at(0), &request), Reply::Done);
}

pub(crate) fn adopt(table: &mut LockTable, epoch: u32, nonce: &str) {
    let request = Request::Adopt {
        view: view(epoch),
        document: format!("epoch {epoch}").into(),
        nonce: nonce.into(),
    };
    assert_eq!(table.apply(at(0), &request), Reply::Done);
}

/// A node of epoch 1 whose counter other keys have raised.
pub(crate) fn first(count: u64, scenario: &Scenario) -> LockTable {
    let mut table = LockTable::new("run-1");
    quarantine(&mut table, FIRST_NONCE);
    adopt(&mut table, 1, FIRST_NONCE);
    if count > 0 {
        let token = ringlock::proto::lease::Token::new(999, None);
        let other = ringlock::proto::lease::Key::new("other").unwrap();
        let request = Request::Acquire {
            view: view(1),
            key: other.clone(),
            token: token.clone(),
            ttl: crate::scenario::ttl(1),
            slot: scenario.placement(1).slot(),
            floor: count,
        };
        let _ = table.apply(at(0), &request);
        let _ = table.apply(at(0), &Request::Release { key: other, token });
    }
    table
}

/// The nonce that quarantine gives in the second life of a cluster.
pub(crate) fn second_life(table: &mut LockTable) {
    quarantine(table, SECOND_NONCE);
}

/// Lets a node of the second life serve epoch 2.
pub(crate) fn serve_second(table: &mut LockTable) {
    let nonce = status(table).nonce;
    adopt(table, 2, nonce.as_deref().unwrap_or_default());
}

/// Hands a request to its node, past the scenario's mutant.
pub(crate) fn carry_out(scenario: &Scenario, world: &mut World, letter: &Letter) -> Option<Reply> {
    let Body::Ask(request) = &letter.body else {
        return None;
    };
    let to = letter.address.node;
    let is_write_back = letter.address.kind.step() == Step::WriteBack;
    if is_write_back && scenario.is(Mutant::NoWriteBack) {
        return Some(Reply::Kept { counter: 0 });
    }
    let request = forged(scenario, world, letter.address, request);
    let now = at(world.tick);
    let reply = world.nodes[to].update(|table| {
        let reply = table.apply(now, &request);
        if scenario.is(Mutant::ExtendShortens) {
            shorten(table, now, &request, &reply);
        }
        reply
    });
    Some(match reply {
        // Who stands in the way matters to people, not to the machines.
        Reply::Busy(_) => Reply::Busy(Rival {
            holder: None,
            remaining: None,
        }),
        Reply::Lost(_) => Reply::Lost(None),
        other => other,
    })
}

/// What arrives in place of `request`.
fn forged(scenario: &Scenario, world: &World, address: Address, request: &Request) -> Request {
    let mut request = request.clone();
    if scenario.mutant.is_none() {
        return request;
    }
    let table = &world.nodes[address.node];
    let is_new_here = served(table) == Some(view(2));
    let is_old_somewhere = world
        .nodes
        .iter()
        .any(|other| served(other) == Some(view(1)));
    let is_any_view = scenario.is(Mutant::NoViewCheck)
        || scenario.is(Mutant::MixedViews) && is_new_here && is_old_somewhere;
    let any_token = scenario.is(Mutant::WriteBackAnyToken)
        && matches!(
            request,
            Request::Extend {
                absent: Absent::Keep,
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
    request
}

/// Makes the entry of an extend anew, for as long as it asked.
fn shorten(
    table: &mut LockTable,
    now: ringlock::proto::time::Instant,
    request: &Request,
    reply: &Reply,
) {
    if let (Request::Extend { key, token, .. }, Reply::Kept { .. }) = (request, reply) {
        let (key, token) = (key.clone(), token.clone());
        let _ = table.apply(now, &Request::Release { key, token });
        let mut request = request.clone();
        if let Request::Extend { absent, .. } = &mut request {
            *absent = Absent::Heal;
        }
        let _ = table.apply(now, &request);
    }
}

/// A server that lost its disk.
pub(crate) fn wiped(scenario: &Scenario) -> Shared<LockTable> {
    Shared::new(if scenario.is(Mutant::StampSurvives) {
        first(0, scenario)
    } else {
        LockTable::new("run-2")
    })
}
