//! Extending a lease: every node of the groups that the lease is based on is asked
//! to raise its entry; once a majority vouches for it, the others are healed.
//!
//! No entry is created before that. An operator who releases a lease by force
//! deletes its entries, node by node. An extend that created them again would
//! restore the lease by the next extend at most, which finds them present; and it
//! would do so under the old fence and perhaps after another holder. So:
//!
//! * The entry is gone, or another client's, at so many nodes of a group that the
//!   lease is based on that no majority is left: the lease is lost immediately.
//! * A majority of every such group kept the entry and vouches (see [`Known`]): the
//!   entry is created where it is absent, and also in the group that the lease is
//!   being carried over to.
//! * An entry that was created, or is seen for the first time, does not vouch yet.
//!   It vouches once a later extend, begun after it was seen, finds it kept together
//!   with such a majority: no other client held the lease's key when that extend
//!   began, so that none has held it since the entry exists.
//! * A group that the lease is carried over to has only created entries: it vouches
//!   from the success on, and so does a node of it whose answer arrives after that;
//!   otherwise the loss of one node of the group would end the lease. This assumes
//!   that the following does not happen: within that one extend, up to its last
//!   answer, an operator releases the lease by force and another client acquires and
//!   releases the key, and the transition ends before the next extend.

use std::time::Duration;

use crate::lease::{Fence, Key, Token, Ttl};
use crate::node::message::{Answer, IfMissing, Reply, Request, ViewId};
use crate::operation::known::Known;
use crate::operation::machine::{Effects, Event, Machine, Refusal, Step};
use crate::quorum::{Placement, Voter, VoterSet};
use crate::time::{Instant, valid_until};
use ringlock_ring::NodeIndex;

/// The input of an extend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtendParams {
    /// The view that chose the placement.
    pub view: ViewId,
    /// How long a confirmation of the view is valid.
    pub view_lease: Duration,
    /// What is locked.
    pub key: Key,
    /// The lease's token.
    pub token: Token,
    /// The lease's fence.
    pub fence: Fence,
    /// Life of the entries, from now.
    pub ttl: Ttl,
    /// Who must agree.
    pub placement: Placement,
    /// How many groups of the placement, from the first, the lease's last success
    /// already included; with none the lease cannot be extended.
    pub established: usize,
    /// What was known of the entries before `t0`.
    pub known: Known,
    /// Until when the lease is valid if this extend fails.
    pub valid_until: Instant,
    /// Read once, before anything is sent.
    pub t0: Instant,
}

/// The outcome of an extend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExtendOutcome {
    /// The lease is valid until this instant.
    Extended(Instant),
    /// Nothing changed: the lease stays valid as long as it was. Try again.
    Unchanged {
        /// Nodes that kept or created the entry.
        kept: usize,
        /// The other nodes' answers so far.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
    /// The entry is gone, or another client's, on so many nodes that the lease
    /// cannot be recovered.
    Lost {
        /// Their answers: `Busy(None)` where the entry is gone.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

impl ExtendOutcome {
    /// Whether it is lost and another holder was seen; otherwise the entry is gone,
    /// and no holder of the key is known.
    pub fn is_taken_over(&self) -> bool {
        let is_seen = |(_, refusal): &(_, Refusal)| matches!(refusal, Refusal::Busy(Some(_)));
        matches!(self, Self::Lost { refusals } if refusals.iter().any(is_seen))
    }
}

/// The machine of one extend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extend {
    params: ExtendParams,
    stage: Stage,
    /// A majority of every established group kept the entry and vouches.
    is_vouched_for: bool,
    kept: VoterSet,
    made: VoterSet,
    absent: VoterSet,
    foreign: VoterSet,
    failed: VoterSet,
    /// Voters that were asked to create the entry, and those of them that have not
    /// created it.
    healed: VoterSet,
    unhealed: VoterSet,
    /// Voters that vouch because of this extend.
    promoted: VoterSet,
    /// It has extended the lease.
    has_succeeded: bool,
    probes_out: usize,
    refusals: Vec<(NodeIndex, Refusal)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Open,
    /// The lease is valid until this instant; absent entries are still healed.
    Over(Instant),
    Lost,
}

/// What one answer shows about its node's entry.
#[derive(Default)]
struct EntryState {
    has: VoterSet,
    lacks: VoterSet,
}

type ExtendEffects = Effects<ExtendOutcome>;

impl Extend {
    /// An extend that has not begun.
    pub fn new(params: ExtendParams) -> Self {
        Self {
            params,
            stage: Stage::Open,
            is_vouched_for: false,
            kept: VoterSet::NONE,
            made: VoterSet::NONE,
            absent: VoterSet::NONE,
            foreign: VoterSet::NONE,
            failed: VoterSet::NONE,
            healed: VoterSet::NONE,
            unhealed: VoterSet::NONE,
            promoted: VoterSet::NONE,
            has_succeeded: false,
            probes_out: 0,
            refusals: Vec::new(),
        }
    }

    /// The input of the extend.
    pub fn params(&self) -> &ExtendParams {
        &self.params
    }

    /// The groups that the lease is based on.
    fn established(&self) -> impl Iterator<Item = VoterSet> + '_ {
        self.params.placement.groups().take(self.params.established)
    }

    /// The voters that are asked to keep the entry. A lease that is based on no
    /// group cannot be extended; its remaining entries are still kept.
    fn asked(&self) -> VoterSet {
        if self.params.established == 0 {
            return self.params.placement.voters();
        }
        self.established().fold(VoterSet::NONE, VoterSet::union)
    }

    fn take(&mut self, from: NodeIndex, step: Step, answer: Answer) -> EntryState {
        let voter = self
            .params
            .placement
            .voter(from)
            .filter(|_| step != Step::Probe);
        let Some(here) = voter.map(|voter| VoterSet::NONE.with(voter)) else {
            self.probes_out = self.probes_out.saturating_sub(1);
            return EntryState::default();
        };
        let (has, lacks) = match &answer {
            Ok(Reply::Kept { .. } | Reply::Made { .. }) => (here, VoterSet::NONE),
            Ok(Reply::Lost(_)) => (VoterSet::NONE, here),
            _ => (VoterSet::NONE, VoterSet::NONE),
        };
        let tally = match (step, &answer) {
            (Step::Heal, Ok(Reply::Kept { .. } | Reply::Made { .. })) => &mut self.made,
            (Step::Heal, _) => &mut self.unhealed,
            (_, Ok(Reply::Kept { .. })) => &mut self.kept,
            (_, Ok(Reply::Made { .. })) => &mut self.made,
            (_, Ok(Reply::Lost(None))) => &mut self.absent,
            (_, Ok(Reply::Lost(Some(_)))) => &mut self.foreign,
            _ => &mut self.failed,
        };
        *tally = tally.union(here);
        if has.is_empty() {
            self.refusals.push((from, Refusal::of(answer)));
        }
        EntryState { has, lacks }
    }

    /// Records which voters vouch, and heals the others; also after the outcome.
    fn heal(&mut self, now: Instant, effects: &mut ExtendEffects) {
        let valid_until = match self.stage {
            Stage::Open => self.params.valid_until,
            Stage::Over(until) => until,
            Stage::Lost => return,
        };
        self.is_vouched_for |= now < self.params.valid_until && self.is_continuous();
        if !self.is_vouched_for {
            return;
        }
        let promoted = self.kept.intersection(self.params.known.seen);
        effects.vouching = promoted.minus(self.promoted);
        self.promoted = promoted;
        if now < valid_until {
            let unasked = self.params.placement.voters().minus(self.asked());
            let due = self.absent.union(unasked).minus(self.healed);
            self.healed = self.healed.union(due);
            effects.send = (!due.is_empty()).then_some((Step::Heal, due));
        }
    }

    fn settle(&mut self, now: Instant, confirmed_at: Instant, effects: &mut ExtendEffects) {
        let ExtendParams { placement, t0, .. } = self.params;
        if self.is_lost() {
            self.stage = Stage::Lost;
            let refusals = std::mem::take(&mut self.refusals);
            effects.outcome = Some(ExtendOutcome::Lost { refusals });
            return;
        }
        let is_in_time = now < self.params.valid_until;
        let is_confirmed = t0 < confirmed_at + self.params.view_lease;
        let has_quorum = self.is_vouched_for && placement.has_quorum(self.kept.union(self.made));
        if is_in_time && is_confirmed && has_quorum {
            let until = valid_until(t0, self.params.ttl.get()).max(self.params.valid_until);
            self.stage = Stage::Over(until);
            self.has_succeeded = true;
            effects.vouching = effects.vouching.union(self.newly_established());
            effects.outcome = Some(ExtendOutcome::Extended(until));
            return;
        }
        let is_answered = self.unanswered().is_empty();
        let is_over = is_answered && (self.probes_out == 0 || !has_quorum);
        if is_over || !is_in_time {
            self.stage = Stage::Over(self.params.valid_until);
            let kept = self.kept.union(self.made).len();
            let refusals = std::mem::take(&mut self.refusals);
            effects.outcome = Some(ExtendOutcome::Unchanged { kept, refusals });
        }
    }

    /// In every group that the lease was based on, a majority vouches that the
    /// entry was never gone.
    fn is_continuous(&self) -> bool {
        let vouching = self.kept.intersection(self.params.known.vouching);
        let mut established = self.established();
        self.params.established > 0 && established.all(|group| vouching.has_majority_of(group))
    }

    /// Some group that the lease was based on has no majority left that may have
    /// its entry.
    fn is_lost(&self) -> bool {
        let gone = self.absent.union(self.foreign);
        let is_blocked = |group: VoterSet| !group.minus(gone).has_majority_of(group);
        !self.is_vouched_for && self.established().any(is_blocked)
    }

    /// The voters with the entry in the groups that this success adds.
    fn newly_established(&self) -> VoterSet {
        self.added().intersection(self.kept.union(self.made))
    }

    /// The groups that the lease is carried over to.
    fn added(&self) -> VoterSet {
        let groups = self.params.placement.groups().skip(self.params.established);
        groups.fold(VoterSet::NONE, VoterSet::union)
    }

    fn unanswered(&self) -> VoterSet {
        let reported = self.kept.union(self.made).union(self.failed);
        let reported = reported.union(self.absent).union(self.foreign);
        let kept = self.asked().minus(reported);
        kept.union(self.healed.minus(self.made).minus(self.unhealed))
    }
}

impl Machine for Extend {
    type Outcome = ExtendOutcome;

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> ExtendEffects {
        match event {
            Event::Start { probes } => {
                self.probes_out = probes.len();
                let send = Some((Step::Main, self.asked()));
                Effects {
                    send,
                    probe: probes,
                    ..Effects::default()
                }
            }
            Event::Answered { from, step, answer } => {
                let EntryState { has, lacks } = self.take(from, step, answer);
                let mut effects = Effects {
                    acknowledged: has,
                    disowned: lacks,
                    ..Effects::default()
                };
                self.heal(now, &mut effects);
                if self.has_succeeded {
                    let late = self.added().intersection(has);
                    effects.vouching = effects.vouching.union(late);
                }
                if self.stage == Stage::Open {
                    self.settle(now, confirmed_at, &mut effects);
                }
                effects
            }
            // An extend without a waiter is harmless: the lease's owner is the one
            // that releases.
            Event::Abandoned => Effects::default(),
        }
    }

    fn request(&self, step: Step, _: Voter) -> Request {
        let ExtendParams {
            view,
            key,
            token,
            fence,
            ttl,
            placement,
            ..
        } = &self.params;
        Request::Extend {
            view: *view,
            key: key.clone(),
            token: token.clone(),
            ttl: *ttl,
            slot: placement.slot(),
            floor: if fence.epoch() == view.epoch {
                fence.counter()
            } else {
                0
            },
            if_missing: if step == Step::Heal {
                IfMissing::Recreate
            } else {
                IfMissing::Report
            },
        }
    }

    fn placement(&self) -> &Placement {
        &self.params.placement
    }

    fn started_at(&self) -> Instant {
        self.params.t0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::message::{CurrentHolder, FenceCounterId, NodeError, NodeErrorKind};

    const VIEW: ViewId = ViewId {
        epoch: 3,
        digest: 33,
    };
    const TTL: Duration = Duration::from_secs(10);
    /// The lease was granted at 100 s, for 10 s; its extend starts at 105 s.
    const T0: Instant = Instant::from_nanos(105_000_000_000);
    const OLD_END: Instant = Instant::from_nanos(109_898_000_000);

    fn nodes(indices: &[u16]) -> Vec<NodeIndex> {
        indices.iter().copied().map(NodeIndex::new).collect()
    }

    fn group(n: u16) -> Placement {
        Placement::stable(FenceCounterId::SINGLE, &nodes(&(0..n).collect::<Vec<_>>()))
    }

    fn voters(placement: &Placement, of: &[u16]) -> VoterSet {
        nodes(of)
            .into_iter()
            .filter_map(|node| placement.voter(node))
            .collect()
    }

    /// Terms of a lease that these nodes vouch for.
    fn params(placement: Placement, acknowledged: &[u16]) -> ExtendParams {
        ExtendParams {
            view: VIEW,
            view_lease: Duration::from_secs(5),
            key: Key::new("k").unwrap(),
            token: Token::new(7, None),
            fence: Fence::new(VIEW.epoch, 12).unwrap(),
            ttl: Ttl::new(TTL, TTL).unwrap(),
            placement,
            established: 1,
            known: Known::vouched(voters(&placement, acknowledged)),
            valid_until: OLD_END,
            t0: T0,
        }
    }

    struct Script {
        renewal: Extend,
        now: Instant,
        confirmed_at: Instant,
    }

    impl Script {
        fn on(params: ExtendParams) -> Self {
            Self::probing(params, T0, &[])
        }

        fn probing(params: ExtendParams, confirmed_at: Instant, probes: &[u16]) -> Self {
            let mut renewal = Extend::new(params);
            let probes = nodes(probes);
            let effects = renewal.on(T0, confirmed_at, Event::Start { probes });
            assert_eq!(effects.send, Some((Step::Main, renewal.asked())));
            Self {
                renewal,
                now: T0,
                confirmed_at,
            }
        }

        fn hears(&mut self, from: u16, step: Step, answer: Answer) -> Effects<ExtendOutcome> {
            let from = NodeIndex::new(from);
            let event = Event::Answered { from, step, answer };
            self.renewal.on(self.now, self.confirmed_at, event)
        }

        fn hears_kept(&mut self, from: u16) -> Effects<ExtendOutcome> {
            let effects = self.hears(from, Step::Main, Ok(Reply::Kept { counter: 12 }));
            let voter = self.voters(&[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (voter, VoterSet::NONE)
            );
            effects
        }

        fn kept(&mut self, from: u16) -> Option<ExtendOutcome> {
            self.hears_kept(from).outcome
        }

        fn voters(&self, of: &[u16]) -> VoterSet {
            voters(self.renewal.placement(), of)
        }

        /// The voters that are healed because of `effects`; there must be at least one.
        fn healed(&self, effects: &Effects<ExtendOutcome>) -> VoterSet {
            let (step, to) = effects.send.expect("a request");
            assert_eq!(step, Step::Heal);
            let first = to.iter().next().expect("a voter");
            let request = self.renewal.request(step, first);
            let Request::Extend {
                if_missing, floor, ..
            } = request
            else {
                panic!("{request:?}");
            };
            assert_eq!((if_missing, floor), (IfMissing::Recreate, 12));
            to
        }

        fn made(&mut self, from: u16) -> Option<ExtendOutcome> {
            let effects = self.hears(from, Step::Heal, Ok(Reply::Made { counter: 12 }));
            let voter = self.voters(&[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (voter, VoterSet::NONE)
            );
            effects.outcome
        }

        fn hears_lost(
            &mut self,
            from: u16,
            rival: Option<CurrentHolder>,
        ) -> Effects<ExtendOutcome> {
            let effects = self.hears(from, Step::Main, Ok(Reply::Lost(rival)));
            let voter = self.voters(&[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (VoterSet::NONE, voter)
            );
            effects
        }

        fn gone(&mut self, from: u16) -> Option<ExtendOutcome> {
            let effects = self.hears_lost(from, None);
            assert_eq!(effects.send, None);
            effects.outcome
        }

        fn lost(&mut self, from: u16) -> Option<ExtendOutcome> {
            let rival = CurrentHolder {
                holder: None,
                remaining: None,
            };
            self.hears_lost(from, Some(rival)).outcome
        }

        fn silent(&mut self, from: u16) -> Option<ExtendOutcome> {
            let timeout = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.hears(from, Step::Main, Err(timeout)).outcome
        }
    }

    fn extended() -> Option<ExtendOutcome> {
        Some(ExtendOutcome::Extended(valid_until(T0, TTL)))
    }

    fn is_unchanged(outcome: Option<ExtendOutcome>, with: usize) -> bool {
        matches!(outcome, Some(ExtendOutcome::Unchanged { kept, .. }) if kept == with)
    }

    #[test]
    fn a_majority_that_kept_the_entry_extends_the_lease_and_heals_the_rest() {
        let mut script = Script::on(params(group(3), &[0, 1]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), extended());
        // The third answers late: it is healed, with no second outcome.
        let late = script.hears_lost(2, None);
        assert_eq!(
            (script.healed(&late), late.outcome),
            (script.voters(&[2]), None)
        );
        assert_eq!(script.made(2), None);
    }

    #[test]
    fn nothing_is_made_before_a_majority_vouches() {
        let mut script = Script::on(params(group(5), &[0, 1, 2, 3, 4]));
        assert_eq!(script.gone(3), None);
        assert_eq!(script.kept(0), None);
        assert_eq!(script.gone(4), None);
        assert_eq!(script.kept(1), None);
        let effects = script.hears_kept(2);
        assert_eq!(script.healed(&effects), script.voters(&[3, 4]));
        assert_eq!(effects.outcome, extended());
        // It is asked once.
        assert_eq!(script.made(3), None);
        let refused = script.hears(4, Step::Heal, Ok(Reply::Lost(None)));
        assert_eq!((refused.send, refused.outcome), (None, None));
    }

    #[test]
    fn an_entry_that_was_not_seen_before_does_not_vouch() {
        // A late request created it, perhaps after another holder's time.
        for known in [
            Known::vouched(VoterSet::NONE),
            Known {
                seen: voters(&group(3), &[2]),
                vouching: VoterSet::NONE,
            },
        ] {
            let mut params = params(group(3), &[0, 1]);
            params.known = params.known.union(known);
            let mut script = Script::on(params);
            assert_eq!(script.kept(0), None);
            assert_eq!(script.hears_kept(2).vouching, VoterSet::NONE);
            assert!(is_unchanged(script.silent(1), 2));
        }
    }

    #[test]
    fn what_is_seen_a_second_time_vouches_once_a_majority_does() {
        let known = |seen: &[u16]| Known {
            seen: voters(&group(5), seen),
            vouching: voters(&group(5), &[0, 1, 2]),
        };
        let on = |seen: &[u16]| {
            let mut params = params(group(5), &[]);
            params.known = known(seen);
            Script::on(params)
        };
        let mut script = on(&[0, 1, 2, 3]);
        // Before the majority, with it, and after it.
        assert_eq!(script.hears_kept(3).vouching, VoterSet::NONE);
        assert_eq!(script.hears_kept(0).vouching, VoterSet::NONE);
        assert_eq!(script.hears_kept(1).vouching, VoterSet::NONE);
        let effects = script.hears_kept(2);
        assert_eq!(effects.vouching, script.voters(&[0, 1, 2, 3]));
        assert_eq!(effects.outcome, extended());
        assert_eq!(script.hears_kept(4).vouching, VoterSet::NONE);
        let mut script = on(&[0, 1, 2, 4]);
        for node in [0, 1, 2] {
            let _ = script.hears_kept(node);
        }
        assert_eq!(script.hears_kept(4).vouching, script.voters(&[4]));
        // An entry that was just created was not seen before.
        let _ = script.hears_lost(3, None);
        let made = script.hears(3, Step::Heal, Ok(Reply::Made { counter: 12 }));
        assert_eq!(made.vouching, VoterSet::NONE);
    }

    #[test]
    fn forced_out_is_lost_at_once_and_nothing_is_made() {
        let mut script = Script::on(params(group(3), &[0, 1, 2]));
        assert_eq!(script.gone(2), None);
        let outcome = script.gone(0).expect("an outcome");
        assert!(!outcome.is_taken_over());
        assert!(matches!(&outcome, ExtendOutcome::Lost { refusals } if refusals.len() == 2));
        // Later answers create nothing either, and do not vouch.
        let late = script.hears_kept(1);
        assert_eq!((late.send, late.vouching), (None, VoterSet::NONE));
    }

    #[test]
    fn a_minority_that_keeps_what_was_deleted_elsewhere_heals_nothing() {
        // One of three still has it, one is silent: whether there was another holder is
        // unknown.
        let mut script = Script::on(params(group(3), &[0, 1, 2]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.gone(1), None);
        assert!(is_unchanged(script.silent(2), 1));
    }

    #[test]
    fn a_lease_that_is_over_is_not_healed() {
        let mut script = Script::on(params(group(3), &[0, 1, 2]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), extended());
        script.now = valid_until(T0, TTL);
        assert_eq!(script.gone(2), None);
    }

    #[test]
    fn what_arrives_after_the_old_validity_changes_nothing() {
        for (now, is_extended) in [(OLD_END - Duration::from_nanos(1), true), (OLD_END, false)] {
            let mut script = Script::on(params(group(1), &[0]));
            script.now = now;
            let outcome = script.kept(0);
            if is_extended {
                assert_eq!(outcome, extended());
            } else {
                assert!(is_unchanged(outcome, 1));
            }
        }
    }

    #[test]
    fn a_shorter_extend_never_shortens() {
        let mut params = params(group(1), &[0]);
        params.ttl = Ttl::new(Duration::from_secs(1), TTL).unwrap();
        let mut script = Script::on(params);
        assert_eq!(script.kept(0), Some(ExtendOutcome::Extended(OLD_END)));
    }

    #[test]
    fn lost_from_a_blocking_set_is_reported_at_once() {
        let mut script = Script::on(params(group(5), &[0, 1, 2]));
        assert_eq!(script.gone(0), None);
        assert_eq!(script.kept(1), None);
        assert_eq!(script.lost(2), None);
        let outcome = script.gone(3).expect("an outcome");
        assert!(outcome.is_taken_over());
        assert!(
            matches!(&outcome, ExtendOutcome::Lost { refusals } if refusals.len() == 3),
            "{outcome:?}"
        );
    }

    #[test]
    fn silence_is_no_loss() {
        let mut script = Script::on(params(group(3), &[0, 1, 2]));
        assert_eq!(script.silent(0), None);
        assert_eq!(script.silent(1), None);
        assert!(is_unchanged(script.kept(2), 1));
    }

    #[test]
    fn a_single_owner_keeps_or_has_lost() {
        let mut script = Script::on(params(group(1), &[0]));
        assert!(matches!(script.gone(0), Some(ExtendOutcome::Lost { .. })));
        let owner = voters(&group(1), &[0]).take_first().unwrap();
        let request = Extend::new(params(group(1), &[0])).request(Step::Main, owner);
        assert!(matches!(
            request,
            Request::Extend {
                if_missing: IfMissing::Report,
                floor: 12,
                ..
            }
        ));
    }

    #[test]
    fn from_one_owner_to_another() {
        // The old owner must have kept it before the new owner gets it.
        let joint = Placement::joint(FenceCounterId::SINGLE, &nodes(&[0]), &nodes(&[1]));
        let mut script = Script::on(params(joint, &[0]));
        let effects = script.hears_kept(0);
        assert_eq!(
            (script.healed(&effects), effects.outcome),
            (script.voters(&[1]), None)
        );
        let made = script.hears(1, Step::Heal, Ok(Reply::Made { counter: 12 }));
        assert_eq!(made.outcome, extended());
        assert_eq!(made.vouching, script.voters(&[1]));
        // From then on, both have to keep it.
        let mut both = params(joint, &[0, 1]);
        both.established = 2;
        let mut script = Script::on(both);
        assert_eq!(script.kept(0), None);
        assert!(matches!(script.gone(1), Some(ExtendOutcome::Lost { .. })));
    }

    #[test]
    fn a_fence_of_another_epoch_is_no_floor() {
        let mut params = params(group(3), &[0]);
        params.fence = Fence::new(VIEW.epoch - 1, 12).unwrap();
        let owner = params.placement.voter(NodeIndex::new(0)).unwrap();
        let request = Extend::new(params).request(Step::Main, owner);
        assert!(matches!(request, Request::Extend { floor: 0, .. }));
    }

    #[test]
    fn a_new_group_is_made_once_the_old_one_has_kept() {
        let joint = Placement::joint(
            FenceCounterId::SINGLE,
            &nodes(&[0, 1, 2]),
            &nodes(&[2, 3, 4]),
        );
        let mut script = Script::on(params(joint, &[0, 1]));
        assert_eq!(script.kept(2), None);
        assert_eq!(script.kept(0), None);
        let effects = script.hears_kept(1);
        assert_eq!(script.healed(&effects), script.voters(&[3, 4]));
        assert_eq!(effects.outcome, None);
        let made = script.hears(3, Step::Heal, Ok(Reply::Made { counter: 12 }));
        assert_eq!(made.outcome, extended());
        assert_eq!(made.vouching, script.voters(&[2, 3]));
        // Created in the new group after the success: it vouches as well; otherwise the
        // loss of one of the others would end the lease.
        let late = script.hears(4, Step::Heal, Ok(Reply::Made { counter: 12 }));
        assert_eq!(late.acknowledged, script.voters(&[4]));
        let four = script.voters(&[4]);
        assert_eq!((late.vouching, late.outcome), (four, None));
    }

    #[test]
    fn a_new_group_that_others_block_does_not_end_the_lease() {
        let joint = Placement::joint(FenceCounterId::SINGLE, &nodes(&[0]), &nodes(&[1]));
        let mut script = Script::on(params(joint, &[0]));
        assert_eq!(script.kept(0), None);
        let busy = Ok(Reply::Lost(Some(CurrentHolder {
            holder: None,
            remaining: None,
        })));
        assert!(is_unchanged(script.hears(1, Step::Heal, busy).outcome, 1));
    }

    #[test]
    fn every_group_that_the_lease_stood_on_must_have_kept() {
        let joint = Placement::joint(
            FenceCounterId::SINGLE,
            &nodes(&[0, 1, 2]),
            &nodes(&[3, 4, 5]),
        );
        let mut both = params(joint, &[0, 1]);
        both.established = 2;
        let mut script = Script::on(both);
        for node in [3, 4, 5, 0, 1] {
            assert_eq!(script.kept(node), None);
        }
        assert!(is_unchanged(script.kept(2), 6));
    }

    #[test]
    fn a_lease_that_no_group_vouches_for_cannot_be_extended() {
        let mut params = params(group(3), &[0, 1, 2]);
        params.established = 0;
        let mut script = Script::on(params);
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), None);
        assert!(is_unchanged(script.kept(2), 3));
    }

    #[test]
    fn an_unconfirmed_view_waits_for_its_probes() {
        let old = T0 - Duration::from_secs(5);
        let mut script = Script::probing(params(group(1), &[0]), old, &[1, 2]);
        assert_eq!(script.kept(0), None);
        let status = || Ok(Reply::Status(Box::default()));
        assert_eq!(script.hears(1, Step::Probe, status()).outcome, None);
        let outcome = script.hears(2, Step::Probe, status()).outcome;
        assert!(is_unchanged(outcome, 1));

        let mut script = Script::probing(params(group(1), &[0]), old, &[1, 2]);
        assert_eq!(script.kept(0), None);
        script.confirmed_at = T0;
        let outcome = script.hears(1, Step::Probe, status()).outcome;
        assert_eq!(outcome, extended());
    }

    #[test]
    fn stale_replies_never_count() {
        let mut script = Script::on(params(group(3), &[0, 1, 2]));
        let stale = || Ok(Reply::Stale(None));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.hears(1, Step::Main, stale()).outcome, None);
        let effects = script.hears(2, Step::Main, stale());
        assert_eq!((effects.acknowledged, effects.disowned), Default::default());
        assert!(is_unchanged(effects.outcome, 1));
    }
}
