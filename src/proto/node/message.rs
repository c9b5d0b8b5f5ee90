//! What is asked of a node and what it answers, as data.
//!
//! Every request is one atomic step at the node. What each does is written
//! down once, in [`LockTable::apply`](crate::proto::node::lock_table::LockTable::apply).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::lease::{Holder, Key, Token, Ttl};

/// Names one view: its epoch and a digest of its canonical document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId {
    /// Number of the view; below [`EPOCH_LIMIT`](crate::proto::lease::EPOCH_LIMIT).
    pub epoch: u32,
    /// XXH3-128 of the canonical document.
    pub digest: u128,
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.epoch, self.digest)
    }
}

/// The text is no view id.
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
        // One spelling only: servers compare ids as text.
        (id.to_string() == text).then_some(id).ok_or(ViewIdError)
    }
}

/// Number of one try to decide the next view; of two, the higher one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Above every round that the proposer has heard of.
    pub round: u32,
    /// Random: no two proposers share a ballot.
    pub proposer: u64,
}

impl fmt::Display for Ballot {
    /// Of fixed width: servers compare ballots as text. And in digits alone,
    /// which every collation puts in the same order: in a Danish one, that a
    /// server may have from its surroundings, aa comes after z.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}.{:020}", self.round, self.proposer)
    }
}

/// The text is no ballot.
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
    /// The ballot under which it did.
    pub ballot: Ballot,
    /// The view.
    pub view: ViewId,
    /// Its canonical document.
    pub document: Arc<str>,
}

/// Which of a node's fence counters serves a key.
///
/// Keys of one slot share a replica set, so that the counters of its members
/// stay in step and a quorum agrees on a fence without a second round. Single
/// owners need no such care: all their keys share [`Slot::SINGLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Replicas of the keys that it serves; in a joint view the old number in
    /// the high half, the new one in the low.
    pub replicas: u8,
    /// Arc of the ring that the keys lie on.
    pub arc: u32,
    /// Part of that arc.
    pub part: u16,
}

impl Slot {
    /// The slot of every key with a single owner.
    pub const SINGLE: Self = Self {
        replicas: 1,
        arc: 0,
        part: 0,
    };
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.replicas, self.arc, self.part)
    }
}

/// What an EXTEND does where the key is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absent {
    /// Make the entry anew: a replica that missed it is healed.
    Heal,
    /// Answer that it is lost: nobody has vouched yet that the key was nobody
    /// else's meanwhile.
    Keep,
}

/// Random mark of a node's stay in the cluster: drawn anew whenever the node
/// may have lost its data, and listed in the view that lets it in.
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
        slot: Slot,
        /// Least counter to answer.
        floor: u64,
    },
    /// Prolong an entry of `token`, never shorten it.
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
        slot: Slot,
        /// Least counter afterwards; with [`Absent::Keep`] the fence write-back.
        floor: u64,
        /// What to do where the key is free.
        absent: Absent,
    },
    /// Delete `key` if `token` holds it, whatever view is served.
    Release {
        /// What is locked.
        key: Key,
        /// Proof of the holder.
        token: Token,
    },
    /// Tell what the node is and serves.
    Status,
    /// Tell the document of the view that the node serves.
    Document,
    /// Tell what the node remembers from before it was quarantined.
    Past,
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
    /// `view`, if that is served (phase 1 of Paxos, “Paxos Made Simple”, 2001).
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
    /// The lock key that it is about, if any.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Acquire { key, .. } | Self::Extend { key, .. } | Self::Release { key, .. } => {
                Some(key)
            }
            _ => None,
        }
    }
}

/// Who stands in the way, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rival {
    /// Holder of the key, where the node told.
    pub holder: Option<Holder>,
    /// Life left of the entry; `None` where it never expires (no client of
    /// ours makes such; [`Holder::never_expires`] tells) or the node did not
    /// tell.
    pub remaining: Option<Duration>,
}

impl Rival {
    /// Somebody whose entry lasts for so long; `None`: it never expires.
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

/// What a node answers to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// ACQUIRE: yours, with this count.
    Granted {
        /// The counter that this grant took.
        counter: u64,
    },
    /// ACQUIRE: somebody else's.
    Busy(Rival),
    /// EXTEND: yours still.
    Kept {
        /// The slot's counter now.
        counter: u64,
    },
    /// EXTEND: it was gone and is made anew.
    Made {
        /// The slot's counter now.
        counter: u64,
    },
    /// EXTEND: gone, or somebody else's.
    Lost(Option<Rival>),
    /// RELEASE: deleted.
    Released,
    /// RELEASE: there was nothing.
    Missing,
    /// RELEASE: it is somebody else's, and untouched.
    Foreign,
    /// The node serves another view, or none; nothing was done.
    Stale(Option<ViewId>),
    /// STATUS.
    Status(NodeStatus),
    /// DOCUMENT; `None` where no view is served.
    Document(Option<Arc<str>>),
    /// PAST.
    Past(Past),
    /// PREPARE: promised; and what the node has accepted before, if anything.
    Promised(Option<Accepted>),
    /// PREPARE, ACCEPT: this higher ballot was promised to somebody else.
    Outbid(Ballot),
    /// QUARANTINE, ACCEPT, ADOPT, RESTAMP: done, or so already.
    Done,
    /// QUARANTINE, PREPARE, ACCEPT, ADOPT, RESTAMP: not as expected; nothing
    /// was done.
    Refused(NodeStatus),
}

/// What a node is and serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeStatus {
    /// The view that it serves.
    pub serving: Option<ViewId>,
    /// Its nonce; `None`: it has no state at all.
    pub nonce: Option<Nonce>,
    /// The incarnation that the state was stamped with.
    pub stamped: Option<Incarnation>,
    /// The incarnation that it is now.
    pub incarnation: Incarnation,
}

/// What a node remembers from before it was quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Past {
    /// The highest epoch that it has served; 0 where it remembers none.
    pub epoch: u32,
    /// How long it has been quarantined, by its own clock and under whatever
    /// nonces: it has granted nothing since. `None` where it is not
    /// quarantined, or does not remember since when.
    pub quarantined_for: Option<Duration>,
}

/// Where a node stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// No state, or that of another incarnation: whatever it held may be gone.
    Absent,
    /// Marked with a nonce, waiting to be let in.
    Quarantined,
    /// Serving a view.
    Serving(ViewId),
}

impl NodeStatus {
    /// Where the node stands.
    pub fn standing(&self) -> Standing {
        match (&self.nonce, self.serving) {
            (Some(_), _) if self.stamped.as_ref() != Some(&self.incarnation) => Standing::Absent,
            (Some(_), Some(view)) => Standing::Serving(view),
            (Some(_), None) => Standing::Quarantined,
            (None, _) => Standing::Absent,
        }
    }
}

/// What kind of trouble a node is in; decides what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NodeErrorKind {
    /// No connection, or it broke before the answer.
    Unreachable,
    /// No answer within the node timeout.
    Timeout,
    /// The node takes no more: too many requests wait for it, or its server is
    /// out of memory or has as many clients as it takes.
    Overloaded,
    /// The server answers, but serves nothing at the moment: it loads its data, a
    /// slow script occupies it, too few of its replicas are connected, or it
    /// cannot persist. It passes without a change to the router.
    NotReady,
    /// The server refused the credentials or a command.
    Denied,
    /// The server is one that must not hold locks: a replica, one that evicts
    /// keys, a cluster member, too old.
    Unsuitable,
    /// The server may have lost what it held since it was let in, under an open
    /// connection: it was a replica meanwhile, or evicted keys. It is let in
    /// again after `max_ttl`; nobody needs to do anything.
    LostData,
    /// The server's wall clock was stepped forward, so that locks may have ended
    /// before their time: for a while it is not asked for any.
    ClockStepped,
    /// The key holds something that is no lock.
    WrongType,
    /// The server answered what it must not.
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
    /// Whether it may pass with nothing changed by hand.
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
    /// An error of this kind; `message` says what happened and what to do.
    pub fn new(kind: NodeErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            is_unsent: false,
        }
    }

    /// The same of a request that was never sent: nothing can come of it.
    #[must_use]
    pub fn unsent(self) -> Self {
        Self {
            is_unsent: true,
            ..self
        }
    }

    /// Whether the request was never sent, so that there is nothing to be
    /// taken back.
    pub fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// The server at the node's address is another member of the cluster.
    pub(crate) fn another_member() -> Self {
        Self::new(
            NodeErrorKind::Unsuitable,
            "another node of the cluster answers at this one's address: correct the node's url, or what leads there",
        )
    }

    /// What kind of trouble it is.
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
        assert!(matches!(status.standing(), Standing::Serving(_)));
        status.incarnation = "run-2".into();
        assert_eq!(status.standing(), Standing::Absent);
        status.stamped = Some("run-2".into());
        status.serving = None;
        assert_eq!(status.standing(), Standing::Quarantined);
        assert_eq!(NodeStatus::default().standing(), Standing::Absent);
    }
}
