//! What moves between two rings.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::RingError;
use crate::index::{KeyRange, Segment};
use crate::replicas::ReplicaSets;
use crate::ring::Ring;

/// What moves when one assignment of replica sets follows another: the plan of a rebalancing.
///
/// Widths are exact, in positions out of 2⁶⁴; [`fraction`] converts them to shares of the keys.
/// [`Display`](fmt::Display) prints the plan.
#[derive(Clone, Debug)]
pub struct RingDiff {
    old: ReplicaSets,
    new: ReplicaSets,
    ranges: Vec<ChangedRange>,
    owner_moves: Vec<OwnerMove>,
    set_moves: Vec<SetMove>,
}

/// A range of positions whose owner or replica set changes. It is maximal: its neighbours differ in
/// the old or in the new replica set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangedRange {
    /// The positions.
    pub range: KeyRange,
    /// A segment of the old ring with the replica set that all of the range had.
    pub old: Segment,
    /// A segment of the new ring with the replica set that all of the range gets.
    pub new: Segment,
}

/// The positions that pass from one owner to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerMove {
    /// The name of the owner in the old ring.
    pub from: String,
    /// The name of the owner in the new ring.
    pub to: String,
    /// How many positions pass, out of 2⁶⁴.
    pub width: u128,
    /// The number of [ranges](RingDiff::ranges) that they are on.
    pub ranges: usize,
}

/// The positions whose replica set exchanges some members for others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetMove {
    /// The names of the members that leave the set, sorted.
    pub left: Vec<String>,
    /// The names of the members that join it, sorted.
    pub joined: Vec<String>,
    /// How many positions change in this way, out of 2⁶⁴.
    pub width: u128,
    /// The number of [ranges](RingDiff::ranges) that they are on.
    pub ranges: usize,
}

/// A width as a share of the ring, from 0 to 1.
#[must_use]
pub fn fraction(width: u128) -> f64 {
    width as f64 / (1u128 << 64) as f64
}

impl RingDiff {
    /// Compares two assignments.
    ///
    /// They may differ in everything but the format: in members, weights, vnodes, labels and
    /// replicas.
    ///
    /// # Errors
    ///
    /// [`RingError::FormatsDiffer`]: positions of two formats have nothing in common, so there are
    /// no ranges to compare.
    pub fn between(old: &ReplicaSets, new: &ReplicaSets) -> Result<Self, RingError> {
        let formats = [old, new].map(|sets| sets.ring().format());
        if formats[0] != formats[1] {
            return Err(RingError::FormatsDiffer {
                old: formats[0],
                new: formats[1],
            });
        }
        let ranges = changed_ranges(old, new);
        let mut owners = BTreeMap::<_, Tally>::new();
        let mut sets = BTreeMap::<_, Tally>::new();
        for changed in &ranges {
            let before = names(old, changed.old);
            let after = names(new, changed.new);
            if before[0] != after[0] {
                owners
                    .entry((before[0], after[0]))
                    .or_default()
                    .add(changed.range);
            }
            let exchange = (less(&before, &after), less(&after, &before));
            if exchange != (vec![], vec![]) {
                sets.entry(exchange).or_default().add(changed.range);
            }
        }
        let owner_moves = owners
            .into_iter()
            .map(|((from, to), Tally { width, ranges })| OwnerMove {
                from: from.to_owned(),
                to: to.to_owned(),
                width,
                ranges,
            });
        let set_moves = sets
            .into_iter()
            .map(|((left, joined), Tally { width, ranges })| SetMove {
                left: left.into_iter().map(str::to_owned).collect(),
                joined: joined.into_iter().map(str::to_owned).collect(),
                width,
                ranges,
            });
        let (owner_moves, set_moves) = (owner_moves.collect(), set_moves.collect());
        Ok(Self {
            old: old.clone(),
            new: new.clone(),
            ranges,
            owner_moves,
            set_moves,
        })
    }

    /// The older assignment.
    #[must_use]
    pub fn before(&self) -> &ReplicaSets {
        &self.old
    }

    /// The newer assignment.
    #[must_use]
    pub fn after(&self) -> &ReplicaSets {
        &self.new
    }

    /// Whether every key keeps its owner and its replica set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges whose owner or replica set changes, clockwise from the one that holds or follows
    /// position 0.
    #[must_use]
    pub fn ranges(&self) -> &[ChangedRange] {
        &self.ranges
    }

    /// The owner moves, by pair of names, sorted.
    #[must_use]
    pub fn owner_moves(&self) -> &[OwnerMove] {
        &self.owner_moves
    }

    /// The changes of replica sets, by the members that leave and join, sorted. A set that only
    /// changes its order or its owner is not among them.
    #[must_use]
    pub fn set_moves(&self) -> &[SetMove] {
        &self.set_moves
    }

    /// On how many positions the owner changes.
    #[must_use]
    pub fn owner_width(&self) -> u128 {
        self.owner_moves.iter().map(|moved| moved.width).sum()
    }

    /// On how many positions the owner had to change, given both rings' shares: what the members
    /// gained, together.
    #[must_use]
    pub fn owner_minimum(&self) -> u128 {
        let [old, new] = [&self.old, &self.new].map(ReplicaSets::ring);
        gained(old, &old.shares(), new, &new.shares())
    }

    /// On how many positions the replica set changes.
    #[must_use]
    pub fn set_width(&self) -> u128 {
        self.set_moves.iter().map(|moved| moved.width).sum()
    }

    /// How many seats get a new member: positions, times the members that join their set.
    #[must_use]
    pub fn seat_width(&self) -> u128 {
        self.set_moves
            .iter()
            .map(|moved| moved.width * moved.joined.len() as u128)
            .sum()
    }

    /// How many seats had to get a new member, given both assignments' [loads](ReplicaSets::loads).
    #[must_use]
    pub fn seat_minimum(&self) -> u128 {
        gained(
            self.old.ring(),
            &self.old.loads(),
            self.new.ring(),
            &self.new.loads(),
        )
    }
}

/// The plan, for people: shares of the keys by pair of owners, and by exchange of replicas.
impl fmt::Display for RingDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |width| 100.0 * fraction(width);
        let (moved, minimum) = (percent(self.owner_width()), percent(self.owner_minimum()));
        writeln!(
            f,
            "owners: {moved:.3} % of the keys move (at least {minimum:.3} % had to)"
        )?;
        for OwnerMove {
            from,
            to,
            width,
            ranges,
        } in &self.owner_moves
        {
            writeln!(
                f,
                "  {:>8.3} %  {ranges:>6} ranges  {from} -> {to}",
                percent(*width)
            )?;
        }
        writeln!(
            f,
            "replica sets: those of {:.3} % of the keys change",
            percent(self.set_width())
        )?;
        for SetMove {
            left,
            joined,
            width,
            ranges,
        } in &self.set_moves
        {
            write!(f, "  {:>8.3} %  {ranges:>6} ranges ", percent(*width))?;
            left.iter().try_for_each(|name| write!(f, " -{name}"))?;
            joined.iter().try_for_each(|name| write!(f, " +{name}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Tally {
    width: u128,
    ranges: usize,
}

impl Tally {
    fn add(&mut self, range: KeyRange) {
        self.width += range.width();
        self.ranges += 1;
    }
}

/// The changed ranges, each maximal. Between two neighbouring points of either ring nothing
/// changes, so one look-up in each ring applies to all positions there.
fn changed_ranges(old: &ReplicaSets, new: &ReplicaSets) -> Vec<ChangedRange> {
    let mut cuts = [old.ring().points(), new.ring().points()].concat();
    cuts.sort_unstable();
    cuts.dedup();

    let alike = |a: &ChangedRange, b: &ChangedRange| {
        old.of_segment(a.old) == old.of_segment(b.old)
            && new.of_segment(a.new) == new.of_segment(b.new)
    };
    let mut ranges = Vec::<ChangedRange>::new();
    let starts = cuts.iter().cycle().skip(cuts.len() - 1);
    for (&after, &until) in starts.zip(&cuts) {
        let [old_segment, new_segment] = [old, new].map(|sets| sets.ring().segment_at(until));
        if !changes(&names(old, old_segment), &names(new, new_segment)) {
            continue;
        }
        let next = ChangedRange {
            range: KeyRange { after, until },
            old: old_segment,
            new: new_segment,
        };
        match ranges.last_mut() {
            Some(last) if last.range.until == after && alike(last, &next) => {
                last.range.until = until
            }
            _ => ranges.push(next),
        }
    }
    // The first range may continue the last one.
    if let [first, .., last] = &mut ranges[..]
        && last.range.until == first.range.after
        && alike(first, last)
    {
        first.range.after = last.range.after;
        ranges.pop();
    }
    ranges
}

/// Whether the owner or the set differs; the order of the rest does not matter.
fn changes(before: &[&str], after: &[&str]) -> bool {
    before[0] != after[0]
        || before.len() != after.len()
        || before.iter().any(|name| !after.contains(name))
}

/// The names of a replica set, the owner first.
fn names(sets: &ReplicaSets, segment: Segment) -> Vec<&str> {
    sets.of_segment(segment)
        .iter()
        .map(|&index| sets.ring().member(index).name())
        .collect()
}

/// Those of `names` that are not among `others`, sorted.
fn less<'a>(names: &[&'a str], others: &[&str]) -> Vec<&'a str> {
    let mut rest: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| !others.contains(name))
        .collect();
    rest.sort_unstable();
    rest
}

/// By how much the widths of the members grew, over all members that grew.
fn gained(old: &Ring, before: &[u128], new: &Ring, after: &[u128]) -> u128 {
    let gains = new.members().iter().zip(after).map(|(member, &after)| {
        let before = old
            .index_of(member.name())
            .map_or(0, |index| before[index.get()]);
        after.saturating_sub(before)
    });
    gains.sum()
}
