//! Continuing without permanently lost nodes, when too few are left to decide
//! anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::NodeIndex;

use super::{Change, Moves, Phase, Progress, RebalanceError, Rebalancer, Report, plan};
use crate::clock;
use crate::cluster::nodes::NodeHandle;
use crate::cluster::proposer::fresh_nonce;
use crate::cluster::snapshot::{ClusterSnapshot, ask_all, send_all};
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::membership::topology::Topology;
use crate::proto::membership::transition::{Obstacle, adopt, quarantine};
use crate::proto::membership::view::{Nonces, View};
use crate::proto::node::message::{NodeState, NodeStatus, Reply, Request, ViewId};
use crate::proto::quorum::majority;
use crate::proto::time::{Instant, outwait};
use crate::telemetry::events;

/// How often the remaining time is reported.
const REPORT: Duration = Duration::from_millis(500);

/// The risks that the caller accepts, in addition to the promise of
/// [`Rebalancer::force`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Risks {
    vote: bool,
    answering: bool,
}

/// The effect of a [`Rebalancer::force`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ForceOutlook {
    /// The view in force.
    pub view: ViewId,
    /// Nodes that stop serving, and are readmitted together. No key at all can be
    /// locked until then.
    pub stopped: Vec<String>,
    /// Nodes that are given up.
    pub abandoned: Vec<String>,
    /// How long no key can be locked, counted from the start: the longest `max_ttl`
    /// and `view_lease` of the view, plus the possible clock drift.
    pub wait: Duration,
    /// What moves from node to node, for each number of replicas.
    pub moves: Vec<Moves>,
}

/// The findings before anything is changed.
struct Assessment {
    before: Arc<View>,
    topology: Topology,
    nonces: Nonces,
    /// Members that are not abandoned.
    left: Vec<NodeHandle>,
    /// Abandoned nodes that answer nevertheless.
    answering: Vec<NodeHandle>,
    abandoned: BTreeSet<String>,
    wait: Duration,
}

impl Rebalancer {
    /// Accepts, for [`force`](Self::force), that no key can be locked for a while
    /// although a vote is possible and a plan would be enough.
    #[must_use]
    pub fn force_although_a_vote_is_possible(mut self) -> Self {
        self.risks.vote = true;
        self
    }

    /// Accepts, for [`force`](Self::force), that nodes which the call abandons
    /// answer: clients that reach them may lock there what other clients lock
    /// elsewhere. Abandoned nodes that answer get a request to stop serving; the
    /// call does not wait for its success.
    #[must_use]
    pub fn force_although_abandoned_nodes_answer(mut self) -> Self {
        self.risks.answering = true;
        self
    }

    /// What [`force`](Self::force) would do with the same arguments. Changes
    /// nothing.
    ///
    /// # Errors
    /// The errors with which [`force`](Self::force) refuses to start.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn force_outlook(
        &self,
        abandoned: impl IntoIterator<Item = String>,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<ForceOutlook, RebalanceError> {
        let assessment = self.assessment(abandoned, changes).await?;
        let Assessment {
            before,
            topology,
            left,
            ..
        } = &assessment;
        let from = before.next().unwrap_or(before.topology());
        Ok(ForceOutlook {
            view: before.id(),
            stopped: left.iter().map(|handle| handle.name.to_string()).collect(),
            moves: plan::moves(from, topology)?,
            wait: assessment.wait,
            abandoned: assessment.abandoned.into_iter().collect(),
        })
    }

    /// **Dangerous.** Continues without the nodes `abandoned`, although too few are
    /// left to vote. Every other node must answer, and none of the abandoned nodes
    /// may answer.
    ///
    /// The caller thereby promises that no abandoned node ever serves any client
    /// again with its current data: each is destroyed, or emptied before it starts.
    /// If one does, two holders may have one lock, and fences may decrease. The
    /// nodes that are left are kept out until all leases have expired, and nothing
    /// can be locked until then: see [`force_outlook`](Self::force_outlook).
    ///
    /// `changes` are made in the same step: a cluster with fewer nodes may need
    /// fewer replicas.
    ///
    /// # Errors
    /// [`RebalanceError::VotePossible`] and
    /// [`StillAnswering`](RebalanceError::StillAnswering): nothing was done.
    /// [`Blocked`](RebalanceError::Blocked): a node that is not abandoned does not
    /// answer, or in the end no node took the view: call it again.
    /// [`Superseded`](RebalanceError::Superseded): another process did the same at
    /// the same time, or a node serves a view that cannot be read.
    /// [`UnknownNode`](RebalanceError::UnknownNode), and
    /// [`Cluster`](RebalanceError::Cluster): the nodes that are left do not make a
    /// valid cluster.
    ///
    /// # Cancel safety
    /// May be dropped at any point. The nodes that are left then grant nothing
    /// until it is called again.
    pub async fn force(
        &self,
        abandoned: impl IntoIterator<Item = String>,
        changes: impl IntoIterator<Item = Change>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let (begun, membership) = (clock::now(), &self.leases.membership);
        self.leases.lifecycle().check()?;
        let Assessment {
            before,
            topology,
            nonces,
            left,
            answering,
            abandoned,
            wait,
        } = self.assessment(abandoned, changes).await?;
        let highest = stop_all(&left, &before, &nonces).await?;
        stop_abandoned(&answering).await;
        events::forced(&abandoned);
        let until = clock::now() + wait;
        while clock::now() < until {
            let now = clock::now();
            progress(&progress_of(before.id(), begun, now, until));
            clock::sleep_until(until.min(now + REPORT)).await;
        }
        let is_own = |(handle, status): &(&NodeHandle, &NodeStatus)| {
            let own = nonces.get(&*handle.name);
            own.is_none()
                || status.standing() == NodeState::Quarantined && status.nonce.as_ref() == own
        };
        let snapshot = ClusterSnapshot::of(&left).await;
        if snapshot.answers().filter(is_own).count() < left.len() {
            return Err(RebalanceError::Superseded { view: before.id() });
        }
        let view = View::stable(highest + EPOCH_LEAP, topology, &nonces)?;
        let (to, members) = (view.id(), membership.registry().members(&view)?);
        let answers = ask_all(&members, |index| adopt(&view, NodeIndex::new(index as u16))).await;
        // If one of them serves the view, the others learn it.
        if !answers.contains(&Ok(Reply::Done)) {
            let behind = |handle: &NodeHandle| (handle.name.to_string(), Obstacle::Behind);
            let nodes = members.iter().map(behind).collect();
            return Err(RebalanceError::Blocked { nodes });
        }
        membership.move_up(view, members);
        Ok(Report {
            from: before.id(),
            to,
            elapsed: clock::now().saturating_since(begun),
            retired: abandoned.into_iter().map(|name| (name, false)).collect(),
        })
    }

    /// Checks every member, and refuses a case that must not be forced.
    async fn assessment(
        &self,
        abandoned: impl IntoIterator<Item = String>,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Assessment, RebalanceError> {
        // The refresh may fail because too few nodes are left.
        let _ = self.refreshed().await;
        let view_nodes = self.leases.nodes();
        let before = Arc::clone(&view_nodes.view);
        let abandoned: BTreeSet<String> = abandoned.into_iter().collect();
        let topology = remainder(&before, &abandoned, changes)?;
        // Finds contradictions before anything is changed.
        let names = topology.nodes.iter().map(|node| node.name.clone());
        let nonces: Nonces = names.map(|name| (name, fresh_nonce())).collect();
        View::stable(1, topology.clone(), &nonces)?;
        let snapshot = ClusterSnapshot::of(view_nodes.handles()).await;
        let answering = snapshot.answers().map(|(handle, _)| handle);
        let answering: Vec<NodeHandle> = answering
            .filter(|handle| abandoned.contains(&*handle.name))
            .cloned()
            .collect();
        if !answering.is_empty() && !self.risks.answering {
            let nodes = answering.iter().map(|handle| handle.name.to_string());
            return Err(RebalanceError::StillAnswering {
                nodes: nodes.collect(),
            });
        }
        let (voters, needed) = (
            voters(&before, &snapshot),
            majority(before.deciders().len()),
        );
        if voters >= needed && !self.risks.vote {
            return Err(RebalanceError::VotePossible { voters, needed });
        }
        let is_left = |handle: &&NodeHandle| !abandoned.contains(&*handle.name);
        let left = view_nodes
            .handles()
            .iter()
            .filter(is_left)
            .cloned()
            .collect();
        let span = before.longest_ttl().max(topology.max_ttl()) + before.longest_view_lease();
        Ok(Assessment {
            before,
            topology,
            nonces,
            left,
            answering,
            abandoned,
            wait: outwait(span),
        })
    }
}

/// How many nodes could decide the next view: those that keep their promises, even
/// if they are behind.
fn voters(view: &View, snapshot: &ClusterSnapshot<'_>) -> usize {
    let can_vote = |node: &NodeIndex| {
        let name = &view.member(*node).name;
        snapshot.answers().any(|(handle, status)| {
            *handle.name == **name
                && status.nonce.as_ref() == Some(view.nonce(*node))
                && status.standing() != NodeState::Absent
        })
    };
    view.deciders().filter(can_vote).count()
}

/// Makes abandoned nodes that answer stop serving, as far as they comply.
async fn stop_abandoned(answering: &[NodeHandle]) {
    let snapshot = ClusterSnapshot::of(answering).await;
    let stop = |(handle, status): (&NodeHandle, &NodeStatus)| {
        (handle.clone(), quarantine(status, fresh_nonce()))
    };
    // The caller has accepted that a node does not stop.
    let _ = send_all(snapshot.answers().map(stop)).await;
}

/// The topology without the nodes that are given up.
fn remainder(
    before: &View,
    abandoned: &BTreeSet<String>,
    changes: impl IntoIterator<Item = Change>,
) -> Result<Topology, RebalanceError> {
    if let Some(name) = abandoned
        .iter()
        .find(|name| before.index_of(name).is_none())
    {
        return Err(RebalanceError::UnknownNode { name: name.clone() });
    }
    let mut topology = before.next().unwrap_or(before.topology()).clone();
    let nodes = &mut topology.nodes;
    nodes.retain(|node| !abandoned.contains(&node.name));
    for change in changes {
        change.apply(&mut topology, |_| String::new())?;
    }
    Ok(topology)
}

/// Makes all nodes that are left stop serving; those that continue get these
/// nonces. Returns the highest epoch that any of them has served.
async fn stop_all(
    left: &[NodeHandle],
    before: &View,
    nonces: &Nonces,
) -> Result<u32, RebalanceError> {
    let snapshot = ClusterSnapshot::of(left).await;
    let silent = left.iter().zip(&snapshot.statuses);
    let silent = silent.filter(|(_, status)| status.is_none());
    let nodes: Vec<_> = silent
        .map(|(handle, _)| (handle.name.to_string(), Obstacle::Silent))
        .collect();
    if !nodes.is_empty() {
        return Err(RebalanceError::Blocked { nodes });
    }
    if let Some(view) = snapshot.newest(before.id().epoch + 1) {
        return Err(RebalanceError::Superseded { view });
    }
    let epochs = snapshot.answers().filter_map(|(_, status)| status.serving);
    let highest = epochs.map(|view| view.epoch).max().unwrap_or(0);
    let requests = snapshot.answers().map(|(handle, status)| {
        // Nodes that the topology no longer names stop serving, too.
        let nonce = nonces
            .get(&*handle.name)
            .map_or_else(fresh_nonce, Arc::clone);
        (handle.clone(), quarantine(status, nonce))
    });
    let answers = send_all(requests).await;
    if answers.iter().any(|answer| *answer != Ok(Reply::Done)) {
        return Err(RebalanceError::Superseded { view: before.id() });
    }
    // STATUS reports what a node serves. A node that had been quarantined before
    // serves nothing, and remembers epochs that this process may not know of.
    let mut highest = highest.max(before.id().epoch);
    let mut silent = Vec::new();
    for (handle, answer) in left
        .iter()
        .zip(ask_all(left, |_| Request::PriorState).await)
    {
        match answer {
            Ok(Reply::PriorState(past)) => highest = highest.max(past.epoch),
            _ => silent.push((handle.name.to_string(), Obstacle::Silent)),
        }
    }
    match silent.is_empty() {
        true => Ok(highest),
        false => Err(RebalanceError::Blocked { nodes: silent }),
    }
}

fn progress_of(view: ViewId, begun: Instant, now: Instant, until: Instant) -> Progress {
    Progress {
        phase: Phase::Quarantine,
        view,
        elapsed: now.saturating_since(begun),
        remaining: Some(until.saturating_since(now)),
    }
}
