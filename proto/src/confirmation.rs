//! Which nodes of a view have confirmed it, and when: every answer to a request
//! under exactly this view does, as of the time at which the request was sent.
//!
//! A lease needs a confirmation by a majority that is younger than the view lease
//! (PROTOCOL §4). The router, the model checker and the simulation use the same
//! record.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringlock_ring::NodeIndex;

use crate::membership::view::View;
use crate::quorum::Placement;
use crate::time::Instant;

/// Smaller advances are not recorded: all threads share the recorded times.
const GRAIN: Duration = Duration::from_millis(1);

/// When each node of one view last confirmed it.
#[derive(Debug)]
pub struct Confirmations {
    /// Send time of the newest request that each node answered under the view.
    seen_at: Box<[AtomicU64]>,
    /// The last result of [`Self::confirmed_at`], a lower bound of the next. It
    /// saves a computation and changes no decision.
    confirmed_at: AtomicU64,
}

impl Confirmations {
    /// No confirmation of a view with this many nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            seen_at: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            confirmed_at: AtomicU64::new(0),
        }
    }

    /// `node` has answered a request that was sent at `sent_at`, under exactly this
    /// view.
    #[inline]
    pub fn saw(&self, node: NodeIndex, sent_at: Instant) {
        if sent_at > self.seen_at(node) + GRAIN {
            self.seen_at[node.get()].fetch_max(sent_at.as_nanos(), Ordering::Relaxed);
        }
    }

    /// The latest instant at which a majority is known to have served `view`. It is
    /// computed again only if the last result is before `good_enough`.
    #[inline]
    fn confirmed_at(&self, view: &View, good_enough: Instant) -> Instant {
        let known = Instant::from_nanos(self.confirmed_at.load(Ordering::Relaxed));
        if known >= good_enough {
            return known;
        }
        let confirmed = view.confirmed_at(|node| self.seen_at(node).as_nanos());
        self.confirmed_at.fetch_max(confirmed, Ordering::Relaxed);
        Instant::from_nanos(confirmed)
    }

    /// The confirmation that decides about an operation that started at `t0`: any
    /// later one counts the same.
    #[inline]
    pub fn for_operation(&self, view: &View, t0: Instant) -> Instant {
        self.confirmed_at(view, t0 - view.view_lease() + Duration::from_nanos(1))
    }

    /// Whether every node has answered under the view since `since`.
    pub fn has_all(&self, since: Instant) -> bool {
        let mut nodes = (0..self.seen_at.len()).map(|node| NodeIndex::new(node as u16));
        nodes.all(|node| self.seen_at(node) >= since)
    }

    /// Nodes outside `placement` that need a STATUS request so that an operation
    /// started at `t0` can be confirmed. None while half of the view lease is left:
    /// ordinary answers then mostly renew it in time.
    pub fn probes(&self, view: &View, placement: &Placement, t0: Instant) -> Vec<NodeIndex> {
        let fresh_since = t0 - view.view_lease() / 2;
        if self.confirmed_at(view, fresh_since) >= fresh_since {
            return Vec::new();
        }
        let nodes = (0..self.seen_at.len()).map(|node| NodeIndex::new(node as u16));
        nodes
            .filter(|&node| placement.voter(node).is_none() && self.seen_at(node) < fresh_since)
            .collect()
    }

    #[inline]
    fn seen_at(&self, node: NodeIndex) -> Instant {
        Instant::from_nanos(self.seen_at[node.get()].load(Ordering::Relaxed))
    }

    fn times(&self) -> impl Iterator<Item = u64> + '_ {
        let times = self.seen_at.iter();
        times.map(|at| at.load(Ordering::Relaxed))
    }
}

impl Clone for Confirmations {
    fn clone(&self) -> Self {
        Self {
            seen_at: self.times().map(AtomicU64::new).collect(),
            confirmed_at: AtomicU64::new(self.confirmed_at.load(Ordering::Relaxed)),
        }
    }
}

impl PartialEq for Confirmations {
    fn eq(&self, other: &Self) -> bool {
        self.times().eq(other.times())
    }
}

impl Eq for Confirmations {}

impl Hash for Confirmations {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.times().for_each(|at| at.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lease::Key;
    use crate::membership::topology::Topology;

    const T0: Instant = Instant::from_nanos(1_000_000_000_000);

    /// Five nodes, three replicas a key.
    fn view() -> View {
        let names = ["a", "b", "c", "d", "e"];
        let nonces: BTreeMap<_, _> = names
            .iter()
            .map(|&name| (name.into(), format!("nonce of {name}").into()))
            .collect();
        View::stable(1, Topology::sample(&names, 3), &nonces).unwrap()
    }

    fn node(index: u16) -> NodeIndex {
        NodeIndex::new(index)
    }

    #[test]
    fn a_majority_confirms_as_of_its_oldest_request() {
        let (view, seen) = (view(), Confirmations::new(5));
        let ms = Duration::from_millis;
        for (index, later) in [(0, 30), (1, 10)] {
            seen.saw(node(index), T0 + ms(later));
        }
        assert_eq!(seen.confirmed_at(&view, T0), Instant::default());
        seen.saw(node(4), T0 + ms(20));
        assert_eq!(seen.confirmed_at(&view, T0), T0 + ms(10));
        // An earlier result is enough.
        seen.saw(node(2), T0 + ms(40));
        assert_eq!(seen.confirmed_at(&view, T0), T0 + ms(10));
        assert_eq!(seen.confirmed_at(&view, T0 + ms(11)), T0 + ms(20));
        assert!(!seen.has_all(T0));
        seen.saw(node(3), T0);
        assert!(seen.has_all(T0));
    }

    #[test]
    fn nodes_are_probed_once_half_of_the_view_lease_is_over() {
        let (view, seen) = (view(), Confirmations::new(5));
        let placement = view.place(&Key::new("k").unwrap());
        let outside = (0..5)
            .map(node)
            .filter(|&node| placement.voter(node).is_none());
        let outside: Vec<NodeIndex> = outside.collect();
        assert_eq!(outside.len(), 2);
        assert_eq!(seen.probes(&view, &placement, T0), outside);
        (0..5).for_each(|index| seen.saw(node(index), T0));
        let half = T0 + view.view_lease() / 2;
        assert_eq!(seen.probes(&view, &placement, half), []);
        let later = half + GRAIN;
        assert_eq!(seen.probes(&view, &placement, later), outside);
        seen.saw(outside[0], later);
        assert_eq!(seen.probes(&view, &placement, later), outside[1..]);
    }

    #[test]
    fn what_was_computed_is_no_part_of_the_value() {
        let (view, seen) = (view(), Confirmations::new(5));
        (0..5).for_each(|index| seen.saw(node(index), T0));
        let other = seen.clone();
        let _ = seen.confirmed_at(&view, T0);
        assert_eq!(seen, other);
        other.saw(node(0), T0 + 2 * GRAIN);
        assert_ne!(seen, other);
    }
}
