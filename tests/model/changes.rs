//! Worlds in which membership changes, and in which every claim must hold.

use crate::cluster::Plan;
use crate::properties::{Claim, Seen};
use crate::scenario::{Aim, Loss, Scenario};
use crate::scenarios::BASE;

const fn plan(from: usize, to: usize) -> Plan {
    Plan {
        nodes: (from, to),
        replicas: 1,
        max_ttl: 1,
        view_lease: 1,
    }
}

const A: Plan = plan(0, 1);
const B: Plan = plan(1, 2);

/// One owner hands over to another, who was made ready.
pub(crate) const HANDOVER: Scenario = Scenario {
    name: "a: owner change",
    spares: 1,
    max_ttl: 1,
    ttl: 1,
    attempts: [1, 2],
    extends: [0, 0],
    horizon: 2,
    coordinators: &[&[Aim::Reach(A, B)]],
    ballots: 2,
    is_prepared: true,
    claims: Claim::CHANGE,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Stale,
        Seen::GrantedJoint,
        Seen::GrantedLast,
    ],
    ..BASE
};

/// The same, with leases that are carried over.
pub(crate) const CARRY: Scenario = Scenario {
    name: "g: extends over an owner change",
    attempts: [1, 1],
    extends: [2, 0],
    extend_ttls: &[1],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Carried,
        Seen::Lapsed,
        Seen::GrantedJoint,
        Seen::GrantedLast,
    ],
    ..HANDOVER
};

/// The owner is wiped, and let in again.
pub(crate) const OWNER_WIPED: Scenario = Scenario {
    name: "b1: owner wiped and let in again",
    nodes: 3,
    max_ttl: 1,
    ttl: 1,
    attempts: [1, 1],
    horizon: 2,
    loss: Some(Loss::Wipe),
    losses: 1,
    losable: &[0],
    coordinators: &[&[Aim::Keep]],
    ballots: 1,
    claims: Claim::CHANGE,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Readmitted,
        Seen::Moved,
    ],
    ..BASE
};
