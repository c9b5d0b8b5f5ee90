//! The position of a lease in one view, and how it is carried over to another.

use std::sync::Arc;

use ringlock_ring::NodeIndex;

use crate::lease::Key;
use crate::membership::view::View;
use crate::operation::known::Known;
use crate::quorum::{Placement, VoterSet};

/// A view, as the owner of a record refers to it.
pub trait InView {
    /// The view.
    fn view(&self) -> &View;

    /// Whether `node` is `other` of the view `there`, with its memory unbroken:
    /// under a new nonce it is another node.
    fn is_same_node(&self, node: NodeIndex, there: &Self, other: NodeIndex) -> bool {
        Arc::eq(self.view().nonce(node), there.view().nonce(other))
    }
}

impl InView for View {
    fn view(&self) -> &View {
        self
    }
}

impl<V: InView> InView for Arc<V> {
    fn view(&self) -> &View {
        (**self).view()
    }

    fn is_same_node(&self, node: NodeIndex, there: &Self, other: NodeIndex) -> bool {
        (**self).is_same_node(node, there, other)
    }
}

/// A lease's position in one view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position<V> {
    /// The view.
    pub at: V,
    /// The nodes that must agree there.
    pub placement: Placement,
    /// How many of the placement's groups, from the first, the lease's last success
    /// included.
    pub established: usize,
    /// The nodes known to hold the entry, with their memory unbroken.
    pub known: Known,
}

impl<V: InView + Clone> Position<V> {
    /// The position in `at` of a lease that has succeeded nowhere.
    pub(super) fn new(at: V, placement: Placement) -> Self {
        Self {
            at,
            placement,
            established: 0,
            known: Known::NONE,
        }
    }

    /// What remains in `to` of a lease whose last success was here.
    ///
    /// A group counts where the same nodes, by name, formed a group of the last
    /// success. An entry counts only at a node that has not lost its memory since.
    pub(super) fn carry(&self, to: V, key: &Key) -> Self {
        let placement = to.view().place(key);
        let mut carried = Self::new(to, placement);
        carried.established = self.groups_of(&carried);
        carried.known = self.known.map(|voters| self.transfer(voters, &carried));
        carried
    }

    /// How many groups of `to`, from the first, are groups of this position.
    pub(super) fn groups_of(&self, to: &Self) -> usize {
        let is_established = |&group: &VoterSet| {
            let names = to.names(group);
            let mut known = self.placement.groups();
            known.any(|own| self.names(own) == names)
        };
        to.placement.groups().take_while(is_established).count()
    }

    /// The voters of `to` for these voters, where they are still the same nodes.
    pub(super) fn transfer(&self, voters: VoterSet, to: &Self) -> VoterSet {
        let same = |voter| {
            let node = self.placement.node(voter);
            let name = &self.at.view().member(node).name;
            let there = to.at.view().index_of(name)?;
            let is_same = to.at.is_same_node(there, &self.at, node);
            to.placement.voter(there).filter(|_| is_same)
        };
        voters.iter().filter_map(same).collect()
    }

    /// Every group of the placement is established.
    pub(super) fn establish(&mut self) {
        self.established = self.placement.groups().count();
    }

    fn names(&self, group: VoterSet) -> Vec<&str> {
        let view = self.at.view();
        let name = |voter| view.member(self.placement.node(voter)).name.as_str();
        let mut names: Vec<&str> = group.iter().map(name).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease_record::samples::*;
    use crate::membership::view::View;

    /// A lease on `key` whose entry these nodes hold.
    fn held(view: &Arc<View>, key: &Key, by: &[&str]) -> Position<Arc<View>> {
        let placement = view.place(key);
        let voter = |&name: &&str| placement.voter(view.index_of(name)?);
        Position {
            at: Arc::clone(view),
            placement,
            established: placement.groups().count(),
            known: Known::vouched(by.iter().filter_map(voter).collect()),
        }
    }

    /// How many groups remain of such a lease, and which nodes' entries.
    fn carried(from: &Arc<View>, by: &[&str], to: &Arc<View>) -> (usize, String) {
        let key = key(0);
        let carried = held(from, &key, by).carry(Arc::clone(to), &key);
        assert_eq!(carried.placement, to.place(&key));
        (carried.established, holders(&carried))
    }

    fn holders(carried: &Position<Arc<View>>) -> String {
        assert_eq!(carried.known, Known::vouched(carried.known.seen));
        carried.names(carried.known.seen).concat()
    }

    #[test]
    fn the_same_group_counts_in_another_view() {
        let view = stable(&OLD);
        assert_eq!(carried(&view, &["b", "d"], &view), (1, "bd".into()));
        let next = stable_but(&OLD, &["c"]);
        assert_eq!(carried(&view, &["b", "d"], &next), (1, "bd".into()));
    }

    #[test]
    fn an_entry_counts_only_while_the_nonce_is_the_same() {
        let next = stable_but(&OLD, &["b", "c"]);
        assert_eq!(carried(&stable(&OLD), &OLD, &next), (1, "d".into()));
        let (from, to) = (joint(&OLD, &NEW), joint_but(&OLD, &NEW, &["a", "d"]));
        assert_eq!(carried(&from, &ALL, &to), (2, "bc".into()));
    }

    #[test]
    fn of_a_joint_view_the_old_group_is_established() {
        let next = joint(&OLD, &NEW);
        assert_eq!(carried(&stable(&OLD), &OLD, &next), (1, "bcd".into()));
        assert_eq!(next.place(&key(0)).groups().count(), 2);
    }

    #[test]
    fn either_group_of_a_joint_view_is_established_in_its_own_view() {
        let view = joint(&OLD, &NEW);
        let to_the_new = carried(&view, &["a", "c", "d"], &stable(&NEW));
        assert_eq!(to_the_new, (1, "ac".into()));
        let back_to_the_old = carried(&view, &["a", "c", "d"], &stable(&OLD));
        assert_eq!(back_to_the_old, (1, "cd".into()));
    }

    #[test]
    fn a_lease_that_missed_the_joint_view_has_no_group() {
        let view = stable(&OLD);
        assert_eq!(carried(&view, &OLD, &stable(&NEW)), (0, "bc".into()));
        let another = joint(&NEW, &["a", "b", "d"]);
        assert_eq!(carried(&view, &OLD, &another), (0, "bcd".into()));
    }

    #[test]
    fn groups_are_established_from_the_first_on() {
        // It has the second group of this one, but not the first.
        let next = joint(&NEW, &OLD);
        assert_eq!(carried(&stable(&OLD), &OLD, &next).0, 0);
    }

    #[test]
    fn a_group_is_its_names_whatever_their_order() {
        let view = stable(&OLD);
        let mut other = topology(&OLD, 3);
        other.vnodes += 1;
        let other = Arc::new(View::stable(9, other, &nonces(&OLD, &[])).unwrap());
        let mut differently_ordered = 0;
        for key in (0..100).map(key) {
            let basis = held(&view, &key, &["b", "c"]);
            let carried = basis.carry(Arc::clone(&other), &key);
            assert_eq!(carried.established, 1, "{key}");
            assert_eq!(holders(&carried), "bc", "{key}");
            differently_ordered +=
                usize::from(basis.placement.nodes() != carried.placement.nodes());
        }
        assert!(differently_ordered > 10);
    }

    #[test]
    fn a_single_owner_counts_as_long_as_it_is_among_the_owners() {
        let all = nonces(&ALL, &[]);
        let (old, new) = (topology(&OLD, 1), topology(&NEW, 1));
        let before = Arc::new(View::stable(8, old.clone(), &nonces(&OLD, &[])).unwrap());
        let joint = Arc::new(View::joint(9, old, new.clone(), 9, &all).unwrap());
        let after = Arc::new(View::stable(10, new, &nonces(&NEW, &[])).unwrap());
        let mut moved = [0, 0];
        for key in (0..100).map(key) {
            let owner = |view: &Arc<View>| {
                let position = Position::new(Arc::clone(view), view.place(&key));
                position.names(position.placement.voters()).concat()
            };
            let (old, new) = (owner(&before), owner(&after));
            moved[usize::from(old != new)] += 1;
            let basis = held(&before, &key, &[&old]);
            let within = basis.carry(Arc::clone(&joint), &key);
            assert_eq!(within.established, 1, "{key}");
            assert_eq!(holders(&within), old, "{key}");
            let missed = basis.carry(Arc::clone(&after), &key);
            assert_eq!(missed.established, usize::from(old == new), "{key}");
            let both = held(&joint, &key, &[&old, &new]);
            let ended = both.carry(Arc::clone(&after), &key);
            assert_eq!(ended.established, 1, "{key}");
            assert_eq!(holders(&ended), new, "{key}");
        }
        assert!(moved.iter().all(|&keys| keys > 10), "{moved:?}");
    }
}
