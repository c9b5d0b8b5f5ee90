//! All events reported by `tracing`, in one place, so that targets, names, fields
//! and levels stay as [`guide::observability`](crate::guide::observability)
//! documents them. Without a subscriber nothing is formatted.

use std::fmt::{self, Write};
use std::time::Duration;

use tracing::{Instrument, Level, Span, debug, enabled, error, field, info, warn};

use crate::error::{Error, Loss};
use crate::proto::lease::{Fence, Key};
#[cfg(feature = "redis")]
use crate::proto::node::message::NodeError;
use crate::proto::node::message::ViewId;
use crate::telemetry::metrics::Outcome;

const ACQUIRE: &str = "ringlock::acquire";
const LEASE: &str = "ringlock::lease";
const NODE: &str = "ringlock::node";
const VIEW: &str = "ringlock::view";

/// An attempt failed; its call may continue.
pub(crate) fn refused(key: &Key, error: &Error) {
    debug!(target: ACQUIRE, event = "refused", %key, error = %Plain(error), "an attempt failed");
}

/// A lease begins.
pub(crate) fn granted(key: &Key, fence: Fence, ttl: Duration) {
    debug!(target: LEASE, event = "granted", %key, fence = fence.get(), ttl_ms = ttl.as_millis() as u64, "granted");
}

/// An extend failed; the lease keeps its previous end.
pub(crate) fn extend_failed(key: &Key, refused: usize) {
    debug!(target: LEASE, event = "extend_failed", %key, refused, "an extend failed");
}

/// A lease ended while it was held.
pub(crate) fn lease_lost(key: &Key, fence: Option<Fence>, reason: Loss) {
    warn!(target: LEASE, event = "lost", %key, fence = fence.map(Fence::get), %reason, "a lease is lost");
}

/// The holder releases a lease.
pub(crate) fn released(key: &Key, fence: Fence) {
    debug!(target: LEASE, event = "released", %key, fence = fence.get(), "released");
}

/// The nodes no longer had a lease that should have lasted.
pub(crate) fn released_too_late(key: &Key, fence: Fence) {
    warn!(target: LEASE, event = "released_too_late", %key, fence = fence.get(), "the nodes no longer had the lease although it had not expired: was it deleted by hand, or was a clock stepped?");
}

/// Too few nodes answered a release: it is repeated in the background.
pub(crate) fn release_unanswered(key: &Key, fence: Fence, causes: &dyn fmt::Display) {
    debug!(target: LEASE, event = "release_unanswered", %key, fence = fence.get(), causes = %Plain(causes), "a release is unanswered: it is repeated");
}

/// A release did not get through; the entry's ttl frees the key.
pub(crate) fn release_given_up(key: &Key) {
    debug!(target: LEASE, event = "release_given_up", %key, "a release was never acknowledged: the key becomes free when the ttl ends");
}

/// A server was reached and may hold locks.
#[cfg(feature = "redis")]
pub(crate) fn connected(node: &str, address: &dyn fmt::Display) {
    info!(target: NODE, event = "connected", node = %Plain(node), address = %Plain(address), "connected");
}

/// A connection broke.
#[cfg(feature = "redis")]
pub(crate) fn connection_lost(node: &str, address: &dyn fmt::Display, error: &NodeError) {
    warn!(target: NODE, event = "lost", node = %Plain(node), address = %Plain(address), error = %Plain(error), "connection lost");
}

/// A server cannot be reached; reported once in a row.
#[cfg(feature = "redis")]
pub(crate) fn unreachable(node: &str, address: &dyn fmt::Display, error: &NodeError) {
    warn!(target: NODE, event = "unreachable", node = %Plain(node), address = %Plain(address), error = %Plain(error), "cannot connect");
}

/// A server refuses the user, or must not hold locks; reported once in a row.
#[cfg(feature = "redis")]
pub(crate) fn unsuitable(node: &str, address: &dyn fmt::Display, error: &NodeError) {
    warn!(target: NODE, event = "unsuitable", node = %Plain(node), address = %Plain(address), error = %Plain(error), "the server cannot be used");
}

/// The same failure again.
#[cfg(feature = "redis")]
pub(crate) fn still_out(node: &str, address: &dyn fmt::Display, error: &NodeError) {
    debug!(target: NODE, event = "still_out", node = %Plain(node), address = %Plain(address), error = %Plain(error), "cannot connect yet");
}

/// An operator's assertion cannot be true.
#[cfg(feature = "redis")]
pub(crate) fn not_durable(address: &dyn fmt::Display, reason: &str) {
    warn!(target: NODE, event = "not_durable", address = %Plain(address), reason, "not durable: its data counts as lost");
}

/// A server's wall clock was stepped forward.
#[cfg(feature = "redis")]
pub(crate) fn clock_stepped(address: &dyn fmt::Display, step: Duration, bench: Duration) {
    warn!(target: NODE, event = "clock_stepped", address = %Plain(address), ?step, ?bench, "the server's wall clock was stepped forward: it receives no lock requests for a while");
}

/// A server's wall clock was stepped back: locks on it last longer.
#[cfg(feature = "redis")]
pub(crate) fn clock_stepped_back(address: &dyn fmt::Display, step: Duration) {
    warn!(target: NODE, event = "clock_stepped_back", address = %Plain(address), ?step, "the server's wall clock was stepped back: its locks last longer");
}

/// The server sends no invalidations to waiters; reported once.
#[cfg(feature = "redis")]
pub(crate) fn untracked(address: &dyn fmt::Display, error: &NodeError) {
    warn!(target: NODE, event = "untracked", address = %Plain(address), error = %Plain(error), "no client tracking: waiting callers poll");
}

/// The connection that carries invalidations to waiters broke.
#[cfg(feature = "redis")]
pub(crate) fn tracking_lost(address: &dyn fmt::Display, error: &NodeError) {
    debug!(target: NODE, event = "tracking_lost", address = %Plain(address), error = %Plain(error), "client tracking is interrupted");
}

/// The router gives a node the view.
pub(crate) fn behind(node: &str, view: ViewId) {
    debug!(target: NODE, event = "behind", node = %Plain(node), %view, "giving the view to a node that is behind");
}

/// A node lost its data and is excluded.
pub(crate) fn quarantined(node: &str) {
    warn!(target: NODE, event = "quarantined", node = %Plain(node), "the node lost its data: it is quarantined until every lock that was on it has expired");
}

/// Nodes are readmitted.
pub(crate) fn readmitted(view: ViewId) {
    info!(target: NODE, event = "readmitted", %view, "nodes that lost their data are readmitted");
}

/// Too few nodes can vote.
pub(crate) fn not_readmitted(voted: usize, needed: usize) {
    error!(target: NODE, event = "not_readmitted", voted, needed, "too few nodes kept their data to readmit any: see `ringlock force`");
}

/// A node serves an invalid view.
pub(crate) fn unreadable(node: &str, error: &dyn fmt::Display) {
    warn!(target: NODE, event = "unreadable", node = %Plain(node), error = %Plain(error), "unreadable view");
}

/// The router uses a new view.
pub(crate) fn moved(from: ViewId, to: ViewId, is_joint: bool) {
    info!(target: VIEW, event = "moved", %from, %to, joint = is_joint, "the cluster has a new view");
}

/// A first start waits.
pub(crate) fn first_start_waits(wait: Duration) {
    info!(target: VIEW, event = "first_start_waits", wait_ms = wait.as_millis() as u64, "first start: waiting until all earlier locks have expired");
}

/// A new cluster has its first view.
pub(crate) fn first_start(view: ViewId, adopted: usize, nodes: usize) {
    info!(target: VIEW, event = "first_start", %view, adopted, nodes, "first start");
}

/// A cluster that lost everything has no view yet.
pub(crate) fn first_start_failed(error: &Error) {
    error!(target: VIEW, event = "first_start_failed", error = %Plain(error), "first start failed");
}

/// Most nodes lost their data, and all answer.
pub(crate) fn majority_lost(view: ViewId) {
    error!(target: VIEW, event = "majority_lost", %view, "most nodes lost their data: the cluster is started again once all earlier locks have expired");
}

/// The configuration differs from the served topology.
pub(crate) fn mismatch(view: ViewId, differences: &str) {
    warn!(target: VIEW, event = "mismatch", %view, differences = %Plain(differences), "the cluster serves another topology than configured: the served one applies");
}

/// The cluster's first router had another prefix: each router keeps its prefix.
pub(crate) fn other_key_prefix(view: ViewId, served: &str, own: &str) {
    error!(target: VIEW, event = "other_key_prefix", %view, served = %Plain(served), own = %Plain(own), "routers of this cluster use another key_prefix: they and this router do not exclude each other");
}

/// A node belongs to another cluster.
pub(crate) fn foreign(view: ViewId) {
    warn!(target: VIEW, event = "foreign", %view, "a node of this cluster belongs to another cluster");
}

/// An operator abandons nodes.
pub(crate) fn forced(abandoned: &impl fmt::Debug) {
    warn!(target: VIEW, event = "forced", abandoned = %Plain(format_args!("{abandoned:?}")), "continuing without abandoned nodes");
}

/// The span of a call for these keys, if it is enabled. The details of a single
/// key are computed only then.
pub(crate) fn acquire(keys: usize, single: Option<(&Key, &dyn Fn() -> usize)>) -> Option<Span> {
    let span = || {
        let mode = single.map(|(_, replicas)| match replicas() {
            1 => "sharded",
            _ => "quorum",
        });
        tracing::debug_span!(
            target: ACQUIRE,
            "acquire",
            keys,
            key = single.map(|(key, _)| field::display(key)),
            mode,
            attempts = field::Empty,
            outcome = field::Empty,
            fence = field::Empty,
        )
    };
    enabled!(target: ACQUIRE, Level::DEBUG).then(span)
}

/// Executes `call` in its span, and records its result there.
pub(crate) async fn traced<T>(
    span: Span,
    call: impl Future<Output = Result<T, Error>>,
    fence: impl FnOnce(&T) -> Option<Fence>,
) -> Result<T, Error> {
    let mut ending = Ending {
        span: span.clone(),
        outcome: Outcome::Abandoned,
    };
    let result = call.instrument(span).await;
    ending.outcome = match &result {
        Ok(_) => Outcome::Granted,
        Err(error) => Outcome::of(error),
    };
    if let Some(fence) = result.as_ref().ok().and_then(fence) {
        ending.span.record("fence", fence.get());
    }
    result
}

/// Records in a call's span how the call ended, also if it was dropped.
struct Ending {
    span: Span,
    outcome: Outcome,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.span.record("outcome", self.outcome.word());
    }
}

/// Records in the call's span how many attempts it made.
pub(crate) fn attempts(made: u32) {
    if enabled!(target: ACQUIRE, Level::DEBUG) {
        Span::current().record("attempts", made);
    }
}

/// A text made safe for a log, whatever its origin: control characters, including
/// line ends, are escaped.
struct Plain<T>(T);

impl<T: fmt::Display> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With the source of the error.
        write!(Escaping(f), "{:#}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| match char.is_control() {
            true => char
                .escape_default()
                .try_for_each(|part| self.0.write_char(part)),
            false => self.0.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_text_can_forge_a_line() {
        let text = "ERR \u{1b}[2J\r\nfine schl\u{fc}ssel";
        assert_eq!(
            Plain(text).to_string(),
            "ERR \\u{1b}[2J\\r\\nfine schl\u{fc}ssel"
        );
    }

    #[test]
    fn the_guide_has_every_event_and_no_other() {
        let chapter = include_str!("../guide/observability.rs");
        let rows = chapter
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `ringlock::"));
        let reported: BTreeSet<String> = rows
            .map(|row| row.split('`').step_by(2).take(2).collect())
            .collect();
        let own = include_str!("events.rs")
            .split("#[cfg(test)]\nmod tests")
            .next();
        let own = own.unwrap_or_default();
        let mut made = BTreeSet::new();
        for event in own
            .split("target: ")
            .skip(1)
            .filter(|event| event.contains("event = \""))
        {
            let target = event.split(',').next().unwrap_or_default().to_lowercase();
            let name = event
                .split("event = \"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            made.insert(format!("{target}{}", name.unwrap_or_default()));
        }
        assert!(made.len() > 20, "{made:?}");
        assert_eq!(reported, made);
    }
}
