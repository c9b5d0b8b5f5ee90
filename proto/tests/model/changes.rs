//! Worlds in which membership changes, and in which every claim must hold.

use crate::cluster::Plan;
use crate::properties::{Claim, Seen};
use crate::scenario::{Aim, Loss, Scenario};
use crate::scenarios::{BASE, each_holds};

/// Nodes `from..to`, one replica; ttl and view lease of a tick.
const fn plan(from: usize, to: usize) -> Plan {
    Plan {
        nodes: (from, to),
        replicas: 1,
        max_ttl: 1,
        view_lease: 1,
    }
}

const fn longer(plan: Plan) -> Plan {
    Plan { max_ttl: 2, ..plan }
}

const fn quorum(plan: Plan) -> Plan {
    Plan {
        replicas: 3,
        ..plan
    }
}

const A: Plan = plan(0, 1);
const B: Plan = plan(1, 2);
const C: Plan = plan(2, 3);
const ABC: Plan = plan(0, 3);

/// What a transition shows that two clients follow.
const PASSED: &[Seen] = &[
    Seen::Granted,
    Seen::Again,
    Seen::Contended,
    Seen::Stale,
    Seen::GrantedJoint,
    Seen::GrantedLast,
];

/// One owner hands over to another, prepared one.
pub(crate) const HANDOVER: Scenario = Scenario {
    name: "owner change",
    spares: 1,
    max_ttl: 1,
    ttl: 1,
    attempts: [1, 2],
    horizon: 2,
    coordinators: &[&[Aim::Reach(A, B)]],
    ballots: &[2],
    is_prepared: true,
    is_eager: false,
    claims: Claim::CHANGE,
    sights: PASSED,
    ..BASE
};

/// The same from the very beginning: the new owner is quarantined first.
pub(crate) const WHOLE: Scenario = Scenario {
    name: "owner change, new node quarantined",
    attempts: [1, 1],
    horizon: 3,
    is_prepared: false,
    ..HANDOVER
};

/// The same, with late requests.
pub(crate) const HANDOVER_LATE: Scenario = Scenario {
    name: "owner change, late requests",
    attempts: [1, 1],
    late: 1,
    slow: 1,
    ..HANDOVER
};

/// The longest ttl shrinks: leases from before outlive those from after.
pub(crate) const SHRINK: Scenario = Scenario {
    name: "owner change to a shorter ttl",
    max_ttl: 2,
    ttl: 2,
    attempts: [1, 1],
    coordinators: &[&[Aim::Reach(longer(A), B)]],
    ..HANDOVER
};

/// It has shrunk, and the next change waits for the shorter one.
pub(crate) const SHRUNK: Scenario = Scenario {
    name: "owner change after a shorter ttl",
    spares: 2,
    joint: Some(B),
    coordinators: &[&[Aim::Reach(longer(A), B), Aim::Reach(B, C)]],
    ballots: &[3],
    is_eager: true,
    horizon: 3,
    ..SHRINK
};

/// A lease is extended while its owner changes.
pub(crate) const CARRY: Scenario = Scenario {
    name: "extends over an owner change",
    max_ttl: 2,
    ttl: 2,
    attempts: [1, 1],
    extends: [2, 0],
    coordinators: &[&[Aim::Reach(longer(A), longer(B))]],
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

/// The same where entries vanish: a lease that is carried over was never gone.
pub(crate) const CARRY_VANISH: Scenario = Scenario {
    name: "extends while entries vanish",
    horizon: 0,
    loss: Some(Loss::Vanish),
    claims: &[Claim::Continuity, Claim::OneDocument],
    sights: &[Seen::Granted, Seen::Extended, Seen::Carried, Seen::Lost],
    ..CARRY
};

/// The owner is lost, and readmitted.
pub(crate) const OWNER_WIPED: Scenario = Scenario {
    name: "owner wiped",
    nodes: 3,
    max_ttl: 1,
    ttl: 1,
    attempts: [1, 1],
    horizon: 2,
    loss: Some(Loss::Wipe),
    losses: 1,
    losable: &[0],
    coordinators: &[&[Aim::Keep]],
    ballots: &[1],
    prompt: &[1, 2],
    claims: Claim::CHANGE,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Stale,
        Seen::Readmitted,
        Seen::Moved,
    ],
    ..BASE
};

/// The owner becomes another incarnation under open connections, and is
/// readmitted.
pub(crate) const OWNER_RESYNCED: Scenario = Scenario {
    name: "owner becomes another",
    loss: Some(Loss::Resync),
    ..OWNER_WIPED
};

/// The same with longer leases, for which a wait may be too short.
pub(crate) const OWNER_WIPED_LONGER: Scenario = Scenario {
    name: "owner wiped, ttl of two ticks",
    max_ttl: 2,
    ttl: 2,
    horizon: 3,
    ..OWNER_WIPED
};

/// It is lost a second time, before or after the readmission.
pub(crate) const WIPED_TWICE: Scenario = Scenario {
    name: "owner wiped twice",
    max_ttl: 1,
    ttl: 1,
    horizon: 2,
    losses: 2,
    ballots: &[2],
    ..OWNER_WIPED
};

/// One of three is lost, and readmitted.
pub(crate) const REPLICA_WIPED: Scenario = Scenario {
    name: "replica wiped",
    replicas: 3,
    max_ttl: 1,
    ttl: 1,
    horizon: 1,
    prompt: &[2],
    ..OWNER_WIPED
};

/// One of three is replaced.
pub(crate) const REPLACE: Scenario = Scenario {
    name: "replica replaced",
    nodes: 3,
    replicas: 3,
    attempts: [1, 1],
    horizon: 1,
    coordinators: &[&[Aim::Reach(quorum(ABC), quorum(plan(1, 4)))]],
    prompt: &[1, 2, 3],
    is_eager: true,
    ..HANDOVER
};

/// The same, and a lease that is carried over.
pub(crate) const REPLACE_CARRY: Scenario = Scenario {
    name: "extends over a replacement",
    extends: [1, 0],
    horizon: 0,
    sights: &[
        Seen::Granted,
        Seen::Extended,
        Seen::Carried,
        Seen::GrantedJoint,
    ],
    ..REPLACE
};

/// From one replica to three.
pub(crate) const GROW: Scenario = Scenario {
    name: "from one replica to three",
    spares: 2,
    attempts: [1, 1],
    horizon: 1,
    coordinators: &[&[Aim::Reach(A, quorum(ABC))]],
    is_eager: true,
    ..HANDOVER
};

/// Two coordinators have different owners as their goals.
pub(crate) const RIVALS: Scenario = Scenario {
    name: "coordinators with different goals",
    spares: 2,
    attempts: [1, 1],
    horizon: 1,
    coordinators: &[&[Aim::Reach(A, B)], &[Aim::Reach(A, C)]],
    ballots: &[2, 2],
    is_eager: true,
    ..HANDOVER
};

/// Two coordinators have the same goal, and each prepares the new owner.
pub(crate) const ALLIES: Scenario = Scenario {
    name: "coordinators with one goal",
    attempts: [1, 0],
    horizon: 2,
    coordinators: &[&[Aim::Reach(A, B)], &[Aim::Reach(A, B)]],
    ballots: &[1, 1],
    is_prepared: false,
    sights: &[Seen::Granted, Seen::GrantedJoint, Seen::GrantedLast],
    is_eager: true,
    ..HANDOVER
};

/// The transition is taken back, and its coordinator does not begin it again.
pub(crate) const ABORT: Scenario = Scenario {
    name: "passage taken back",
    attempts: [1, 1],
    coordinators: &[&[Aim::Reach(A, B)], &[Aim::Abort]],
    ballots: &[3, 1],
    claims: Claim::ABORT,
    sights: &[
        Seen::Stopped,
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::GrantedJoint,
        Seen::GrantedLast,
        Seen::Aborted,
    ],
    is_eager: true,
    ..HANDOVER
};

/// The new owner is lost before it is the only owner.
pub(crate) const HEIR_WIPED: Scenario = Scenario {
    name: "new owner wiped in the joint phase",
    attempts: [1, 1],
    ballots: &[3],
    loss: Some(Loss::Wipe),
    losses: 1,
    losable: &[1],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::GrantedJoint,
        Seen::GrantedLast,
        Seen::Readmitted,
    ],
    is_eager: true,
    ..HANDOVER
};

/// The coordinator cannot reach the old owner, but clients can.
pub(crate) const OUT_OF_REACH: Scenario = Scenario {
    name: "owner change out of reach",
    nodes: 3,
    spares: 0,
    view_lease: 2,
    attempts: [2, 1],
    horizon: 3,
    coordinators: &[&[Aim::Reach(confirmed(ABC), confirmed(plan(1, 3)))]],
    prompt: &[1, 2],
    hidden: &[0],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Unconfirmed,
        Seen::GrantedLast,
    ],
    is_eager: true,
    ..HANDOVER
};

const fn confirmed(plan: Plan) -> Plan {
    Plan {
        view_lease: 2,
        ..plan
    }
}

/// Three nodes vote on two proposals.
pub(crate) const PAXOS: Scenario = Scenario {
    name: "two proposers",
    nodes: 3,
    spares: 0,
    attempts: [0, 0],
    horizon: 0,
    coordinators: &[
        &[Aim::Reach(ABC, plan(0, 2))],
        &[Aim::Reach(ABC, plan(1, 3))],
    ],
    ballots: &[1, 1],
    is_vote_brief: false,
    claims: Claim::VOTES,
    sights: &[Seen::Preempted, Seen::Forced],
    is_eager: true,
    is_spread: false,
    ..HANDOVER
};

/// Three nodes vote and one of them is lost; its return is among the proposals.
pub(crate) const PAXOS_WIPE: Scenario = Scenario {
    name: "two proposers, a voter wiped",
    horizon: 1,
    coordinators: &[&[Aim::Reach(ABC, plan(0, 2))], &[Aim::Keep]],
    loss: Some(Loss::Wipe),
    losses: 1,
    losable: &[0],
    sights: &[Seen::Preempted, Seen::Forced],
    ..PAXOS
};

/// A voter becomes another incarnation under open connections, one that does not
/// know of the vote.
pub(crate) const PAXOS_RESYNC: Scenario = Scenario {
    name: "two proposers, a voter becomes another",
    horizon: 0,
    loss: Some(Loss::Resync),
    losses: 1,
    losable: &[0],
    sights: &[Seen::Preempted, Seen::Forced],
    ..PAXOS
};

/// The transition is taken back during a vote.
pub(crate) const ABORT_VOTE: Scenario = Scenario {
    name: "votes to continue and to abort",
    nodes: 1,
    spares: 1,
    horizon: 1,
    coordinators: &[&[Aim::Reach(A, B)], &[Aim::Abort]],
    ballots: &[2, 2],
    claims: Claim::ABORT_VOTES,
    sights: &[
        Seen::Preempted,
        Seen::Forced,
        Seen::Overtaken,
        Seen::Aborted,
        Seen::Stopped,
    ],
    is_spread: true,
    ..PAXOS
};

/// The same where no node joins: a joining node would still serve the transition,
/// which alone would prevent a second start.
pub(crate) const ABORT_AGAIN: Scenario = Scenario {
    name: "passage of the same nodes taken back",
    spares: 0,
    coordinators: &[&[Aim::Reach(A, longer(A))], &[Aim::Abort]],
    sights: &[
        Seen::Granted,
        Seen::GrantedJoint,
        Seen::Aborted,
        Seen::Stopped,
    ],
    ..ABORT
};

/// Two coordinators lead to one goal, a third takes that back: one of the two may
/// not have seen that the transition began.
pub(crate) const ABORT_UNSEEN: Scenario = Scenario {
    name: "passage taken back unseen",
    spares: 0,
    attempts: [0, 0],
    horizon: 1,
    coordinators: &[
        &[Aim::Reach(A, longer(A))],
        &[Aim::Reach(A, longer(A))],
        &[Aim::Abort],
    ],
    ballots: &[2, 2, 1],
    claims: Claim::ABORT_VOTES,
    sights: &[Seen::Aborted, Seen::Stopped],
    ..ABORT
};

/// Two coordinators take back the transition that a third leads.
pub(crate) const ABORT_TWICE: Scenario = Scenario {
    name: "passage taken back by two",
    attempts: [0, 0],
    horizon: 1,
    coordinators: &[&[Aim::Reach(A, longer(A))], &[Aim::Abort], &[Aim::Abort]],
    ballots: &[3, 2, 2],
    ..ABORT_UNSEEN
};

/// The plan is outdated while its new node is still quarantined, or the transition
/// is taken back.
pub(crate) const OUTDATE: Scenario = Scenario {
    name: "plan outdated before it begins",
    attempts: [1, 0],
    horizon: 2,
    coordinators: &[&[Aim::Reach(A, B)], &[Aim::Outdate]],
    ballots: &[2, 2],
    is_prepared: false,
    sights: &[
        Seen::Granted,
        Seen::GrantedJoint,
        Seen::Aborted,
        Seen::Outdated,
        Seen::Stopped,
    ],
    ..ABORT
};

each_holds! {
    votes_to_continue_and_to_abort_break_no_claim: ABORT_VOTE,
    an_owner_change_breaks_no_claim: HANDOVER,
    a_new_node_breaks_no_claim: WHOLE,
    late_requests_of_a_change_break_no_claim: HANDOVER_LATE,
    a_shorter_ttl_breaks_no_claim: SHRINK,
    a_change_after_a_shorter_ttl_breaks_no_claim: SHRUNK,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    an_owner_out_of_reach_breaks_no_claim: OUT_OF_REACH,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_readmitted_replica_breaks_no_claim: REPLICA_WIPED,
    a_readmitted_owner_breaks_no_claim: OWNER_WIPED,
    an_owner_that_becomes_another_breaks_no_claim: OWNER_RESYNCED,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    an_owner_lost_twice_breaks_no_claim: WIPED_TWICE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_replica_replaced_breaks_no_claim: REPLACE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    more_replicas_break_no_claim: GROW,
    coordinators_with_different_goals_break_no_claim: RIVALS,
    coordinators_with_one_goal_break_no_claim: ALLIES,
    a_passage_taken_back_breaks_no_claim: ABORT,
    a_passage_of_the_same_nodes_taken_back_breaks_no_claim: ABORT_AGAIN,
    a_passage_taken_back_unseen_breaks_no_claim: ABORT_UNSEEN,
    a_passage_taken_back_by_two_breaks_no_claim: ABORT_TWICE,
    a_plan_outdated_breaks_no_claim: OUTDATE,
    a_new_owner_lost_breaks_no_claim: HEIR_WIPED,
    extends_over_a_change_break_no_claim: CARRY,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    extends_over_a_replacement_break_no_claim: REPLACE_CARRY,
    vanishing_entries_break_no_continuity: CARRY_VANISH,
    proposers_decide_one_document: PAXOS,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_voter_lost_breaks_no_claim: PAXOS_WIPE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_voter_that_becomes_another_breaks_no_claim: PAXOS_RESYNC,
}
