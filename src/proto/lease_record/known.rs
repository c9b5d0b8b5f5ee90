//! What is known of a lease's entries: who was seen to hold one, and who can
//! vouch that nobody else has had the key meanwhile.
//!
//! Being seen is not enough. Take five nodes, a lease on the first three, and
//! its requests to make the entry on the other two still on their way. An
//! operator deletes the entry on the first node and the second; another client
//! acquires the first, the second, the fourth and the fifth, and releases them;
//! then the late requests arrive. The old holder's next extend finds its entry
//! on three nodes, each of which has answered to have it, and yet another
//! holder has come and gone, under a higher fence.
//!
//! So a node vouches only where its entry was there before others were seen to
//! have kept theirs: [`Attempt`](crate::proto::operation::acquire::Attempt) tells by the counter,
//! [`Renewal`](crate::proto::operation::extend::Renewal) by a second sight.

use crate::proto::quorum::Seats;

/// What is known of a lease's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Seats that hold the entry, by the last that was heard of them.
    pub seen: Seats,
    /// Those of them that vouch for the lease: nobody else was granted the key
    /// through them since it was granted.
    pub vouching: Seats,
}

impl Known {
    /// Of nobody.
    pub const NONE: Self = Self {
        seen: Seats::NONE,
        vouching: Seats::NONE,
    };

    /// These seats hold the entry, and all of them vouch.
    pub const fn vouched(seats: Seats) -> Self {
        Self {
            seen: seats,
            vouching: seats,
        }
    }

    /// What either knows.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            seen: self.seen.union(other.seen),
            vouching: self.vouching.union(other.vouching),
        }
    }

    /// Without `seats`.
    #[must_use]
    pub const fn minus(self, seats: Seats) -> Self {
        Self {
            seen: self.seen.minus(seats),
            vouching: self.vouching.minus(seats),
        }
    }

    /// The same seats under other numbers.
    #[must_use]
    pub fn map(self, renumber: impl Fn(Seats) -> Seats) -> Self {
        Self {
            seen: renumber(self.seen),
            vouching: renumber(self.vouching),
        }
    }
}
