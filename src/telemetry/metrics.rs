//! The metrics of routers and nodes. Handles are registered once, with the recorder
//! installed at that time, and kept; without the feature `metrics` all of this
//! compiles to nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::proto::node::message::{Answer, NodeState, NodeStatus, Request, ViewId};
use crate::telemetry::metric_names::{self, Metric};

/// Whether anything is reported: measurements made only for metrics are otherwise
/// skipped.
pub(crate) const ARE_ON: bool = cfg!(feature = "metrics");

macro_rules! handle {
    ($(#[$doc:meta])* $handle:ident, $inner:ident, $register:ident, $noop:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $handle {
            #[cfg(feature = "metrics")]
            inner: metrics::$inner,
        }

        impl $handle {
            /// Registers a handle under `metric` with these labels.
            pub(crate) fn of(metric: &Metric, labels: &[(&'static str, &str)]) -> Self {
                #[cfg(not(feature = "metrics"))]
                let _ = (metric, labels);
                Self {
                    #[cfg(feature = "metrics")]
                    inner: facade::register(metric, labels, |recorder, key, metadata| {
                        recorder.$register(key, metadata)
                    }),
                }
            }
        }

        impl Default for $handle {
            fn default() -> Self {
                Self {
                    #[cfg(feature = "metrics")]
                    inner: $noop,
                }
            }
        }

        impl fmt::Debug for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($handle))
            }
        }
    };
}

handle!(
    /// A number that only increases.
    Count, Counter, register_counter, metrics::Counter::noop()
);
handle!(
    /// A number that increases and decreases.
    Level, Gauge, register_gauge, metrics::Gauge::noop()
);
handle!(
    /// A distribution of values.
    Spread, Histogram, register_histogram, metrics::Histogram::noop()
);

impl Count {
    pub(crate) fn add_one(&self) {
        #[cfg(feature = "metrics")]
        self.inner.increment(1);
    }
}

impl Level {
    pub(crate) fn set(&self, value: u32) {
        #[cfg(feature = "metrics")]
        self.inner.set(value);
        #[cfg(not(feature = "metrics"))]
        let _ = value;
    }

    pub(crate) fn add_one(&self) {
        #[cfg(feature = "metrics")]
        self.inner.increment(1);
    }

    pub(crate) fn take_one(&self) {
        #[cfg(feature = "metrics")]
        self.inner.decrement(1);
    }
}

impl Spread {
    #[cfg(feature = "redis")]
    pub(crate) fn note(&self, value: u32) {
        #[cfg(feature = "metrics")]
        self.inner.record(value);
        #[cfg(not(feature = "metrics"))]
        let _ = value;
    }

    pub(crate) fn note_span(&self, span: Duration) {
        #[cfg(feature = "metrics")]
        self.inner.record(span);
        #[cfg(not(feature = "metrics"))]
        let _ = span;
    }
}

#[cfg(feature = "metrics")]
mod facade {
    use metrics::{Key, Label, Metadata, Recorder, Unit, with_recorder};

    use crate::telemetry::metric_names::{ALL, Kind, Metric};

    pub(crate) fn register<T>(
        metric: &Metric,
        labels: &[(&'static str, &str)],
        register: impl FnOnce(&dyn Recorder, &Key, &Metadata<'_>) -> T,
    ) -> T {
        let labels = labels
            .iter()
            .map(|(name, value)| Label::new(*name, (*value).to_owned()));
        let key = Key::from_parts(metric.name, labels.collect::<Vec<_>>());
        let metadata = Metadata::new("ringlock", metrics::Level::INFO, None);
        with_recorder(|recorder| register(recorder, &key, &metadata))
    }

    /// Describes every metric to the recorder.
    pub(crate) fn describe() {
        with_recorder(|recorder| {
            for metric in ALL {
                let (name, text) = (metric.name.into(), metric.text.into());
                let unit = match metric.is_in_seconds() {
                    true => Unit::Seconds,
                    false => Unit::Count,
                };
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, Some(unit), text),
                    Kind::Gauge => recorder.describe_gauge(name, Some(unit), text),
                    Kind::Histogram => recorder.describe_histogram(name, Some(unit), text),
                }
            }
        });
    }
}

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
    #[cfg(feature = "metrics")]
    acquires: [Count; 6],
    #[cfg(feature = "metrics")]
    wait: Spread,
    pub(crate) hold: Spread,
    epoch: Level,
    joint: Level,
}

impl Default for RouterMeter {
    fn default() -> Self {
        #[cfg(feature = "metrics")]
        facade::describe();
        Self {
            #[cfg(feature = "metrics")]
            acquires: each(&metric_names::ACQUIRES, None, Count::of),
            #[cfg(feature = "metrics")]
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
    #[cfg(feature = "metrics")]
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.acquires[outcome as usize].add_one();
    }

    /// A call was granted after this time.
    #[cfg(feature = "metrics")]
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
