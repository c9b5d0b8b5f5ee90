//! The requests to a node and its replies, as data.
//!
//! Every request is one atomic step at the node. Its effect is defined once, in
//! [`LockTable::apply`](crate::node::lock_table::LockTable::apply).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::hex;
use crate::lease::{Holder, Key, Token, Ttl};

/// Names one view: its epoch and a digest of its canonical document.
///
/// Packed to words: requests and answers, which are moved often, would otherwise be
/// aligned to the 16 bytes of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct ViewId {
    /// Number of the view; below [`EPOCH_LIMIT`](crate::lease::EPOCH_LIMIT).
    pub epoch: u32,
    /// XXH3-128 of the canonical document.
    pub digest: u128,
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, digest } = *self;
        write!(f, "{epoch}:{digest:032x}")
    }
}

/// The text is not a view id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a view id of the form epoch:digest")]
pub struct ViewIdError;

impl FromStr for ViewId {
    type Err = ViewIdError;

    fn from_str(text: &str) -> Result<Self, ViewIdError> {
        let (epoch, digest) = text.split_once(':').ok_or(ViewIdError)?;
        let id = Self {
            epoch: epoch.parse().map_err(|_| ViewIdError)?,
            digest: u128::from_str_radix(digest, 16).map_err(|_| ViewIdError)?,
        };
        // Exactly one spelling is valid: servers compare ids as text.
        id.is(text.as_bytes()).then_some(id).ok_or(ViewIdError)
    }
}

impl ViewId {
    /// Whether `text` is this id as it is displayed.
    pub fn is(self, text: &[u8]) -> bool {
        let Some((head, digest)) = text.split_last_chunk() else {
            return false;
        };
        let Some((b':', epoch)) = head.split_last() else {
            return false;
        };
        *digest == hex::digits(self.digest) && is_decimal(self.epoch, epoch)
    }
}

/// As it is displayed.
impl Serialize for ViewId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether `text` is `number` in decimal digits.
fn is_decimal(number: u32, text: &[u8]) -> bool {
    let mut rest = number;
    let are_digits = text.iter().rev().all(|&digit| {
        let is_next = u32::from(digit) == u32::from(b'0') + rest % 10;
        rest /= 10;
        is_next
    });
    let has_leading_zero = text.len() > 1 && text[0] == b'0';
    are_digits && rest == 0 && !text.is_empty() && !has_leading_zero
}

/// Number of one attempt to decide the next view; the higher ballot wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Above every round that the proposer knows of.
    pub round: u32,
    /// Random: no two proposers share a ballot.
    pub proposer: u64,
}

impl fmt::Display for Ballot {
    /// Of fixed width, since servers compare ballots as text. Digits only, since
    /// every collation sorts those alike: a server may inherit a Danish collation
    /// from its environment, and there aa sorts after z.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}.{:020}", self.round, self.proposer)
    }
}

/// The text is not a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a ballot of the form round.proposer")]
pub struct BallotError;

impl FromStr for Ballot {
    type Err = BallotError;

    fn from_str(text: &str) -> Result<Self, BallotError> {
        let (round, proposer) = text.split_once('.').ok_or(BallotError)?;
        let ballot = Self {
            round: round.parse().map_err(|_| BallotError)?,
            proposer: proposer.parse().map_err(|_| BallotError)?,
        };
        (ballot.to_string() == text)
            .then_some(ballot)
            .ok_or(BallotError)
    }
}

/// A view that a node accepted as the next one. It may or may not be decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accepted {
    /// The ballot under which the node accepted it.
    pub ballot: Ballot,
    /// The view.
    pub view: ViewId,
    /// Its canonical document.
    pub document: Arc<str>,
}

/// Which of a node's fence counters serves a key.
///
/// Keys of one slot share a replica set, so that the counters of its members
/// stay in step and a quorum agrees on a fence without a second round. Keys with
/// a single owner do not need this: they all share [`FenceCounterId::SINGLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceCounterId {
    /// Replicas of the slot's keys; in a joint view the old number in the high
    /// half, the new one in the low.
    pub replicas: u8,
    /// Arc of the ring that the keys lie on.
    pub arc: u32,
    /// Part of that arc.
    pub part: u16,
}

impl FenceCounterId {
    /// The slot of every key with a single owner.
    pub const SINGLE: Self = Self {
        replicas: 1,
        arc: 0,
        part: 0,
    };
}

impl fmt::Display for FenceCounterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.replicas, self.arc, self.part)
    }
}

/// What an EXTEND does where the key is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IfMissing {
    /// Create the entry again: a replica that missed it is healed.
    Recreate,
    /// Reply that it is lost: nothing yet proves that no other client held the
    /// key in the interval.
    Report,
}

/// Random mark of a node's stay in the cluster: drawn again whenever the node
/// may have lost its data, and listed in the view that admits it.
pub type Nonce = Arc<str>;

/// Mark of a server's data set: its `run_id` and `master_replid`, and how many
/// keys it has evicted, if any. Another incarnation may have lost entries.
pub type Incarnation = Arc<str>;

/// One atomic step at one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Take `key` if it is free, under exactly this view.
    Acquire {
        /// The view by which the client chose this node.
        view: ViewId,
        /// What to lock.
        key: Key,
        /// Proof of the holder.
        token: Token,
        /// Life of the entry.
        ttl: Ttl,
        /// Counter that serves the key.
        slot: FenceCounterId,
        /// Least counter to answer.
        floor: u64,
    },
    /// Extend the life of an entry of `token`, never shorten it.
    Extend {
        /// The view by which the client chose this node.
        view: ViewId,
        /// What is locked.
        key: Key,
        /// Proof of the holder.
        token: Token,
        /// Least life left of the entry afterwards.
        ttl: Ttl,
        /// Counter that serves the key.
        slot: FenceCounterId,
        /// Least counter afterwards; with [`IfMissing::Report`] the fence write-back.
        floor: u64,
        /// What to do where the key is free.
        if_missing: IfMissing,
    },
    /// Delete `key` if `token` holds it, whatever view is served.
    Release {
        /// What is locked.
        key: Key,
        /// Proof of the holder.
        token: Token,
    },
    /// Report the node's status and the view that it serves.
    Status,
    /// Return the document of the view that the node serves.
    Document,
    /// Return what the node remembers from before it was quarantined.
    PriorState,
    /// Stop serving and take a new nonce, if nonce and view are as expected.
    Quarantine {
        /// The nonce that must be there now; `None`: no state at all.
        expected_nonce: Option<Nonce>,
        /// The view that must be served now; `None`: none.
        expected_view: Option<ViewId>,
        /// The nonce to take.
        nonce: Nonce,
    },
    /// Promise to accept no view under a lower ballot as the one that follows
    /// `view`, if the node serves `view` (phase 1 of Paxos, “Paxos Made Simple”, 2001).
    Prepare {
        /// The view that must be served.
        view: ViewId,
        /// The ballot to promise.
        ballot: Ballot,
    },
    /// Accept a view as the one that follows `view`, unless a higher ballot was
    /// promised (phase 2 of Paxos).
    Accept {
        /// The view that must be served.
        view: ViewId,
        /// The ballot that it is proposed under.
        ballot: Ballot,
        /// The view to accept.
        next: ViewId,
        /// Its canonical document.
        document: Arc<str>,
    },
    /// Serve a decided view, if the node is still under this nonce.
    Adopt {
        /// The view to serve.
        view: ViewId,
        /// Its canonical document.
        document: Arc<str>,
        /// The nonce that the document lists for this node.
        nonce: Nonce,
    },
    /// Carry the state over to the server's new incarnation: the operator
    /// vouches that the node keeps its data through a restart.
    Restamp {
        /// The incarnation that is stamped now.
        expected: Incarnation,
    },
}

impl Request {
    /// The lock key of the request, if it has one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Acquire { key, .. } | Self::Extend { key, .. } | Self::Release { key, .. } => {
                Some(key)
            }
            _ => None,
        }
    }
}

/// Another holder of the key, and how long its entry lasts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CurrentHolder {
    /// Holder of the key, if the node reported it.
    pub holder: Option<Holder>,
    /// Remaining life of the entry; `None` where it never expires (no client of
    /// this crate creates such an entry; [`Holder::never_expires`] reports it) or
    /// the node did not report it.
    pub remaining: Option<Duration>,
}

impl CurrentHolder {
    /// A holder whose entry lasts for `remaining`; `None`: it never expires.
    pub fn new(holder: Holder, remaining: Option<Duration>) -> Self {
        let holder = match remaining {
            Some(_) => holder,
            None => holder.for_ever(),
        };
        Self {
            holder: Some(holder),
            remaining,
        }
    }
}

/// A node's reply to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// ACQUIRE: granted, with this count.
    Granted {
        /// The counter that this grant took.
        counter: u64,
    },
    /// ACQUIRE: held by another client.
    Busy(CurrentHolder),
    /// EXTEND: the token still holds the entry.
    Kept {
        /// The slot's counter now.
        counter: u64,
    },
    /// EXTEND: the entry was gone and is created again.
    Made {
        /// The slot's counter now.
        counter: u64,
    },
    /// EXTEND: gone, or held by another client.
    Lost(Option<CurrentHolder>),
    /// RELEASE: deleted.
    Released,
    /// RELEASE: there was no entry.
    Missing,
    /// RELEASE: held by another client, and left unchanged.
    Foreign,
    /// The node serves another view, or none; nothing was done.
    Stale(Option<ViewId>),
    /// STATUS.
    Status(Box<NodeStatus>),
    /// DOCUMENT; `None` where no view is served.
    Document(Option<Arc<str>>),
    /// PAST.
    PriorState(PriorState),
    /// PREPARE: promised; with the view that the node accepted before, if any.
    Promised(Option<Box<Accepted>>),
    /// PREPARE, ACCEPT: this higher ballot was promised to another proposer.
    Preempted(Ballot),
    /// QUARANTINE, ACCEPT, ADOPT, RESTAMP: done, or already the case.
    Done,
    /// QUARANTINE, PREPARE, ACCEPT, ADOPT, RESTAMP: the state is not as expected;
    /// nothing was done.
    Refused(Box<NodeStatus>),
}

/// State of a node, and the view that it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeStatus {
    /// The view that it serves.
    pub serving: Option<ViewId>,
    /// Its nonce; `None`: it has no state at all.
    pub nonce: Option<Nonce>,
    /// The incarnation that the state was stamped with.
    pub stamped: Option<Incarnation>,
    /// The node's current incarnation.
    pub incarnation: Incarnation,
}

/// What a node remembers from before it was quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PriorState {
    /// The highest epoch that it has served; 0 where it remembers none.
    pub epoch: u32,
    /// How long it has been quarantined, by its own clock and across all nonces:
    /// it has granted nothing since. `None` where it is not quarantined, or does
    /// not remember the start.
    pub quarantined_for: Option<Duration>,
}

/// A node's stage in its life cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// No state, or that of another incarnation: its entries may be lost.
    Absent,
    /// Marked with a nonce, waiting to be admitted.
    Quarantined,
    /// Serving a view.
    Serving(ViewId),
}

impl NodeStatus {
    /// The view that it serves with intact data.
    pub fn served(&self) -> Option<ViewId> {
        match self.standing() {
            NodeState::Serving(view) => Some(view),
            NodeState::Absent | NodeState::Quarantined => None,
        }
    }

    /// The node's stage.
    pub fn standing(&self) -> NodeState {
        match (&self.nonce, self.serving) {
            (Some(_), _) if self.stamped.as_ref() != Some(&self.incarnation) => NodeState::Absent,
            (Some(_), Some(view)) => NodeState::Serving(view),
            (Some(_), None) => NodeState::Quarantined,
            (None, _) => NodeState::Absent,
        }
    }
}

/// The kind of failure of a node; decides what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NodeErrorKind {
    /// No connection, or it broke before the answer.
    Unreachable,
    /// No answer within the node timeout.
    Timeout,
    /// The node accepts no further requests: too many are queued for it, or its
    /// server is out of memory or at its client limit.
    Overloaded,
    /// The server answers, but serves nothing at the moment: it loads its data, a
    /// slow script occupies it, too few of its replicas are connected, or it
    /// cannot persist. This can pass without a change to the router.
    NotReady,
    /// The server refused the credentials or a command.
    Denied,
    /// The server must not hold locks: it is a replica, evicts keys, is a cluster
    /// member, or is too old.
    Unsuitable,
    /// The server may have lost entries since it was admitted, on a connection
    /// that stayed open: it was a replica for a time, or evicted keys. It is
    /// admitted again after `max_ttl`; no action is needed.
    LostData,
    /// The server's wall clock was stepped forward, so that locks may have ended
    /// early: for a while it is not asked for any.
    ClockStepped,
    /// The key holds a value that is not a lock.
    WrongType,
    /// The server sent a reply that the protocol does not allow.
    Protocol,
    /// The router has shut down.
    Closed,
}

/// Why a node gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeError {
    kind: NodeErrorKind,
    message: Arc<str>,
    is_unsent: bool,
}

impl NodeErrorKind {
    /// Its place among the values of the metric of node errors.
    pub fn metric_index(self) -> usize {
        match self {
            Self::Unreachable => 0,
            Self::Timeout => 1,
            Self::Overloaded => 2,
            Self::Denied => 3,
            Self::Unsuitable => 4,
            Self::LostData => 5,
            Self::WrongType => 6,
            Self::Protocol => 7,
            Self::Closed => 8,
            Self::ClockStepped => 9,
            Self::NotReady => 10,
        }
    }

    /// Whether it may pass without manual intervention.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable
            | Self::Timeout
            | Self::Overloaded
            | Self::NotReady
            | Self::LostData
            | Self::ClockStepped => true,
            Self::Denied | Self::Unsuitable | Self::WrongType | Self::Protocol | Self::Closed => {
                false
            }
        }
    }
}

impl NodeError {
    /// An error of this kind; `message` states what happened and what to do.
    pub fn new(kind: NodeErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            is_unsent: false,
        }
    }

    /// The same error for a request that was never sent and so has no effect.
    #[must_use]
    pub fn unsent(self) -> Self {
        Self {
            is_unsent: true,
            ..self
        }
    }

    /// Whether the request was never sent, so that there is nothing to undo.
    pub fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// The server at the node's address is another member of the cluster.
    pub fn another_member() -> Self {
        Self::new(
            NodeErrorKind::Unsuitable,
            "another node of the cluster answers at this node's address: correct the node's url, or the proxy that leads there",
        )
    }

    /// The kind of failure.
    pub fn kind(&self) -> NodeErrorKind {
        self.kind
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

/// A node's answer, or why there is none.
pub type Answer = Result<Reply, NodeError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_id_has_one_spelling() {
        let id = ViewId {
            epoch: 7,
            digest: 0xf00d,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "7",
            "7:f00d",
            "+7:0000000000000000000000000000f00d",
            "x:1",
        ] {
            assert_eq!(text.parse::<ViewId>(), Err(ViewIdError), "{text}");
        }
    }

    #[test]
    fn ballots_are_ordered_as_their_texts_are() {
        let ballots = [(0, 0), (0, u64::MAX), (9, 0xaa), (9, 0xff), (10, 1)];
        let mut ballots = ballots.map(|(round, proposer)| Ballot { round, proposer });
        ballots.sort();
        let texts = ballots.map(|ballot| ballot.to_string());
        assert!(texts.is_sorted(), "{texts:?}");
        for (ballot, text) in ballots.iter().zip(&texts) {
            assert!(text.chars().all(|c| c == '.' || c.is_ascii_digit()));
            assert_eq!(text.len(), texts[0].len());
            assert_eq!(text.parse(), Ok(*ballot));
        }
    }

    #[test]
    fn a_ballot_has_one_spelling() {
        for text in [
            "",
            "1.1",
            "0000000001",
            "+000000001.00000000000000000001",
            "0000000001.0000000000000000000a",
            "4294967296.00000000000000000000",
            "0000000001.00000000000000000001.",
        ] {
            assert_eq!(text.parse::<Ballot>(), Err(BallotError), "{text}");
        }
    }

    #[test]
    fn another_incarnation_is_absent() {
        let mut status = NodeStatus {
            serving: Some(ViewId {
                epoch: 1,
                digest: 1,
            }),
            nonce: Some("n".into()),
            stamped: Some("run-1".into()),
            incarnation: "run-1".into(),
        };
        assert!(matches!(status.standing(), NodeState::Serving(_)));
        status.incarnation = "run-2".into();
        assert_eq!(status.standing(), NodeState::Absent);
        status.stamped = Some("run-2".into());
        status.serving = None;
        assert_eq!(status.standing(), NodeState::Quarantined);
        assert_eq!(NodeStatus::default().standing(), NodeState::Absent);
    }
}
