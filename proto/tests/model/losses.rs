//! Worlds in which most members lose their data, and in which every claim must
//! hold.

use crate::properties::{Claim, Seen};
use crate::scenario::{Aim, Loss, Scenario};
use crate::scenarios::{BASE, each_holds};

/// The owner and another of three are lost, one after the other; the third
/// keeps its data.
pub(crate) const OWNER_LOST: Scenario = Scenario {
    name: "majority lost, with the owner",
    nodes: 3,
    max_ttl: 1,
    ttl: 1,
    attempts: [1, 1],
    horizon: 2,
    loss: Some(Loss::Wipe),
    losses: 2,
    losable: &[0, 1],
    starters: &[1],
    claims: Claim::CHANGE,
    sights: &[Seen::Granted, Seen::Again, Seen::Stale, Seen::Moved],
    ..BASE
};

/// The same with longer leases, and a lease that is extended.
pub(crate) const OWNER_LOST_EXTENDS: Scenario = Scenario {
    name: "majority lost, extends",
    max_ttl: 2,
    ttl: 2,
    extends: [1, 0],
    horizon: 3,
    ..OWNER_LOST
};

/// The owner keeps its data, and its lease.
pub(crate) const OWNER_LEFT: Scenario = Scenario {
    name: "majority lost, without the owner",
    extends: [1, 0],
    losable: &[1, 2],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Stale,
        Seen::Moved,
    ],
    ..OWNER_LOST
};

/// All are lost one by one, also those that wait, faster than any is readmitted,
/// and an attempt is repeated.
pub(crate) const ROLLING: Scenario = Scenario {
    name: "rolling loss",
    losses: 3,
    losable: &[0, 1, 2],
    starters: &[2],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Moved,
        Seen::Disturbed,
        Seen::TakenOver,
    ],
    ..OWNER_LOST
};

/// One of two members is quarantined while the owner, the other one, continues to
/// serve until it is lost as well: the owner's wait is shorter than the other's.
/// The view lease is long enough for a grant in between, to a client that saw both
/// members before.
pub(crate) const OWNER_LAST: Scenario = Scenario {
    name: "rolling loss, the owner last",
    nodes: 2,
    view_lease: 3,
    attempts: [2, 1],
    losses: 2,
    losable: &[0, 1],
    ..ROLLING
};

/// Two of three replicas are lost.
pub(crate) const REPLICAS_LOST: Scenario = Scenario {
    name: "majority of the replicas lost",
    replicas: 3,
    horizon: 1,
    losable: &[0, 1],
    ..OWNER_LOST
};

/// Two processes start the cluster at the same time.
pub(crate) const RIVAL_STARTS: Scenario = Scenario {
    name: "majority lost, two starters",
    attempts: [1, 1],
    horizon: 1,
    starters: &[1, 1],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Moved,
        Seen::Disturbed,
        Seen::TakenOver,
    ],
    ..OWNER_LOST
};

/// The same without clients: at most one view of each epoch is ever served.
pub(crate) const RIVAL_VIEWS: Scenario = Scenario {
    name: "two starters, one view",
    attempts: [0, 0],
    horizon: 2,
    starters: &[2, 1],
    claims: Claim::VOTES,
    sights: &[Seen::Disturbed, Seen::TakenOver],
    ..OWNER_LOST
};

/// One process starts the cluster while another has lost nodes voted in again:
/// at most one view of each number is ever served. There are no clients: with
/// them the world is too large to exhaust.
pub(crate) const START_OR_VOTE: Scenario = Scenario {
    name: "majority lost, or readmitted",
    attempts: [0, 0],
    coordinators: &[&[Aim::Keep]],
    ballots: &[1],
    claims: Claim::VOTES,
    sights: &[Seen::Disturbed, Seen::Readmitted],
    ..OWNER_LOST
};

/// Whatever is lost, at any time and at any progress, the cluster can be brought to
/// a stable state.
pub(crate) const NEVER_STUCK: Scenario = Scenario {
    name: "rolling loss, at rest again",
    attempts: [0, 0],
    horizon: 1,
    losses: 3,
    losable: &[0, 1, 2],
    coordinators: &[&[Aim::Keep]],
    ballots: &[1],
    starters: &[1],
    claims: Claim::VOTES,
    sights: &[Seen::Disturbed, Seen::Readmitted],
    ..OWNER_LOST
};

each_holds! {
    a_majority_with_the_owner_lost_breaks_no_claim: OWNER_LOST,
    #[ignore = "minutes: scripts/model.sh"]
    a_majority_lost_under_extends_breaks_no_claim: OWNER_LOST_EXTENDS,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_majority_without_the_owner_lost_breaks_no_claim: OWNER_LEFT,
    #[ignore = "minutes: scripts/model.sh"]
    a_rolling_loss_breaks_no_claim: ROLLING,
    #[ignore = "minutes: scripts/model.sh"]
    a_rolling_loss_with_the_owner_last_breaks_no_claim: OWNER_LAST,
    most_replicas_lost_break_no_claim: REPLICAS_LOST,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    two_starters_break_no_claim: RIVAL_STARTS,
    two_starters_serve_one_view: RIVAL_VIEWS,
    a_start_during_a_vote_breaks_no_claim: START_OR_VOTE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_rolling_loss_leaves_nothing_stuck: NEVER_STUCK,
}
