//! The same worlds with one safeguard removed: each must break a claim, or the
//! scenario proves nothing about that safeguard.
//!
//! Some rules make no difference in any world, as long as clocks are within their
//! bounds. One is that KEPT does not vouch under another nonce: the end of the old
//! lease guards the same, and the rule is tested with the machines. Others are the
//! final status check of a new start, and that it quarantines members that kept
//! their data: a view with nonces that no member has is void, and kept entries still
//! block the key.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::changes::{
    ABORT_AGAIN, ABORT_TWICE, ABORT_UNSEEN, ABORT_VOTE, CARRY, CARRY_VANISH, GROW, HANDOVER,
    HEIR_WIPED, OUT_OF_REACH, OUTDATE, OWNER_RESYNCED, OWNER_WIPED, OWNER_WIPED_LONGER, PAXOS,
    PAXOS_RESYNC, REPLACE, REPLICA_WIPED, RIVALS, SHRINK, SHRUNK, WIPED_TWICE,
};
use crate::losses::{NEVER_STUCK, OWNER_LAST, OWNER_LOST, REPLICAS_LOST, RIVAL_VIEWS};
use crate::pipelined::{PARTS, PARTS_VIEWS};
use crate::scenario::{Mutant, Scenario};
use crate::scenarios::{
    CUT_OFF, EXTENDS, FORCED, FORCED_SLOW, LATE, LENGTHS, OVERTAKING, QUORUM, REINITIALISE,
    RESTART, RESYNC, RESYNC_THREE, SINGLE, VANISH, VIEWS, WIPE,
};
use crate::world::Explored;

fn is_caught(mutant: Mutant, scenario: Scenario) {
    let begun = Instant::now();
    let name = scenario.name;
    let mutated = Scenario {
        mutant: Some(mutant),
        ..scenario
    };
    let checker = Explored::new(mutated)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let claims = checker.model().properties().into_iter();
    let broken = claims
        .filter(|claim| claim.expectation.discovery_is_failure())
        .find_map(|claim| Some((claim.name, checker.discovery(claim.name)?)));
    let Some((claim, path)) = broken else {
        panic!("{mutant:?} survives in \"{name}\"");
    };
    println!(
        "{:20} {name:40} breaks {claim:20} in {:>2} steps, {:>8} states {:>5.1} s",
        format!("{mutant:?}"),
        path.into_actions().len(),
        checker.unique_state_count(),
        begun.elapsed().as_secs_f64(),
    );
}

macro_rules! each_is_caught {
    ($($(#[$attribute:meta])* $test:ident: $mutant:ident in $scenario:expr,)*) => {
        $(#[test]
        $(#[$attribute])*
        fn $test() {
            is_caught(Mutant::$mutant, $scenario);
        })*
    };
}

each_is_caught! {
    without_view_check: NoViewCheck in VIEWS,
    with_views_mixed: MixedViews in VIEWS,
    without_confirmation: NoConfirmation in CUT_OFF,
    without_write_back: NoWriteBack in QUORUM,
    with_write_back_under_any_token: WriteBackAnyToken in VANISH,
    without_epoch_in_the_fence: NoEpochInFence in REINITIALISE,
    with_an_extend_after_the_lapse: ExtendAfterLapse in SINGLE,
    with_an_extend_after_the_lapse_of_a_quorum: ExtendAfterLapse in EXTENDS,
    with_an_extend_that_shortens: ExtendShortens in LENGTHS,
    with_one_token_per_client: TokenPerClient in OVERTAKING,
    with_tokens_that_two_clients_draw: ForkedTokens in SINGLE,
    with_tokens_that_two_clients_of_three_draw: ForkedTokens in QUORUM,
    with_ballots_that_two_proposers_draw: ForkedBallots in PAXOS,
    with_a_release_that_overtakes: ReleaseOvertakes in LATE,
    with_a_second_life_one_tick_early: ShortWait in REINITIALISE,
    with_a_cut_off_owner_one_tick_early: ShortWait in CUT_OFF,
    with_a_stamp_that_survives_a_restart: StampSurvives in RESTART,
    with_a_stamp_that_survives_a_wipe: StampSurvives in WIPE,
    without_a_second_look_at_an_owner: IdentityOnce in RESYNC,
    without_a_second_look_at_a_replica: IdentityOnce in RESYNC_THREE,
    without_a_second_look_in_a_change: IdentityOnce in OWNER_RESYNCED,
    without_a_second_look_at_a_voter: IdentityOnce in PAXOS_RESYNC,
    with_a_resynced_owner_back_at_once: NoQuarantineWait in OWNER_RESYNCED,
    with_a_grant_that_counts_twice: DoubleVote in QUORUM,
    without_view_check_in_a_change: NoViewCheck in HANDOVER,
    without_a_joint_phase: NoJointPhase in HANDOVER,
    without_a_joint_phase_of_three: NoJointPhase in REPLACE,
    with_groups_counted_together: GroupsCountedTogether in GROW,
    without_a_wait_in_the_passage: NoPassageWait in HANDOVER,
    with_a_passage_one_tick_early: ShortPassageWait in SHRINK,
    without_the_view_lease_in_the_wait: NoViewLeaseWait in OUT_OF_REACH,
    without_confirmation_in_a_change: NoConfirmation in OUT_OF_REACH,
    with_the_shorter_ttl_waited: ShorterTtlWaited in SHRINK,
    with_the_longer_ttl_granted: LongerTtlGranted in SHRUNK,
    without_a_wait_before_a_return: NoQuarantineWait in OWNER_WIPED,
    without_a_wait_before_a_return_of_three: NoQuarantineWait in REPLICA_WIPED,
    with_a_return_one_tick_early: ShortQuarantineWait in OWNER_WIPED_LONGER,
    without_quarantine: NoQuarantine in OWNER_WIPED,
    without_quarantine_of_a_new_owner: NoQuarantine in HEIR_WIPED,
    without_a_nonce_in_adopt: NonceUnchecked in WIPED_TWICE,
    with_compare_and_set: CompareAndSet in RIVALS,
    with_compare_and_set_of_three: CompareAndSet in PAXOS,
    without_prepare: NoPrepare in PAXOS,
    with_a_promise_ignored: PromiseIgnored in PAXOS,
    with_an_accepted_view_ignored: AcceptedIgnored in PAXOS,
    with_an_accepted_view_ignored_on_the_way_back: AcceptedIgnored in ABORT_VOTE,
    with_an_abort_ignored: AbortIgnored in ABORT_AGAIN,
    with_an_abort_of_two_ignored: AbortIgnored in ABORT_TWICE,
    with_an_abort_ignored_that_was_not_seen: UnseenAbortIgnored in ABORT_UNSEEN,
    with_an_outdated_plan_begun: AbortIgnored in OUTDATE,
    with_made_for_kept: MadeVouches in CARRY_VANISH,
    with_made_for_kept_after_a_forced_release: MadeVouches in FORCED_SLOW,
    with_an_entry_healed_at_once: HealsAtOnce in FORCED_SLOW,
    with_an_entry_that_vouches_once_seen: SeenVouches in FORCED,
    with_the_new_group_first: NewGroupFirst in CARRY,
    with_a_new_start_one_tick_early: ShortNewStartWait in OWNER_LOST,
    with_a_new_start_of_replicas_one_tick_early: ShortNewStartWait in REPLICAS_LOST,
    #[ignore = "minutes: scripts/model.sh"]
    with_the_longest_time_in_quarantine: LongestQuarantineCounts in OWNER_LAST,
    with_a_new_start_that_forgets_the_epochs: NewStartBelow in OWNER_LOST,
    with_new_starts_without_a_nonce_in_adopt: NonceUnchecked in RIVAL_VIEWS,
    without_a_new_start: NoNewStart in NEVER_STUCK,
    with_parts_whose_view_was_not_read_ahead: NoReadAhead in PARTS_VIEWS,
    with_parts_whose_view_is_not_read_behind: NoReadBehind in PARTS_VIEWS,
    with_a_count_before_the_entry: CountBeforeSet in PARTS,
}
