//! The record of one lease, through all views in which it exists.
//!
//! A lease has a **base**, the position of its grant or of its last successful
//! extend, and in a newer view a **trial**, the position at which it is extended
//! next. A trial that succeeds becomes the base. What an answer shows about a node
//! counts in both, since a node is the same in either.

use std::time::Duration;

use ringlock_ring::NodeIndex;

use crate::lease::{Fence, Key, Token, Ttl};
use crate::lease_record::position::{InView, Position};
use crate::operation::extend::ExtendParams;
use crate::operation::known::Known;
use crate::quorum::{Placement, VoterSet};
use crate::time::Instant;

/// What one lease stands on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRecord<V> {
    fence: Option<Fence>,
    valid_until: Instant,
    base: Position<V>,
    /// Boxed: most leases never leave their first view.
    later: Option<Box<Later<V>>>,
}

/// The part of a record that exists once the lease has left its first view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Later<V> {
    /// The position in a newer view than the base's.
    trial: Option<Position<V>>,
    /// Positions that the lease has left, and until when their nodes may have
    /// entries. Each change of views adds at most one; a later change removes those
    /// that are over.
    left: Vec<Left<V>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Left<V> {
    at: V,
    placement: Placement,
    until: Instant,
}

impl<V: InView + Clone> LeaseRecord<V> {
    /// A lease that is not granted yet: `placement` is its key's in `at`.
    pub fn new(at: V, placement: Placement) -> Self {
        Self {
            fence: None,
            valid_until: Instant::default(),
            base: Position::new(at, placement),
            later: None,
        }
    }

    /// Records the grant.
    pub fn granted(&mut self, fence: Fence, valid_until: Instant, known: Known) {
        self.fence = Some(fence);
        self.valid_until = valid_until;
        self.base.known = self.base.known.union(known);
        self.base.establish();
    }

    /// The fence; `None` until the lease is granted.
    pub fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// The end of the lease, unless it is extended.
    pub fn valid_until(&self) -> Instant {
        self.valid_until
    }

    /// The position of the grant or of the last successful extend.
    pub fn base(&self) -> &Position<V> {
        &self.base
    }

    /// Whether the lease has left the view of its grant.
    pub fn has_moved(&self) -> bool {
        self.later.is_some()
    }

    /// The position at which to extend the lease.
    pub fn newest(&self) -> &Position<V> {
        let trial = self.later.as_ref().and_then(|later| later.trial.as_ref());
        trial.unwrap_or(&self.base)
    }

    /// Continues in the view of `to`, if it is newer.
    pub fn move_to(&mut self, to: V, key: &Key, now: Instant) {
        if to.view().id().epoch <= self.newest().at.view().id().epoch {
            return;
        }
        let mut carried = self.base.carry(to, key);
        let later = self.later.get_or_insert_default();
        later.left.retain(|left| left.until > now);
        if let Some(trial) = later.trial.take() {
            let here = |voters| trial.transfer(voters, &carried);
            carried.known = carried.known.union(trial.known.map(here));
            later.leave(&trial, carried.at.view().longest_ttl(), now);
        }
        later.trial = Some(carried);
    }

    /// The input of an extend to `ttl` at `t0`, at the newest position; `None` if
    /// the lease is not granted.
    pub fn extend_params(
        &self,
        key: &Key,
        token: &Token,
        ttl: Ttl,
        t0: Instant,
    ) -> Option<ExtendParams> {
        let position = self.newest();
        let view = position.at.view();
        Some(ExtendParams {
            view: view.id(),
            view_lease: view.view_lease(),
            key: key.clone(),
            token: token.clone(),
            fence: self.fence?,
            ttl: ttl.at_most(view.max_ttl()),
            placement: position.placement,
            established: position.established,
            known: position.known,
            valid_until: self.valid_until,
            t0,
        })
    }

    /// Records which voters of an operation's placement are known to hold the
    /// entry, and which are known not to.
    pub fn acknowledge(&mut self, at: &V, placement: &Placement, has: Known, lacks: VoterSet) {
        if has == Known::NONE && lacks.is_empty() {
            return;
        }
        let id = at.view().id();
        let trial = self.later.as_mut().and_then(|later| later.trial.as_mut());
        for position in std::iter::once(&mut self.base).chain(trial) {
            let (has, lacks) = if position.at.view().id() == id {
                (has, lacks)
            } else {
                let from = Position::new(at.clone(), *placement);
                let here = |voters| from.transfer(voters, position);
                (has.map(here), here(lacks))
            };
            position.known = position.known.minus(lacks).union(has);
        }
    }

    /// Records that an extend under `at` has succeeded: the lease is valid until
    /// `until`.
    pub fn extended(&mut self, at: &V, placement: &Placement, until: Instant, now: Instant) {
        self.valid_until = self.valid_until.max(until);
        if at.view().id().epoch <= self.base.at.view().id().epoch {
            return;
        }
        let later = self.later.get_or_insert_default();
        let (mut succeeded, trial) = match later.trial.take() {
            Some(trial) if trial.at.view().id() == at.view().id() => (trial, None),
            // The lease has moved on while the extend was in flight.
            trial => {
                let mut succeeded = Position::new(at.clone(), *placement);
                let known =
                    |from: &Position<V>| from.known.map(|voters| from.transfer(voters, &succeeded));
                succeeded.known = trial
                    .as_ref()
                    .map(known)
                    .unwrap_or_default()
                    .union(known(&self.base));
                (succeeded, trial)
            }
        };
        succeeded.establish();
        later.trial = trial.map(|trial| Position {
            established: succeeded.groups_of(&trial),
            ..trial
        });
        later.leave(&self.base, at.view().longest_ttl(), now);
        self.base = succeeded;
    }

    /// The nodes that may have an entry, by the views that name them. A node that
    /// several views name appears once for each.
    pub fn entries(&self, now: Instant) -> impl Iterator<Item = (&V, NodeIndex)> {
        let later = self.later.as_deref();
        let trial = later.and_then(|later| later.trial.as_ref());
        let left = later.into_iter().flat_map(|later| &later.left);
        std::iter::once(&self.base)
            .chain(trial)
            .map(|position| (&position.at, &position.placement))
            .chain(
                left.filter(move |left| left.until > now)
                    .map(|left| (&left.at, &left.placement)),
            )
            .flat_map(|(at, placement)| placement.nodes().iter().map(move |&node| (at, node)))
    }
}

impl<V> Default for Later<V> {
    fn default() -> Self {
        Self {
            trial: None,
            left: Vec::new(),
        }
    }
}

impl<V: InView + Clone> Later<V> {
    /// Records that the nodes of `position` may have entries for one more ttl, at
    /// most `longest_ttl` where a newer view grants longer ones.
    fn leave(&mut self, position: &Position<V>, longest_ttl: Duration, now: Instant) {
        let view = position.at.view();
        let until = now + view.longest_ttl().max(longest_ttl);
        let mut known = self.left.iter_mut();
        match known.find(|left| left.at.view().id() == view.id()) {
            Some(left) => left.until = left.until.max(until),
            None => self.left.push(Left {
                at: position.at.clone(),
                placement: position.placement,
                until,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lease_record::samples::*;
    use crate::membership::view::View;

    const T0: Instant = Instant::from_nanos(1_000_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    type Record = LeaseRecord<Arc<View>>;

    fn voters(position: &Position<Arc<View>>, names: &[&str]) -> VoterSet {
        let voter = |&name: &&str| {
            let node = position.at.index_of(name)?;
            position.placement.voter(node)
        };
        names.iter().filter_map(voter).collect()
    }

    fn names(position: &Position<Arc<View>>, voters: VoterSet) -> String {
        let name = |voter| &position.at.member(position.placement.node(voter)).name[..];
        let mut names: Vec<&str> = voters.iter().map(name).collect();
        names.sort_unstable();
        names.concat()
    }

    /// A lease that is granted in `view`, with entries on the nodes of this name.
    fn granted(view: &Arc<View>, by: &[&str]) -> Record {
        let mut record = Record::new(Arc::clone(view), view.place(&key(0)));
        let known = Known::vouched(voters(record.base(), by));
        let fence = Fence::new(view.id().epoch, 1).unwrap();
        record.granted(fence, T0 + SECOND, known);
        record
    }

    /// The names of the nodes that may have entries.
    fn entries(record: &Record, now: Instant) -> Vec<String> {
        let names = record.entries(now);
        let mut names: Vec<String> = names
            .map(|(view, node)| view.member(node).name.to_string())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn a_lease_without_a_grant_has_no_extend() {
        let view = stable(&OLD);
        let token = Token::new(1, None);
        let ttl = Ttl::new(SECOND, view.max_ttl()).unwrap();
        let record = Record::new(Arc::clone(&view), view.place(&key(0)));
        assert_eq!(record.extend_params(&key(0), &token, ttl, T0), None);
        let record = granted(&view, &OLD);
        let params = record.extend_params(&key(0), &token, ttl, T0).unwrap();
        assert_eq!((params.view, params.established), (view.id(), 1));
        assert_eq!(params.known, record.base().known);
        assert_eq!(params.valid_until, T0 + SECOND);
    }

    #[test]
    fn a_lease_moves_to_newer_views_only() {
        let (old, joint) = (stable(&OLD), stable_at(10, &OLD, &[]));
        let mut record = granted(&old, &OLD);
        record.move_to(Arc::clone(&old), &key(0), T0);
        assert!(!record.has_moved());
        record.move_to(Arc::clone(&joint), &key(0), T0);
        assert_eq!(record.newest().at, joint);
        assert_eq!(record.base().at, old, "not extended there yet");
        record.move_to(old, &key(0), T0);
        assert_eq!(record.newest().at, joint);
    }

    #[test]
    fn an_extend_in_a_newer_view_makes_it_the_base() {
        let (old, new) = (stable(&OLD), stable_at(10, &OLD, &[]));
        let mut record = granted(&old, &["b", "c"]);
        record.move_to(Arc::clone(&new), &key(0), T0);
        let position = record.newest().clone();
        assert_eq!(names(&position, position.known.vouching), "bc");
        let has = Known::vouched(voters(&position, &["d"]));
        record.acknowledge(&new, &position.placement, has, voters(&position, &["b"]));
        let until = T0 + 2 * SECOND;
        record.extended(&new, &position.placement, until, T0);
        assert_eq!((&record.base().at, record.valid_until()), (&new, until));
        assert_eq!(record.newest(), record.base());
        assert_eq!(names(record.base(), record.base().known.seen), "cd");
    }

    #[test]
    fn an_earlier_end_never_shortens_the_lease() {
        let view = stable(&OLD);
        let mut record = granted(&view, &OLD);
        let placement = record.base().placement;
        record.extended(&view, &placement, T0, T0);
        assert_eq!(record.valid_until(), T0 + SECOND);
    }

    #[test]
    fn an_answer_counts_in_every_view_that_has_the_node() {
        let (old, new) = (stable(&OLD), stable_at(10, &OLD, &[]));
        let mut record = granted(&old, &["b", "c"]);
        let before = record.base().clone();
        record.move_to(Arc::clone(&new), &key(0), T0);
        // A late answer to an extend in the old view: d has the entry, b lacks it.
        let has = Known {
            seen: voters(&before, &["d"]),
            vouching: VoterSet::NONE,
        };
        record.acknowledge(&old, &before.placement, has, voters(&before, &["b"]));
        for position in [record.base(), record.newest()] {
            assert_eq!(names(position, position.known.seen), "cd");
            assert_eq!(names(position, position.known.vouching), "c");
        }
        // A restart in between makes it another node.
        let restarted = stable_at(11, &OLD, &["d"]);
        record.move_to(restarted, &key(0), T0);
        assert_eq!(names(record.newest(), record.newest().known.seen), "c");
    }

    /// The router has moved on to the last view of a change while an extend in the
    /// joint view was in flight.
    #[test]
    fn a_late_success_in_the_joint_view_counts() {
        let (old, joint) = (stable(&OLD), joint_at(10, &OLD, &NEW, &[]));
        let new = stable_at(11, &NEW, &[]);
        let mut record = granted(&old, &OLD);
        record.move_to(Arc::clone(&joint), &key(0), T0);
        let within = record.newest().clone();
        let has = Known::vouched(voters(&within, &ALL));
        record.acknowledge(&joint, &within.placement, has, VoterSet::NONE);
        record.move_to(Arc::clone(&new), &key(0), T0);
        assert_eq!(
            record.newest().established,
            0,
            "only the joint view leads there"
        );
        record.extended(&joint, &within.placement, T0 + SECOND, T0);
        assert_eq!((&record.base().at, &record.newest().at), (&joint, &new));
        assert_eq!(record.newest().established, 1);
        assert_eq!(names(record.newest(), record.newest().known.seen), "abc");
        // A success in the view before changes nothing any more.
        let placement = old.place(&key(0));
        record.extended(&old, &placement, T0 + SECOND, T0);
        assert_eq!(record.base().at, joint);
    }

    #[test]
    fn entries_are_released_wherever_they_may_be() {
        let (old, joint) = (stable(&OLD), joint_at(10, &OLD, &NEW, &[]));
        let new = stable_at(11, &NEW, &[]);
        let mut record = granted(&old, &OLD);
        assert_eq!(entries(&record, T0), OLD);
        record.move_to(Arc::clone(&joint), &key(0), T0);
        assert_eq!(entries(&record, T0), ALL);
        let placement = record.newest().placement;
        record.extended(&joint, &placement, T0 + SECOND, T0);
        record.move_to(Arc::clone(&new), &key(0), T0);
        let placement = record.newest().placement;
        record.extended(&new, &placement, T0 + SECOND, T0);
        let longest = joint.longest_ttl();
        assert_eq!(entries(&record, T0 + longest - SECOND), ALL);
        assert_eq!(
            entries(&record, T0 + longest),
            NEW,
            "the ttl has ended the others"
        );
    }
}
