//! The metrics by name: the one list that is registered, described and, in
//! [`guide::observability`](crate::guide::observability), documented.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A label and its values; the list is empty for a label that has one value per
/// node.
pub(crate) type Label = (&'static str, &'static [&'static str]);

/// One metric.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "metrics"),
    expect(dead_code, reason = "read to be registered and described")
)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [Label],
    pub(crate) text: &'static str,
}

/// One value per node of the cluster.
pub(crate) const NODE: Label = ("node", &[]);

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:expr),*] $text:literal;)*) => {
        $(
            #[cfg_attr(
                not(all(feature = "redis", feature = "metrics")),
                allow(dead_code, reason = "some are of servers alone, or not counted otherwise")
            )]
            pub(crate) const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                text: $text,
            };
        )*

        /// All metrics.
        #[cfg(feature = "metrics")]
        pub(crate) const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    ACQUIRES = Counter "ringlock_acquires_total"
        [("outcome", &["granted", "contended", "timed_out", "no_quorum", "refused", "abandoned"])]
        "calls that ended: `acquire`, `try_acquire`, `acquire_all`, and each key of `acquire_many`";
    ACQUIRE_WAIT = Histogram "ringlock_acquire_wait_seconds" []
        "from a call to its grant, of calls that were granted";
    ATTEMPTS = Counter "ringlock_attempts_total" [("outcome", &["granted", "contended", "failed"])]
        "attempts of these calls at the nodes, by what the nodes said";
    WRITE_BACKS = Counter "ringlock_write_backs_total" []
        "grants whose fence took a second round";
    WAITING = Gauge "ringlock_waiting" []
        "calls that wait: behind others of the process, or for another holder";
    HELD = Gauge "ringlock_held" []
        "leases that are held";
    HOLD = Histogram "ringlock_hold_seconds" []
        "from a grant to the end of its lease, whatever ended it";
    LOST = Counter "ringlock_lost_total" [("reason", &["expired", "taken_over", "gone", "max_hold"])]
        "leases that ended while they were held";
    EXTENDS = Counter "ringlock_extends_total" [("outcome", &["extended", "unchanged", "lost"])]
        "extends, by hand and by keep-alive";
    RELEASES = Counter "ringlock_releases_total" [("outcome", &["in_time", "too_late"])]
        "leases given back, by whether they still held by the holder's own clock";
    GONE = Counter "ringlock_gone_total" []
        "releases in time that found too many entries gone: deleted by hand, or a clock that jumped";
    GIVEN_UP = Counter "ringlock_releases_given_up_total" []
        "releases that did not reach their node before the entry's ttl ran out";
    EPOCH = Gauge "ringlock_epoch" []
        "epoch of the view that the router uses";
    VIEW_JOINT = Gauge "ringlock_view_joint" []
        "1 while a change of membership is under way";
    NODE_STATE = Gauge "ringlock_node_state"
        [NODE, ("state", &["serving", "behind", "quarantined", "absent", "silent"])]
        "1 for the state that the router last saw the node in, 0 for the others";
    NODE_REQUESTS = Counter "ringlock_node_requests_total"
        [NODE, ("request", &["acquire", "extend", "release"])]
        "requests about locks that were handed to the node";
    NODE_ERRORS = Counter "ringlock_node_errors_total"
        [NODE, ("kind", &["unreachable", "timeout", "overloaded", "denied", "unsuitable",
            "lost_data", "wrong_type", "protocol", "closed", "clock_stepped", "not_ready"])]
        "those of them that got no answer";
    ROUND_TRIP = Histogram "ringlock_node_round_trip_seconds" [NODE]
        "from handing a request to the node to its answer, time in its queue included";
    NODE_CONNECTED = Gauge "ringlock_node_connected" [NODE]
        "1 while there is a connection to the server, and it may hold locks";
    CONNECTIONS_LOST = Counter "ringlock_node_connections_lost_total" [NODE]
        "connections to the server that broke";
    BATCH_SIZE = Histogram "ringlock_batch_size" [NODE]
        "requests that went to the server together";
    QUEUE = Gauge "ringlock_queue" [NODE]
        "requests that wait to be sent to the server";
}

impl Metric {
    /// Whether its unit is seconds, by its name.
    #[cfg(feature = "metrics")]
    pub(crate) fn is_in_seconds(&self) -> bool {
        self.name.ends_with("_seconds")
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;

    const CHAPTER: &str = include_str!("../guide/observability.rs");

    fn row(metric: &Metric) -> String {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let labels = metric.labels.iter().map(|(name, values)| {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            match values.is_empty() {
                true => format!("`{name}`"),
                false => format!("`{name}`: {}", values.join(", ")),
            }
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        format!(
            "//! | `{}` | {kind} | {labels} | {} |",
            metric.name, metric.text
        )
    }

    #[test]
    fn the_guide_has_every_metric_and_no_other() {
        let rows: Vec<String> = ALL.iter().map(row).collect();
        let reported: Vec<&str> = CHAPTER
            .lines()
            .filter(|line| line.starts_with("//! | `ringlock_"))
            .collect();
        assert_eq!(reported, rows, "the rows should be\n{}", rows.join("\n"));
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for metric in ALL {
            assert!(metric.name.starts_with("ringlock_"), "{metric:?}");
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{metric:?}");
            let same = ALL.iter().filter(|other| other.name == metric.name);
            assert_eq!(same.count(), 1, "{metric:?}");
        }
    }
}
