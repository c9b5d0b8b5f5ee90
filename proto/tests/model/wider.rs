//! Changes of membership within wider bounds, which need minutes and memory. Run on
//! demand, by `scripts/model.sh`.

use crate::changes::{
    ABORT, CARRY, HANDOVER, HEIR_WIPED, OWNER_WIPED_LONGER, PAXOS, REPLACE, REPLICA_WIPED, RIVALS,
    WHOLE,
};
use crate::scenario::Scenario;
use crate::scenarios::each_holds;

const HANDOVER_WIDE: Scenario = Scenario {
    name: "owner change, wide",
    attempts: [2, 2],
    horizon: 3,
    ..HANDOVER
};

const WHOLE_WIDE: Scenario = Scenario {
    name: "new node, late requests, wide",
    attempts: [1, 2],
    late: 1,
    slow: 1,
    ..WHOLE
};

const REPLICA_WIPED_WIDE: Scenario = Scenario {
    name: "replica wiped, two attempts",
    attempts: [2, 1],
    ..REPLICA_WIPED
};

const REPLACE_WIDE: Scenario = Scenario {
    name: "replica replaced, adopted in any order",
    prompt: &[3],
    ..REPLACE
};

const RIVALS_WIDE: Scenario = Scenario {
    name: "coordinators with stale observations",
    is_eager: false,
    ..RIVALS
};

const ABORT_WIDE: Scenario = Scenario {
    name: "passage taken back, two attempts",
    attempts: [1, 2],
    ..ABORT
};

const HEIR_WIPED_WIDE: Scenario = Scenario {
    name: "new owner wiped twice",
    losses: 2,
    horizon: 3,
    ..HEIR_WIPED
};

const CARRY_WIDE: Scenario = Scenario {
    name: "extends over an owner change, wide",
    attempts: [1, 2],
    horizon: 3,
    ..CARRY
};

const PAXOS_WIDE: Scenario = Scenario {
    name: "two proposers, three ballots",
    ballots: &[2, 1],
    ..PAXOS
};

each_holds! {
    #[ignore = "minutes: scripts/model.sh"]
    an_owner_change_breaks_no_claim: HANDOVER_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    a_new_node_breaks_no_claim: WHOLE_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    a_readmitted_replica_breaks_no_claim: REPLICA_WIPED_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    a_readmitted_owner_breaks_no_claim: OWNER_WIPED_LONGER,
    #[ignore = "minutes: scripts/model.sh"]
    a_replica_replaced_breaks_no_claim: REPLACE_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    coordinators_with_stale_observations_break_no_claim: RIVALS_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    a_passage_taken_back_breaks_no_claim: ABORT_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    a_new_owner_lost_breaks_no_claim: HEIR_WIPED_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    extends_over_a_change_break_no_claim: CARRY_WIDE,
    #[ignore = "minutes: scripts/model.sh"]
    proposers_decide_one_document: PAXOS_WIDE,
}
