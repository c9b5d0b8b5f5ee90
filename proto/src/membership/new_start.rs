//! Starting a cluster that cannot decide: a new one, or one of which most members
//! lost their data.
//!
//! Only a majority that kept its data can vote lost members in again. Where no
//! majority is left and every member answers, no lease can be confirmed or
//! extended. So all members are quarantined and given a view above every epoch
//! that any of them has served.
//!
//! Safety: from the moment at which every member is quarantined, none has granted
//! anything, whatever view a client uses. A lease was requested before that
//! moment, so it is over `max_ttl` later. At most one view results: a member
//! adopts only the document that lists its current nonce, and a document is
//! written only after every member was seen under the writer's nonces. Of two
//! processes that start at the same time, the later quarantine of any member makes
//! the other's document void there, and a member that adopted the earlier document
//! makes the later quarantine, a compare-and-set, fail.
//!
//! Each member itself remembers its time in quarantine, so that one process
//! continues the wait of another. The time is counted by the members' clocks, and
//! the shortest counts: one clock that is stepped forward shortens nothing.
//! A cluster of one member assumes no forward step of that member's clock, as for
//! the ttls of its locks.

use std::fmt;
use std::time::Duration;

use crate::lease::EPOCH_LEAP;
use crate::membership::requests::quarantine;
use crate::membership::view::View;
use crate::node::message::{NodeState, NodeStatus, Nonce, PriorState, Request};
use crate::quorum::majority;
use crate::time::{Instant, drift, outwait};

/// Whether the members of a view can still decide which view follows, and what
/// happens to the cluster where they cannot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VoteOutlook {
    /// As far as is known, so few have lost their data that the others can vote
    /// them in again.
    Votes,
    /// Most have lost their data, and every member answers: the cluster can be
    /// started again.
    StartsAnew,
    /// Most have lost their data, and these members do not answer.
    Awaits(Vec<String>),
    /// Most have lost their data, and the cluster may continue elsewhere: an
    /// operator must decide.
    NeedsForce(RestartObstacle),
}

/// Why a cluster is not started again without an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RestartObstacle {
    /// A change of membership is in progress: the new nodes may have taken over.
    Passage,
    /// This member serves a view under another nonce than the listed one.
    Foreign(String),
}

impl fmt::Display for RestartObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passage => f.write_str(
                "a change of membership is under way, so the cluster may still run elsewhere",
            ),
            Self::Foreign(node) => {
                write!(
                    f,
                    "node {node} serves a view under another nonce than the listed one"
                )
            }
        }
    }
}

/// The prospect of a cluster with `view`; `status` gives the state of its members.
pub fn vote_outlook<'s>(
    view: &View,
    status: impl Fn(&str) -> Option<&'s NodeStatus>,
) -> VoteOutlook {
    let is_lost = |name: &str, nonce: &Nonce| {
        status(name).is_some_and(|status| {
            status.standing() == NodeState::Absent || status.nonce.as_ref() != Some(nonce)
        })
    };
    let deciders = view.deciders();
    let needed = majority(deciders.len());
    let total = deciders.len();
    let lost = deciders.filter(|&node| is_lost(&view.member(node).name, view.nonce(node)));
    if lost.count() <= total - needed {
        return VoteOutlook::Votes;
    }
    let names = || view.members().map(|node| node.name.as_str());
    let serves = |name: &&str| {
        let standing = status(name).map(NodeStatus::standing);
        matches!(standing, Some(NodeState::Serving(_)))
    };
    // Where no node serves a view, no cluster can continue elsewhere.
    if view.next().is_some() && names().any(|name| serves(&name)) {
        return VoteOutlook::NeedsForce(RestartObstacle::Passage);
    }
    // Where no member of the view is left, an older view still served is an old
    // backup; where some are left, it may be another cluster.
    let is_any_left = view
        .deciders()
        .any(|node| !is_lost(&view.member(node).name, view.nonce(node)));
    let is_foreign = |name: &&str| {
        let Some(NodeState::Serving(served)) = status(name).map(NodeStatus::standing) else {
            return false;
        };
        let listed = view.index_of(name).map(|node| view.nonce(node));
        status(name).and_then(|status| status.nonce.as_ref()) != listed
            && (is_any_left || served.epoch >= view.id().epoch)
    };
    if let Some(name) = names().find(is_foreign) {
        return VoteOutlook::NeedsForce(RestartObstacle::Foreign(name.into()));
    }
    let silent: Vec<String> = names()
        .filter(|name| status(name).is_none())
        .map(Into::into)
        .collect();
    match silent.is_empty() {
        true => VoteOutlook::StartsAnew,
        false => VoteOutlook::Awaits(silent),
    }
}

/// One attempt to start a cluster, by one process.
///
/// Every member is quarantined, one after the other, in the same order in every
/// process; each is then asked for its [`PriorState`]; at [`due`](Self::due) each is
/// asked for its status; and if it [`is_undisturbed`](Self::is_undisturbed), a
/// view of [`epoch`](Self::epoch) under [`nonces`](Self::nonces) is distributed.
/// Any refusal ends the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewStart {
    nonces: Vec<Nonce>,
    /// Time that must have passed since all were quarantined.
    span: Duration,
    /// Additional time that must have passed if any member has served before.
    lease: Duration,
    epoch: u32,
    due: Instant,
}

impl NewStart {
    /// An attempt under `nonces`, each never used before, with no epoch below
    /// `least_epoch`. `span` is the longest ttl that an earlier lock may have.
    ///
    /// `lease` is the view lease where the members may be part of a cluster whose
    /// other members are unknown: a client that saw most of the members a moment
    /// ago may continue with the others for that long. It is zero where all are
    /// known.
    pub fn new(nonces: Vec<Nonce>, (span, lease): (Duration, Duration), least_epoch: u32) -> Self {
        Self {
            nonces,
            span,
            lease,
            epoch: least_epoch.max(1),
            due: Instant::MAX,
        }
    }

    /// Quarantines the member of this index, if it is still in the state of
    /// `status`.
    pub fn quarantine(&self, member: usize, status: &NodeStatus) -> Request {
        quarantine(status, self.nonces[member].clone())
    }

    /// Processes what the members remember: all were asked after the last one was
    /// quarantined, and answered by `now`.
    pub fn heard(&mut self, now: Instant, pasts: &[PriorState]) {
        let waited = |past: &PriorState| {
            let span = past.quarantined_for.unwrap_or_default();
            span.saturating_sub(drift(span))
        };
        let waited = pasts.iter().map(waited).min().unwrap_or_default();
        let highest = pasts.iter().map(|past| past.epoch).max().unwrap_or(0);
        let mut span = self.span;
        if highest > 0 {
            span += self.lease;
            self.epoch = self.epoch.max(highest.saturating_add(EPOCH_LEAP));
        }
        self.due = now + outwait(span).saturating_sub(waited);
    }

    /// No client can have locked anything: there is nothing to wait for.
    pub fn spare_the_wait(&mut self, now: Instant) {
        self.due = now;
    }

    /// When the final status check may be made.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether every member is still quarantined under this attempt's nonces.
    pub fn is_undisturbed(&self, statuses: &[Option<NodeStatus>]) -> bool {
        let is_own = |(status, nonce): (&Option<NodeStatus>, &Nonce)| {
            status.as_ref().is_some_and(|status| {
                status.standing() == NodeState::Quarantined && status.nonce.as_ref() == Some(nonce)
            })
        };
        statuses.len() == self.nonces.len() && statuses.iter().zip(&self.nonces).all(is_own)
    }

    /// The epoch that the new view gets.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The members' nonces, in their order.
    pub fn nonces(&self) -> &[Nonce] {
        &self.nonces
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::membership::topology::Topology;
    use crate::membership::view::Nonces;
    use crate::node::message::ViewId;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn nonces(names: &[&str]) -> Nonces {
        let pair = |name: &&str| ((*name).into(), format!("nonce of {name}").into());
        names.iter().map(pair).collect()
    }

    fn stable(names: &[&str]) -> View {
        View::stable(7, Topology::sample(names, 1), &nonces(names)).unwrap()
    }

    fn joint(old: &[&str], new: &[&str]) -> View {
        let all: Vec<&str> = old.iter().chain(new).copied().collect();
        let (from, to) = (Topology::sample(old, 1), Topology::sample(new, 1));
        View::joint(7, from, to, 7, &nonces(&all)).unwrap()
    }

    fn status(nonce: Option<&str>, epoch: Option<u32>) -> NodeStatus {
        NodeStatus {
            serving: epoch.map(|epoch| ViewId { epoch, digest: 1 }),
            nonce: nonce.map(Into::into),
            stamped: nonce.map(|_| "run-1".into()),
            incarnation: "run-1".into(),
        }
    }

    /// The meaning of each letter, for each node by position: `s`erves, serves an
    /// `o`lder view, is `h`eld in quarantine under the nonce that is listed or
    /// under an`x`other, is `w`iped, has `r`estarted with its data, serves
    /// under another nonce a later view (`f`) or an ear`l`ier one, `-` does not
    /// answer.
    fn seen(view: &View, requests: &str) -> BTreeMap<String, NodeStatus> {
        let one = |(node, request): (&crate::membership::topology::Node, char)| {
            let listed = format!("nonce of {}", node.name);
            let status = match request {
                's' => status(Some(&listed), Some(7)),
                'o' => status(Some(&listed), Some(6)),
                'h' => status(Some(&listed), None),
                'x' => status(Some("another"), None),
                'w' => status(None, None),
                'r' => NodeStatus {
                    incarnation: "run-2".into(),
                    ..status(Some(&listed), Some(7))
                },
                'f' => status(Some("another"), Some(9)),
                'l' => status(Some("another"), Some(3)),
                '-' => return None,
                other => panic!("{other}"),
            };
            Some((node.name.clone(), status))
        };
        assert_eq!(view.len(), requests.len());
        view.members()
            .zip(requests.chars())
            .filter_map(one)
            .collect()
    }

    #[test]
    fn what_becomes_of_a_cluster() {
        let awaits =
            |names: &[&str]| VoteOutlook::Awaits(names.iter().map(|name| (*name).into()).collect());
        let foreign = |name: &str| VoteOutlook::NeedsForce(RestartObstacle::Foreign(name.into()));
        let passage = || VoteOutlook::NeedsForce(RestartObstacle::Passage);
        let (three, five) = (stable(&NAMES[..3]), stable(&NAMES));
        let one = stable(&NAMES[..1]);
        let moving = joint(&NAMES[..3], &NAMES[1..4]);
        let cases: [(&View, &str, VoteOutlook); 31] = [
            (&one, "s", VoteOutlook::Votes),
            (&one, "-", VoteOutlook::Votes),
            (&one, "h", VoteOutlook::Votes),
            (&one, "w", VoteOutlook::StartsAnew),
            (&one, "x", VoteOutlook::StartsAnew),
            (&one, "r", VoteOutlook::StartsAnew),
            (&one, "f", foreign("a")),
            (&three, "sss", VoteOutlook::Votes),
            (&three, "wss", VoteOutlook::Votes),
            // A node that the others can help can vote.
            (&three, "who", VoteOutlook::Votes),
            (&three, "w--", VoteOutlook::Votes),
            (&three, "wws", VoteOutlook::StartsAnew),
            (&three, "xro", VoteOutlook::StartsAnew),
            (&three, "wxh", VoteOutlook::StartsAnew),
            (&three, "www", VoteOutlook::StartsAnew),
            (&three, "ww-", awaits(&["c"])),
            (&three, "wwf", foreign("c")),
            (&three, "lll", VoteOutlook::StartsAnew),
            (&three, "wll", VoteOutlook::StartsAnew),
            (&three, "lls", foreign("a")),
            (&three, "llf", foreign("c")),
            (&five, "wwsss", VoteOutlook::Votes),
            (&five, "ww--s", VoteOutlook::Votes),
            (&five, "wwxss", VoteOutlook::StartsAnew),
            (&five, "wwx-s", awaits(&["d"])),
            (&five, "wwx--", awaits(&["d", "e"])),
            // a, b and c decide; d only joins.
            (&moving, "sswx", VoteOutlook::Votes),
            (&moving, "wwss", passage()),
            (&moving, "wwws", passage()),
            (&moving, "www-", awaits(&["d"])),
            (&moving, "wxrw", VoteOutlook::StartsAnew),
        ];
        for (view, requests, expected) in cases {
            let seen = seen(view, requests);
            let found = vote_outlook(view, |name| seen.get(name));
            assert_eq!(found, expected, "{requests} of {}", view.len());
        }
    }

    #[test]
    fn the_least_time_in_quarantine_counts() {
        let past = |secs: Option<u64>| PriorState {
            epoch: 0,
            quarantined_for: secs.map(Duration::from_secs),
        };
        let span = Duration::from_secs(30);
        let lease = Duration::from_secs(5);
        let now = Instant::from_nanos(1_000_000_000_000);
        let due = |pasts: &[PriorState]| {
            let nonces = vec!["n".into(); pasts.len()];
            let mut start = NewStart::new(nonces, (span, lease), 1);
            assert_eq!(start.due(), Instant::MAX, "nothing was heard");
            start.heard(now, pasts);
            start.due().saturating_since(now)
        };
        assert_eq!(due(&[past(None)]), outwait(span));
        assert_eq!(due(&[past(Some(0)), past(Some(900))]), outwait(span));
        // A member that does not know its start of quarantine counts as zero wait.
        assert_eq!(due(&[past(None), past(Some(900))]), outwait(span));
        let less = Duration::from_secs(10) - drift(Duration::from_secs(10));
        let expected = outwait(span) - less;
        assert_eq!(due(&[past(Some(10)), past(Some(900))]), expected);
        assert_eq!(due(&[past(Some(40)), past(Some(900))]), Duration::ZERO);
        // Where any of them has served, others may still be relied upon for a while.
        let served = PriorState {
            epoch: 3,
            quarantined_for: None,
        };
        assert_eq!(due(&[past(Some(40)), served]), outwait(span + lease));
    }

    #[test]
    fn the_epoch_is_above_every_one_that_was_served() {
        let epoch = |least, epochs: &[u32]| {
            let past = |&epoch: &u32| PriorState {
                epoch,
                quarantined_for: None,
            };
            let pasts: Vec<PriorState> = epochs.iter().map(past).collect();
            let mut start = NewStart::new(Vec::new(), Default::default(), least);
            start.heard(Instant::default(), &pasts);
            start.epoch()
        };
        assert_eq!(epoch(1, &[0, 0]), 1);
        assert_eq!(epoch(0, &[]), 1);
        assert_eq!(epoch(1, &[0, 7, 3]), 7 + EPOCH_LEAP);
        assert_eq!(epoch(5000, &[7]), 5000);
        assert_eq!(epoch(1, &[u32::MAX]), u32::MAX);
    }

    #[test]
    fn a_client_that_touched_a_member_disturbs() {
        let start = NewStart::new(vec!["x".into(), "y".into()], Default::default(), 1);
        let own = |nonce| Some(status(Some(nonce), None));
        assert!(start.is_undisturbed(&[own("x"), own("y")]));
        for statuses in [
            vec![own("x"), own("z")],
            vec![own("y"), own("x")],
            vec![own("x"), None],
            vec![own("x")],
            vec![own("x"), Some(status(Some("y"), Some(3)))],
            vec![own("x"), Some(status(None, None))],
            vec![],
        ] {
            assert!(!start.is_undisturbed(&statuses), "{statuses:?}");
        }
        let restarted = NodeStatus {
            incarnation: "run-2".into(),
            ..status(Some("y"), None)
        };
        assert!(!start.is_undisturbed(&[own("x"), Some(restarted)]));
    }
}
