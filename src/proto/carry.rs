//! Carrying a lease over from one view to another: what of it counts there.

use std::sync::Arc;

use super::lease::Key;
use super::quorum::{Placement, Seats};
use super::view::View;

/// What a lease stands on in one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Footing {
    /// Who must agree.
    pub placement: Placement,
    /// How many of its groups, from the first, the lease's last success had.
    pub established: usize,
    /// Who is known to hold the entry, with its memory unbroken.
    pub acknowledged: Seats,
}

/// Where a lease last had its quorum, and who holds its entries now.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// The view of its last success.
    pub view: &'a View,
    /// Its placement there.
    pub placement: Placement,
    /// Who holds the entry.
    pub acknowledged: Seats,
}

impl Basis<'_> {
    /// What is left of it in `to`.
    ///
    /// A group counts where the same nodes, by name, were a group of the last
    /// success. An entry counts only at a node that has not lost its memory
    /// since: under a new nonce it is another node.
    pub fn carry(&self, to: &View, key: &Key) -> Footing {
        let placement = to.place(key);
        let is_established = |group: Seats| {
            let names = names(to, &placement, group);
            let mut known = self.placement.groups();
            known.any(|own| self::names(self.view, &self.placement, own) == names)
        };
        let established = placement
            .groups()
            .take_while(|&group| is_established(group));
        Footing {
            placement,
            established: established.count(),
            acknowledged: transfer(
                self.view,
                &self.placement,
                self.acknowledged,
                to,
                &placement,
            ),
        }
    }
}

/// The seats of `at` in `to` for the nodes of `seats`, as far as they are the
/// same nodes still.
pub fn transfer(
    from: &View,
    placement: &Placement,
    seats: Seats,
    to: &View,
    at: &Placement,
) -> Seats {
    let same = |seat| {
        let node = placement.node(seat);
        let there = to.index_of(&from.member(node).name)?;
        Arc::eq(to.nonce(there), from.nonce(node))
            .then(|| at.seat(there))
            .flatten()
    };
    seats.iter().filter_map(same).collect()
}

fn names<'v>(view: &'v View, placement: &Placement, group: Seats) -> Vec<&'v str> {
    let name = |seat| view.member(placement.node(seat)).name.as_str();
    let mut names: Vec<&str> = group.iter().map(name).collect();
    names.sort_unstable();
    names
}
