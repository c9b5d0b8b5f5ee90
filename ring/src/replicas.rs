//! Replica sets: for every segment, the members that keep its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::error::RingError;
use crate::index::Segment;
use crate::member::NodeIndex;
use crate::ring::Ring;

/// The replica set of every segment of a ring: the owner and the members that follow it, under two
/// rules.
///
/// - Two members of a set never share a host.
/// - At most `n − q` members of a set, `q = ⌊n/2⌋ + 1`, share a zone: the loss of a whole zone
///   leaves a quorum. (A set of one survives no loss, and so has no such rule.)
///
/// A member that a rule excludes is skipped, and the walk continues clockwise; every set is full.
/// Members without the label are not limited by it. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaSets {
    ring: Ring,
    replicas: usize,
    /// The set of segment `i` at `i * replicas`, the owner first.
    rows: Arc<[NodeIndex]>,
}

impl Ring {
    /// The replica sets of `n` members for every segment, under the rules for hosts and zones.
    ///
    /// # Errors
    ///
    /// [`RingError::ReplicasZero`], [`RingError::NotEnoughMembers`], [`RingError::NotEnoughHosts`]
    /// or [`RingError::ZoneRule`] if the members cannot make such sets.
    pub fn replica_sets(&self, n: usize) -> Result<ReplicaSets, RingError> {
        ReplicaSets::new(self, n)
    }
}

impl ReplicaSets {
    pub(crate) fn new(ring: &Ring, replicas: usize) -> Result<Self, RingError> {
        let rules = Rules::new(ring, replicas)?;
        let rows = if rules.are_void() {
            plain_rows(ring, replicas)
        } else {
            ruled_rows(ring, &rules)
        };
        Ok(Self {
            ring: ring.clone(),
            replicas,
            rows: rows.into(),
        })
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The members of each set.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// The replica set of `key`, the owner first.
    #[inline]
    #[must_use]
    pub fn of(&self, key: &[u8]) -> &[NodeIndex] {
        self.of_segment(self.ring.segment(key))
    }

    /// The replica set of each key in `segment`, the owner first.
    ///
    /// # Panics
    ///
    /// If `segment` is of another, larger ring.
    #[inline]
    #[must_use]
    pub fn of_segment(&self, segment: Segment) -> &[NodeIndex] {
        &self.rows[segment.get() * self.replicas..][..self.replicas]
    }

    /// The replica set of every segment, in order; many are equal.
    pub fn sets(&self) -> impl ExactSizeIterator<Item = &[NodeIndex]> {
        self.rows.chunks_exact(self.replicas)
    }

    /// On how many of the 2⁶⁴ positions each member is in the replica set, in the order of
    /// [`Ring::members`]. The sum is `replicas · 2⁶⁴`.
    #[must_use]
    pub fn loads(&self) -> Vec<u128> {
        let mut loads = vec![0; self.ring.len()];
        for (segment, _, range) in self.ring.arcs() {
            self.of_segment(segment)
                .iter()
                .for_each(|member| loads[member.get()] += range.width());
        }
        loads
    }
}

impl fmt::Debug for ReplicaSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaSets")
            .field("ring", &self.ring)
            .field("replicas", &self.replicas)
            .finish()
    }
}

/// The rows of a ring without labels. From the second on, the members that follow a point are its
/// owner, and then those that follow the next point less that owner: one walk and then a step per
/// point, from the last to the first.
fn plain_rows(ring: &Ring, replicas: usize) -> Vec<NodeIndex> {
    let owners = ring.owners();
    let mut rows = vec![NodeIndex::new(0); owners.len() * replicas];
    let mut row: Vec<_> = ring
        .successors_of(ring.segment_at(0))
        .take(replicas)
        .collect();
    // The walk above is the row of segment 0, which follows the last segment.
    for (i, &owner) in owners.iter().enumerate().rev() {
        let displaced = row
            .iter()
            .position(|&member| member == owner)
            .unwrap_or(replicas - 1);
        row[..=displaced].rotate_right(1);
        row[0] = owner;
        rows[i * replicas..][..replicas].copy_from_slice(&row);
    }
    rows
}

/// The rows of a ring with labels: a walk from every point.
fn ruled_rows(ring: &Ring, rules: &Rules) -> Vec<NodeIndex> {
    let owners = ring.owners();
    let mut rows = Vec::with_capacity(owners.len() * rules.replicas);
    for i in 0..owners.len() {
        let start = rows.len();
        for &member in owners[i..].iter().chain(&owners[..i]) {
            if rows.len() == start + rules.replicas {
                break;
            }
            if rules.admit(&rows[start..], member) {
                rows.push(member);
            }
        }
    }
    rows
}

/// The rules for one size of set on one ring's members.
struct Rules {
    replicas: usize,
    /// How many members of a set may share a zone.
    zone_limit: usize,
    /// By member: its host, numbered over the whole ring; a member without the label has one of its
    /// own.
    hosts: Vec<usize>,
    /// By member: its zone, numbered likewise.
    zones: Vec<Option<usize>>,
}

impl Rules {
    /// The rules, once it is certain that a walk from any point can meet them.
    ///
    /// Every host lies within one zone (the builder of the ring ensures it), so what the rules
    /// allow is a laminar matroid: a walk that takes every member it may take ends with a set as
    /// large as any, wherever it starts. So only the size of the largest set has to be checked:
    /// each zone contributes its hosts, up to the limit.
    fn new(ring: &Ring, replicas: usize) -> Result<Self, RingError> {
        if replicas == 0 {
            return Err(RingError::ReplicasZero);
        }
        if replicas > ring.len() {
            return Err(RingError::NotEnoughMembers {
                replicas,
                members: ring.len(),
            });
        }
        let rules = Self::number(ring, replicas);
        let hosts: BTreeMap<_, _> = rules.hosts.iter().zip(&rules.zones).collect();
        if replicas > hosts.len() {
            return Err(RingError::NotEnoughHosts {
                replicas,
                hosts: hosts.len(),
            });
        }
        let mut per_zone = BTreeMap::<_, usize>::new();
        hosts
            .values()
            .for_each(|zone| *per_zone.entry(*zone).or_default() += 1);
        let limit = rules.zone_limit;
        let reachable = match limit {
            // Of two replicas neither may be lost: no walk can even start from an owner with a
            // zone.
            0 if rules.zones.iter().any(Option::is_some) => 0,
            _ => per_zone
                .into_iter()
                .map(|(zone, hosts)| zone.map_or(hosts, |_| hosts.min(limit)))
                .sum(),
        };
        if reachable < replicas {
            return Err(RingError::ZoneRule {
                replicas,
                limit,
                reachable,
            });
        }
        Ok(rules)
    }

    fn number(ring: &Ring, replicas: usize) -> Self {
        let members = ring.members();
        let number_of = |names: BTreeSet<&str>| -> BTreeMap<String, usize> {
            names.into_iter().map(str::to_owned).zip(0..).collect()
        };
        let hosts = number_of(members.iter().filter_map(|member| member.host()).collect());
        let zones = number_of(members.iter().filter_map(|member| member.zone()).collect());
        let quorum = replicas / 2 + 1;
        Self {
            replicas,
            zone_limit: if replicas == 1 { 1 } else { replicas - quorum },
            hosts: members
                .iter()
                .enumerate()
                .map(|(i, member)| member.host().map_or(hosts.len() + i, |host| hosts[host]))
                .collect(),
            zones: members
                .iter()
                .map(|member| member.zone().map(|zone| zones[zone]))
                .collect(),
        }
    }

    /// Whether no member carries a label that could exclude it.
    fn are_void(&self) -> bool {
        let distinct: BTreeSet<_> = self.hosts.iter().collect();
        distinct.len() == self.hosts.len() && self.zones.iter().all(Option::is_none)
    }

    /// Whether `member` may join `set`. One that is in it already shares its own host.
    fn admit(&self, set: &[NodeIndex], member: NodeIndex) -> bool {
        let host = self.hosts[member.get()];
        let zone = self.zones[member.get()];
        let in_zone = || {
            set.iter()
                .filter(|other| self.zones[other.get()] == zone)
                .count()
        };
        set.iter().all(|other| self.hosts[other.get()] != host)
            && (zone.is_none() || in_zone() < self.zone_limit)
    }
}
