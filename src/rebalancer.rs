//! Changing which nodes a cluster has, under load and without two holders ever
//! overlapping.
//!
//! A [`Plan`] is made first, and can be read, kept and compared; nothing has
//! been touched by then. [`Rebalancer::apply`] then leads the cluster from one
//! stable view over a joint one to the next. Whoever does so may die at any
//! point: the nodes keep what was decided, and [`resume`](Rebalancer::resume)
//! goes on from there, or [`abort`](Rebalancer::abort) takes it back. Several
//! may do so at once: they vote, and the losers follow.
//!
//! See the [guide](crate::guide) for a runbook.

mod abort_note;
mod change;
mod executor;
mod force;
mod plan;
mod readmit;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use change::Change;
pub use force::ForceOutlook;
pub use plan::{Detour, Moves, Plan};

use crate::clock;
use crate::cluster::nodes::{NodeHandle, ViewNodes};
use crate::cluster::snapshot::{ClusterSnapshot, STEP_TIMEOUT};
use crate::config::ConfigError;
use crate::error::{Causes, Error, NodeCause};
use crate::lease::manager::LeaseManager;
use crate::node;
use crate::proto::membership::topology::TopologyError;
use crate::proto::membership::transition::{Goal, Obstacle};
use crate::proto::membership::view::View;
use crate::proto::node::message::{NodeStatus, Reply, Request, Standing, ViewId};
use crate::rebalancer::executor::Executor;

/// How long nodes may stand in the way before a change is given up for now.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plans changes of membership and carries them out; see the [module](self).
#[derive(Clone, Debug)]
pub struct Rebalancer {
    leases: Arc<LeaseManager>,
    patience: Duration,
    fenced: BTreeSet<String>,
    risks: force::Risks,
}

/// How far a change has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// The view in force.
    pub view: ViewId,
    /// Time since the call began.
    pub elapsed: Duration,
    /// How long the phase takes at least.
    pub remaining: Option<Duration>,
}

/// What a change is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Everybody is asked who they are, and the first view is put to the vote.
    Beginning,
    /// New nodes, or such as lost their data, are kept out until whatever was
    /// locked on them has expired.
    Quarantine,
    /// The joint view is in force: leases of before run out or are carried over.
    Joint,
    /// The next view is decided and handed out.
    Settling,
    /// These nodes stand in the way.
    Blocked(Vec<(String, Obstacle)>),
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The view when the call began.
    pub from: ViewId,
    /// The view in force now.
    pub to: ViewId,
    /// How long it took.
    pub elapsed: Duration,
    /// Nodes that left, and whether they know it: then they may be switched
    /// off. One that does not must not come back unwiped with clients that
    /// know of nothing newer.
    pub retired: Vec<(String, bool)>,
}

/// Why a change was not planned or not made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebalanceError {
    /// The cluster cannot be spoken to as it should.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// The cluster has no node of this name.
    #[error("the cluster has no node {name}: see `ringlock status` for their names")]
    UnknownNode {
        /// The name.
        name: String,
    },
    /// The cluster has a node of this name already.
    #[error("the cluster has a node {name} already: give the new one a name of its own")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A node cannot join.
    #[error("node {name} cannot join: {reason}")]
    Newcomer {
        /// The node.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The changes change nothing.
    #[error("the cluster is so already: there is nothing to do")]
    NothingToDo,
    /// Another change is half made.
    #[error(
        "a change is under way in view {view}: finish it with `resume`, or take it back with `abort`"
    )]
    UnderWay {
        /// The joint view.
        view: ViewId,
    },
    /// No change is half made.
    #[error("no change is under way: view {view} is stable")]
    NothingUnderWay {
        /// The view.
        view: ViewId,
    },
    /// The plan was made for an earlier view.
    #[error("the plan starts from view {planned}, but {current} is in force: plan anew")]
    Outdated {
        /// The view that it starts from.
        planned: ViewId,
        /// The view in force.
        current: ViewId,
    },
    /// Somebody else has taken the cluster elsewhere meanwhile.
    #[error("another change got ahead, view {view} is in force: plan anew")]
    Superseded {
        /// The view in force.
        view: ViewId,
    },
    /// The change was taken back while it was carried out. Nothing of it is
    /// left, and it is not begun again.
    #[error("the change was taken back{}: view {view} is in force; plan anew if it is still wanted", By(by.as_deref()))]
    Aborted {
        /// The view by which that is known.
        view: ViewId,
        /// Who did it, by the label of its router, where that could be read.
        by: Option<String>,
    },
    /// [`Rebalancer::force`]: enough nodes keep their data to vote. Nothing was
    /// done.
    #[error(
        "nothing was done: {voters} nodes can vote, {needed} must: a plan is decided by them, and no lock stands still meanwhile"
    )]
    VotePossible {
        /// Nodes that can.
        voters: usize,
        /// Nodes that must.
        needed: usize,
    },
    /// [`Rebalancer::force`]: nodes that are to be abandoned answer. Nothing was
    /// done.
    #[error("nothing was done: {} {} although to be abandoned: what clients lock there, others would lock elsewhere", nodes.join(", "), answer(nodes.len()))]
    StillAnswering {
        /// Their names.
        nodes: Vec<String>,
    },
    /// Nodes stand in the way. What was done so far stays; `resume` goes on.
    #[error("{} in the way: {}; mend that and resume, or abort", are(nodes.len()), obstacles(nodes))]
    Blocked {
        /// Which, and why.
        nodes: Vec<(String, Obstacle)>,
    },
    /// Too few nodes vote. What was done so far stays; `resume` goes on.
    #[error("{voted} nodes voted, {needed} must: {}", Causes(causes))]
    TooFewVotes {
        /// Nodes that voted.
        voted: usize,
        /// Nodes that must.
        needed: usize,
        /// What the others said.
        causes: Vec<NodeCause>,
    },
    /// The text is no plan.
    #[error("not a plan: {detail}")]
    Unreadable {
        /// What is wrong with it.
        detail: String,
    },
}

impl From<TopologyError> for RebalanceError {
    fn from(error: TopologyError) -> Self {
        Self::Cluster(error.into())
    }
}

impl From<ConfigError> for RebalanceError {
    fn from(error: ConfigError) -> Self {
        Self::Cluster(error.into())
    }
}

impl Rebalancer {
    pub(crate) fn new(leases: Arc<LeaseManager>) -> Self {
        Self {
            leases,
            patience: PATIENCE,
            fenced: BTreeSet::new(),
            risks: force::Risks::default(),
        }
    }

    /// How long nodes may stand in the way before a call gives up; half a
    /// minute unless said otherwise.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes the operator's word, beside that of a plan, that no client reaches
    /// these nodes any more; see [`Plan::fenced`].
    #[must_use]
    pub fn fenced(mut self, nodes: impl IntoIterator<Item = String>) -> Self {
        self.fenced.extend(nodes);
        self
    }

    /// Plans `changes`, and touches nothing. New nodes are asked who they are.
    ///
    /// # Errors
    /// [`RebalanceError::UnknownNode`], [`NameTaken`](RebalanceError::NameTaken),
    /// [`Newcomer`](RebalanceError::Newcomer),
    /// [`NothingToDo`](RebalanceError::NothingToDo),
    /// [`UnderWay`](RebalanceError::UnderWay), and
    /// [`Cluster`](RebalanceError::Cluster): what would be in force contradicts
    /// itself.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn plan(
        &self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Plan, RebalanceError> {
        let fleet = self.refreshed().await?;
        let view = &fleet.view;
        if view.next().is_some() {
            return Err(RebalanceError::UnderWay { view: view.id() });
        }
        let mut to = view.topology().clone();
        let mut introduced = Vec::new();
        for change in changes {
            if let Some(node) = change.introduces() {
                introduced.push(self.leases.membership.registry().introduce(&node)?);
            }
            let address = |name: &str| {
                let peer = introduced.iter().find(|peer| &*peer.name == name);
                peer.map_or_else(String::new, |peer| peer.node.address())
            };
            change.apply(&mut to, address)?;
        }
        let mut plan = Plan::new(view, to)?;
        let mut known = Vec::new();
        for peer in &introduced {
            known.push(self.check(&fleet, peer, &known, &mut plan).await?);
        }
        Ok(plan)
    }

    /// Whether a node may join, or be reached at another address, beside those
    /// that are `known` to be introduced, too; what it says of itself.
    async fn check<'p>(
        &self,
        fleet: &ViewNodes,
        peer: &'p NodeHandle,
        known: &[(&'p NodeHandle, NodeStatus)],
        plan: &mut Plan,
    ) -> Result<(&'p NodeHandle, NodeStatus), RebalanceError> {
        let refuse = |reason: String| {
            let name = peer.name.to_string();
            Err(RebalanceError::Newcomer { name, reason })
        };
        let deadline = clock::now() + STEP_TIMEOUT;
        let status = match node::call(&*peer.node, Request::Status, deadline).await {
            Ok(Reply::Status(status)) => status,
            Ok(_) => return refuse("it answers what it must not".into()),
            Err(error) => return refuse(error.to_string()),
        };
        let member = fleet.view.index_of(&peer.name);
        if let Some(member) = member {
            let is_same = status.nonce.as_ref() == Some(fleet.view.nonce(member));
            if is_same && matches!(status.standing(), Standing::Serving(_)) {
                return Ok((peer, status));
            }
            return refuse(
                "there is another server, or one without its data: replace the node".into(),
            );
        }
        let survey = ClusterSnapshot::of_most(fleet.peers()).await;
        let introduced = known.iter().map(|(peer, status)| (*peer, status));
        let twin = survey
            .answers()
            .chain(introduced)
            .find(|(_, other)| other.incarnation == status.incarnation);
        if let Some((twin, _)) = twin {
            return refuse(format!("it is the same server as {}", twin.name));
        }
        match self.foreign(peer, &status).await {
            Some(view) => refuse(format!(
                "it is a member of another cluster (view {view}): empty it first, or give this cluster a namespace of its own"
            )),
            None => {
                if let Some(view) = status.serving {
                    plan.retired.insert(peer.name.to_string(), view.to_string());
                }
                Ok((peer, status))
            }
        }
    }

    /// The view that a node is a member of. One that serves a view without
    /// being named there was retired.
    async fn foreign(&self, peer: &NodeHandle, status: &NodeStatus) -> Option<ViewId> {
        let serving = status.serving?;
        let deadline = clock::now() + STEP_TIMEOUT;
        let answer = node::call(&*peer.node, Request::Document, deadline).await;
        let is_named = match answer {
            Ok(Reply::Document(Some(document))) => match View::read(serving, &document) {
                Ok(view) => view
                    .nonces()
                    .values()
                    .any(|nonce| Some(nonce) == status.nonce.as_ref()),
                Err(_) => true,
            },
            _ => true,
        };
        is_named.then_some(serving)
    }

    /// Makes the change that `plan` describes. It takes as long as
    /// [`Plan::duration`] says; `progress` is told every half second.
    ///
    /// # Errors
    /// [`RebalanceError::Outdated`]: nothing was done.
    /// [`Aborted`](RebalanceError::Aborted): it was taken back meanwhile, and
    /// nothing of it is left.
    /// [`Superseded`](RebalanceError::Superseded),
    /// [`Blocked`](RebalanceError::Blocked),
    /// [`TooFewVotes`](RebalanceError::TooFewVotes) and
    /// [`Cluster`](RebalanceError::Cluster): what was done so far stays.
    ///
    /// # Cancel safety
    /// May be dropped at any point: the cluster then stays as it is, fully
    /// usable. [`resume`](Self::resume) or [`abort`](Self::abort) take it from
    /// there, or the same plan where not even the joint view was decided.
    pub async fn apply(
        &self,
        plan: &Plan,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let fleet = self.refreshed().await?;
        let view = &fleet.view;
        let is_begun = *view.topology() == plan.from && view.next() == Some(&plan.to);
        if view.id() != plan.parent && !is_begun {
            return Err(RebalanceError::Outdated {
                planned: plan.parent,
                current: view.id(),
            });
        }
        let goal = Goal::Reach {
            from: plan.from.clone(),
            to: plan.to.clone(),
        };
        let retired = plan.retired.iter();
        let retired = retired.filter_map(|(name, view)| Some((name.clone(), view.parse().ok()?)));
        let fenced = self.fenced.union(&plan.fenced).cloned().collect();
        let course = Executor::new(self, &fleet, goal, fenced, retired.collect());
        course.run(progress).await
    }

    /// Finishes a change that is half made, whoever began it.
    ///
    /// # Errors
    /// [`RebalanceError::NothingUnderWay`], and those of [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub async fn resume(&self, progress: impl FnMut(&Progress)) -> Result<Report, RebalanceError> {
        let fleet = self.refreshed().await?;
        let view = &fleet.view;
        let Some(to) = view.next().cloned() else {
            return Err(RebalanceError::NothingUnderWay { view: view.id() });
        };
        let from = view.topology().clone();
        let goal = Goal::Reach { from, to };
        Executor::new(self, &fleet, goal, self.fenced.clone(), Vec::new())
            .run(progress)
            .await
    }

    /// Takes back a change that is half made, whoever began it. That takes no
    /// waiting.
    ///
    /// # Errors
    /// [`RebalanceError::NothingUnderWay`], and those of [`apply`](Self::apply).
    /// [`Superseded`](RebalanceError::Superseded): it was finished before it
    /// could be taken back, or another change has begun since.
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub async fn abort(&self, progress: impl FnMut(&Progress)) -> Result<Report, RebalanceError> {
        let fleet = self.refreshed().await?;
        if fleet.view.next().is_none() {
            let view = fleet.view.id();
            return Err(RebalanceError::NothingUnderWay { view });
        }
        let _note = abort_note::Note::leave(&self.leases).await;
        Executor::new(self, &fleet, Goal::Abort, Default::default(), Vec::new())
            .run(progress)
            .await
    }

    /// Takes back a change that is half made, as [`abort`](Self::abort) does;
    /// where none is, decides the same topology once more, so that no plan for
    /// the view in force is begun. An [`apply`](Self::apply) that still waits
    /// for its new nodes cannot be seen from elsewhere: this stops it.
    ///
    /// # Errors
    /// Those of [`abort`](Self::abort), but for
    /// [`NothingUnderWay`](RebalanceError::NothingUnderWay).
    ///
    /// # Cancel safety
    /// As [`apply`](Self::apply).
    pub async fn outdate_plans(
        &self,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let fleet = self.refreshed().await?;
        let _note = abort_note::Note::leave(&self.leases).await;
        Executor::new(self, &fleet, Goal::Abort, Default::default(), Vec::new())
            .outdating()
            .run(progress)
            .await
    }

    /// The nodes of the newest view that any of them knows.
    async fn refreshed(&self) -> Result<Arc<ViewNodes>, RebalanceError> {
        self.leases.lifecycle().check()?;
        let fleet = self.leases.nodes();
        let deadline = Some(clock::now() + 2 * STEP_TIMEOUT);
        let look = fleet.lookout.look(deadline).await;
        if let Some(error) = look.and_then(|look| look.error) {
            return Err(error.into());
        }
        Ok(self.leases.nodes())
    }
}

fn are(nodes: usize) -> &'static str {
    if nodes == 1 {
        "a node stands"
    } else {
        "nodes stand"
    }
}

fn answer(nodes: usize) -> &'static str {
    if nodes == 1 { "answers" } else { "answer" }
}

/// Who did something, where that is known.
struct By<'a>(Option<&'a str>);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |label| write!(f, " by {label}"))
    }
}

fn obstacles(nodes: &[(String, Obstacle)]) -> String {
    let each = nodes
        .iter()
        .map(|(node, obstacle)| format!("{node} {obstacle}"));
    each.collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("does not answer"),
            Self::Foreign(view) => write!(f, "serves view {view}, which does not belong here"),
            Self::Behind => f.write_str("does not serve the view yet"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("beginning"),
            Self::Quarantine => f.write_str("quarantine"),
            Self::Joint => f.write_str("joint"),
            Self::Settling => f.write_str("settling"),
            Self::Blocked(nodes) => write!(f, "blocked: {}", obstacles(nodes)),
        }
    }
}
