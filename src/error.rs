//! What can go wrong, told by what the caller can do about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::lease::{Holder, Key, KeyError, TtlError};
use crate::proto::round::Refusal;
use crate::proto::topology::TopologyError;
use crate::proto::wire::{NodeError, ViewId};

use crate::config::ConfigError;

/// Why a call failed.
///
/// An outage is never told as [`Contended`](Self::Contended), nor as success.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else holds the key. Wait, or give up.
    #[error("{key} is held by {}{}", Named(holder.as_ref()), For(*remaining, holder.as_ref()))]
    Contended {
        /// What was to be locked.
        key: Key,
        /// Who holds it, where that could be read.
        holder: Option<Holder>,
        /// At most how long the lock lasts unless it is extended; `None`: that
        /// is not known, or it never ends by itself, which
        /// [`Holder::never_expires`] tells.
        remaining: Option<Duration>,
    },
    /// Too few nodes could grant it, for other reasons than a holder. Trying
    /// again may help; the causes say what would.
    #[error("{key}: no quorum of {needed}: {}", Causes(causes))]
    NoQuorum {
        /// What was to be locked.
        key: Key,
        /// Nodes that had granted it when it was clear that too few would.
        granted: usize,
        /// Nodes that must.
        needed: usize,
        /// What the others said.
        causes: Vec<NodeCause>,
    },
    /// No majority of the cluster confirms the view that this router knows, so
    /// that the nodes it reaches may be outdated.
    #[error(
        "{key}: fewer than {needed} nodes of the cluster confirm the view: {}",
        Causes(causes)
    )]
    Unconfirmed {
        /// What was to be locked.
        key: Key,
        /// Nodes that must confirm.
        needed: usize,
        /// What is known of the others.
        causes: Vec<NodeCause>,
    },
    /// The nodes granted it, but later than it would have been valid. The ttl
    /// is too short for this network, or the machine stood still.
    #[error("{key}: granted only after its validity of {ttl:?} less drift; use a longer ttl")]
    TooSlow {
        /// What was to be locked.
        key: Key,
        /// The ttl that was asked for.
        ttl: Duration,
    },
    /// The wait, or the number of attempts, is used up.
    #[error("gave up after {attempts} attempts in {:?}: {last}", whole_millis(*waited))]
    TimedOut {
        /// Attempts that were made.
        attempts: u32,
        /// How long they took.
        waited: Duration,
        /// How the last one failed.
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
        "node {node} serves view {serving}, this router knows {known}; restart it with the cluster's present configuration"
    )]
    StaleView {
        /// A node that serves it.
        node: Arc<str>,
        /// What it serves.
        serving: ViewId,
        /// What this router knows.
        known: ViewId,
    },
    /// The nodes run another topology than the configuration describes, and
    /// `router.on_mismatch` is to refuse that.
    #[error(
        "the nodes serve another topology (view {serving}) than configured: {differences}; all routers must be configured alike"
    )]
    TopologyMismatch {
        /// The view that is served.
        serving: ViewId,
        /// All that differs.
        differences: String,
    },
    /// The cluster has no view yet, or all nodes lost it, and may not be given
    /// one.
    #[error("the cluster is not initialised: {detail}")]
    Uninitialised {
        /// What stands in the way, and what to do.
        detail: String,
    },
    /// Two names lead to one server, which would vote twice.
    #[error(
        "nodes {first} and {second} are one server (same run_id): give each node a server of its own"
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
        /// A node of the one.
        first: Arc<str>,
        /// A node of the other.
        second: Arc<str>,
    },
    /// A node is one that must not be used.
    #[error("node {}: {}", .0.node, .0.cause)]
    Node(NodeCause),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key was named before in the same call, and a lock is not re-entrant.
    #[error("{key} is named twice in one call: a lock is not re-entrant")]
    Duplicate {
        /// What was named twice.
        key: Key,
    },
    /// All of no keys: a lock that would guard nothing.
    #[error("no keys are given: name at least one thing to lock")]
    NoKeys,
    /// More keys than one call takes.
    #[error("{given} keys are too many for one call: give at most {most} at a time")]
    TooManyKeys {
        /// Keys that were given.
        given: usize,
        /// Keys that one call takes.
        most: usize,
    },
    /// The ttl is none.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The router has shut down.
    #[error("the router has shut down")]
    Closed,
}

impl From<TopologyError> for Error {
    fn from(error: TopologyError) -> Self {
        Self::Config(error.into())
    }
}

impl Error {
    /// Whether somebody else's lock stood in the way: the system works, the
    /// key is taken.
    pub fn is_contention(&self) -> bool {
        match self {
            Self::Contended { .. } => true,
            Self::TimedOut { last, .. } => last.is_contention(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later with nothing changed by hand.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Contended { .. }
            | Self::NoQuorum { .. }
            | Self::Unconfirmed { .. }
            | Self::TooSlow { .. } => true,
            Self::TimedOut { last, .. } => last.is_transient(),
            _ => false,
        }
    }
}

/// What one node said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCause {
    /// Name of the node.
    pub node: Arc<str>,
    /// What it said.
    pub cause: Cause,
}

/// Why a node did not grant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Another holder.
    Held(Option<Holder>),
    /// It serves another view.
    OtherView(ViewId),
    /// It serves none: it is new, or lost its data.
    NoView,
    /// It lost its data, and grants nothing before what was locked on it has
    /// run out; then it comes back by itself.
    Quarantined {
        /// How long that takes.
        remaining: Duration,
    },
    /// It gave no answer.
    Failed(NodeError),
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy(rival) => Self::Held(rival.and_then(|rival| rival.holder)),
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
            Self::OtherView(view) => write!(f, "serves view {view}"),
            Self::NoView => f.write_str(
                "serves no view: it lost its data, or is new, and is let in again unattended",
            ),
            Self::Quarantined { remaining } => write!(
                f,
                "lost its data and is let in again in {:?}",
                whole_millis(*remaining)
            ),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// Its validity ran out before it was extended.
    Expired,
    /// Others hold the key on so many nodes that it cannot be extended.
    TakenOver,
    /// It was held for `max_hold`.
    MaxHold,
    /// It was released.
    Released,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its validity ran out before it was extended",
            Self::TakenOver => "another holder has the key",
            Self::MaxHold => "it was held for max_hold",
            Self::Released => "it was released",
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
                " for ever: the entry has no expiry, and stays until it is deleted by hand, with ringlock release KEY --force",
            );
        }
        self.0.map_or(Ok(()), |span| {
            write!(f, " for up to {:?}", whole_millis(span))
        })
    }
}

/// A span as people read it.
fn whole_millis(span: Duration) -> Duration {
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
