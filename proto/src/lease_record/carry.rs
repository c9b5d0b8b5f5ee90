//! Carries a lease over from one view to another: which of its groups and entries
//! count there.

use std::sync::Arc;

use crate::lease::Key;
use crate::lease_record::known::Known;
use crate::membership::view::View;
use crate::quorum::{Placement, VoterSet};

/// What a lease is based on in one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CarriedPlacement {
    /// Who must agree.
    pub placement: Placement,
    /// How many of its groups, from the first, the lease's last success included.
    pub established: usize,
    /// The nodes known to hold the entry, with their memory unbroken.
    pub known: Known,
}

/// The groups of a lease's last quorum, and the nodes that hold its entries now.
#[derive(Clone, Copy, Debug)]
pub struct LastSuccess<'a> {
    /// The view of its last success.
    pub view: &'a View,
    /// Its placement there.
    pub placement: Placement,
    /// The nodes that hold the entry.
    pub known: Known,
}

impl LastSuccess<'_> {
    /// What remains of the lease in `to`.
    ///
    /// A group counts where the same nodes, by name, formed a group of the last
    /// success. An entry counts only at a node that has not lost its memory since:
    /// under a new nonce it is another node.
    pub fn carry(&self, to: &View, key: &Key) -> CarriedPlacement {
        let placement = to.place(key);
        let is_established = |group: VoterSet| {
            let names = names(to, &placement, group);
            let mut known = self.placement.groups();
            known.any(|own| self::names(self.view, &self.placement, own) == names)
        };
        let established = placement
            .groups()
            .take_while(|&group| is_established(group));
        CarriedPlacement {
            placement,
            established: established.count(),
            known: self
                .known
                .map(|voters| transfer(self.view, &self.placement, voters, to, &placement)),
        }
    }
}

/// The seats of `at` in `to` for the nodes of `voters`, for those that are still
/// the same nodes.
pub fn transfer(
    from: &View,
    placement: &Placement,
    voters: VoterSet,
    to: &View,
    at: &Placement,
) -> VoterSet {
    let same = |voter| {
        let node = placement.node(voter);
        let there = to.index_of(&from.member(node).name)?;
        Arc::eq(to.nonce(there), from.nonce(node))
            .then(|| at.voter(there))
            .flatten()
    };
    voters.iter().filter_map(same).collect()
}

fn names<'v>(view: &'v View, placement: &Placement, group: VoterSet) -> Vec<&'v str> {
    let name = |voter| view.member(placement.node(voter)).name.as_str();
    let mut names: Vec<&str> = group.iter().map(name).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::topology::Topology;
    use crate::membership::view::Nonces;

    const OLD: [&str; 3] = ["b", "c", "d"];
    /// The members after a change, in another order.
    const NEW: [&str; 3] = ["a", "b", "c"];
    const ALL: [&str; 4] = ["a", "b", "c", "d"];

    fn topology(names: &[&str], replicas: usize) -> Topology {
        Topology {
            vnodes: 16,
            ..Topology::sample(names, replicas)
        }
    }

    /// One nonce each; the nodes in `anew` get a different one.
    fn nonces(names: &[&str], anew: &[&str]) -> Nonces {
        let nonce = |&name: &&str| {
            let is_new = anew.contains(&name);
            let kind = if is_new { "new" } else { "old" };
            (name.into(), format!("{kind} nonce of {name}").into())
        };
        names.iter().map(nonce).collect()
    }

    fn stable_but(names: &[&str], anew: &[&str]) -> View {
        View::stable(9, topology(names, 3), &nonces(names, anew)).unwrap()
    }

    fn stable(names: &[&str]) -> View {
        stable_but(names, &[])
    }

    fn joint_but(old: &[&str], new: &[&str], anew: &[&str]) -> View {
        let all: Vec<&str> = ALL
            .into_iter()
            .filter(|name| old.contains(name) || new.contains(name))
            .collect();
        let (from, to) = (topology(old, 3), topology(new, 3));
        View::joint(9, from, to, 9, &nonces(&all, anew)).unwrap()
    }

    fn joint(old: &[&str], new: &[&str]) -> View {
        joint_but(old, new, &[])
    }

    fn key(index: usize) -> Key {
        Key::new(format!("key {index}")).unwrap()
    }

    /// A lease on `key` whose entry these nodes hold.
    fn held<'v>(view: &'v View, key: &Key, by: &[&str]) -> LastSuccess<'v> {
        let placement = view.place(key);
        let voter = |&name: &&str| placement.voter(view.index_of(name)?);
        LastSuccess {
            view,
            placement,
            known: Known::vouched(by.iter().filter_map(voter).collect()),
        }
    }

    /// How many groups remain of such a lease, and which nodes' entries.
    fn carried(from: &View, by: &[&str], to: &View) -> (usize, String) {
        let key = key(0);
        let carried = held(from, &key, by).carry(to, &key);
        assert_eq!(carried.placement, to.place(&key));
        (carried.established, holders(&carried, to))
    }

    fn holders(carried: &CarriedPlacement, view: &View) -> String {
        assert_eq!(carried.known, Known::vouched(carried.known.seen));
        names(view, &carried.placement, carried.known.seen).concat()
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
    fn of_a_joint_view_either_group_is_a_footing_where_it_leads() {
        let view = joint(&OLD, &NEW);
        let to_the_new = carried(&view, &["a", "c", "d"], &stable(&NEW));
        assert_eq!(to_the_new, (1, "ac".into()));
        let back_to_the_old = carried(&view, &["a", "c", "d"], &stable(&OLD));
        assert_eq!(back_to_the_old, (1, "cd".into()));
    }

    #[test]
    fn a_lease_that_missed_the_joint_view_has_no_footing() {
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
        let other = View::stable(9, other, &nonces(&OLD, &[])).unwrap();
        let mut differently_ordered = 0;
        for key in (0..100).map(key) {
            let basis = held(&view, &key, &["b", "c"]);
            let carried = basis.carry(&other, &key);
            assert_eq!(carried.established, 1, "{key}");
            assert_eq!(holders(&carried, &other), "bc", "{key}");
            differently_ordered +=
                usize::from(basis.placement.nodes() != carried.placement.nodes());
        }
        assert!(differently_ordered > 10);
    }

    #[test]
    fn a_single_owner_is_a_footing_as_long_as_it_is_among_the_owners() {
        let all = nonces(&ALL, &[]);
        let (old, new) = (topology(&OLD, 1), topology(&NEW, 1));
        let before = View::stable(8, old.clone(), &nonces(&OLD, &[])).unwrap();
        let joint = View::joint(9, old, new.clone(), 9, &all).unwrap();
        let after = View::stable(10, new, &nonces(&NEW, &[])).unwrap();
        let mut moved = [0, 0];
        for key in (0..100).map(key) {
            let owner = |view: &View| {
                let placement = view.place(&key);
                names(view, &placement, placement.voters()).concat()
            };
            let (old, new) = (owner(&before), owner(&after));
            moved[usize::from(old != new)] += 1;
            let basis = held(&before, &key, &[&old]);
            let within = basis.carry(&joint, &key);
            assert_eq!(within.established, 1, "{key}");
            assert_eq!(holders(&within, &joint), old, "{key}");
            let missed = basis.carry(&after, &key);
            assert_eq!(missed.established, usize::from(old == new), "{key}");
            let both = held(&joint, &key, &[&old, &new]);
            let ended = both.carry(&after, &key);
            assert_eq!(ended.established, 1, "{key}");
            assert_eq!(holders(&ended, &after), new, "{key}");
        }
        assert!(moved.iter().all(|&keys| keys > 10), "{moved:?}");
    }
}
