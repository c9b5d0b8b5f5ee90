//! What is known of a lease's entries: which nodes were seen to hold one, and which
//! can vouch that no other client has held the key in the interval.
//!
//! An entry that was seen is not enough. Take five nodes and a lease on the first
//! three, whose requests to create the entry on the other two are still in flight.
//! An operator deletes the entry on the first node and the second. Another client
//! acquires the first, the second, the fourth and the fifth, and releases them.
//! Then the late requests arrive. The old holder's next extend finds its entry on
//! three nodes, each of which has confirmed it, although another holder has held
//! the key in between, under a higher fence.
//!
//! So a node vouches only where its entry existed before others were seen to have
//! kept theirs: [`Attempt`](crate::operation::acquire::Attempt) decides this by the counter,
//! [`Extend`](crate::operation::extend::Extend) by a second observation.

use crate::quorum::VoterSet;

/// What is known of a lease's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Voters that hold the entry, by their latest answers.
    pub seen: VoterSet,
    /// Those of them that vouch for the lease: no other client was granted the key
    /// through them since the lease was granted.
    pub vouching: VoterSet,
}

impl Known {
    /// No nodes.
    pub const NONE: Self = Self {
        seen: VoterSet::NONE,
        vouching: VoterSet::NONE,
    };

    /// These voters hold the entry, and all of them vouch.
    pub const fn vouched(voters: VoterSet) -> Self {
        Self {
            seen: voters,
            vouching: voters,
        }
    }

    /// The union of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            seen: self.seen.union(other.seen),
            vouching: self.vouching.union(other.vouching),
        }
    }

    /// Without `voters`.
    #[must_use]
    pub const fn minus(self, voters: VoterSet) -> Self {
        Self {
            seen: self.seen.minus(voters),
            vouching: self.vouching.minus(voters),
        }
    }

    /// The same voters under other numbers.
    #[must_use]
    pub fn map(self, renumber: impl Fn(VoterSet) -> VoterSet) -> Self {
        Self {
            seen: renumber(self.seen),
            vouching: renumber(self.vouching),
        }
    }
}
