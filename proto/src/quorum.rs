//! Who must agree: the placement of a key and the count of its votes.

use std::fmt;

use ringlock_ring::NodeIndex;

use crate::node::message::FenceCounterId;

/// Maximum number of replicas of a key.
pub const MAX_REPLICAS: usize = 9;

/// Voters of a placement: two groups while a change is in progress.
const MAX_SEATS: usize = 2 * MAX_REPLICAS;

/// The size of a majority of `n`.
#[inline]
pub const fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// A position in one placement. Nodes are seated in this order: the old group,
/// then those only in the new one; the owner has the first voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter(u8);

impl Voter {
    /// The voter's number, from 0.
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A set of voters.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct VoterSet(u32);

impl VoterSet {
    /// No voter.
    pub const NONE: Self = Self(0);

    /// The set with `voter` in it.
    #[must_use]
    #[inline]
    pub const fn with(self, voter: Voter) -> Self {
        Self(self.0 | 1 << voter.0)
    }

    /// The set without `voter`.
    #[must_use]
    #[inline]
    pub const fn without(self, voter: Voter) -> Self {
        Self(self.0 & !(1 << voter.0))
    }

    /// The voters of both.
    #[must_use]
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The voters that both have.
    #[must_use]
    #[inline]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The voters of `self` that are not in `other`.
    #[must_use]
    #[inline]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `voter` is one of them.
    #[inline]
    pub const fn contains(self, voter: Voter) -> bool {
        self.0 & 1 << voter.0 != 0
    }

    /// The number of voters.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a majority of `group` is in the set.
    #[inline]
    pub const fn has_majority_of(self, group: Self) -> bool {
        self.intersection(group).len() >= majority(group.len())
    }

    /// Removes and returns the first voter.
    #[inline]
    pub fn take_first(&mut self) -> Option<Voter> {
        let first = self.iter().next()?;
        *self = self.without(first);
        Some(first)
    }

    /// The voters in their order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Voter> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = (left != 0).then(|| Voter(left.trailing_zeros() as u8))?;
            left &= left - 1;
            Some(first)
        })
    }
}

impl FromIterator<Voter> for VoterSet {
    #[inline]
    fn from_iter<I: IntoIterator<Item = Voter>>(voters: I) -> Self {
        voters.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for VoterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Voter::get)).finish()
    }
}

/// Result of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Open: outstanding answers decide.
    Pending,
    /// A majority of every group.
    Won,
    /// Some group can no longer reach a majority.
    Lost,
}

/// The nodes of a key under one view, in one group or, in a joint view, two.
/// **A grant needs a majority of every group.** One group of one node is the
/// sharded mode; there is no other difference between the modes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placement {
    slot: FenceCounterId,
    nodes: [NodeIndex; MAX_SEATS],
    groups: [VoterSet; 2],
}

impl Placement {
    /// One group: the owner, then its successors. At most [`MAX_REPLICAS`].
    #[inline]
    pub fn stable(slot: FenceCounterId, group: &[NodeIndex]) -> Self {
        Self::joint(slot, group, &[])
    }

    /// Two groups, old and new; equal sets are merged into one.
    pub fn joint(slot: FenceCounterId, old: &[NodeIndex], new: &[NodeIndex]) -> Self {
        let mut placement = Self {
            slot,
            nodes: [NodeIndex::new(0); MAX_SEATS],
            groups: [VoterSet::NONE; 2],
        };
        let mut seated = 0;
        for (group, nodes) in [old, new].into_iter().enumerate() {
            for &node in nodes.iter().take(MAX_REPLICAS) {
                let voter = placement.nodes[..seated]
                    .iter()
                    .position(|&other| other == node);
                let voter = voter.unwrap_or_else(|| {
                    placement.nodes[seated] = node;
                    seated += 1;
                    seated - 1
                });
                placement.groups[group] = placement.groups[group].with(Voter(voter as u8));
            }
        }
        if placement.groups[0] == placement.groups[1] {
            placement.groups[1] = VoterSet::NONE;
        }
        placement
    }

    /// The counter slot of the key.
    #[inline]
    pub const fn slot(&self) -> FenceCounterId {
        self.slot
    }

    /// The groups, old before new.
    #[inline]
    pub fn groups(&self) -> impl Iterator<Item = VoterSet> + '_ {
        self.groups
            .iter()
            .copied()
            .filter(|group| !group.is_empty())
    }

    /// Every voter.
    #[inline]
    pub const fn voters(&self) -> VoterSet {
        self.groups[0].union(self.groups[1])
    }

    /// The node on `voter`.
    #[inline]
    pub const fn node(&self, voter: Voter) -> NodeIndex {
        self.nodes[voter.get()]
    }

    /// The nodes, the owner first.
    #[inline]
    pub fn nodes(&self) -> &[NodeIndex] {
        &self.nodes[..self.voters().len()]
    }

    /// The voter of `node`.
    #[inline]
    pub fn voter(&self, node: NodeIndex) -> Option<Voter> {
        self.nodes()
            .iter()
            .position(|&other| other == node)
            .map(|voter| Voter(voter as u8))
    }

    /// The verdict with `yes` for and `no` against.
    #[inline]
    pub fn verdict(&self, yes: VoterSet, no: VoterSet) -> Verdict {
        let mut verdict = Verdict::Won;
        for group in self.groups() {
            if !group.minus(no).has_majority_of(group) {
                return Verdict::Lost;
            }
            if !yes.has_majority_of(group) {
                verdict = Verdict::Pending;
            }
        }
        verdict
    }

    /// Whether `yes` has a majority of every group.
    #[inline]
    pub fn has_quorum(&self, yes: VoterSet) -> bool {
        self.verdict(yes, VoterSet::NONE) == Verdict::Won
    }

    /// Whether some group cannot reach a majority without `no`.
    #[inline]
    pub fn is_blocked_by(&self, no: VoterSet) -> bool {
        self.verdict(VoterSet::NONE, no) == Verdict::Lost
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for group in self.groups() {
            list.entry(
                &group
                    .iter()
                    .map(|voter| self.node(voter).get())
                    .collect::<Vec<_>>(),
            );
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(indices: &[u16]) -> Vec<NodeIndex> {
        indices.iter().copied().map(NodeIndex::new).collect()
    }

    fn voters(placement: &Placement, indices: &[u16]) -> VoterSet {
        nodes(indices)
            .into_iter()
            .filter_map(|node| placement.voter(node))
            .collect()
    }

    #[test]
    fn three_of_five() {
        let five = Placement::stable(FenceCounterId::SINGLE, &nodes(&[4, 2, 0, 1, 3]));
        assert_eq!(
            five.verdict(voters(&five, &[4, 2]), VoterSet::NONE),
            Verdict::Pending
        );
        assert_eq!(
            five.verdict(voters(&five, &[4, 2, 3]), voters(&five, &[0, 1])),
            Verdict::Won
        );
        assert_eq!(
            five.verdict(voters(&five, &[4, 2]), voters(&five, &[0, 1, 3])),
            Verdict::Lost
        );
    }

    #[test]
    fn a_joint_placement_needs_both_majorities() {
        let joint = Placement::joint(
            FenceCounterId::SINGLE,
            &nodes(&[0, 1, 2]),
            &nodes(&[0, 9, 1]),
        );
        assert_eq!(joint.nodes(), nodes(&[0, 1, 2, 9]));
        assert!(!joint.has_quorum(voters(&joint, &[1, 2])));
        assert!(joint.has_quorum(voters(&joint, &[0, 1])));
        assert!(joint.has_quorum(voters(&joint, &[0, 2, 9])));
        assert!(joint.is_blocked_by(voters(&joint, &[0, 9])));
        assert!(!joint.is_blocked_by(voters(&joint, &[2, 9])));
    }

    #[test]
    fn equal_groups_merge_whatever_their_order() {
        let merged = Placement::joint(
            FenceCounterId::SINGLE,
            &nodes(&[0, 1, 2]),
            &nodes(&[2, 0, 1]),
        );
        assert_eq!(
            merged,
            Placement::stable(FenceCounterId::SINGLE, &nodes(&[0, 1, 2]))
        );
    }

    #[test]
    fn the_largest_joint_placement_fits() {
        let old: Vec<u16> = (0..9).collect();
        let new: Vec<u16> = (9..18).collect();
        let joint = Placement::joint(FenceCounterId::SINGLE, &nodes(&old), &nodes(&new));
        assert_eq!(joint.voters().len(), 18);
        assert!(joint.has_quorum(voters(&joint, &[0, 1, 2, 3, 4, 9, 10, 11, 12, 17])));
    }
}
