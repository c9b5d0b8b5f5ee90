//! The errors of the API, grouped by what the caller can do about them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::ConfigError;
use crate::config::source_text::append_source;
use crate::proto::lease::{Holder, Key, KeyError, TtlError};
use crate::proto::membership::topology::TopologyError;
use crate::proto::node::message::{NodeError, NodeErrorKind, ViewId};
use crate::proto::operation::machine::Refusal;

/// Why a call failed.
///
/// `{}` states what failed. Where another error is the cause, it is the
/// [`source`](std::error::Error::source), and its text is not repeated:
/// `anyhow`, `eyre` and other code that walks the chain show each text once. `{:#}`
/// writes both in one line. The causes of several nodes do not form a chain: the
/// text contains all of them.
///
/// An outage is never reported as [`Contended`](Self::Contended), nor as success.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another client holds the key. Wait, or give up.
    #[error("{key} is held by {}{}", Named(holder.as_ref()), For(*remaining, holder.as_ref()))]
    Contended {
        /// The key to lock.
        key: Key,
        /// Its holder, where that could be read.
        holder: Option<Holder>,
        /// Upper bound of how long the lock lasts unless it is extended; `None`: that
        /// is not known, or the lock never expires, which
        /// [`Holder::never_expires`] reports.
        remaining: Option<Duration>,
    },
    /// Too few nodes could grant it, for other reasons than a holder. A retry may
    /// help; the causes state what would.
    #[error("{key}: no quorum of {needed}: {}", Causes(causes))]
    NoQuorum {
        /// The key to lock.
        key: Key,
        /// Nodes that had granted it when it was clear that too few would.
        granted: usize,
        /// Nodes that must grant it.
        needed: usize,
        /// The answers of the other nodes.
        causes: Vec<NodeCause>,
    },
    /// No majority of the cluster confirms the view that this router knows, so
    /// that the nodes it reaches may be outdated.
    #[error(
        "{key}: fewer than {needed} nodes of the cluster confirm the view: {}",
        Causes(causes)
    )]
    Unconfirmed {
        /// The key to lock.
        key: Key,
        /// Nodes that must confirm the view.
        needed: usize,
        /// What is known of the other nodes.
        causes: Vec<NodeCause>,
    },
    /// The nodes granted it, but only after its validity had ended. The ttl is too
    /// short for this network, or the machine was suspended.
    #[error(
        "{key}: granted only after its validity ({ttl:?} less drift) had ended; use a longer ttl"
    )]
    TooSlow {
        /// The key to lock.
        key: Key,
        /// The requested ttl.
        ttl: Duration,
    },
    /// The maximum wait, or number of attempts, is used up.
    #[error(fmt = gave_up)]
    TimedOut {
        /// Attempts that were made; none where the whole time was spent in the queue
        /// behind other callers of this process.
        attempts: u32,
        /// Total time spent.
        waited: Duration,
        /// Error of the last attempt.
        #[source]
        last: Box<Error>,
    },
    /// The lease is over.
    #[error("the lease of {key} is lost: {reason}")]
    Lost {
        /// What was locked.
        key: Key,
        /// Why it is over.
        reason: Loss,
    },
    /// The nodes serve a view that this router does not know and cannot reach.
    #[error(
        "node {node} serves view {serving}, this router knows {known}; restart it with the cluster's current configuration"
    )]
    StaleView {
        /// A node that serves it.
        node: Arc<str>,
        /// The view that it serves.
        serving: ViewId,
        /// The view that this router knows.
        known: ViewId,
    },
    /// The nodes serve another topology than the configuration describes, and
    /// `router.on_mismatch` is set to refuse that.
    #[error(
        "the nodes serve another topology (view {serving}) than configured: {differences}; configure all routers alike"
    )]
    TopologyMismatch {
        /// The view that is served.
        serving: ViewId,
        /// All differences.
        differences: String,
    },
    /// The cluster has no view yet, or all nodes lost it, and it may not be given
    /// one.
    #[error("the cluster is not initialised: {detail}")]
    Uninitialised {
        /// The obstacle, and what to do.
        detail: String,
    },
    /// Some nodes cannot be reached, and the others serve no view: whether there
    /// is a cluster is not known. It passes when they answer.
    #[error("{}: {}", Reached(*answered), Causes(causes))]
    Unreachable {
        /// Nodes that answered; they serve no view.
        answered: usize,
        /// Why each of the other nodes does not answer.
        causes: Vec<NodeCause>,
    },
    /// No node serves a view, all answer, and this one refuses to be
    /// initialised.
    #[error(fmt = refuses_init)]
    InitRefused(#[source] NodeCause),
    /// Two names refer to one server, which would vote twice.
    #[error(
        "nodes {first} and {second} are one server (same run_id): give each node its own server"
    )]
    SameServer {
        /// One of the names.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// Two of the configured nodes belong to different clusters.
    #[error(
        "nodes {first} and {second} belong to different clusters: configure the nodes of one, or empty the server that is to join"
    )]
    TwoClusters {
        /// A node of one cluster.
        first: Arc<str>,
        /// A node of the other.
        second: Arc<str>,
    },
    /// A node that must not be used.
    #[error(fmt = unusable)]
    Node(#[source] NodeCause),
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key was named before in the same call, and a lock is not re-entrant.
    #[error("{key} is named twice in one call: a lock is not re-entrant")]
    Duplicate {
        /// What was named twice.
        key: Key,
    },
    /// A call for all of no keys: its lock would guard nothing.
    #[error("no keys are given: name at least one key")]
    NoKeys,
    /// More keys than one call takes.
    #[error("{given} keys are too many for one call: give at most {most} at a time")]
    TooManyKeys {
        /// Keys that were given.
        given: usize,
        /// Keys that one call takes.
        most: usize,
    },
    /// The ttl is invalid.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// `max_hold` would end the lease before it could be used.
    #[error("max_hold = {max_hold:?} ends a lease before it can be used: give at least 10ms")]
    MaxHold {
        /// The limit that was refused.
        max_hold: Duration,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The router was shut down, or the runtime that created it has ended or is
    /// stopped: its tasks run there. Create the router on a runtime that outlives
    /// its use.
    #[error(
        "the router is closed: it was shut down, or the runtime that created it has ended; create it on a runtime that outlives it"
    )]
    Closed,
    /// The router belongs to another process, which this one was forked from. Its
    /// leases and connections belong to that process too.
    #[error(
        "the router belongs to the process that this one was forked from: create one after the fork"
    )]
    Forked,
}

impl From<TopologyError> for Error {
    fn from(error: TopologyError) -> Self {
        Self::Config(error.into())
    }
}

impl Error {
    /// Whether another client's lock was the cause: the system works, the key is
    /// taken.
    pub fn is_contention(&self) -> bool {
        match self {
            Self::Contended { .. } => true,
            Self::TimedOut { last, .. } => last.is_contention(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later without manual intervention.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Contended { .. }
            | Self::NoQuorum { .. }
            | Self::Unconfirmed { .. }
            | Self::TooSlow { .. }
            | Self::Unreachable { .. } => true,
            Self::InitRefused(cause) => cause.may_pass(),
            Self::TimedOut { last, .. } => last.is_transient(),
            _ => false,
        }
    }
}

fn gave_up(
    attempts: &u32,
    waited: &Duration,
    last: &Error,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "gave up after {}", Effort(*attempts, *waited))?;
    append_source(f, last)
}

fn refuses_init(node: &NodeCause, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "the cluster is not initialised: node {} refuses it",
        node.node
    )?;
    append_source(f, node)
}

fn unusable(node: &NodeCause, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "node {} cannot be used", node.node)?;
    append_source(f, node)
}

/// One node's answer, or why it gave none. As text and as an error it is the cause
/// alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCause {
    /// Name of the node.
    pub node: Arc<str>,
    /// Its answer or failure.
    pub cause: Cause,
}

impl NodeCause {
    /// Whether it may pass without manual intervention.
    fn may_pass(&self) -> bool {
        let Cause::Failed(error) = &self.cause else {
            return true;
        };
        !matches!(
            error.kind(),
            NodeErrorKind::Denied | NodeErrorKind::Unsuitable | NodeErrorKind::WrongType
        )
    }
}

impl fmt::Display for NodeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for NodeCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            // The cause is displayed as that error itself.
            Cause::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// Why a node did not grant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Another holder has the key there.
    Held(Option<Holder>),
    /// It no longer has the lease, and no other client has the key there.
    Gone,
    /// It serves another view.
    OtherView(ViewId),
    /// It serves no view: it is new, or lost its data.
    NoView,
    /// It lost its data, and grants nothing until the locks that were on it have
    /// expired; then it returns by itself.
    Quarantined {
        /// How long that takes; zero where the vote is due.
        remaining: Duration,
    },
    /// It lost its data, and cannot be readmitted by a vote.
    KeptOut(KeptOut),
    /// It gave no answer.
    Failed(NodeError),
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy(rival) => Self::Held(rival.and_then(|rival| rival.holder)),
            Refusal::Gone => Self::Gone,
            Refusal::Stale(Some(view)) => Self::OtherView(view),
            Refusal::Stale(None) => Self::NoView,
            Refusal::Failed(error) => Self::Failed(error),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(holder) => write!(f, "held by {}", Named(holder.as_ref())),
            Self::Gone => f.write_str(
                "no longer has its entry: it was released by force or deleted by hand, or the server's clock was stepped",
            ),
            Self::OtherView(view) => write!(f, "serves view {view}"),
            Self::NoView => f.write_str(
                "serves no view: it lost its data, or is new; `ringlock status` shows what it waits for",
            ),
            Self::Quarantined { remaining } if remaining.is_zero() => {
                f.write_str("lost its data and is about to be readmitted")
            }
            Self::KeptOut(why) => why.fmt(f),
            Self::Quarantined { remaining } => write!(
                f,
                "lost its data and is readmitted in {:?}",
                whole_millis(*remaining)
            ),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Why no vote readmits a node that lost its data, and what does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptOut {
    /// Too few of the nodes that kept their data answer; when they do, it is
    /// readmitted.
    TooFewAnswer,
    /// Most nodes lost their data. The cluster is started again, unattended.
    StartsAnew {
        /// How long that takes if nothing interferes, where it is known.
        remaining: Option<Duration>,
    },
    /// Most nodes lost their data. The cluster is started again, unattended,
    /// when these nodes answer too.
    Awaits {
        /// Their names.
        nodes: Vec<String>,
    },
    /// Most nodes lost their data, and only an operator can decide what to do.
    NeedsForce {
        /// The reason.
        reason: String,
    },
}

impl fmt::Display for KeptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewAnswer => f.write_str(
                "lost its data, and is readmitted when most nodes of the cluster answer",
            ),
            Self::StartsAnew { remaining: None } => {
                f.write_str("most nodes lost their data: the cluster is about to be started again")
            }
            Self::StartsAnew {
                remaining: Some(span),
            } => write!(
                f,
                "most nodes lost their data: the cluster is started again in {:?}",
                whole_millis(*span)
            ),
            Self::Awaits { nodes } => write!(
                f,
                "most nodes lost their data: the cluster is started again when {} can be reached too; if that never happens, see `ringlock force`",
                nodes.join(", ")
            ),
            Self::NeedsForce { reason } => write!(
                f,
                "most nodes lost their data and {reason}: only an operator can continue, with `ringlock force`"
            ),
        }
    }
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loss {
    /// Its validity ran out before it was extended.
    Expired,
    /// Another holder has the key.
    TakenOver,
    /// Its entries are gone from so many nodes that others may have held the
    /// key: they were released by force or deleted by hand, or a server's clock
    /// was stepped.
    Gone,
    /// It was held for `max_hold`.
    MaxHold,
    /// It was released.
    Released,
    /// It is the lease of the process that this one was forked from.
    Forked,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its validity ran out before it was extended",
            Self::TakenOver => "another holder has the key",
            Self::Gone => {
                "its entries are gone: released by force, deleted by hand, or a server's clock was stepped"
            }
            Self::MaxHold => "it was held for max_hold",
            Self::Released => "it was released",
            Self::Forked => "it belongs to the process that this one was forked from",
        })
    }
}

struct Named<'a>(Option<&'a Holder>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(holder) => holder.fmt(f),
            None => f.write_str("another holder"),
        }
    }
}

struct For<'a>(Option<Duration>, Option<&'a Holder>);

impl fmt::Display for For<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_some_and(Holder::never_expires) {
            return f.write_str(
                " forever: the entry has no expiry; delete it by hand with `ringlock release KEY --force`",
            );
        }
        self.0.map_or(Ok(()), |span| {
            write!(f, " for up to {:?}", whole_millis(span))
        })
    }
}

/// The number of nodes that answered in a search for the cluster.
struct Reached(usize);

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no node of the cluster can be reached",
            _ => {
                "no node that answers serves a view, and some cannot be reached; a first start needs all of them"
            }
        })
    }
}

/// The work of a call before it gave up.
struct Effort(u32, Duration);

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waited = whole_millis(self.1);
        match self.0 {
            0 => write!(
                f,
                "{waited:?} in the queue behind other callers of this process"
            ),
            1 => write!(f, "1 attempt in {waited:?}"),
            attempts => write!(f, "{attempts} attempts in {waited:?}"),
        }
    }
}

/// A span in whole milliseconds, for display.
pub(crate) fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) struct Causes<'a>(pub(crate) &'a [NodeCause]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no node has answered yet");
        }
        for (index, NodeCause { node, cause }) in self.0.iter().enumerate() {
            write!(f, "{}{node}: {cause}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use super::*;
    use crate::lease::scoped::WithError;
    use crate::proto::node::message::NodeErrorKind;
    use crate::rebalancer::RebalanceError;

    const VIEW: ViewId = ViewId {
        epoch: 1,
        digest: 7,
    };

    /// One of each variant, and whether it has a source. A missing variant does not
    /// compile.
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn all() -> Vec<(Error, bool)> {
        let key = || Key::new("k").unwrap();
        let node = || NodeCause {
            node: "a".into(),
            cause: Cause::Failed(NodeError::new(NodeErrorKind::Denied, "wrong password")),
        };
        let contended = || Error::Contended {
            key: key(),
            holder: None,
            remaining: None,
        };
        let timed_out = Error::TimedOut {
            attempts: 3,
            waited: Duration::from_secs(2),
            last: Box::new(contended()),
        };
        let ttl = || crate::proto::lease::Ttl::new(Duration::ZERO, Duration::MAX).unwrap_err();
        let file = crate::config::Config::load("/nowhere/ringlock.toml").unwrap_err();
        let errors = vec![
            (contended(), false),
            (
                Error::NoQuorum {
                    key: key(),
                    granted: 0,
                    needed: 1,
                    causes: vec![node()],
                },
                false,
            ),
            (
                Error::Unconfirmed {
                    key: key(),
                    needed: 1,
                    causes: vec![node()],
                },
                false,
            ),
            (
                Error::TooSlow {
                    key: key(),
                    ttl: Duration::from_secs(1),
                },
                false,
            ),
            (timed_out, true),
            (
                Error::Lost {
                    key: key(),
                    reason: Loss::Gone,
                },
                false,
            ),
            (
                Error::StaleView {
                    node: "a".into(),
                    serving: VIEW,
                    known: VIEW,
                },
                false,
            ),
            (
                Error::TopologyMismatch {
                    serving: VIEW,
                    differences: "weight".into(),
                },
                false,
            ),
            (
                Error::Uninitialised {
                    detail: "silent".into(),
                },
                false,
            ),
            (
                Error::Unreachable {
                    answered: 0,
                    causes: vec![node()],
                },
                false,
            ),
            (Error::InitRefused(node()), true),
            (
                Error::MaxHold {
                    max_hold: Duration::ZERO,
                },
                false,
            ),
            (
                Error::SameServer {
                    first: "a".into(),
                    second: "b".into(),
                },
                false,
            ),
            (
                Error::TwoClusters {
                    first: "a".into(),
                    second: "b".into(),
                },
                false,
            ),
            (Error::Node(node()), true),
            (Error::Key(Key::new("").unwrap_err()), false),
            (Error::Duplicate { key: key() }, false),
            (Error::NoKeys, false),
            (Error::TooManyKeys { given: 2, most: 1 }, false),
            (Error::Ttl(ttl()), false),
            (Error::Config(ConfigError::Ttl(ttl())), true),
            (Error::Config(file), true),
            (Error::Closed, false),
            (Error::Forked, false),
        ];
        for (error, _) in &errors {
            match error {
                Error::Contended { .. }
                | Error::NoQuorum { .. }
                | Error::Unconfirmed { .. }
                | Error::TooSlow { .. }
                | Error::TimedOut { .. }
                | Error::Lost { .. }
                | Error::StaleView { .. }
                | Error::TopologyMismatch { .. }
                | Error::Uninitialised { .. }
                | Error::Unreachable { .. }
                | Error::InitRefused(_)
                | Error::MaxHold { .. }
                | Error::SameServer { .. }
                | Error::TwoClusters { .. }
                | Error::Node(_)
                | Error::Key(_)
                | Error::Duplicate { .. }
                | Error::NoKeys
                | Error::TooManyKeys { .. }
                | Error::Ttl(_)
                | Error::Config(_)
                | Error::Closed
                | Error::Forked => {}
            }
        }
        errors
    }

    /// Each text of a chain appears once, and all of them in one line with `{:#}`.
    fn check(error: &dyn std::error::Error, has_source: bool) {
        assert_eq!(error.source().is_some(), has_source, "{error:?}");
        let whole = format!("{error:#}");
        let mut link: &dyn std::error::Error = error;
        assert!(whole.starts_with(&link.to_string()), "{whole}");
        while let Some(source) = link.source() {
            let text = source.to_string();
            assert!(!link.to_string().contains(&text), "{link} repeats {text}");
            assert!(whole.contains(&text), "{whole} lacks {text}");
            link = source;
        }
        if !has_source {
            assert_eq!(whole, error.to_string());
        }
    }

    #[test]
    fn every_cause_is_a_source_and_reported_once() {
        let mut checked = 0;
        for (error, has_source) in all() {
            check(&error, has_source);
            let cluster = RebalanceError::Cluster(error.clone());
            check(&cluster, has_source);
            check(&WithError::<()>::NotRun(error), has_source);
            checked += 1;
        }
        assert!(checked > 20);
        let lost = WithError::Lost {
            output: (),
            key: Key::new("k").unwrap(),
            reason: Loss::Expired,
        };
        check(&lost, false);
        let file = crate::config::Config::load("/nowhere/ringlock.toml").unwrap_err();
        let ConfigError::File { error, .. } = &file else {
            unreachable!("{file}");
        };
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn what_timed_out_reports_why_when_asked_for_all() {
        let timed_out = all()
            .into_iter()
            .find(|(error, _)| matches!(error, Error::TimedOut { .. }));
        let (error, _) = timed_out.unwrap();
        assert_eq!(error.to_string(), "gave up after 3 attempts in 2s");
        let whole = "gave up after 3 attempts in 2s: k is held by another holder";
        assert_eq!(format!("{error:#}"), whole);
    }
}
