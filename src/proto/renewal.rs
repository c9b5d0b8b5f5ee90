//! Extending a lease: ask every node of the placement to raise its entry.

use std::time::Duration;

use super::lease::{Fence, Key, Token, Ttl};
use super::quorum::{Placement, Seat, Seats};
use super::round::{Effects, Event, Machine, Refusal, Step};
use super::time::{Instant, valid_until};
use super::wire::{Absent, Answer, Reply, Request, ViewId};
use ringlock_ring::NodeIndex;

/// What an extend is made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prolongation {
    /// The view that chose the placement.
    pub view: ViewId,
    /// How long a confirmation of the view holds.
    pub view_lease: Duration,
    /// What is locked.
    pub key: Key,
    /// The lease's own.
    pub token: Token,
    /// The lease's own.
    pub fence: Fence,
    /// Life of the entries, from now.
    pub ttl: Ttl,
    /// Who must agree.
    pub placement: Placement,
    /// How many groups of the placement, from the first, the lease's last
    /// success already had; with none the lease cannot be extended.
    pub established: usize,
    /// Seats that had acknowledged the token before `t0`; only they can vouch
    /// that the entry was never gone.
    pub acknowledged: Seats,
    /// Until when the lease is valid if this extend fails.
    pub valid_until: Instant,
    /// Read once, before anything is sent.
    pub t0: Instant,
}

/// What an extend comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// The lease is valid until then.
    Extended(Instant),
    /// Nothing changed: the lease stays valid as long as it was. Try again.
    Unchanged {
        /// Nodes that kept or made the entry.
        kept: usize,
        /// What the other nodes said, so far.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
    /// So many nodes have lost the entry to others that it cannot be had back.
    Lost {
        /// What they said.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// The machine of one extend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    terms: Prolongation,
    is_open: bool,
    kept: Seats,
    made: Seats,
    lost: Seats,
    failed: Seats,
    probes_out: usize,
    refusals: Vec<(NodeIndex, Refusal)>,
}

impl Renewal {
    /// An extend that has not begun.
    pub fn new(terms: Prolongation) -> Self {
        Self {
            terms,
            is_open: true,
            kept: Seats::NONE,
            made: Seats::NONE,
            lost: Seats::NONE,
            failed: Seats::NONE,
            probes_out: 0,
            refusals: Vec::new(),
        }
    }

    /// What it was made with.
    pub fn terms(&self) -> &Prolongation {
        &self.terms
    }

    fn take(&mut self, from: NodeIndex, step: Step, answer: Answer) -> (Seats, Seats) {
        let (Step::Main, Some(seat)) = (step, self.terms.placement.seat(from)) else {
            self.probes_out = self.probes_out.saturating_sub(1);
            return (Seats::NONE, Seats::NONE);
        };
        let here = Seats::NONE.with(seat);
        match answer {
            Ok(Reply::Kept { .. }) => self.kept = self.kept.with(seat),
            Ok(Reply::Made { .. }) => self.made = self.made.with(seat),
            other => {
                let is_lost = matches!(other, Ok(Reply::Lost(_)));
                let tally = if is_lost {
                    &mut self.lost
                } else {
                    &mut self.failed
                };
                *tally = tally.with(seat);
                self.refusals.push((from, Refusal::of(other)));
                return (Seats::NONE, if is_lost { here } else { Seats::NONE });
            }
        }
        (here, Seats::NONE)
    }

    fn settle(&mut self, now: Instant, confirmed_at: Instant) -> Option<Extension> {
        let Prolongation { placement, t0, .. } = self.terms;
        if placement.is_blocked_by(self.lost) {
            return self.close(|refusals| Extension::Lost { refusals });
        }
        let is_in_time = now < self.terms.valid_until;
        let is_confirmed = t0 < confirmed_at + self.terms.view_lease;
        if is_in_time && is_confirmed && self.has_quorum() {
            let until = valid_until(t0, self.terms.ttl.get()).max(self.terms.valid_until);
            return self.close(|_| Extension::Extended(until));
        }
        let answered = self
            .kept
            .union(self.made)
            .union(self.lost)
            .union(self.failed);
        let is_over = answered == placement.seats() && (self.probes_out == 0 || !self.has_quorum());
        let kept = self.kept.union(self.made).len();
        if is_over || !is_in_time {
            return self.close(|refusals| Extension::Unchanged { kept, refusals });
        }
        None
    }

    /// A majority has the entry in every group; and in the groups that the
    /// lease stood on, a majority vouches that it was never gone.
    fn has_quorum(&self) -> bool {
        let vouching = self.kept.intersection(self.terms.acknowledged);
        let is_continuous = self
            .terms
            .placement
            .groups()
            .take(self.terms.established)
            .all(|group| vouching.has_majority_of(group));
        self.terms.established > 0
            && is_continuous
            && self.terms.placement.has_quorum(self.kept.union(self.made))
    }

    fn close(
        &mut self,
        outcome: impl FnOnce(Vec<(NodeIndex, Refusal)>) -> Extension,
    ) -> Option<Extension> {
        self.is_open = false;
        Some(outcome(std::mem::take(&mut self.refusals)))
    }
}

impl Machine for Renewal {
    type Outcome = Extension;

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> Effects<Extension> {
        match event {
            Event::Start { probes } => {
                self.probes_out = probes.len();
                let send = Some((Step::Main, self.terms.placement.seats()));
                Effects {
                    send,
                    probe: probes,
                    ..Effects::default()
                }
            }
            Event::Answered { from, step, answer } => {
                let (acknowledged, disowned) = self.take(from, step, answer);
                let outcome = if self.is_open {
                    self.settle(now, confirmed_at)
                } else {
                    None
                };
                Effects {
                    acknowledged,
                    disowned,
                    outcome,
                    ..Effects::default()
                }
            }
            // An extend that nobody waits for does no harm: it is the lease's
            // owner who releases.
            Event::Abandoned => Effects::default(),
        }
    }

    fn request(&self, _: Step, to: Seat) -> Request {
        let Prolongation {
            view,
            key,
            token,
            fence,
            ttl,
            placement,
            established,
            ..
        } = &self.terms;
        // With a single owner nobody vouches for a gap.
        let is_alone = |group: Seats| group.len() == 1 && group.contains(to);
        let is_single = placement.groups().take(*established).any(is_alone);
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
            absent: if is_single {
                Absent::Keep
            } else {
                Absent::Heal
            },
        }
    }

    fn placement(&self) -> &Placement {
        &self.terms.placement
    }

    fn started_at(&self) -> Instant {
        self.terms.t0
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{NodeError, NodeErrorKind, NodeStatus, Slot};
    use super::*;

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
        Placement::stable(Slot::SINGLE, &nodes(&(0..n).collect::<Vec<_>>()))
    }

    fn seats(placement: &Placement, of: &[u16]) -> Seats {
        nodes(of)
            .into_iter()
            .filter_map(|node| placement.seat(node))
            .collect()
    }

    /// Terms of a lease that these nodes had acknowledged.
    fn terms(placement: Placement, acknowledged: &[u16]) -> Prolongation {
        Prolongation {
            view: VIEW,
            view_lease: Duration::from_secs(5),
            key: Key::new("k").unwrap(),
            token: Token::new(7, None),
            fence: Fence::new(VIEW.epoch, 12).unwrap(),
            ttl: Ttl::new(TTL, TTL).unwrap(),
            placement,
            established: 1,
            acknowledged: seats(&placement, acknowledged),
            valid_until: OLD_END,
            t0: T0,
        }
    }

    struct Script {
        renewal: Renewal,
        now: Instant,
        confirmed_at: Instant,
    }

    impl Script {
        fn on(terms: Prolongation) -> Self {
            Self::probing(terms, T0, &[])
        }

        fn probing(terms: Prolongation, confirmed_at: Instant, probes: &[u16]) -> Self {
            let mut renewal = Renewal::new(terms);
            let probes = nodes(probes);
            let effects = renewal.on(T0, confirmed_at, Event::Start { probes });
            let everybody = renewal.placement().seats();
            assert_eq!(effects.send, Some((Step::Main, everybody)));
            Self {
                renewal,
                now: T0,
                confirmed_at,
            }
        }

        fn hears(&mut self, from: u16, step: Step, answer: Answer) -> Effects<Extension> {
            let from = NodeIndex::new(from);
            let event = Event::Answered { from, step, answer };
            self.renewal.on(self.now, self.confirmed_at, event)
        }

        fn kept(&mut self, from: u16) -> Option<Extension> {
            let effects = self.hears(from, Step::Main, Ok(Reply::Kept { counter: 12 }));
            let seat = seats(self.renewal.placement(), &[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (seat, Seats::NONE)
            );
            effects.outcome
        }

        fn made(&mut self, from: u16) -> Option<Extension> {
            let effects = self.hears(from, Step::Main, Ok(Reply::Made { counter: 12 }));
            let seat = seats(self.renewal.placement(), &[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (seat, Seats::NONE)
            );
            effects.outcome
        }

        fn lost(&mut self, from: u16) -> Option<Extension> {
            let effects = self.hears(from, Step::Main, Ok(Reply::Lost(None)));
            let seat = seats(self.renewal.placement(), &[from]);
            assert_eq!(
                (effects.acknowledged, effects.disowned),
                (Seats::NONE, seat)
            );
            effects.outcome
        }

        fn silent(&mut self, from: u16) -> Option<Extension> {
            let timeout = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.hears(from, Step::Main, Err(timeout)).outcome
        }
    }

    fn extended() -> Option<Extension> {
        Some(Extension::Extended(valid_until(T0, TTL)))
    }

    fn is_unchanged(outcome: Option<Extension>, with: usize) -> bool {
        matches!(outcome, Some(Extension::Unchanged { kept, .. }) if kept == with)
    }

    #[test]
    fn a_majority_that_kept_the_entry_extends_the_lease() {
        let mut script = Script::on(terms(group(3), &[0, 1]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), extended());
        // The third is healed and acknowledged, with no second outcome.
        assert_eq!(script.made(2), None);
    }

    #[test]
    fn kept_by_a_node_that_had_not_acknowledged_does_not_vouch() {
        // A late ACQUIRE put our entry there, perhaps after another holder's time.
        let mut script = Script::on(terms(group(3), &[0, 1]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(2), None);
        assert!(is_unchanged(script.silent(1), 2));
    }

    #[test]
    fn made_anew_does_not_vouch() {
        let mut script = Script::on(terms(group(3), &[0, 1]));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.made(1), None);
        assert!(is_unchanged(script.made(2), 3));
    }

    #[test]
    fn what_arrives_after_the_old_validity_changes_nothing() {
        for (now, is_extended) in [(OLD_END - Duration::from_nanos(1), true), (OLD_END, false)] {
            let mut script = Script::on(terms(group(1), &[0]));
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
        let mut terms = terms(group(1), &[0]);
        terms.ttl = Ttl::new(Duration::from_secs(1), TTL).unwrap();
        let mut script = Script::on(terms);
        assert_eq!(script.kept(0), Some(Extension::Extended(OLD_END)));
    }

    #[test]
    fn lost_from_a_blocking_set_is_reported_at_once() {
        let mut script = Script::on(terms(group(5), &[0, 1, 2]));
        assert_eq!(script.lost(0), None);
        assert_eq!(script.kept(1), None);
        assert_eq!(script.lost(2), None);
        let outcome = script.lost(3);
        assert!(
            matches!(&outcome, Some(Extension::Lost { refusals }) if refusals.len() == 3),
            "{outcome:?}"
        );
    }

    #[test]
    fn silence_is_no_loss() {
        let mut script = Script::on(terms(group(3), &[0, 1, 2]));
        assert_eq!(script.silent(0), None);
        assert_eq!(script.silent(1), None);
        assert!(is_unchanged(script.kept(2), 1));
    }

    #[test]
    fn a_single_owner_keeps_and_a_group_heals() {
        let mode = |placement: Placement, established, to| {
            let mut terms = terms(placement, &[0]);
            terms.established = established;
            let to = placement.seat(NodeIndex::new(to)).unwrap();
            match Renewal::new(terms).request(Step::Main, to) {
                Request::Extend { absent, floor, .. } => (absent, floor),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(mode(group(1), 1, 0), (Absent::Keep, 12));
        assert_eq!(mode(group(3), 1, 0), (Absent::Heal, 12));
        // From one owner to another: the old one must have kept it, the new
        // one is yet to get it, and has to keep it from then on.
        let joint = Placement::joint(Slot::SINGLE, &nodes(&[0]), &nodes(&[1]));
        assert_eq!(mode(joint, 1, 0), (Absent::Keep, 12));
        assert_eq!(mode(joint, 1, 1), (Absent::Heal, 12));
        assert_eq!(mode(joint, 2, 1), (Absent::Keep, 12));
    }

    #[test]
    fn a_fence_of_another_epoch_is_no_floor() {
        let mut terms = terms(group(3), &[0]);
        terms.fence = Fence::new(VIEW.epoch - 1, 12).unwrap();
        let owner = terms.placement.seat(NodeIndex::new(0)).unwrap();
        let request = Renewal::new(terms).request(Step::Main, owner);
        assert!(matches!(request, Request::Extend { floor: 0, .. }));
    }

    #[test]
    fn a_new_group_may_be_made_but_the_old_one_must_have_kept() {
        let joint = Placement::joint(Slot::SINGLE, &nodes(&[0, 1, 2]), &nodes(&[3, 4, 5]));
        let mut script = Script::on(terms(joint, &[0, 1]));
        assert_eq!(script.made(3), None);
        assert_eq!(script.made(4), None);
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), extended());

        let mut both = terms(joint, &[0, 1]);
        both.established = 2;
        let mut script = Script::on(both);
        for node in [3, 4, 5] {
            assert_eq!(script.made(node), None);
        }
        for node in [0, 1] {
            assert_eq!(script.kept(node), None);
        }
        assert!(is_unchanged(script.kept(2), 6));
    }

    #[test]
    fn a_lease_that_no_group_vouches_for_cannot_be_extended() {
        let mut terms = terms(group(3), &[0, 1, 2]);
        terms.established = 0;
        let mut script = Script::on(terms);
        assert_eq!(script.kept(0), None);
        assert_eq!(script.kept(1), None);
        assert!(is_unchanged(script.kept(2), 3));
    }

    #[test]
    fn an_unconfirmed_view_waits_for_its_probes() {
        let old = T0 - Duration::from_secs(5);
        let mut script = Script::probing(terms(group(1), &[0]), old, &[1, 2]);
        assert_eq!(script.kept(0), None);
        let status = || Ok(Reply::Status(NodeStatus::default()));
        assert_eq!(script.hears(1, Step::Probe, status()).outcome, None);
        let outcome = script.hears(2, Step::Probe, status()).outcome;
        assert!(is_unchanged(outcome, 1));

        let mut script = Script::probing(terms(group(1), &[0]), old, &[1, 2]);
        assert_eq!(script.kept(0), None);
        script.confirmed_at = T0;
        let outcome = script.hears(1, Step::Probe, status()).outcome;
        assert_eq!(outcome, extended());
    }

    #[test]
    fn stale_replies_never_count() {
        let mut script = Script::on(terms(group(3), &[0, 1, 2]));
        let stale = || Ok(Reply::Stale(None));
        assert_eq!(script.kept(0), None);
        assert_eq!(script.hears(1, Step::Main, stale()).outcome, None);
        let effects = script.hears(2, Step::Main, stale());
        assert_eq!((effects.acknowledged, effects.disowned), Default::default());
        assert!(is_unchanged(effects.outcome, 1));
    }
}
