//! The points of a ring in order, and the first one at or after a position in O(1).

use crate::member::NodeIndex;

/// An arc of the ring between two neighbouring points: the positions that share one owner and one
/// walk clockwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(u32);

impl Segment {
    /// The index of the arc, from 0 to [`Ring::segments`](crate::Ring::segments) less one.
    #[inline]
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A range of positions: clockwise from `after` (excluded) to `until` (included), through 0 where
/// `until <= after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    /// The position just before the first of the range.
    pub after: u64,
    /// The last position of the range. Equal to `after`, it means the whole ring.
    pub until: u64,
}

impl KeyRange {
    /// How many of the 2⁶⁴ positions it holds.
    #[must_use]
    pub const fn width(self) -> u128 {
        match self.until.wrapping_sub(self.after) {
            0 => 1 << 64,
            width => width as u128,
        }
    }

    /// Whether `position` lies in it.
    #[must_use]
    pub const fn contains(self, position: u64) -> bool {
        // Both distances count from the first position of the range, so that the wrap falls out.
        let first = self.after.wrapping_add(1);
        position.wrapping_sub(first) <= self.until.wrapping_sub(first)
    }
}

/// How many points a search compares at once. A bucket has at most one point on average, so more
/// than three before a position are rare.
const WINDOW: usize = 3;

/// All points, in clockwise order; segment `i` ends at point `i`.
pub(crate) struct Index {
    /// The points' positions, and then as many sentinels of `u64::MAX` as a window holds.
    positions: Box<[u64]>,
    owners: Box<[NodeIndex]>,
    /// For each value of a position's leading bits, the first point at or after the smallest
    /// position that has them. There are at least as many buckets as points.
    buckets: Box<[u32]>,
    shift: u32,
}

impl Index {
    /// Indexes at least one and fewer than 2³² points, sorted.
    pub(crate) fn new(points: &[(u64, NodeIndex)]) -> Self {
        debug_assert!(!points.is_empty() && points.is_sorted());
        let bits = points.len().next_power_of_two().ilog2().max(1);
        let shift = u64::BITS - bits;
        let mut next = 0;
        let buckets = (0..1u64 << bits).map(|bucket| {
            let before = |(position, _): &&(u64, NodeIndex)| position >> shift < bucket;
            next += points[next..].iter().take_while(before).count();
            next as u32
        });
        let positions = points.iter().map(|&(position, _)| position);
        Self {
            buckets: buckets.collect(),
            positions: positions.chain([u64::MAX; WINDOW]).collect(),
            owners: points.iter().map(|&(_, owner)| owner).collect(),
            shift,
        }
    }

    /// The segment that `position` lies in: its end is the first point at or after it, wrapping to
    /// the smallest.
    #[inline]
    pub(crate) fn find(&self, position: u64) -> Segment {
        let start = self.buckets[(position >> self.shift) as usize] as usize;
        // Counting, unlike searching, has no branch to mispredict: it takes half the time.
        let window = &self.positions[start..start + WINDOW];
        let mut end = start + window.iter().filter(|&&point| point < position).count();
        // More rarely remain. No sentinel is before any position, so a sentinel ends the search.
        while self.positions[end] < position {
            end += 1;
        }
        Segment(if end == self.len() { 0 } else { end as u32 })
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn positions(&self) -> &[u64] {
        &self.positions[..self.len()]
    }

    pub(crate) fn owners(&self) -> &[NodeIndex] {
        &self.owners
    }

    /// Every segment with its owner and range, except for the empty ones that end where their
    /// predecessor does.
    pub(crate) fn arcs(&self) -> impl Iterator<Item = (Segment, NodeIndex, KeyRange)> {
        let starts = self.positions().iter().cycle().skip(self.len() - 1);
        let arcs = starts.zip(self.positions()).zip(&self.owners).enumerate();
        arcs.map(|(i, ((&after, &until), &owner))| {
            (Segment(i as u32), owner, KeyRange { after, until })
        })
        // The first segment is never empty: where all points coincide, it is the whole ring.
        .filter(|(segment, _, range)| segment.0 == 0 || range.after != range.until)
    }
}
