//! Worlds in which every claim must hold.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties::{Claim, Seen};
use crate::scenario::{Change, Loss, Scenario};
use crate::world::Explored;

pub(crate) const BASE: Scenario = Scenario {
    name: "",
    nodes: 1,
    replicas: 1,
    spares: 0,
    max_ttl: 2,
    attempts: [2, 2],
    extends: [0, 0],
    ttl: 2,
    extend_ttls: &[2],
    view_lease: 1,
    horizon: 2,
    repeats: 0,
    is_ordered: true,
    is_pipelined: false,
    drops: 0,
    late: 0,
    slow: 0,
    awaits_release: false,
    abandons: false,
    loss: None,
    losses: 0,
    counts: [0; 3],
    change: Change::Never,
    joint: None,
    coordinators: &[],
    ballots: &[],
    starters: &[],
    is_prepared: false,
    is_vote_brief: true,
    is_eager: true,
    is_spread: true,
    prompt: &[],
    hidden: &[],
    losable: &[0, 1, 2],
    claims: Claim::ALL,
    sights: &[Seen::Granted, Seen::Again, Seen::Contended],
    mutant: None,
};

const THREE: Scenario = Scenario {
    nodes: 3,
    replicas: 3,
    ..BASE
};

/// One owner: everything that a client can do, and late answers.
pub(crate) const SINGLE: Scenario = Scenario {
    name: "single owner",
    extends: [1, 1],
    horizon: 4,
    late: 1,
    slow: 1,
    awaits_release: true,
    abandons: true,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Expired,
        Seen::Extended,
        Seen::Unchanged,
        Seen::Lost,
        Seen::Lapsed,
        Seen::Released,
        Seen::ReleasedTooLate,
    ],
    ..BASE
};

/// Three nodes: two contenders that attempt twice.
pub(crate) const QUORUM: Scenario = Scenario {
    name: "quorum of three",
    sights: &[Seen::Granted, Seen::Again, Seen::Contended, Seen::WroteBack],
    ..THREE
};

/// Three nodes: requests that are late or lost.
pub(crate) const LATE: Scenario = Scenario {
    name: "quorum, late and lost requests",
    attempts: [2, 1],
    ttl: 1,
    late: 1,
    ..QUORUM
};

/// Three nodes: answers that are late or lost.
pub(crate) const SLOW: Scenario = Scenario {
    name: "quorum, late and lost answers",
    attempts: [2, 1],
    horizon: 2,
    slow: 1,
    ..QUORUM
};

/// An extend of either length, up to the end of its lease.
pub(crate) const EXTENDS: Scenario = Scenario {
    name: "an extend of a quorum",
    attempts: [1, 1],
    extends: [1, 0],
    extend_ttls: &[1, 2],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Unchanged,
        Seen::Healed,
        Seen::LateAcknowledged,
        Seen::Lapsed,
    ],
    ..THREE
};

/// Two extends of different length, with answers to the first still in flight.
pub(crate) const LENGTHS: Scenario = Scenario {
    name: "extends of different length",
    extends: [2, 0],
    horizon: 1,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Healed,
        Seen::LateAcknowledged,
    ],
    ..EXTENDS
};

/// An extend that is shorter and arrives twice, on connections without order.
pub(crate) const REPEATS: Scenario = Scenario {
    name: "a shorter extend, repeated",
    extends: [1, 0],
    extend_ttls: &[1],
    horizon: 1,
    repeats: 1,
    is_ordered: false,
    claims: Claim::UNORDERED,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Healed,
    ],
    ..EXTENDS
};

/// Attempts whose requests overtake each other.
pub(crate) const OVERTAKING: Scenario = Scenario {
    name: "attempts out of order",
    horizon: 1,
    is_ordered: false,
    claims: Claim::UNORDERED,
    ..LATE
};

/// A node comes back empty: absent, it grants nothing.
pub(crate) const WIPE: Scenario = Scenario {
    name: "a node wiped",
    attempts: [1, 1],
    extends: [2, 0],
    horizon: 1,
    loss: Some(Loss::Wipe),
    losses: 1,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Unchanged,
        Seen::Stale,
    ],
    ..THREE
};

/// A node restarts, with its entries or without.
pub(crate) const RESTART: Scenario = Scenario {
    name: "a node restarted",
    attempts: [2, 1],
    loss: Some(Loss::Restart),
    losses: 1,
    sights: &[Seen::Granted, Seen::Again, Seen::Contended, Seen::Stale],
    ..THREE
};

/// The owner becomes another incarnation, with an older state, under open
/// connections.
pub(crate) const RESYNC: Scenario = Scenario {
    name: "an owner that becomes another",
    attempts: [2, 1],
    extends: [1, 0],
    slow: 1,
    late: 1,
    loss: Some(Loss::Resync),
    losses: 1,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Stale,
    ],
    ..BASE
};

/// One of three nodes does so.
pub(crate) const RESYNC_THREE: Scenario = Scenario {
    name: "one of three becomes another",
    attempts: [2, 1],
    extends: [1, 0],
    horizon: 1,
    loss: Some(Loss::Resync),
    losses: 1,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Stale,
    ],
    ..THREE
};

/// Node clocks are arbitrary: fences alone protect.
pub(crate) const VANISH: Scenario = Scenario {
    name: "entries vanish at any time",
    attempts: [2, 1],
    horizon: 0,
    abandons: true,
    loss: Some(Loss::Vanish),
    counts: [2, 0, 2],
    claims: &[Claim::Fence],
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::WroteBack,
        Seen::NoFence,
    ],
    ..THREE
};

/// An operator releases a lease by force, another client acquires and releases the
/// key, and the old holder extends twice.
pub(crate) const FORCED: Scenario = Scenario {
    name: "released by force",
    attempts: [1, 1],
    extends: [2, 0],
    horizon: 0,
    loss: Some(Loss::Forced),
    claims: Claim::FORCED,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Extended,
        Seen::Unchanged,
        Seen::Lost,
        Seen::Healed,
        Seen::LateAcknowledged,
    ],
    ..THREE
};

/// The same with one extend, and late answers.
pub(crate) const FORCED_SLOW: Scenario = Scenario {
    name: "released by force, late answers",
    extends: [1, 0],
    slow: 1,
    claims: Claim::FREED,
    ..FORCED
};

/// Every node is lost, and the cluster is initialised a second time.
pub(crate) const REINITIALISE: Scenario = Scenario {
    name: "re-initialised",
    attempts: [2, 2],
    horizon: 4,
    slow: 1,
    late: 1,
    change: Change::Reinitialise { wait: 2 },
    sights: &[Seen::Granted, Seen::Again, Seen::Stale, Seen::Moved],
    ..BASE
};

/// The same with three nodes that come back one by one.
pub(crate) const REINITIALISE_THREE: Scenario = Scenario {
    name: "re-initialised, quorum",
    attempts: [1, 2],
    nodes: 3,
    replicas: 3,
    horizon: 3,
    slow: 0,
    late: 0,
    ..REINITIALISE
};

/// A newer view spreads node by node.
pub(crate) const VIEWS: Scenario = Scenario {
    name: "two views at once",
    attempts: [1, 2],
    horizon: 1,
    change: Change::Adopt,
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Contended,
        Seen::Stale,
        Seen::Moved,
    ],
    ..THREE
};

/// The owner is cut off from the operator, but not from its clients.
pub(crate) const CUT_OFF: Scenario = Scenario {
    name: "re-initialised without the owner",
    nodes: 3,
    attempts: [2, 1],
    ttl: 1,
    view_lease: 2,
    horizon: 2,
    change: Change::Force { wait: 2 },
    sights: &[
        Seen::Granted,
        Seen::Again,
        Seen::Unconfirmed,
        Seen::Stale,
        Seen::Moved,
    ],
    ..BASE
};

fn limits(scenario: &Scenario) -> String {
    let Scenario {
        nodes,
        replicas,
        attempts: [a, b],
        extends: [x, y],
        ttl,
        horizon,
        repeats,
        drops,
        late,
        slow,
        losses,
        coordinators,
        ..
    } = scenario;
    let coordinators = coordinators.len();
    format!(
        "{replicas} of {nodes} nodes, attempts {a}+{b}, extends {x}+{y}, ttl {ttl}, ticks {horizon}, \
         lost {drops}, late {late}, slow {slow}, repeated {repeats}, losses {losses}, coordinators {coordinators}"
    )
}

/// Explores everything within the bounds, and prints a row of the table.
pub(crate) fn holds(scenario: Scenario) {
    let begun = Instant::now();
    let row = format!("{:38} {}", scenario.name, limits(&scenario));
    let checker = Explored::new(scenario)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    checker.assert_properties();
    println!(
        "{row:166} {:>8} states {:>5.1} s",
        checker.unique_state_count(),
        begun.elapsed().as_secs_f64()
    );
}

macro_rules! each_holds {
    ($($(#[$attribute:meta])* $test:ident: $scenario:ident,)*) => {
        $(#[test]
        $(#[$attribute])*
        fn $test() {
            crate::scenarios::holds($scenario);
        })*
    };
}
pub(crate) use each_holds;

each_holds! {
    a_single_owner_keeps_every_claim: SINGLE,
    a_quorum_of_three_keeps_every_claim: QUORUM,
    late_and_lost_requests_break_no_claim: LATE,
    late_and_lost_answers_break_no_claim: SLOW,
    an_extend_breaks_no_claim: EXTENDS,
    extends_of_different_length_break_no_claim: LENGTHS,
    repeated_extends_break_no_claim: REPEATS,
    requests_out_of_order_break_no_claim: OVERTAKING,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_wiped_node_breaks_no_claim: WIPE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_restarted_node_breaks_no_claim: RESTART,
    an_owner_that_becomes_another_breaks_no_claim: RESYNC,
    #[ignore = "minutes: scripts/model.sh"]
    one_of_three_that_becomes_another_breaks_no_claim: RESYNC_THREE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    vanishing_entries_leave_fences_apart: VANISH,
    forced_out_stays_out: FORCED,
    forced_out_is_free: FORCED_SLOW,
    a_second_life_breaks_no_claim: REINITIALISE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    a_second_life_of_three_breaks_no_claim: REINITIALISE_THREE,
    #[ignore = "long: scripts/model.sh; the mutants of this scenario are not ignored"]
    two_views_at_once_break_no_claim: VIEWS,
    an_owner_cut_off_breaks_no_claim: CUT_OFF,
}
