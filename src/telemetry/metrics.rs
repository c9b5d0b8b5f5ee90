//! The metrics of routers and nodes. Handles are registered once, with the recorder
//! installed at that time, and kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::proto::node::message::{Answer, NodeState, NodeStatus, Request, ViewId};
use crate::telemetry::handles::{ARE_ON, Count, Level, Spread, describe};
use crate::telemetry::metric_names::{self, Metric};

/// One handle per value of the last of `metric`'s labels; `node` is the value of
/// the label before it, if there is one.
fn each<T: fmt::Debug, const N: usize>(
    metric: &Metric,
    node: Option<&str>,
    of: impl Fn(&Metric, &[(&'static str, &str)]) -> T,
) -> [T; N] {
    let (name, values) = metric.labels.last().copied().unwrap_or_default();
    std::array::from_fn(|at| {
        let mut labels: Vec<(&str, &str)> = node.map(|node| ("node", node)).into_iter().collect();
        labels.extend(values.get(at).map(|value| (name, *value)));
        of(metric, &labels)
    })
}

/// A router's metrics in addition to its counts.
#[derive(Debug)]
pub(crate) struct RouterMeter {
    acquires: [Count; 6],
    wait: Spread,
    pub(crate) hold: Spread,
    epoch: Level,
    joint: Level,
}

impl Default for RouterMeter {
    fn default() -> Self {
        describe();
        Self {
            acquires: each(&metric_names::ACQUIRES, None, Count::of),
            wait: Spread::of(&metric_names::ACQUIRE_WAIT, &[]),
            hold: Spread::of(&metric_names::HOLD, &[]),
            epoch: Level::of(&metric_names::EPOCH, &[]),
            joint: Level::of(&metric_names::VIEW_JOINT, &[]),
        }
    }
}

impl RouterMeter {
    /// The router uses this view from now on.
    pub(crate) fn moved(&self, view: ViewId, is_joint: bool) {
        self.epoch.set(view.epoch);
        self.joint.set(u32::from(is_joint));
    }

    /// A call has ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.acquires[outcome as usize].add_one();
    }

    /// A call was granted after this time.
    pub(crate) fn waited(&self, span: Duration) {
        self.wait.note_span(span);
    }
}

/// How a call ends, with the names of [`metric::ACQUIRES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted,
    Contended,
    TimedOut,
    NoQuorum,
    Refused,
    Abandoned,
}

impl Outcome {
    /// Name of the outcome.
    pub(crate) fn word(self) -> &'static str {
        let (_, words) = metric_names::ACQUIRES.labels[0];
        words[self as usize]
    }

    /// The outcome of a failed call. An outage never counts as contended, however
    /// long the call waited.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Contended { .. } => Self::Contended,
            _ if error.is_contention() => Self::TimedOut,
            _ if error.is_transient() => Self::NoQuorum,
            _ => Self::Refused,
        }
    }
}

/// The metrics of a node of any kind.
#[derive(Clone)]
pub(crate) struct NodeMeter {
    parts: Option<Arc<NodeParts>>,
}

#[derive(Debug)]
struct NodeParts {
    states: [Level; 5],
    requests: [Count; 3],
    errors: [Count; 11],
    round_trip: Spread,
}

impl NodeMeter {
    /// The meter of the node of this name.
    pub(crate) fn of(node: &str) -> Self {
        let parts = || {
            Arc::new(NodeParts {
                states: each(&metric_names::NODE_STATE, Some(node), Level::of),
                requests: each(&metric_names::NODE_REQUESTS, Some(node), Count::of),
                errors: each(&metric_names::NODE_ERRORS, Some(node), Count::of),
                round_trip: Spread::of(&metric_names::ROUND_TRIP, &[("node", node)]),
            })
        };
        Self {
            parts: ARE_ON.then(parts),
        }
    }

    fn parts(&self) -> Option<&NodeParts> {
        if ARE_ON { self.parts.as_deref() } else { None }
    }

    /// A request is passed to the node.
    pub(crate) fn asked(&self, request: &Request) {
        let Some(parts) = self.parts() else { return };
        let at = match request {
            Request::Acquire { .. } => 0,
            Request::Extend { .. } => 1,
            Request::Release { .. } => 2,
            _ => return,
        };
        parts.requests[at].add_one();
    }

    /// The node answered or failed, after the time `took` where that is known.
    pub(crate) fn answered(&self, answer: &Answer, took: Option<Duration>) {
        let Some(parts) = self.parts() else { return };
        match answer {
            Ok(_) => {
                if let Some(took) = took {
                    parts.round_trip.note_span(took);
                }
            }
            Err(error) => parts.errors[error.kind().metric_index()].add_one(),
        }
    }

    /// The node was checked, and reported this status.
    pub(crate) fn seen(&self, status: Option<&NodeStatus>, view: ViewId) {
        self.is_in(match status.map(NodeStatus::standing) {
            Some(NodeState::Serving(served)) if served == view => Some(0),
            Some(NodeState::Serving(_)) => Some(1),
            Some(NodeState::Quarantined) => Some(2),
            Some(NodeState::Absent) => Some(3),
            None => Some(4),
        });
    }

    /// The node has recently answered under the router's view.
    pub(crate) fn serves(&self) {
        self.is_in(Some(0));
    }

    /// The node is no longer a member.
    pub(crate) fn left(&self) {
        self.is_in(None);
    }

    fn is_in(&self, state: Option<usize>) {
        let Some(parts) = self.parts() else { return };
        for (at, level) in parts.states.iter().enumerate() {
            level.set(u32::from(state == Some(at)));
        }
    }
}

impl fmt::Debug for NodeMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeMeter")
    }
}

/// The metrics of the connection to a server.
#[cfg(feature = "redis")]
#[derive(Clone, Debug, Default)]
pub(crate) struct PipelineMeter {
    pub(crate) connected: Level,
    pub(crate) lost: Count,
    pub(crate) batch: Spread,
    pub(crate) queue: Level,
}

#[cfg(feature = "redis")]
impl PipelineMeter {
    /// The meter of the node of this name.
    pub(crate) fn of(node: &str) -> Self {
        let labels = [("node", node)];
        Self {
            connected: Level::of(&metric_names::NODE_CONNECTED, &labels),
            lost: Count::of(&metric_names::CONNECTIONS_LOST, &labels),
            batch: Spread::of(&metric_names::BATCH_SIZE, &labels),
            queue: Level::of(&metric_names::QUEUE, &labels),
        }
    }
}
