//! The position of a lease in views after the one that granted it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::cluster::nodes::ViewNodes;
use crate::node::Node;
use crate::proto::lease::Key;
use crate::proto::lease_record::carry::{CarriedPlacement, LastSuccess, transfer};
use crate::proto::lease_record::known::Known;
use crate::proto::quorum::{Placement, VoterSet};
use crate::proto::time::Instant;

/// What is known of a lease's entries in one view. Each thread that receives an
/// answer updates it. The low half holds the seats where the entry was seen, the
/// high half those that vouch for it.
#[derive(Debug, Default)]
pub(crate) struct Ledger(AtomicU64);

impl Ledger {
    fn of(known: Known) -> Self {
        Self(AtomicU64::new(bits(known)))
    }

    pub(crate) fn read(&self) -> Known {
        let bits = self.0.load(Ordering::Relaxed);
        Known {
            seen: VoterSet::from_bits(bits as u32),
            vouching: VoterSet::from_bits((bits >> 32) as u32),
        }
    }

    /// Records which seats are known to hold the entry, which of them vouch for it,
    /// and which are known not to hold it.
    pub(crate) fn take_in(&self, has: Known, lacks: VoterSet) {
        if has != Known::NONE {
            self.0.fetch_or(bits(has), Ordering::Relaxed);
        }
        if !lacks.is_empty() {
            let lacks = bits(Known::vouched(lacks));
            self.0.fetch_and(!lacks, Ordering::Relaxed);
        }
    }
}

fn bits(known: Known) -> u64 {
    u64::from(known.vouching.bits()) << 32 | u64::from(known.seen.bits())
}

/// A lease's position in a view after the one that granted it.
pub(crate) struct Position {
    pub(crate) view_nodes: Arc<ViewNodes>,
    pub(crate) placement: Placement,
    /// How many of the placement's groups the last success had.
    established: AtomicUsize,
    ledger: Ledger,
}

impl Position {
    fn new(view_nodes: Arc<ViewNodes>, carried: CarriedPlacement) -> Arc<Self> {
        Arc::new(Self {
            view_nodes,
            placement: carried.placement,
            established: AtomicUsize::new(carried.established),
            ledger: Ledger::of(carried.known),
        })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn established(&self) -> usize {
        self.established.load(Ordering::Relaxed)
    }

    fn nodes(&self) -> impl Iterator<Item = Arc<dyn Node>> + '_ {
        let nodes = self.placement.nodes().iter();
        nodes.map(|&node| Arc::clone(&self.view_nodes.handle(node).node))
    }
}

/// The state of a lease that has left its first view.
#[derive(Debug, Default)]
pub(crate) struct Relocation {
    /// The position of its last success; `None`: where it was granted.
    base: Option<Arc<Position>>,
    /// The newer position at which it is being extended.
    trial: Option<Arc<Position>>,
    /// Other nodes that were ever sent its token, and until when they may have an
    /// entry of it.
    elsewhere: Vec<(Arc<dyn Node>, Instant)>,
    /// Nodes of the granting view may hold a stale entry until this time.
    granted_until: Option<Instant>,
}

impl Relocation {
    pub(crate) fn base(&self) -> Option<&Arc<Position>> {
        self.base.as_ref()
    }

    /// The position at which to extend it.
    pub(crate) fn newest(&self) -> Option<&Arc<Position>> {
        self.trial.as_ref().or(self.base.as_ref())
    }

    /// Continues in the view of `view_nodes`, from the last success at `granted` unless
    /// there was one since. Nodes that are left behind may have entries until
    /// `until`.
    pub(crate) fn follow(
        &mut self,
        view_nodes: Arc<ViewNodes>,
        granted: &LastSuccess<'_>,
        key: &Key,
        until: Instant,
    ) {
        let base = self.base.as_ref().map(|base| LastSuccess {
            view: &base.view_nodes.view,
            placement: base.placement,
            known: base.ledger.read(),
        });
        let mut carried = base
            .as_ref()
            .unwrap_or(granted)
            .carry(&view_nodes.view, key);
        if let Some(trial) = self.trial.take() {
            // For the nodes that it asked, the trial has the latest state.
            let now = |voters| {
                let from = (&*trial.view_nodes.view, &trial.placement);
                transfer(from.0, from.1, voters, &view_nodes.view, &carried.placement)
            };
            let asked = now(trial.placement.voters());
            let unasked = carried.known.minus(asked);
            carried.known = unasked.union(trial.ledger.read().map(now));
            self.leave(&trial, until);
        }
        self.trial = Some(Position::new(view_nodes, carried));
    }

    /// Records a successful extend at `position`; false if that is not the newest.
    pub(crate) fn settle(&mut self, position: &Arc<Position>, until: Instant) -> bool {
        if !self
            .trial
            .as_ref()
            .is_some_and(|trial| Arc::ptr_eq(trial, position))
        {
            return false;
        }
        match self.base.take() {
            Some(base) => self.leave(&base, until),
            None => self.granted_until = Some(until),
        }
        let groups = position.placement.groups().count();
        position.established.store(groups, Ordering::Relaxed);
        self.base = self.trial.take();
        true
    }

    /// Records that these nodes may have entries until `until`.
    pub(crate) fn leave_nodes(
        &mut self,
        nodes: impl Iterator<Item = Arc<dyn Node>>,
        until: Instant,
    ) {
        for node in nodes {
            let known = self.elsewhere.iter_mut();
            match known
                .into_iter()
                .find(|(other, _)| Arc::ptr_eq(other, &node))
            {
                Some((_, known)) => *known = until.max(*known),
                None => self.elsewhere.push((node, until)),
            }
        }
    }

    fn leave(&mut self, position: &Position, until: Instant) {
        self.leave_nodes(position.nodes(), until);
    }

    /// Forgets the nodes that can no longer have an entry.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.elsewhere.retain(|(_, until)| *until > now);
    }

    /// Whether no entry can be left where the lease was granted, and every other
    /// node that may have an entry.
    pub(crate) fn entries(&self, now: Instant) -> (bool, Vec<Arc<dyn Node>>) {
        let stances = self.base.iter().chain(&self.trial);
        let mut nodes: Vec<_> = stances.flat_map(|position| position.nodes()).collect();
        let elsewhere = self.elsewhere.iter().filter(|(_, until)| *until > now);
        nodes.extend(elsewhere.map(|(node, _)| Arc::clone(node)));
        nodes.sort_by_key(|node| Arc::as_ptr(node).cast::<()>());
        nodes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        (self.granted_until.is_some_and(|until| until <= now), nodes)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Position")
            .field("view", &self.view_nodes.view)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}
