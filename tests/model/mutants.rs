//! The same worlds with one safeguard removed: each must break a claim, or the
//! scenario proves nothing about that safeguard.
//!
//! Left for the change of membership, which alone can tell them from the real
//! thing: no joint phase, no wait before the new view stands alone, a node
//! re-admitted too early, a stamp that arrives after a second loss,
//! compare-and-set instead of Paxos, a promise ignored, an accepted value
//! ignored. That MADE does not vouch for continuity, nor KEPT where nothing was
//! acknowledged, is tested beside the machine: within stated clocks the end of
//! the old lease guards the same.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::scenario::{Mutant, Scenario};
use crate::scenarios::{
    CUT_OFF, EXTENDS, LATE, LENGTHS, OVERTAKING, QUORUM, REINITIALISE, RESTART, SINGLE, VANISH,
    VIEWS, WIPE,
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
    ($($test:ident: $mutant:ident in $scenario:expr,)*) => {
        $(#[test]
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
    with_a_release_that_overtakes: ReleaseOvertakes in LATE,
    with_a_second_life_one_tick_early: ShortWait in REINITIALISE,
    with_a_cut_off_owner_one_tick_early: ShortWait in CUT_OFF,
    with_a_stamp_that_survives_a_restart: StampSurvives in RESTART,
    with_a_stamp_that_survives_a_wipe: StampSurvives in WIPE,
    with_a_grant_that_counts_twice: DoubleVote in QUORUM,
}
