//! An ACQUIRE as separate commands on one connection, between which the node carries
//! out whatever else arrives: PROTOCOL E1.
//!
//! The id of the view was read on the connection at any time before. Ids never come
//! back, so the same id behind the commands proves that the view was served all
//! through them.

use ringlock_proto::node::message::{CurrentHolder, Reply, Request, ViewId};

use crate::faults;
use crate::network::{Body, Message};
use crate::scenario::{Mutant, Scenario, at};
use crate::world::World;

/// What the node has carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    found: Option<Found>,
    counter: Option<u64>,
    /// The entry was made under another view, or none, and is deleted next.
    undone_for: Option<Option<ViewId>>,
}

/// What the SET found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Found {
    Nothing,
    Own,
    Other,
}

pub(crate) enum Advance {
    /// The node carries it out in one step.
    Whole,
    /// It has carried out one more part.
    Part(Progress),
    Done(Reply),
}

/// Has a node carry out the next part of a request.
pub(crate) fn advance(scenario: &Scenario, world: &mut World, message: &Message) -> Advance {
    let Body::Ask(Request::Acquire {
        view,
        key,
        token,
        ttl,
        slot,
        floor: 0,
    }) = &message.body
    else {
        return Advance::Whole;
    };
    if !scenario.is_pipelined {
        return Advance::Whole;
    }
    let now = at(world.tick);
    let table = &mut world.nodes[message.address.node];
    let Some(progress) = &message.progress else {
        let is_read = faults::served(table) == Some(*view);
        // A view that was not read on the connection is asked for by the script.
        return if is_read || scenario.is(Mutant::NoReadAhead) {
            Advance::Part(Progress {
                found: None,
                counter: None,
                undone_for: None,
            })
        } else {
            Advance::Whole
        };
    };
    let mut next = progress.clone();
    if let Some(serving) = progress.undone_for {
        let (key, token) = (key.clone(), token.clone());
        let _ = table.update(|table| table.apply(now, &Request::Release { key, token }));
        return Advance::Done(Reply::Stale(serving));
    }
    let counts_now = progress.found.is_some() || scenario.is(Mutant::CountBeforeSet);
    if progress.counter.is_none() && counts_now {
        next.counter = Some(table.update(|table| table.count(*slot, 0)));
        return Advance::Part(next);
    }
    let (Some(found), Some(counter)) = (progress.found, progress.counter) else {
        let is_own = table
            .live(now)
            .any(|(other, holder, _)| other == key && holder == token);
        let is_made = table.update(|table| table.set_if_free(now, key, token, *ttl));
        next.found = Some(match (is_made, is_own) {
            (true, _) => Found::Nothing,
            (false, true) => Found::Own,
            (false, false) => Found::Other,
        });
        return Advance::Part(next);
    };
    let serving = match faults::served(table) {
        _ if scenario.is(Mutant::NoReadBehind) => Some(*view),
        serving => serving,
    };
    let is_served = serving == Some(*view);
    match found {
        Found::Nothing if !is_served => {
            next.undone_for = Some(serving);
            Advance::Part(next)
        }
        _ if !is_served => Advance::Done(Reply::Stale(serving)),
        Found::Nothing | Found::Own => Advance::Done(Reply::Granted { counter }),
        Found::Other => Advance::Done(Reply::Busy(CurrentHolder {
            holder: None,
            remaining: None,
        })),
    }
}
