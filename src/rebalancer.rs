//! Changing the nodes of a cluster under load, without two holders of a key ever
//! overlapping.
//!
//! A [`Plan`] is made first. It can be read, kept and compared; the cluster is
//! unchanged at that point. [`Rebalancer::apply`] then moves the cluster from one
//! stable view over a joint one to the next. The process that does this may die at
//! any point: the nodes keep what was decided. [`resume`](Rebalancer::resume)
//! continues from there, or [`abort`](Rebalancer::abort) takes it back. Several
//! processes may do this at once: they vote, and the losers follow.
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
use crate::proto::node::message::{NodeState, NodeStatus, Reply, Request, ViewId};
use crate::rebalancer::executor::Executor;

/// How long nodes may block a change before the call gives up.
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
    /// The current phase.
    pub phase: Phase,
    /// The view in force.
    pub view: ViewId,
    /// Time since the call started.
    pub elapsed: Duration,
    /// The minimum time that the phase still takes.
    pub remaining: Option<Duration>,
}

/// What a change is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Every node is asked for its identity, and the first view is put to the vote.
    Beginning,
    /// New nodes, and nodes that lost their data, are kept out until all earlier
    /// locks on them have expired.
    Quarantine,
    /// The joint view is in force: earlier leases expire or are carried over.
    Joint,
    /// The next view is decided and distributed.
    Settling,
    /// These nodes block the change.
    Blocked(Vec<(String, Obstacle)>),
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The view when the call started.
    pub from: ViewId,
    /// The view in force now.
    pub to: ViewId,
    /// How long the change took.
    pub elapsed: Duration,
    /// Nodes that left, and whether they know it. A node that knows it may be
    /// switched off. A node that does not must not come back unwiped with clients
    /// that know of no newer view.
    pub retired: Vec<(String, bool)>,
}

/// Why a change was not planned or not made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebalanceError {
    /// An operation on the cluster failed.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// The cluster has no node of this name.
    #[error("the cluster has no node {name}: see `ringlock status` for their names")]
    UnknownNode {
        /// The name.
        name: String,
    },
    /// The cluster has a node of this name already.
    #[error("the cluster already has a node {name}: give the new node another name")]
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
    /// The changes have no effect.
    #[error("the cluster already has this topology: there is nothing to do")]
    NothingToDo,
    /// Another change is half done.
    #[error(
        "a change is under way in view {view}: finish it with `resume`, or take it back with `abort`"
    )]
    UnderWay {
        /// The joint view.
        view: ViewId,
    },
    /// No change is half done.
    #[error("no change is under way: view {view} is stable")]
    NothingUnderWay {
        /// The view.
        view: ViewId,
    },
    /// The plan was made for an earlier view.
    #[error("the plan starts from view {planned}, but {current} is in force: make a new plan")]
    Outdated {
        /// The view from which the plan starts.
        planned: ViewId,
        /// The view in force.
        current: ViewId,
    },
    /// Another process has changed the cluster in between.
    #[error("another change was decided first, view {view} is in force: make a new plan")]
    Superseded {
        /// The view in force.
        view: ViewId,
    },
    /// The change was taken back while it was carried out. Nothing of it is left,
    /// and it is not started again.
    #[error("the change was taken back{}: view {view} is in force; make a new plan if it is still wanted", Author(by.as_deref()))]
    Aborted {
        /// The view that shows it.
        view: ViewId,
        /// The label of the router that did it, if it could be read.
        by: Option<String>,
    },
    /// [`Rebalancer::force`]: enough nodes keep their data to vote. Nothing was
    /// done.
    #[error(
        "nothing was done: {voters} nodes can vote, {needed} must: force is not needed, because a plan makes the same change while locks stay available"
    )]
    VotePossible {
        /// Nodes that can vote.
        voters: usize,
        /// Nodes that must vote.
        needed: usize,
    },
    /// [`Rebalancer::force`]: nodes that the caller wants to abandon answer.
    /// Nothing was done.
    #[error("nothing was done: {} {} although abandoned: clients that hold locks there would conflict with clients that lock elsewhere", nodes.join(", "), answer(nodes.len()))]
    StillAnswering {
        /// Their names.
        nodes: Vec<String>,
    },
    /// Nodes block the change. What was done so far stays; `resume` continues.
    #[error("{} the change: {}; fix that and resume, or abort", blocking(nodes.len()), obstacles(nodes))]
    Blocked {
        /// The nodes, and why.
        nodes: Vec<(String, Obstacle)>,
    },
    /// Too few nodes vote. What was done so far stays; `resume` continues.
    #[error("{voted} nodes voted, {needed} are needed: {}", Causes(causes))]
    TooFewVotes {
        /// Nodes that voted.
        voted: usize,
        /// Nodes that must vote.
        needed: usize,
        /// The answers of the others.
        causes: Vec<NodeCause>,
    },
    /// The text is not a plan.
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

    /// How long nodes may block a change before a call gives up. The default is
    /// half a minute.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Declares these nodes unreachable for all clients, in addition to the plan's;
    /// see [`Plan::fenced`].
    #[must_use]
    pub fn fenced(mut self, nodes: impl IntoIterator<Item = String>) -> Self {
        self.fenced.extend(nodes);
        self
    }

    /// Plans `changes`, and changes nothing. New nodes are asked for their
    /// identity.
    ///
    /// # Errors
    /// [`RebalanceError::UnknownNode`], [`NameTaken`](RebalanceError::NameTaken),
    /// [`Newcomer`](RebalanceError::Newcomer),
    /// [`NothingToDo`](RebalanceError::NothingToDo),
    /// [`UnderWay`](RebalanceError::UnderWay), and
    /// [`Cluster`](RebalanceError::Cluster): the planned topology contradicts
    /// itself.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn plan(
        &self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Plan, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        let view = &view_nodes.view;
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
                let handle = introduced.iter().find(|handle| &*handle.name == name);
                handle.map_or_else(String::new, |handle| handle.node.address())
            };
            change.apply(&mut to, address)?;
        }
        let mut plan = Plan::new(view, to)?;
        let mut known = Vec::new();
        for handle in &introduced {
            known.push(self.check(&view_nodes, handle, &known, &mut plan).await?);
        }
        Ok(plan)
    }

    /// Checks whether a node may join, or be reached at another address, in
    /// addition to the `known` nodes, which will be introduced too. Returns the
    /// node's own report.
    async fn check<'p>(
        &self,
        view_nodes: &ViewNodes,
        handle: &'p NodeHandle,
        known: &[(&'p NodeHandle, NodeStatus)],
        plan: &mut Plan,
    ) -> Result<(&'p NodeHandle, NodeStatus), RebalanceError> {
        let refuse = |reason: String| {
            let name = handle.name.to_string();
            Err(RebalanceError::Newcomer { name, reason })
        };
        let deadline = clock::now() + STEP_TIMEOUT;
        let status = match node::call(&*handle.node, Request::Status, deadline).await {
            Ok(Reply::Status(status)) => status,
            Ok(_) => return refuse("its answer violates the protocol".into()),
            Err(error) => return refuse(error.to_string()),
        };
        let member = view_nodes.view.index_of(&handle.name);
        if let Some(member) = member {
            let is_same = status.nonce.as_ref() == Some(view_nodes.view.nonce(member));
            if is_same && matches!(status.standing(), NodeState::Serving(_)) {
                return Ok((handle, *status));
            }
            return refuse(
                "its address leads to another server, or the server lost its data: replace the node".into(),
            );
        }
        let snapshot = ClusterSnapshot::of_most(view_nodes.handles()).await;
        let introduced = known.iter().map(|(handle, status)| (*handle, status));
        let twin = snapshot
            .answers()
            .chain(introduced)
            .find(|(_, other)| other.incarnation == status.incarnation);
        if let Some((twin, _)) = twin {
            return refuse(format!("it is the same server as {}", twin.name));
        }
        match self.foreign(handle, &status).await {
            Some(view) => refuse(format!(
                "it is a member of another cluster (view {view}): empty it first, or give this cluster another namespace"
            )),
            None => {
                if let Some(view) = status.serving {
                    plan.retired
                        .insert(handle.name.to_string(), view.to_string());
                }
                Ok((handle, *status))
            }
        }
    }

    /// The view of which a node is a member. A node that serves a view without
    /// being named in it was retired.
    async fn foreign(&self, handle: &NodeHandle, status: &NodeStatus) -> Option<ViewId> {
        let serving = status.serving?;
        let deadline = clock::now() + STEP_TIMEOUT;
        let answer = node::call(&*handle.node, Request::Document, deadline).await;
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
    /// [`Plan::duration`] states; `progress` is called every half second.
    ///
    /// # Errors
    /// [`RebalanceError::Outdated`]: nothing was done.
    /// [`Aborted`](RebalanceError::Aborted): the change was taken back during the
    /// call, and nothing of it is left.
    /// [`Superseded`](RebalanceError::Superseded),
    /// [`Blocked`](RebalanceError::Blocked),
    /// [`TooFewVotes`](RebalanceError::TooFewVotes) and
    /// [`Cluster`](RebalanceError::Cluster): what was done so far stays.
    ///
    /// # Cancel safety
    /// May be dropped at any point: the cluster then stays as it is, fully usable.
    /// [`resume`](Self::resume) or [`abort`](Self::abort) continue from there, or
    /// the same plan if not even the joint view was decided.
    pub async fn apply(
        &self,
        plan: &Plan,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        let view = &view_nodes.view;
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
        let course = Executor::new(self, &view_nodes, goal, fenced, retired.collect());
        course.run(progress).await
    }

    /// Finishes a change that is half done, by any process.
    ///
    /// # Errors
    /// [`RebalanceError::NothingUnderWay`], and the errors of
    /// [`apply`](Self::apply).
    ///
    /// # Cancel safety
    /// Like [`apply`](Self::apply).
    pub async fn resume(&self, progress: impl FnMut(&Progress)) -> Result<Report, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        let view = &view_nodes.view;
        let Some(to) = view.next().cloned() else {
            return Err(RebalanceError::NothingUnderWay { view: view.id() });
        };
        let from = view.topology().clone();
        let goal = Goal::Reach { from, to };
        Executor::new(self, &view_nodes, goal, self.fenced.clone(), Vec::new())
            .run(progress)
            .await
    }

    /// Takes back a change that is half done, by any process. This needs no waiting
    /// time.
    ///
    /// # Errors
    /// [`RebalanceError::NothingUnderWay`], and the errors of
    /// [`apply`](Self::apply).
    /// [`Superseded`](RebalanceError::Superseded): the change was finished before
    /// it could be taken back, or another change has started since.
    ///
    /// # Cancel safety
    /// Like [`apply`](Self::apply).
    pub async fn abort(&self, progress: impl FnMut(&Progress)) -> Result<Report, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        if view_nodes.view.next().is_none() {
            let view = view_nodes.view.id();
            return Err(RebalanceError::NothingUnderWay { view });
        }
        let _note = abort_note::Note::leave(&self.leases).await;
        Executor::new(
            self,
            &view_nodes,
            Goal::Abort,
            Default::default(),
            Vec::new(),
        )
        .run(progress)
        .await
    }

    /// Takes back a change that is half done, like [`abort`](Self::abort). If there
    /// is none, it decides the same topology once more, so that no plan for the
    /// view in force can start. An [`apply`](Self::apply) that still waits for its
    /// new nodes is not visible to other processes: this call stops it.
    ///
    /// # Errors
    /// The errors of [`abort`](Self::abort), except
    /// [`NothingUnderWay`](RebalanceError::NothingUnderWay).
    ///
    /// # Cancel safety
    /// Like [`apply`](Self::apply).
    pub async fn outdate_plans(
        &self,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        let _note = abort_note::Note::leave(&self.leases).await;
        Executor::new(
            self,
            &view_nodes,
            Goal::Abort,
            Default::default(),
            Vec::new(),
        )
        .outdating()
        .run(progress)
        .await
    }

    /// The nodes of the newest view that any of them knows.
    async fn refreshed(&self) -> Result<Arc<ViewNodes>, RebalanceError> {
        self.leases.lifecycle().check()?;
        let view_nodes = self.leases.nodes();
        let deadline = Some(clock::now() + 2 * STEP_TIMEOUT);
        let look = view_nodes.refresh.look(deadline).await;
        if let Some(error) = look.and_then(|look| look.error) {
            return Err(error.into());
        }
        Ok(self.leases.nodes())
    }
}

fn blocking(nodes: usize) -> &'static str {
    if nodes == 1 {
        "a node blocks"
    } else {
        "nodes block"
    }
}

fn answer(nodes: usize) -> &'static str {
    if nodes == 1 { "answers" } else { "answer" }
}

/// The author of an action, if known.
struct Author<'a>(Option<&'a str>);

impl fmt::Display for Author<'_> {
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
