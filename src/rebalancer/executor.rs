//! Carrying out a change: check the cluster, execute the [`Transition`]'s next
//! step, repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::cluster::nodes::{NodeHandle, ViewNodes};
use crate::cluster::proposer;
use crate::cluster::proposer::{Vote, fresh_nonce};
use crate::cluster::snapshot::{ClusterSnapshot, send_all};
use crate::error::NodeCause;
use crate::node::ReplyTo;
use crate::proto::membership::transition::{
    Goal, Move, Obstacle, Transition, Waiting, adopt_under,
};
use crate::proto::membership::view::View;
use crate::proto::node::message::{Nonce, Reply, Request, ViewId};
use crate::proto::quorum::majority;
use crate::proto::time::Instant;
use crate::rebalancer::{Phase, Progress, RebalanceError, Rebalancer, Report, abort_note};

/// Time between two checks when there is nothing else to do.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The same when a node is expected to follow immediately.
const LOOK_SOON: Duration = Duration::from_millis(20);

/// A change in progress.
pub(crate) struct Executor<'a> {
    rebalancer: &'a Rebalancer,
    transition: Transition,
    goal: Goal,
    /// All nodes that were contacted, by name.
    handles: BTreeMap<String, NodeHandle>,
    /// Members of earlier views that later views do not name, with the nonces for
    /// notifying them.
    former: BTreeMap<String, Nonce>,
    begun: Instant,
    /// The view in force when the change started.
    from: Arc<View>,
    blocked_since: Option<Instant>,
    /// Members that must serve the view in the end, including silent ones.
    awaited: BTreeSet<String>,
    /// Whether it also outdates plans.
    is_outdating: bool,
}

/// What follows a step.
enum NextAction {
    Observe(Duration),
    Over,
}

impl<'a> Executor<'a> {
    pub(crate) fn new(
        rebalancer: &'a Rebalancer,
        view_nodes: &ViewNodes,
        goal: Goal,
        fenced: BTreeSet<String>,
        retired: Vec<(String, ViewId)>,
    ) -> Self {
        Self {
            rebalancer,
            transition: Transition::new(goal.clone(), Arc::clone(&view_nodes.view))
                .with_fenced(fenced)
                .with_retired(retired),
            goal,
            handles: BTreeMap::new(),
            former: BTreeMap::new(),
            begun: clock::now(),
            from: Arc::clone(&view_nodes.view),
            blocked_since: None,
            awaited: BTreeSet::new(),
            is_outdating: false,
        }
    }

    /// Requires that these members serve the view before the change is over.
    pub(crate) fn awaiting(mut self, nodes: BTreeSet<String>) -> Self {
        self.awaited = nodes;
        self
    }

    /// Outdates every plan for the view in force.
    pub(crate) fn outdating(mut self) -> Self {
        self.transition = self.transition.with_plans_outdated();
        self.is_outdating = true;
        self
    }

    pub(crate) async fn run(
        mut self,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        loop {
            self.rebalancer.leases.lifecycle().check()?;
            if let Some(pause) = self.look().await? {
                clock::sleep_until(clock::now() + pause).await;
                continue;
            }
            if self.is_overtaken() {
                return Err(self.stopped().await);
            }
            let now = clock::now();
            let step = self.transition.next(now, fresh_nonce)?;
            progress(&self.progress(now, &step));
            match self.carry_out(step).await? {
                NextAction::Observe(pause) => clock::sleep_until(clock::now() + pause).await,
                NextAction::Over => return Ok(self.report().await),
            }
        }
    }

    /// Whether the passage to take back has ended otherwise: it was finished, or
    /// another has started since. A passage that starts while plans are outdated is
    /// also taken back; one that starts afterwards is not.
    fn is_overtaken(&self) -> bool {
        let (view, from) = (self.transition.view(), &self.from);
        let has_other_end = match (view.next(), from.next()) {
            (None, _) => false,
            (Some(_), None) => !self.is_outdating || view.since() > from.id().epoch + 1,
            (Some(_), Some(_)) => view.next() != from.next() || view.since() != from.since(),
        };
        self.goal == Goal::Abort && (view.topology() != from.topology() || has_other_end)
    }

    /// Why the change does not continue.
    async fn stopped(&self) -> RebalanceError {
        match self.transition.taken_back() {
            Some(view) => RebalanceError::Aborted {
                view,
                by: abort_note::author(&self.rebalancer.leases).await,
            },
            None => RebalanceError::Superseded {
                view: self.transition.view().id(),
            },
        }
    }

    /// Checks all nodes, and follows the cluster to a newer view. After that, or if
    /// it cannot be followed yet, another check is needed.
    async fn look(&mut self) -> Result<Option<Duration>, RebalanceError> {
        let handles = self.everybody()?;
        let snapshot = ClusterSnapshot::of_most(&handles).await;
        if let Some(view) = snapshot.successor(self.transition.view()).await {
            self.follow(view)?;
            return Ok(Some(Duration::ZERO));
        }
        let now = clock::now();
        for (handle, status) in handles.iter().zip(&snapshot.statuses) {
            self.transition.saw(now, &handle.name, status.clone());
        }
        Ok(None)
    }

    /// The members, and the nodes that the goal names.
    fn everybody(&mut self) -> Result<Vec<NodeHandle>, RebalanceError> {
        let registry = self.rebalancer.leases.membership.registry();
        let view = Arc::clone(self.transition.view());
        let goal = match &self.goal {
            Goal::Reach { to, .. } => to.nodes.as_slice(),
            Goal::Keep | Goal::Abort => &[],
        };
        let newcomers = goal
            .iter()
            .filter(|node| view.index_of(&node.name).is_none());
        let mut everybody = Vec::new();
        for node in view.members().chain(newcomers) {
            let handle = registry.member(&node.name, &node.address)?;
            self.handles.insert(node.name.clone(), handle.clone());
            everybody.push(handle);
        }
        Ok(everybody)
    }

    fn follow(&mut self, view: View) -> Result<(), RebalanceError> {
        let membership = &self.rebalancer.leases.membership;
        for (name, nonce) in self.transition.view().nonces() {
            if view.index_of(&name).is_none() {
                self.former.insert(name, nonce);
            }
        }
        self.former.retain(|name, _| view.index_of(name).is_none());
        let handles = membership.registry().members(&view)?;
        proposer::spread(&view, &handles, None);
        self.teach(&view);
        self.transition.moved(Arc::new(view.clone()));
        membership.move_up(view, handles);
        Ok(())
    }

    /// Notifies the nodes that are no longer members.
    fn teach(&self, view: &View) {
        let deadline = clock::now() + LOOK_AGAIN;
        for (name, request) in self.lessons(view) {
            if let Some(handle) = self.handles.get(&name) {
                let nobody = ReplyTo::nobody();
                handle.node.submit(request, deadline, nobody);
            }
        }
    }

    fn lessons(&self, view: &View) -> Vec<(String, Request)> {
        let lesson = |(name, nonce): (&String, _)| (name.clone(), adopt_under(view, nonce));
        self.former.iter().map(lesson).collect()
    }

    async fn carry_out(&mut self, step: Move) -> Result<NextAction, RebalanceError> {
        match step {
            Move::Send(requests) => {
                let behind = |(name, _): &(String, _)| (name.clone(), Obstacle::Behind);
                let nodes = requests.iter().map(behind).collect();
                let send = |(name, request)| Some((self.handles.get(&name)?.clone(), request));
                let answers = send_all(requests.into_iter().filter_map(send)).await;
                if answers.contains(&Ok(Reply::Done)) {
                    return Ok(NextAction::Observe(LOOK_SOON));
                }
                self.persist(RebalanceError::Blocked { nodes })
                    .map(NextAction::Observe)
            }
            Move::Wait { until, .. } => {
                self.blocked_since = None;
                let left = until.saturating_since(clock::now());
                Ok(NextAction::Observe(left.min(LOOK_AGAIN)))
            }
            Move::Propose(view) => self.propose(*view).await,
            Move::Blocked(nodes) => self
                .persist(RebalanceError::Blocked { nodes })
                .map(NextAction::Observe),
            Move::Done => match self.missing() {
                nodes if nodes.is_empty() => Ok(NextAction::Over),
                nodes => self
                    .persist(RebalanceError::Blocked { nodes })
                    .map(NextAction::Observe),
            },
            Move::Superseded => Err(self.stopped().await),
        }
    }

    async fn propose(&mut self, proposal: View) -> Result<NextAction, RebalanceError> {
        let view = Arc::clone(self.transition.view());
        let membership = &self.rebalancer.leases.membership;
        let handles = membership.registry().members(&view)?;
        match proposer::decide(&view, &handles, &proposal).await? {
            Vote::Decided(view) => {
                self.blocked_since = None;
                self.follow(*view)?;
                Ok(NextAction::Observe(LOOK_SOON))
            }
            Vote::Overtaken => Ok(NextAction::Observe(LOOK_SOON)),
            Vote::TooFew { voted, refusals } => {
                let causes = refusals.into_iter().map(|(node, refusal)| NodeCause {
                    node: Arc::clone(&handles[node.get()].name),
                    cause: refusal.into(),
                });
                self.persist(RebalanceError::TooFewVotes {
                    voted,
                    needed: majority(view.deciders().len()),
                    causes: causes.collect(),
                })
                .map(NextAction::Observe)
            }
        }
    }

    /// Awaited members that do not serve the view.
    fn missing(&self) -> Vec<(String, Obstacle)> {
        if self.awaited.is_empty() {
            return Vec::new();
        }
        let mut missing = self.transition.out();
        missing.retain(|(name, _)| self.awaited.contains(name));
        missing
    }

    /// Retries a step that nodes block, until the patience is used up.
    fn persist(&mut self, error: RebalanceError) -> Result<Duration, RebalanceError> {
        let now = clock::now();
        let since = *self.blocked_since.get_or_insert(now);
        if now >= since + self.rebalancer.patience {
            return Err(error);
        }
        let is_behind = |(_, obstacle): &(String, Obstacle)| *obstacle == Obstacle::Behind;
        let is_soon =
            matches!(&error, RebalanceError::Blocked { nodes } if nodes.iter().all(is_behind));
        Ok(if is_soon { LOOK_SOON } else { LOOK_AGAIN })
    }

    fn progress(&self, now: Instant, step: &Move) -> Progress {
        let view = self.transition.view();
        let (phase, remaining) = match step {
            Move::Wait { until, reason } => {
                let phase = match reason {
                    Waiting::Quarantine => Phase::Quarantine,
                    Waiting::Leases => Phase::Joint,
                };
                (phase, Some(until.saturating_since(now)))
            }
            Move::Blocked(nodes) => (Phase::Blocked(nodes.clone()), None),
            _ if view.next().is_some() => (Phase::Joint, None),
            _ if view.id() == self.from.id() => (Phase::Beginning, None),
            _ => (Phase::Settling, None),
        };
        Progress {
            phase,
            view: view.id(),
            elapsed: now.saturating_since(self.begun),
            remaining,
        }
    }

    /// Notifies the nodes that are no longer members, and reports which of them
    /// know it.
    async fn report(self) -> Report {
        let view = self.transition.view();
        let lessons = self.lessons(view);
        let names: Vec<String> = lessons.iter().map(|(name, _)| name.clone()).collect();
        let send = |(name, request)| Some((self.handles.get(&name)?.clone(), request));
        let answers = send_all(lessons.into_iter().filter_map(send)).await;
        let knows = answers.into_iter().map(|answer| answer == Ok(Reply::Done));
        Report {
            from: self.from.id(),
            to: view.id(),
            elapsed: clock::now().saturating_since(self.begun),
            retired: names.into_iter().zip(knows).collect(),
        }
    }
}
