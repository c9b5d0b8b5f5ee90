//! Worlds in which nodes carry out an ACQUIRE in parts.

use crate::changes::{HANDOVER, OWNER_WIPED};
use crate::properties::Seen;
use crate::scenario::{Change, Scenario};
use crate::scenarios::{BASE, each_holds};

/// Two clients at one node, and requests that are lost between two parts.
pub(crate) const PARTS: Scenario = Scenario {
    name: "acquires in parts",
    attempts: [2, 1],
    drops: 1,
    late: 1,
    abandons: true,
    is_pipelined: true,
    ..BASE
};

/// A quorum of three.
pub(crate) const PARTS_OF_THREE: Scenario = Scenario {
    name: "acquires in parts at three nodes",
    nodes: 3,
    replicas: 3,
    attempts: [1, 1],
    horizon: 1,
    sights: &[Seen::Granted, Seen::Contended],
    ..PARTS_ALONE
};

/// The owner adopts a newer view between any two parts, and its counters start
/// again.
pub(crate) const PARTS_VIEWS: Scenario = Scenario {
    name: "acquires in parts, two views at once",
    nodes: 3,
    attempts: [1, 1],
    horizon: 1,
    counts: [2, 0, 0],
    change: Change::Adopt,
    sights: &[Seen::Granted, Seen::Contended, Seen::Stale, Seen::Moved],
    ..PARTS_ALONE
};

/// The owner is wiped between any two parts, and readmitted.
pub(crate) const PARTS_WIPED: Scenario = Scenario {
    name: "acquires in parts, owner wiped",
    is_pipelined: true,
    ..OWNER_WIPED
};

/// The owner changes between any two parts.
pub(crate) const PARTS_HANDOVER: Scenario = Scenario {
    name: "acquires in parts, owner change",
    attempts: [1, 1],
    is_pipelined: true,
    ..HANDOVER
};

const PARTS_ALONE: Scenario = Scenario {
    is_pipelined: true,
    ..BASE
};

each_holds! {
    acquires_in_parts_break_no_claim: PARTS,
    acquires_in_parts_of_three_break_no_claim: PARTS_OF_THREE,
    acquires_in_parts_under_two_views_break_no_claim: PARTS_VIEWS,
    #[ignore = "minutes: scripts/model.sh"]
    acquires_in_parts_of_a_wiped_owner_break_no_claim: PARTS_WIPED,
    acquires_in_parts_during_an_owner_change_break_no_claim: PARTS_HANDOVER,
}
