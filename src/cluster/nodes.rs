//! The nodes of one view, and what is known of them.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use ringlock_ring::NodeIndex;
use tokio::sync::Notify;

use crate::clock;
use crate::cluster::refresh::RefreshSignal;
use crate::error::{Cause, Error, KeptOut, NodeCause};
use crate::node::Node;
use crate::proto::confirmation::Confirmations;
use crate::proto::lease::{Key, Ttl};
use crate::proto::lease_record::position::InView;
use crate::proto::membership::view::View;
use crate::proto::operation::machine::Refusal;
use crate::proto::quorum::{Placement, majority};
use crate::proto::time::Instant;
use crate::telemetry::metrics::NodeMeter;

/// How long to wait for a refresh of the cluster state: as long as the slowest
/// takes.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A name and the node behind it.
#[derive(Clone, Debug)]
pub(crate) struct NodeHandle {
    pub(crate) name: Arc<str>,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) meter: NodeMeter,
}

/// The nodes of one view, in the view's order.
pub(crate) struct ViewNodes {
    pub(crate) view: Arc<View>,
    handles: Vec<NodeHandle>,
    pub(crate) confirmations: Confirmations,
    /// Nodes that lost their data, and when they may be readmitted.
    pub(crate) returning: Mutex<Vec<(NodeIndex, Instant)>>,
    /// Why a vote cannot readmit nodes, as of the last refresh.
    outlook: Mutex<Option<Outlook>>,
    /// The nodes of the next view, once there is one.
    next: OnceLock<Arc<Self>>,
    /// Wakes the waiters of all keys under this view when there is a next view.
    pub(crate) left: Notify,
    pub(crate) refresh: Arc<RefreshSignal>,
    /// As configured; `None`: derived from the ttl.
    node_timeout: Option<Duration>,
}

impl ViewNodes {
    /// `handles` must be in the view's order.
    pub(crate) fn new(
        view: Arc<View>,
        handles: Vec<NodeHandle>,
        refresh: Arc<RefreshSignal>,
    ) -> Self {
        let longest_ttl = view.longest_ttl();
        for handle in &handles {
            handle.node.set_longest_ttl(longest_ttl);
        }
        Self {
            view,
            confirmations: Confirmations::new(handles.len()),
            handles,
            returning: Mutex::default(),
            outlook: Mutex::default(),
            next: OnceLock::new(),
            left: Notify::new(),
            refresh,
            node_timeout: None,
        }
    }

    /// Sets the node timeout, if one is configured.
    pub(crate) fn with_node_timeout(self, node_timeout: Option<Duration>) -> Self {
        Self {
            node_timeout,
            ..self
        }
    }

    /// The nodes of the same router under `view`, which follows this one's view.
    pub(crate) fn followed_by(&self, view: Arc<View>, handles: Vec<NodeHandle>) -> Arc<Self> {
        let next = self.next.get_or_init(|| {
            let next = Self::new(view, handles, Arc::clone(&self.refresh));
            Arc::new(next.with_node_timeout(self.node_timeout))
        });
        Arc::clone(next)
    }

    /// The nodes of the newest view, if that is not this one.
    pub(crate) fn newest(&self) -> Option<&Arc<Self>> {
        let mut newest = self.next.get()?;
        while let Some(next) = newest.next.get() {
            newest = next;
        }
        Some(newest)
    }

    /// Handles an answer that a node serves another view, or none: refreshes the
    /// cluster state, unless a newer view is known already. True if a repeated
    /// operation may succeed now.
    pub(crate) async fn catch_up(&self, deadline: Option<Instant>) -> Result<bool, Error> {
        if self.newest().is_some() {
            return Ok(true);
        }
        let limit = clock::now() + LOOK_LIMIT;
        let deadline = deadline.map_or(limit, |deadline| deadline.min(limit));
        let look = self.refresh.look(Some(deadline)).await.unwrap_or_default();
        match look.error {
            Some(error) if self.newest().is_none() => Err(error),
            _ => Ok(look.has_helped || self.newest().is_some()),
        }
    }

    pub(crate) fn handles(&self) -> &[NodeHandle] {
        &self.handles
    }

    pub(crate) fn handle(&self, node: NodeIndex) -> &NodeHandle {
        &self.handles[node.get()]
    }

    /// Records why a vote cannot readmit nodes.
    pub(crate) fn expect(&self, outlook: Option<Outlook>) {
        *self.outlook.lock() = outlook;
    }

    /// Whether `node` is known to have lost its data, and is waited for.
    pub(crate) fn is_returning(&self, node: NodeIndex) -> bool {
        let returning = self.returning.lock();
        returning.iter().any(|(other, _)| *other == node)
    }

    /// How long a node may take to answer about a lease of `ttl`: as configured,
    /// and at most half of the ttl. Without a setting it is 5 % of the ttl, within
    /// bounds (redsync's rule; the floor keeps short leases usable).
    pub(crate) fn node_timeout(&self, ttl: Ttl) -> Duration {
        let ttl = ttl.get();
        match self.node_timeout {
            Some(configured) => configured.min(ttl / 2),
            None => (ttl / 20).clamp(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }

    /// When to stop waiting for a node that is asked at `now`.
    pub(crate) fn deadline(&self, ttl: Ttl, now: Instant, limit: Option<Instant>) -> Instant {
        let own = now + self.node_timeout(ttl);
        limit.map_or(own, |limit| own.min(limit))
    }

    pub(crate) fn causes(&self, refusals: Vec<(NodeIndex, Refusal)>) -> Vec<NodeCause> {
        refusals
            .into_iter()
            .map(|(node, refusal)| NodeCause {
                node: Arc::clone(&self.handle(node).name),
                cause: self.cause(node, refusal),
            })
            .collect()
    }

    fn cause(&self, node: NodeIndex, refusal: Refusal) -> Cause {
        let cause = Cause::from(refusal);
        if cause != Cause::NoView {
            return cause;
        }
        if let Some(outlook) = &*self.outlook.lock() {
            return Cause::KeptOut(outlook.with_remaining());
        }
        let returning = self.returning.lock();
        let back = returning.iter().find(|(other, _)| *other == node);
        back.map_or(cause, |(_, at)| Cause::Quarantined {
            remaining: at.saturating_since(clock::now()),
        })
    }

    /// The error for an operation on `key` that too few nodes answered.
    pub(crate) fn no_quorum(
        &self,
        key: &Key,
        granted: usize,
        placement: &Placement,
        refusals: Vec<(NodeIndex, Refusal)>,
    ) -> Error {
        let needed = placement
            .groups()
            .map(|group| majority(group.len()))
            .max()
            .unwrap_or(1);
        Error::NoQuorum {
            key: key.clone(),
            granted,
            needed,
            causes: self.causes(refusals),
        }
    }
}

/// The state of a cluster that cannot vote.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    pub(crate) why: KeptOut,
    /// When the cluster is started again, if that is known.
    pub(crate) due: Option<Instant>,
}

impl Outlook {
    fn with_remaining(&self) -> KeptOut {
        match &self.why {
            KeptOut::StartsAnew { .. } => {
                let left = self.due.map(|due| due.saturating_since(clock::now()));
                let remaining = left.filter(|left| !left.is_zero());
                KeptOut::StartsAnew { remaining }
            }
            why => why.clone(),
        }
    }
}

impl InView for ViewNodes {
    fn view(&self) -> &View {
        &self.view
    }
}

impl fmt::Debug for ViewNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewNodes")
            .field("view", &self.view)
            .field("handles", &self.handles)
            .finish()
    }
}
