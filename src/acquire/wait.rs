//! Waiting for a rival's lease to end: by notifications of the nodes where they can
//! send them, by polling now and then where they cannot.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::ViewNodes;
use crate::lease::handoffs::MOST_LOOKS;
use crate::node::{Watch, WatchEvent};
use crate::proto::backoff::Backoff;
use crate::proto::lease::Key;
use crate::proto::node::message::NodeErrorKind;
use crate::proto::operation::machine::Refusal;
use crate::proto::quorum::{Placement, Voter, VoterSet};
use crate::proto::time::Instant;
use crate::runtime::lifecycle::Lifecycle;

/// The longest time until the next attempt, with or without a notification: a watch
/// may have died silently. The attempt comes up to a quarter earlier, so that
/// waiters do not all retry at once.
const LONGEST_WATCH: Duration = Duration::from_secs(5);

/// A server reports the remaining time in whole milliseconds. The entry is gone
/// when the next millisecond has begun.
const TICK: Duration = Duration::from_millis(1);

/// The shortest `retry_delay`: a shorter one would only load the nodes.
const LEAST_RETRY_DELAY: Duration = Duration::from_millis(5);

/// The shortest pause between two attempts that no notification triggered.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

fn is_overload(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Failed(error) if error.kind() == NodeErrorKind::Overloaded)
}

/// The holders that blocked an attempt, and where.
#[derive(Debug)]
pub(crate) struct Conflict {
    placement: Placement,
    /// Voters that are not known to be free.
    blocked: VoterSet,
    /// Blocked voters where another client holds the key.
    busy: VoterSet,
    /// Blocked voters that would help if they became free. Voters that failed, or
    /// that serve another view, do not count.
    in_reach: VoterSet,
    /// The latest time until the first rival's entry expires.
    free_in: Option<Duration>,
    /// The attempt got some of the nodes itself, which others may have missed.
    was_split: bool,
    /// Nodes were overloaded.
    is_overload: bool,
}

impl Conflict {
    /// The rivals in the refusals of an attempt that `granted` nodes had granted.
    pub(crate) fn of(
        placement: &Placement,
        granted: usize,
        refusals: &[(NodeIndex, Refusal)],
    ) -> Self {
        let voters = |is_meant: fn(&Refusal) -> bool| -> VoterSet {
            let meant = refusals.iter().filter(|(_, refusal)| is_meant(refusal));
            meant
                .filter_map(|(node, _)| placement.voter(*node))
                .collect()
        };
        let (refused, busy) = (voters(|_| true), voters(is_busy));
        // A node that has not answered may be as busy as the others. So may the
        // nodes that granted the attempt, if some did not answer.
        let have_all_answered = refused.len() + granted == placement.voters().len();
        let blocked = if have_all_answered {
            refused
        } else {
            placement.voters()
        };
        Self {
            placement: *placement,
            blocked,
            busy,
            in_reach: blocked.minus(refused.minus(busy)),
            free_in: refusals
                .iter()
                .filter_map(|(_, refusal)| match refusal {
                    Refusal::Busy(rival) => rival.as_ref()?.remaining,
                    _ => None,
                })
                .min(),
            was_split: granted > 0,
            is_overload: refusals.iter().any(|(_, refusal)| is_overload(refusal)),
        }
    }

    /// Watches every node that could be part of a winning majority: some may stay
    /// busy, with an entry that nobody releases. `None` if too few can be watched.
    fn watch(&self, view_nodes: &ViewNodes, key: &Key) -> Option<QuorumWatch> {
        // Overloaded or unreachable nodes get no further requests.
        let out_of_reach = self.blocked.minus(self.in_reach);
        if self.busy.is_empty() || self.placement.is_blocked_by(out_of_reach) {
            return None;
        }
        let mut watching = QuorumWatch {
            placement: self.placement,
            blocked: self.blocked,
            watches: Vec::new(),
            has_changed: false,
        };
        let mut rest = self.blocked;
        for voter in self.in_reach.iter() {
            let node = &view_nodes.handle(self.placement.node(voter)).node;
            if let Some(watch) = node.watch(key) {
                watching.watches.push((voter, watch));
                rest = rest.without(voter);
            }
        }
        let is_enough = !self.placement.is_blocked_by(rest);
        (is_enough && !watching.watches.is_empty()).then_some(watching)
    }

    /// Informs the holders that there is a waiter which watches nothing.
    fn leave_notes(&self, view_nodes: &ViewNodes, key: &Key) {
        for voter in self.busy.iter() {
            view_nodes.handle(self.placement.node(voter)).node.want(key);
        }
    }

    /// Waits until the key may be free and was found free `looks` times in a row.
    async fn freed(
        &self,
        view_nodes: &ViewNodes,
        key: &Key,
        mut watching: QuorumWatch,
        looks: u32,
    ) -> WatchEvent {
        let mut seen = WatchEvent::Free;
        let mut to_go = looks;
        loop {
            match watching.await {
                WatchEvent::Lost => return WatchEvent::Lost,
                WatchEvent::Changed => {
                    seen = WatchEvent::Changed;
                    to_go = looks;
                }
                WatchEvent::Free => to_go = to_go.saturating_sub(1),
            }
            if to_go == 0 {
                return seen;
            }
            watching = match self.watch(view_nodes, key) {
                Some(watching) => watching,
                None => return WatchEvent::Lost,
            };
        }
    }
}

fn is_busy(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Busy(_))
}

/// Watches on several nodes. Resolves when a majority may be free, or when the
/// watches that are left can no longer show that.
struct QuorumWatch {
    placement: Placement,
    blocked: VoterSet,
    watches: Vec<(Voter, Watch)>,
    has_changed: bool,
}

impl Future for QuorumWatch {
    type Output = WatchEvent;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WatchEvent> {
        let Self {
            placement,
            blocked,
            watches,
            has_changed,
        } = &mut *self;
        watches.retain_mut(|(voter, watch)| match Pin::new(watch).poll(context) {
            Poll::Pending => true,
            Poll::Ready(event) => {
                *has_changed |= event == WatchEvent::Changed;
                if event != WatchEvent::Lost {
                    *blocked = blocked.without(*voter);
                }
                false
            }
        });
        let hope: VoterSet = watches.iter().map(|&(voter, _)| voter).collect();
        if !placement.is_blocked_by(*blocked) {
            let event = if *has_changed {
                WatchEvent::Changed
            } else {
                WatchEvent::Free
            };
            Poll::Ready(event)
        } else if placement.is_blocked_by(blocked.minus(hope)) {
            Poll::Ready(WatchEvent::Lost)
        } else {
            Poll::Pending
        }
    }
}

/// The pauses between the attempts of one acquire.
#[derive(Debug, Default)]
pub(crate) struct RetryPacer {
    /// The longest pause, if the caller set one: then nothing is watched.
    retry_delay: Option<Duration>,
    /// Attempts are counted: then nothing is watched either.
    is_counted: bool,
    /// Consecutive attempts that no notification triggered.
    unreported: u32,
    /// Consecutive attempts that failed although the key looked free.
    in_vain: u32,
    /// What triggered the last attempt.
    next_event: Option<WatchEvent>,
    /// The key changes hands elsewhere: it is read before the next attempt.
    looks_first: bool,
}

impl RetryPacer {
    pub(crate) fn new(retry_delay: Option<Duration>, is_counted: bool) -> Self {
        Self {
            retry_delay,
            is_counted,
            ..Self::default()
        }
    }

    /// Waits until another attempt may win, after one that `conflict` blocked.
    /// Returns false if that is not before `deadline`.
    pub(crate) async fn wait(
        &mut self,
        life: &Lifecycle,
        view_nodes: &ViewNodes,
        key: &Key,
        conflict: &Conflict,
        deadline: Option<Instant>,
    ) -> bool {
        // Under a newer view the key may belong to other nodes.
        let mut left = std::pin::pin!(view_nodes.left.notified());
        left.as_mut().enable();
        if view_nodes.newest().is_some() || life.check().is_err() {
            return true;
        }
        let free_at = conflict
            .free_in
            .map(|free_in| clock::now() + free_in + TICK);
        let is_watched = self.retry_delay.is_none() && !self.is_counted;
        if is_watched && let Some(watching) = conflict.watch(view_nodes, key) {
            let looks = self.looks();
            let freed = async {
                tokio::select! {
                    biased;
                    event = conflict.freed(view_nodes, key, watching, looks) => event,
                    () = left.as_mut() => WatchEvent::Changed,
                }
            };
            let event = self.next_event(conflict, freed, free_at, deadline).await;
            if event != Some(WatchEvent::Lost) {
                return deadline.is_none_or(|deadline| clock::now() < deadline);
            }
        }
        conflict.leave_notes(view_nodes, key);
        self.unreported += 1;
        let retry_delay = self.retry_delay.map(|delay| delay.max(LEAST_RETRY_DELAY));
        let bounds = match retry_delay {
            Some(delay) => Backoff {
                base: delay,
                cap: delay,
            },
            None if conflict.is_overload => Backoff::OVERLOAD,
            None => Backoff::CONTENTION,
        };
        let pause = bounds
            .wait(self.unreported, rand::random())
            .max(LEAST_PAUSE);
        let resume = clock::now() + pause;
        let resume = free_at.map_or(resume, |free_at| resume.min(free_at));
        if deadline.is_some_and(|deadline| resume >= deadline) {
            return false;
        }
        tokio::select! {
            biased;
            () = left => {}
            () = clock::sleep_until(resume) => {}
        }
        true
    }

    /// How often the key must be found free before it is believed.
    fn looks(&mut self) -> u32 {
        self.looks_first |= self.next_event == Some(WatchEvent::Changed);
        if self.looks_first {
            rand::random_range(1..=MOST_LOOKS)
        } else {
            0
        }
    }

    /// Waits for a notification by `freed`, up to the end of the rival's lease and
    /// the deadline. `None`: nothing was seen until then.
    async fn next_event(
        &mut self,
        conflict: &Conflict,
        freed: impl Future<Output = WatchEvent>,
        free_at: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Option<WatchEvent> {
        let began = clock::now();
        let looks_again = began + LONGEST_WATCH.mul_f64(1.0 - rand::random::<f64>() / 4.0);
        let until = [free_at, deadline].into_iter().flatten();
        let until = until.fold(looks_again, Instant::min);
        // Rivals that got some nodes each and gave them back are all notified at
        // once. A client that reads from another server than it writes to is
        // notified again and again.
        let is_in_vain = conflict.was_split || self.next_event == Some(WatchEvent::Free);
        self.in_vain = if is_in_vain { self.in_vain + 1 } else { 0 };
        let not_before = match self.in_vain {
            0 => began,
            in_vain => began + Backoff::SPLIT.wait(in_vain, rand::random()),
        };
        self.next_event = clock::within(Some(until), freed).await;
        if self.next_event != Some(WatchEvent::Lost) {
            self.unreported = 0;
            clock::sleep_until(not_before.min(until)).await;
        }
        self.next_event
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use std::sync::Arc;

    use super::*;
    use crate::node::Watchers;
    use crate::proto::node::message::{CurrentHolder, FenceCounterId, NodeError, NodeErrorKind};

    fn busy(node: u16) -> (NodeIndex, Refusal) {
        let rival = CurrentHolder {
            holder: None,
            remaining: Some(Duration::from_millis(u64::from(node) + 5)),
        };
        (NodeIndex::new(node), Refusal::Busy(Some(rival)))
    }

    fn down(node: u16) -> (NodeIndex, Refusal) {
        let error = NodeError::new(NodeErrorKind::Timeout, "");
        (NodeIndex::new(node), Refusal::Failed(error))
    }

    /// A key's watches after these answers, each on a separate list.
    struct WatchedNodes {
        lists: Vec<(Voter, Arc<Watchers>)>,
        watching: QuorumWatch,
        key: Key,
    }

    impl WatchedNodes {
        fn open(nodes: u16, granted: usize, refusals: &[(NodeIndex, Refusal)]) -> Self {
            let nodes: Vec<NodeIndex> = (0..nodes).map(NodeIndex::new).collect();
            let placement = Placement::stable(FenceCounterId::SINGLE, &nodes);
            let conflict = Conflict::of(&placement, granted, refusals);
            let key = Key::new("k").unwrap();
            let mut eyes = Self {
                lists: Vec::new(),
                watching: QuorumWatch {
                    placement,
                    blocked: conflict.blocked,
                    watches: Vec::new(),
                    has_changed: false,
                },
                key,
            };
            for voter in conflict.in_reach.iter() {
                let list = Arc::new(Watchers::default());
                let (watch, is_first) = list.add(&eyes.key).unwrap();
                assert!(is_first);
                eyes.watching.watches.push((voter, watch));
                eyes.lists.push((voter, list));
            }
            eyes
        }

        /// The state of the watches after node `node` reports `event`.
        fn notify(&mut self, node: usize, event: WatchEvent) -> Poll<WatchEvent> {
            let list = self.lists.iter().find(|(voter, _)| voter.get() == node);
            list.unwrap().1.notify(&self.key, event);
            self.look()
        }

        fn look(&mut self) -> Poll<WatchEvent> {
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut self.watching).poll(&mut context)
        }
    }

    #[test]
    fn a_single_node_is_enough_for_itself() {
        for event in [WatchEvent::Free, WatchEvent::Changed, WatchEvent::Lost] {
            let mut eyes = WatchedNodes::open(1, 0, &[busy(0)]);
            assert!(eyes.look().is_pending());
            assert_eq!(eyes.notify(0, event), Poll::Ready(event));
        }
    }

    #[test]
    fn a_majority_must_be_free() {
        // The third node has not answered: it may be held as well.
        let mut eyes = WatchedNodes::open(3, 0, &[busy(0), busy(2)]);
        assert!(eyes.notify(0, WatchEvent::Free).is_pending());
        assert_eq!(
            eyes.notify(2, WatchEvent::Changed),
            Poll::Ready(WatchEvent::Changed)
        );
        // The second node is known to be free.
        let mut eyes = WatchedNodes::open(3, 1, &[busy(0), busy(2)]);
        assert_eq!(
            eyes.notify(2, WatchEvent::Free),
            Poll::Ready(WatchEvent::Free)
        );
        // The second node is known to be down.
        let mut eyes = WatchedNodes::open(3, 0, &[busy(0), down(1), busy(2)]);
        assert!(eyes.notify(0, WatchEvent::Changed).is_pending());
        assert_eq!(
            eyes.notify(2, WatchEvent::Changed),
            Poll::Ready(WatchEvent::Changed)
        );
    }

    /// A dead client's entry stays on one of three nodes, in any order of answers.
    #[test]
    fn a_leftover_on_a_minority_is_waited_around() {
        for leftover in 0..3 {
            for silent in 0..3 {
                let answers: Vec<_> = (0..3).filter(|&node| node != silent).map(busy).collect();
                let mut eyes = WatchedNodes::open(3, 0, &answers);
                let mut others = (0..3).filter(|&node| node != leftover);
                assert!(
                    eyes.notify(others.next().unwrap(), WatchEvent::Changed)
                        .is_pending()
                );
                let last = eyes.notify(others.next().unwrap(), WatchEvent::Changed);
                assert_eq!(
                    last,
                    Poll::Ready(WatchEvent::Changed),
                    "{leftover} {silent}"
                );
            }
        }
    }

    #[test]
    fn a_key_that_cannot_become_free_is_given_up() {
        let mut eyes = WatchedNodes::open(3, 0, &[busy(0), down(1), busy(2)]);
        assert_eq!(
            eyes.notify(0, WatchEvent::Lost),
            Poll::Ready(WatchEvent::Lost)
        );
        // The second has not answered: it may be free.
        let mut eyes = WatchedNodes::open(3, 0, &[busy(0), busy(2)]);
        assert!(eyes.notify(0, WatchEvent::Lost).is_pending());
        assert_eq!(
            eyes.notify(1, WatchEvent::Lost),
            Poll::Ready(WatchEvent::Lost)
        );
        let mut eyes = WatchedNodes::open(5, 0, &[busy(0), busy(1), busy(2), busy(3)]);
        assert!(eyes.notify(0, WatchEvent::Lost).is_pending());
        assert!(eyes.notify(1, WatchEvent::Free).is_pending());
        assert!(eyes.notify(2, WatchEvent::Free).is_pending());
        assert_eq!(
            eyes.notify(3, WatchEvent::Free),
            Poll::Ready(WatchEvent::Free)
        );
    }

    #[test]
    fn the_first_entry_to_expire_counts() {
        let placement = Placement::stable(FenceCounterId::SINGLE, &[1, 2, 3].map(NodeIndex::new));
        let conflict = Conflict::of(&placement, 0, &[busy(3), busy(2), down(1)]);
        assert_eq!(conflict.free_in, Some(Duration::from_millis(7)));
    }

    #[test]
    fn a_watch_that_is_dropped_is_off_the_list() {
        let list = Arc::new(Watchers::default());
        let key = Key::new("k").unwrap();
        let (one, _) = list.add(&key).unwrap();
        let (two, is_first) = list.add(&key).unwrap();
        assert!(!is_first);
        drop(one);
        assert!(list.contains(&key));
        drop(two);
        assert!(list.is_empty());
    }
}
