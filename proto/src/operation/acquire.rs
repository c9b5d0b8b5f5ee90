//! One attempt at a lock: ask every node of the placement, agree on a fence, and
//! either grant or take everything back.

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::lease::{COUNTER_LIMIT, Fence, Key, Token, Ttl};
use crate::node::message::{Answer, IfMissing, Reply, Request, ViewId};
use crate::operation::known::Known;
use crate::operation::machine::{Effects, Event, Machine, Refusal, Step};
use crate::quorum::{Placement, Voter, VoterSet};
use crate::time::{Instant, valid_until};
use ringlock_ring::NodeIndex;

/// The input of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcquireParams {
    /// The view that chose the placement.
    pub view: ViewId,
    /// How long a confirmation of the view is valid.
    pub view_lease: Duration,
    /// What to lock.
    pub key: Key,
    /// Fresh and random, for this attempt only.
    pub token: Token,
    /// Life of the entries.
    pub ttl: Ttl,
    /// Who must agree.
    pub placement: Placement,
    /// Read once, before anything is sent.
    pub t0: Instant,
}

/// A lease, as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Grows with every grant of the key.
    pub fence: Fence,
    /// How long the lease may be relied upon.
    pub valid_until: Instant,
    /// The nodes known for sure to hold the entry, and those that vouch for the lease.
    pub known: Known,
    /// Whether the fence took a second round.
    pub wrote_back: bool,
}

/// Why an attempt failed, in addition to the nodes' answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenyReason {
    /// No majority granted it.
    Votes,
    /// It took longer than the lease would have been valid.
    Expired,
    /// The counters could not be brought to a common count.
    Fence,
    /// No majority of the cluster is known to still serve the view.
    Unconfirmed,
}

/// A failed attempt. Everything it may have left on the nodes is being released.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// The reason.
    pub reason: DenyReason,
    /// Nodes that had granted it.
    pub granted: usize,
    /// The other nodes' answers so far.
    pub refusals: Vec<(NodeIndex, Refusal)>,
}

/// The machine of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    params: AcquireParams,
    valid_until: Instant,
    stage: Stage,
    asked: VoterSet,
    /// The voters among the asked to which no request was sent.
    unsent: VoterSet,
    granted: VoterSet,
    denied: VoterSet,
    /// The voters among the refused where another client holds the key.
    busy: VoterSet,
    /// It can no longer win and everything is being released; the outstanding
    /// answers decide whether a holder or an outage is the cause.
    is_doomed: bool,
    /// The counts of the voters that have granted. Five are stored without an
    /// allocation: the usual quorum.
    counters: SmallVec<[u64; 5]>,
    floor: u64,
    write_back: Option<WriteBack>,
    probes_out: usize,
    refusals: Vec<(NodeIndex, Refusal)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Open,
    /// Granted, with this count.
    Granted(u64),
    Denied,
}

/// Raises the low counters to one that a majority shares, so that the next grant
/// anywhere exceeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WriteBack {
    to: u64,
    asked: VoterSet,
    raised: VoterSet,
    denied: VoterSet,
}

type AttemptEffects = Effects<Result<Grant, Denied>>;

impl Attempt {
    /// An attempt that has not begun.
    #[inline]
    pub fn new(params: AcquireParams) -> Self {
        Self {
            valid_until: valid_until(params.t0, params.ttl.get()),
            stage: Stage::Open,
            asked: VoterSet::NONE,
            unsent: VoterSet::NONE,
            granted: VoterSet::NONE,
            denied: VoterSet::NONE,
            busy: VoterSet::NONE,
            is_doomed: false,
            counters: smallvec![0; params.placement.nodes().len()],
            floor: 0,
            write_back: None,
            probes_out: 0,
            refusals: Vec::new(),
            params,
        }
    }

    /// The input of the attempt.
    pub fn params(&self) -> &AcquireParams {
        &self.params
    }

    fn start(&mut self, probes: Vec<NodeIndex>) -> AttemptEffects {
        // In a joint view the old group comes first: a contender that has only the
        // new owner must not be able to break the holder's migration.
        self.asked = self.params.placement.groups().next().unwrap_or_default();
        self.probes_out = probes.len();
        Effects {
            send: Some((Step::Main, self.asked)),
            probe: probes,
            ..Effects::default()
        }
    }

    fn take(&mut self, from: NodeIndex, step: Step, answer: Answer) {
        let voter = self.params.placement.voter(from);
        match (step, voter) {
            (Step::Main, Some(voter)) => match answer {
                Ok(Reply::Granted { counter }) if counter < COUNTER_LIMIT => {
                    self.granted = self.granted.with(voter);
                    self.counters[voter.get()] = counter;
                }
                other => self.take_refusal(from, voter, other),
            },
            (Step::WriteBack, Some(voter)) => self.take_write_back(from, voter, answer),
            (Step::Probe | Step::Heal, _) | (_, None) => {
                self.probes_out = self.probes_out.saturating_sub(1)
            }
        }
    }

    /// A count is raised only where the attempt's own entry was found: no other
    /// client can have counted there in between, since every request is sent once.
    fn take_write_back(&mut self, from: NodeIndex, voter: Voter, answer: Answer) {
        let Some(write_back) = &mut self.write_back else {
            return;
        };
        match answer {
            Ok(Reply::Kept { .. }) => write_back.raised = write_back.raised.with(voter),
            other => {
                write_back.denied = write_back.denied.with(voter);
                if matches!(other, Ok(Reply::Lost(_))) {
                    // What was granted there is gone.
                    self.granted = self.granted.without(voter);
                    self.take_refusal(from, voter, other);
                } else {
                    self.refusals.push((from, Refusal::of(other)));
                }
            }
        }
    }

    fn take_refusal(&mut self, from: NodeIndex, voter: Voter, answer: Answer) {
        self.denied = self.denied.with(voter);
        if matches!(answer, Ok(Reply::Busy(_) | Reply::Lost(_))) {
            self.busy = self.busy.with(voter);
        }
        if matches!(&answer, Err(error) if error.is_unsent()) {
            self.unsent = self.unsent.with(voter);
        }
        self.refusals.push((from, Refusal::of(answer)));
    }

    fn settle(&mut self, now: Instant, confirmed_at: Instant) -> AttemptEffects {
        let placement = self.params.placement;
        if placement.is_blocked_by(self.denied) {
            return self.doom();
        }
        if now >= self.valid_until {
            return self.refuse(DenyReason::Expired);
        }
        if !placement.has_quorum(self.granted) {
            return self.widen();
        }
        let Some(counter) = self.agreed_counter() else {
            return self.bring_together();
        };
        if self.params.t0 >= confirmed_at + self.params.view_lease {
            let is_waiting = self.probes_out > 0 || !self.unanswered().is_empty();
            let wait = Effects::default();
            return if is_waiting {
                wait
            } else {
                self.refuse(DenyReason::Unconfirmed)
            };
        }
        match Fence::new(self.params.view.epoch, counter) {
            Some(fence) => self.grant(fence),
            None => self.refuse(DenyReason::Fence),
        }
    }

    /// Fails for lack of votes once the cause is clear: only holders are in the
    /// way, or only nodes that do not answer, or all have answered. An outage must
    /// not be reported as a busy key because one node answered sooner.
    fn doom(&mut self) -> AttemptEffects {
        let placement = self.params.placement;
        let is_clear = placement.is_blocked_by(self.busy)
            || placement.is_blocked_by(self.denied.minus(self.busy))
            || self.unanswered().is_empty();
        if is_clear {
            return self.refuse(DenyReason::Votes);
        }
        let release = self.owed_releases();
        self.is_doomed = true;
        Effects {
            release,
            ..Effects::default()
        }
    }

    /// Asks the new group of a joint placement once the old one has granted.
    fn widen(&mut self) -> AttemptEffects {
        let placement = self.params.placement;
        let old = placement.groups().next().unwrap_or_default();
        let unasked = placement.voters().minus(self.asked);
        let is_old_won = self.granted.has_majority_of(old);
        if unasked.is_empty() || !is_old_won {
            return Effects::default();
        }
        self.asked = placement.voters();
        self.floor = self.highest_counter();
        Effects {
            send: Some((Step::Main, unasked)),
            ..Effects::default()
        }
    }

    /// A count that a majority of every group has, by the grant itself or raised
    /// to it under the attempt's own token.
    ///
    /// Two grants of a key then cannot share a fence, since at a node in both
    /// majorities the later one got a higher count. Nodes that answered any other
    /// count are not used.
    fn agreed_counter(&self) -> Option<u64> {
        let by_grant = self.granted.iter().map(|voter| self.counters[voter.get()]);
        let by_raise = self.write_back.map(|write_back| write_back.to);
        by_grant
            .chain(by_raise)
            .find(|&counter| self.params.placement.has_quorum(self.standing_at(counter)))
    }

    fn standing_at(&self, counter: u64) -> VoterSet {
        let granted_at = |&voter: &Voter| self.counters[voter.get()] == counter;
        let raised = match self.write_back {
            Some(write_back) if write_back.to == counter => write_back.raised,
            _ => VoterSet::NONE,
        };
        self.granted
            .iter()
            .filter(granted_at)
            .collect::<VoterSet>()
            .union(raised)
    }

    /// Writes the highest count back to the nodes below it. Outstanding answers
    /// count too: whichever completes a majority first.
    fn bring_together(&mut self) -> AttemptEffects {
        let placement = self.params.placement;
        let highest = self.highest_counter();
        let write_back = self.write_back.get_or_insert(WriteBack {
            to: highest,
            asked: VoterSet::NONE,
            raised: VoterSet::NONE,
            denied: VoterSet::NONE,
        });
        let is_low = |&voter: &Voter| self.counters[voter.get()] < write_back.to;
        let is_high = |&voter: &Voter| self.counters[voter.get()] > write_back.to;
        let low = self
            .granted
            .iter()
            .filter(is_low)
            .collect::<VoterSet>()
            .minus(write_back.asked);
        let high = self.granted.iter().filter(is_high).collect::<VoterSet>();
        write_back.asked = write_back.asked.union(low);
        let useless = self.denied.union(write_back.denied).union(high);
        let is_waiting = !self.unanswered().is_empty();
        if placement.is_blocked_by(useless) && !is_waiting {
            return self.refuse(DenyReason::Fence);
        }
        let send = (!low.is_empty()).then_some((Step::WriteBack, low));
        Effects {
            send,
            ..Effects::default()
        }
    }

    fn highest_counter(&self) -> u64 {
        self.granted
            .iter()
            .map(|voter| self.counters[voter.get()])
            .max()
            .unwrap_or(0)
    }

    /// The voters that the request may have reached; returned once.
    fn owed_releases(&self) -> VoterSet {
        if self.is_doomed {
            VoterSet::NONE
        } else {
            self.asked.minus(self.unsent)
        }
    }

    fn unanswered(&self) -> VoterSet {
        self.asked.minus(self.granted).minus(self.denied)
    }

    fn grant(&mut self, fence: Fence) -> AttemptEffects {
        let counter = fence.counter();
        self.stage = Stage::Granted(counter);
        let vouches = |&voter: &Voter| vouches(self.counters[voter.get()], counter);
        let known = Known {
            seen: self.granted,
            vouching: self.granted.iter().filter(vouches).collect(),
        };
        let grant = Grant {
            fence,
            valid_until: self.valid_until,
            known,
            wrote_back: self
                .write_back
                .is_some_and(|write_back| write_back.to == counter),
        };
        Effects {
            acknowledged: known.seen,
            vouching: known.vouching,
            outcome: Some(Ok(grant)),
            ..Effects::default()
        }
    }

    fn refuse(&mut self, reason: DenyReason) -> AttemptEffects {
        self.stage = Stage::Denied;
        let denied = Denied {
            reason,
            granted: self.granted.len(),
            refusals: std::mem::take(&mut self.refusals),
        };
        // Silent nodes too: the request may have reached them.
        let release = self.owed_releases();
        Effects {
            release,
            outcome: Some(Err(denied)),
            ..Effects::default()
        }
    }
}

/// Whether a node that granted `counter` vouches for a lease with the fence
/// counter `fence`.
///
/// Its answer may arrive after the verdict, and its grant may happen after another
/// holder's time: an operator deletes the entry elsewhere, another client is
/// granted the key through this node and releases it, and then our late request
/// arrives. That client's fence is above ours, since it counted at a node of our
/// own majority after us; and this node had that fence when our request arrived.
/// So a count up to our fence proves that there was no holder in between. Counts of
/// other keys may raise it too: such a node vouches once an extend has found its
/// entry.
fn vouches(counter: u64, fence: u64) -> bool {
    counter <= fence
}

impl Machine for Attempt {
    type Outcome = Result<Grant, Denied>;

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> AttemptEffects {
        match (self.stage, event) {
            (Stage::Open, Event::Start { probes }) => self.start(probes),
            (Stage::Open, Event::Answered { from, step, answer }) => {
                self.take(from, step, answer);
                self.settle(now, confirmed_at)
            }
            (Stage::Open | Stage::Granted(_), Event::Abandoned) => {
                self.stage = Stage::Denied;
                Effects {
                    release: self.asked,
                    ..Effects::default()
                }
            }
            (
                Stage::Granted(fence),
                Event::Answered {
                    from,
                    step: Step::Main,
                    answer: Ok(Reply::Granted { counter }),
                },
            ) => {
                let voter: VoterSet = self.params.placement.voter(from).into_iter().collect();
                let vouching = if vouches(counter, fence) {
                    voter
                } else {
                    VoterSet::NONE
                };
                Effects {
                    acknowledged: voter,
                    vouching,
                    ..Effects::default()
                }
            }
            _ => Effects::default(),
        }
    }

    fn request(&self, step: Step, _: Voter) -> Request {
        let AcquireParams {
            view,
            key,
            token,
            ttl,
            placement,
            ..
        } = &self.params;
        let (view, key, token, ttl) = (*view, key.clone(), token.clone(), *ttl);
        let slot = placement.slot();
        match step {
            Step::Main | Step::Probe | Step::Heal => Request::Acquire {
                view,
                key,
                token,
                ttl,
                slot,
                floor: self.floor,
            },
            Step::WriteBack => {
                let floor = self.write_back.map_or(0, |write_back| write_back.to);
                Request::Extend {
                    view,
                    key,
                    token,
                    ttl,
                    slot,
                    floor,
                    if_missing: IfMissing::Report,
                }
            }
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
    const T0: Instant = Instant::from_nanos(100_000_000_000);
    const TTL: Duration = Duration::from_secs(10);

    fn nodes(indices: &[u16]) -> Vec<NodeIndex> {
        indices.iter().copied().map(NodeIndex::new).collect()
    }

    fn params(placement: Placement) -> AcquireParams {
        AcquireParams {
            view: VIEW,
            view_lease: Duration::from_secs(5),
            key: Key::new("k").unwrap(),
            token: Token::new(7, None),
            ttl: Ttl::new(TTL, TTL).unwrap(),
            placement,
            t0: T0,
        }
    }

    /// An attempt that was just started, with its view confirmed by default.
    struct Script {
        attempt: Attempt,
        now: Instant,
        confirmed_at: Instant,
        first: AttemptEffects,
    }

    impl Script {
        fn on(placement: Placement) -> Self {
            Self::probing(placement, T0, &[])
        }

        fn among(n: u16) -> Self {
            let group = nodes(&(0..n).collect::<Vec<_>>());
            Self::on(Placement::stable(FenceCounterId::SINGLE, &group))
        }

        fn probing(placement: Placement, confirmed_at: Instant, probes: &[u16]) -> Self {
            let mut attempt = Attempt::new(params(placement));
            let probes = nodes(probes);
            let first = attempt.on(T0, confirmed_at, Event::Start { probes });
            Self {
                attempt,
                now: T0,
                confirmed_at,
                first,
            }
        }

        fn hears(&mut self, from: u16, step: Step, answer: Answer) -> AttemptEffects {
            let from = NodeIndex::new(from);
            let event = Event::Answered { from, step, answer };
            self.attempt.on(self.now, self.confirmed_at, event)
        }

        fn granted(&mut self, from: u16, counter: u64) -> AttemptEffects {
            self.hears(from, Step::Main, Ok(Reply::Granted { counter }))
        }

        fn busy(&mut self, from: u16) -> AttemptEffects {
            self.hears(from, Step::Main, Ok(Reply::Busy(rival())))
        }

        fn silent(&mut self, from: u16, step: Step) -> AttemptEffects {
            let timeout = NodeError::new(NodeErrorKind::Timeout, "no answer");
            self.hears(from, step, Err(timeout))
        }

        fn kept(&mut self, from: u16, counter: u64) -> AttemptEffects {
            self.hears(from, Step::WriteBack, Ok(Reply::Kept { counter }))
        }

        fn request(&self, step: Step) -> Request {
            let owner = self.voters(&[0]).take_first().unwrap();
            self.attempt.request(step, owner)
        }

        fn voters(&self, of: &[u16]) -> VoterSet {
            let placement = self.attempt.placement();
            nodes(of)
                .into_iter()
                .filter_map(|node| placement.voter(node))
                .collect()
        }
    }

    fn rival() -> CurrentHolder {
        CurrentHolder {
            holder: None,
            remaining: None,
        }
    }

    fn fence(counter: u64) -> Fence {
        Fence::new(VIEW.epoch, counter).unwrap()
    }

    fn grant(effects: AttemptEffects) -> Grant {
        effects.outcome.expect("an outcome").expect("a grant")
    }

    fn refusal(effects: AttemptEffects) -> Denied {
        effects.outcome.expect("an outcome").expect_err("a refusal")
    }

    fn nothing(effects: &AttemptEffects) -> bool {
        *effects == AttemptEffects::default()
    }

    #[test]
    fn where_nothing_was_sent_nothing_is_taken_back() {
        let mut script = Script::among(3);
        let unsent = NodeError::new(NodeErrorKind::Timeout, "never sent").unsent();
        let effects = script.hears(0, Step::Main, Err(unsent));
        assert_eq!(effects.outcome, None);
        let effects = script.silent(1, Step::Main);
        assert!(matches!(effects.outcome, Some(Err(_))));
        assert_eq!(effects.release, script.voters(&[1, 2]));
    }

    #[test]
    fn a_single_owner_grants_alone() {
        let mut script = Script::among(1);
        assert_eq!(script.first.send, Some((Step::Main, script.voters(&[0]))));
        let grant = grant(script.granted(0, 9));
        assert_eq!((grant.fence, grant.wrote_back), (fence(9), false));
        assert_eq!(grant.valid_until, valid_until(T0, TTL));
        assert_eq!(grant.known, Known::vouched(script.voters(&[0])));
    }

    #[test]
    fn five_with_equal_counters_grant_at_the_third_answer() {
        let mut script = Script::among(5);
        assert!(nothing(&script.granted(4, 2)));
        assert!(nothing(&script.granted(0, 2)));
        let grant = grant(script.granted(2, 2));
        assert_eq!((grant.fence, grant.wrote_back), (fence(2), false));
        assert_eq!(grant.known, Known::vouched(script.voters(&[0, 2, 4])));
    }

    #[test]
    fn unequal_counters_are_written_back_and_the_highest_is_the_fence() {
        let mut script = Script::among(3);
        assert!(nothing(&script.granted(0, 4)));
        let effects = script.granted(1, 9);
        assert_eq!(effects.send, Some((Step::WriteBack, script.voters(&[0]))));
        assert_eq!(effects.outcome, None);
        match script.request(Step::WriteBack) {
            Request::Extend {
                floor,
                if_missing,
                token,
                ..
            } => assert_eq!(
                (floor, if_missing, &token),
                (9, IfMissing::Report, &script.attempt.params().token)
            ),
            other => panic!("{other:?}"),
        }
        let grant = grant(script.kept(0, 9));
        assert_eq!((grant.fence, grant.wrote_back), (fence(9), true));
    }

    #[test]
    fn an_equal_trio_among_unequal_replies_needs_no_write_back() {
        let mut script = Script::among(5);
        assert!(nothing(&script.granted(0, 4)));
        assert!(nothing(&script.granted(1, 8)));
        // Three that differ: a write-back is sent, but need not be waited for.
        assert_eq!(
            script.granted(2, 4).send,
            Some((Step::WriteBack, script.voters(&[0, 2])))
        );
        let grant = grant(script.granted(3, 4));
        assert_eq!((grant.fence, grant.wrote_back), (fence(4), false));
    }

    #[test]
    fn a_write_back_to_a_late_and_low_node_is_sent_too() {
        let mut script = Script::among(5);
        for (node, counter) in [(0, 4), (1, 8)] {
            assert!(nothing(&script.granted(node, counter)));
        }
        assert!(script.granted(2, 5).send.is_some());
        let effects = script.granted(3, 6);
        assert_eq!(effects.send, Some((Step::WriteBack, script.voters(&[3]))));
        assert!(nothing(&script.kept(0, 8)));
        assert_eq!(grant(script.kept(3, 8)).fence, fence(8));
    }

    #[test]
    fn a_write_back_that_finds_another_token_grants_nothing() {
        let mut script = Script::among(3);
        let _ = script.granted(0, 4);
        let _ = script.granted(1, 9);
        let _ = script.silent(2, Step::Main);
        let lost = Ok(Reply::Lost(Some(rival())));
        let effects = script.hears(0, Step::WriteBack, lost);
        assert_eq!(effects.release, script.voters(&[0, 1, 2]));
        assert_eq!(refusal(effects).reason, DenyReason::Votes);
    }

    #[test]
    fn a_failed_write_back_still_waits_for_a_third_node() {
        let mut script = Script::among(3);
        let _ = script.granted(0, 4);
        let _ = script.granted(1, 9);
        assert!(nothing(&script.silent(0, Step::WriteBack)));
        assert_eq!(grant(script.granted(2, 9)).fence, fence(9));
    }

    #[test]
    fn a_refusal_releases_every_asked_node_silent_ones_included() {
        let mut script = Script::among(5);
        let _ = script.granted(1, 1);
        assert!(nothing(&script.busy(0)));
        assert!(nothing(&script.busy(2)));
        let effects = script.busy(3);
        assert_eq!(effects.release, script.voters(&[0, 1, 2, 3, 4]));
        let denied = refusal(effects);
        assert_eq!((denied.reason, denied.granted), (DenyReason::Votes, 1));
        assert_eq!(denied.refusals.len(), 3);
        // Node 4 answers after the verdict; its RELEASE is already in flight.
        assert!(nothing(&script.granted(4, 1)));
    }

    #[test]
    fn holders_and_silence_together_release_at_once_and_blame_when_it_is_clear() {
        let mut script = Script::among(5);
        let _ = script.granted(1, 1);
        let _ = script.busy(0);
        let _ = script.silent(2, Step::Main);
        let doomed = script.busy(3);
        assert_eq!(doomed.release, script.voters(&[0, 1, 2, 3, 4]));
        assert_eq!(doomed.outcome, None);
        let decided = script.silent(4, Step::Main);
        assert!(decided.release.is_empty());
        assert_eq!(refusal(decided).refusals.len(), 4);
    }

    #[test]
    fn abandoning_releases_whether_it_was_granted_or_not() {
        let mut open = Script::among(3);
        let effects = open.attempt.on(T0, T0, Event::Abandoned);
        assert_eq!(effects.release, open.voters(&[0, 1, 2]));
        assert!(nothing(&open.granted(0, 1)));
        assert!(nothing(&open.granted(1, 1)));

        let mut granted = Script::among(1);
        let _ = grant(granted.granted(0, 1));
        let effects = granted.attempt.on(T0, T0, Event::Abandoned);
        assert_eq!(effects.release, granted.voters(&[0]));
        // The first release is enough.
        assert!(nothing(&granted.attempt.on(T0, T0, Event::Abandoned)));
    }

    #[test]
    fn a_grant_that_comes_after_the_validity_is_refused() {
        let end = valid_until(T0, TTL);
        for (now, is_granted) in [(end - Duration::from_nanos(1), true), (end, false)] {
            let mut script = Script::among(1);
            script.now = now;
            let effects = script.granted(0, 1);
            if is_granted {
                assert_eq!(grant(effects).fence, fence(1));
            } else {
                assert_eq!(effects.release, script.voters(&[0]));
                assert_eq!(refusal(effects).reason, DenyReason::Expired);
            }
        }
    }

    #[test]
    fn an_unconfirmed_view_waits_for_its_probes_and_then_refuses() {
        let single = Placement::stable(FenceCounterId::SINGLE, &nodes(&[0]));
        let long_ago = T0 - Duration::from_secs(5);
        let mut script = Script::probing(single, long_ago, &[1, 2]);
        assert_eq!(script.first.probe, nodes(&[1, 2]));
        assert!(nothing(&script.granted(0, 1)));
        assert!(nothing(&script.silent(1, Step::Probe)));
        let status = Ok(Reply::Status(Box::default()));
        let effects = script.hears(2, Step::Probe, status);
        assert_eq!(effects.release, script.voters(&[0]));
        assert_eq!(refusal(effects).reason, DenyReason::Unconfirmed);
    }

    #[test]
    fn a_probe_that_confirms_the_view_lets_the_grant_pass() {
        let single = Placement::stable(FenceCounterId::SINGLE, &nodes(&[0]));
        let mut script = Script::probing(single, Instant::default(), &[1, 2]);
        assert!(nothing(&script.granted(0, 1)));
        script.confirmed_at = T0;
        let status = Ok(Reply::Status(Box::default()));
        assert_eq!(grant(script.hears(1, Step::Probe, status)).fence, fence(1));
    }

    #[test]
    fn the_view_lease_is_counted_to_the_instant() {
        let lease = Duration::from_secs(5);
        for (confirmed_at, is_granted) in [
            (T0 - lease, false),
            (T0 - lease + Duration::from_nanos(1), true),
        ] {
            let single = Placement::stable(FenceCounterId::SINGLE, &nodes(&[0]));
            let mut script = Script::probing(single, confirmed_at, &[]);
            let outcome = script.granted(0, 1).outcome.unwrap();
            assert_eq!(outcome.is_ok(), is_granted);
        }
    }

    #[test]
    fn stale_replies_never_count() {
        let mut script = Script::among(3);
        let other = ViewId {
            epoch: 4,
            digest: 44,
        };
        let _ = script.granted(0, 1);
        assert!(nothing(&script.hears(
            1,
            Step::Main,
            Ok(Reply::Stale(Some(other)))
        )));
        let effects = script.hears(2, Step::Main, Ok(Reply::Stale(None)));
        let denied = refusal(effects);
        assert_eq!((denied.reason, denied.granted), (DenyReason::Votes, 1));
        assert_eq!(
            denied.refusals,
            [
                (NodeIndex::new(1), Refusal::Stale(Some(other))),
                (NodeIndex::new(2), Refusal::Stale(None))
            ]
        );
    }

    #[test]
    fn a_repeated_grant_is_one_vote() {
        let mut script = Script::among(3);
        assert!(nothing(&script.granted(0, 1)));
        assert!(nothing(&script.granted(0, 1)));
        assert!(nothing(&script.granted(0, 2)));
    }

    #[test]
    fn a_stranger_has_no_vote() {
        let mut script = Script::among(3);
        assert!(nothing(&script.granted(0, 1)));
        assert!(nothing(&script.granted(8, 1)));
        assert!(nothing(&script.granted(9, 1)));
    }

    #[test]
    fn a_counter_beyond_its_limit_is_refused() {
        let mut script = Script::among(1);
        let effects = script.granted(0, COUNTER_LIMIT);
        assert_eq!(refusal(effects).reason, DenyReason::Votes);
    }

    #[test]
    fn a_joint_placement_asks_the_old_group_first_and_the_new_one_from_its_count() {
        let placement = Placement::joint(
            FenceCounterId::SINGLE,
            &nodes(&[0, 1, 2]),
            &nodes(&[2, 3, 4]),
        );
        let mut script = Script::on(placement);
        assert_eq!(
            script.first.send,
            Some((Step::Main, script.voters(&[0, 1, 2])))
        );
        assert!(nothing(&script.granted(0, 6)));
        let effects = script.granted(1, 6);
        assert_eq!(effects.send, Some((Step::Main, script.voters(&[3, 4]))));
        assert!(matches!(
            script.request(Step::Main),
            Request::Acquire { floor: 6, .. }
        ));
        assert!(nothing(&script.granted(3, 6)));
        let grant = grant(script.granted(2, 6));
        assert_eq!(grant.fence, fence(6));
    }

    #[test]
    fn a_joint_placement_that_the_old_group_refuses_never_reaches_the_new_one() {
        let placement = Placement::joint(FenceCounterId::SINGLE, &nodes(&[0]), &nodes(&[1]));
        let mut script = Script::on(placement);
        let effects = script.busy(0);
        assert_eq!(effects.release, script.voters(&[0]));
        assert_eq!(refusal(effects).reason, DenyReason::Votes);
    }

    #[test]
    fn a_joint_placement_with_a_leading_new_owner_raises_the_old_one() {
        let placement = Placement::joint(FenceCounterId::SINGLE, &nodes(&[0]), &nodes(&[1]));
        let mut script = Script::on(placement);
        let effects = script.granted(0, 3);
        assert_eq!(effects.send, Some((Step::Main, script.voters(&[1]))));
        let effects = script.granted(1, 5);
        assert_eq!(effects.send, Some((Step::WriteBack, script.voters(&[0]))));
        assert_eq!(grant(script.kept(0, 5)).fence, fence(5));
    }

    #[test]
    fn a_grant_heard_after_the_verdict_is_acknowledged() {
        let mut script = Script::among(3);
        let _ = script.granted(0, 1);
        let _ = grant(script.granted(1, 1));
        let effects = script.granted(2, 1);
        assert_eq!(effects.acknowledged, script.voters(&[2]));
        assert_eq!(effects.vouching, script.voters(&[2]));
        assert_eq!(effects.outcome, None);
        assert!(nothing(&script.busy(2)));
    }

    #[test]
    fn a_count_above_the_fence_does_not_vouch() {
        // Before the verdict: the third is not among those used.
        let mut script = Script::among(5);
        for (node, counter) in [(0, 4), (1, 4), (2, 9)] {
            assert_eq!(script.granted(node, counter).outcome, None);
        }
        let grant = grant(script.granted(3, 4));
        let known = Known {
            seen: script.voters(&[0, 1, 2, 3]),
            vouching: script.voters(&[0, 1, 3]),
        };
        assert_eq!((grant.fence, grant.known), (fence(4), known));
        // After it: another holder may have held the key there in between.
        let late = script.granted(4, 5);
        assert_eq!(late.acknowledged, script.voters(&[4]));
        assert_eq!(late.vouching, VoterSet::NONE);
    }
}
