//! One task per router that checks the state of the cluster: when an answer shows
//! that the router or a node is behind, and periodically while the router is idle.
//! It follows the cluster to newer views, brings nodes up to the view, and readmits
//! nodes that lost their data.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ringlock_ring::NodeIndex;
use tokio::task::{JoinError, JoinSet};

use crate::clock;
use crate::cluster::bootstrap;
use crate::cluster::bootstrap::{BootstrapOptions, FirstStart};
use crate::cluster::first_start::{ConnectProgress, Listener};
use crate::cluster::membership::Membership;
use crate::cluster::nodes::{NodeHandle, Outlook, ViewNodes};
use crate::cluster::proposer;
use crate::cluster::proposer::Vote;
use crate::cluster::refresh::RefreshSignal;
use crate::cluster::registry::NodeRegistry;
use crate::cluster::snapshot::{ClusterSnapshot, send_all};
use crate::config::Init;
use crate::error::{Error, KeptOut};
use crate::proto::membership::new_start::{RestartObstacle, VoteOutlook, vote_outlook};
use crate::proto::membership::transition::{Goal, Move, Transition};
use crate::proto::membership::view::View;
use crate::proto::node::message::{NodeState, Reply, Request, ViewId};
use crate::proto::quorum::majority;
use crate::proto::time::Instant;
use crate::runtime::task;
use crate::telemetry::events;

/// The shortest time between two checks, however often one is requested. After
/// fruitless checks it is doubled for each of them.
const PACE: Duration = Duration::from_millis(20);

/// Doublings of the pace, at most: to about two thirds of a second.
const SLOWEST: u32 = 5;

/// How often the cluster is checked while it is started again.
const LOST_LOOK: Duration = Duration::from_millis(500);

/// How soon starting the cluster again is retried after an error.
const START_AGAIN: Duration = Duration::from_secs(5);

/// How long a router waits before it readmits a node, at most: another router may
/// be quicker.
const STAND_BY: Duration = Duration::from_secs(1);

/// The task's state.
struct Reconciler {
    refresh: Arc<RefreshSignal>,
    registry: Arc<NodeRegistry>,
    options: BootstrapOptions,
    membership: Weak<Membership>,
    /// When to readmit a node that is due, unless another router has done so.
    propose_at: Option<Instant>,
    /// Starts a cluster again after most members lost their data.
    start: JoinSet<Result<FirstStart, Error>>,
    /// The next start is not before this time, because the last one failed.
    start_at: Instant,
    /// The view that may still be served elsewhere.
    doubtful: Option<ViewId>,
    /// When the start is due, as far as is known.
    due: Arc<Mutex<Option<Instant>>>,
}

/// Starts the task on the current runtime. It ends together with `membership`.
pub(crate) fn start(membership: &Arc<Membership>, options: BootstrapOptions) {
    let watchman = Reconciler::new(membership, options);
    let refresh = Arc::clone(&watchman.refresh);
    membership.own(task::spawn(watchman.run(), move || refresh.close()));
}

/// What to do after a check.
#[derive(Default)]
struct NextStep {
    has_helped: bool,
    newer: Option<(View, Vec<NodeHandle>)>,
    /// When to check again, if that is sooner than usual.
    due: Option<Instant>,
}

impl Reconciler {
    fn new(membership: &Arc<Membership>, options: BootstrapOptions) -> Self {
        Self {
            refresh: Arc::clone(&membership.current().refresh),
            registry: Arc::clone(membership.registry()),
            options,
            membership: Arc::downgrade(membership),
            propose_at: None,
            start: JoinSet::new(),
            start_at: Instant::default(),
            doubtful: None,
            due: Arc::default(),
        }
    }

    /// Checks whenever that is due or requested, until the router is gone.
    async fn run(mut self) {
        let Some(view_nodes) = self.view_nodes() else {
            return;
        };
        let mut guide = Transition::new(Goal::Keep, Arc::clone(&view_nodes.view));
        let mut due = idle_until(&view_nodes);
        let mut fruitless = 0;
        drop(view_nodes);
        loop {
            let is_wanted = tokio::select! {
                Some(started) = self.start.join_next() => {
                    self.started(started);
                    true
                }
                is_wanted = self.refresh.wanted(due) => is_wanted,
            };
            let Some(view_nodes) = self.view_nodes() else {
                return;
            };
            let since = clock::now() - view_nodes.view.view_lease() / 2;
            let is_idle_look = !is_wanted && self.propose_at.is_none();
            if is_idle_look
                && view_nodes.confirmations.has_all(since)
                && view_nodes.returning.lock().is_empty()
            {
                view_nodes
                    .handles()
                    .iter()
                    .for_each(|handle| handle.meter.serves());
                due = idle_until(&view_nodes);
                continue;
            }
            guide.moved(Arc::clone(&view_nodes.view));
            self.refresh.begin();
            let looked_at = clock::now();
            let (next_step, error) = match self.look(&view_nodes, &mut guide).await {
                Ok(next_step) => (next_step, None),
                Err(error) => (NextStep::default(), Some(error)),
            };
            let is_fruitful = next_step.has_helped || next_step.newer.is_some();
            fruitless = match is_wanted && !is_fruitful {
                true => SLOWEST.min(fruitless + 1),
                false => 0,
            };
            if let Some((view, handles)) = next_step.newer {
                self.move_up(view, handles);
            }
            let Some(view_nodes) = self.view_nodes() else {
                return;
            };
            due = next_step
                .due
                .unwrap_or(Instant::MAX)
                .min(idle_until(&view_nodes));
            self.refresh.finish(next_step.has_helped, error);
            drop(view_nodes);
            clock::sleep_until(looked_at + PACE * (1 << fruitless)).await;
        }
    }

    /// Handles the end of a try to start the cluster again.
    fn started(&mut self, started: Result<Result<FirstStart, Error>, JoinError>) {
        match started {
            Ok(Ok(FirstStart::Made(view, handles))) => self.move_up(view, handles),
            Ok(Ok(FirstStart::Doubtful)) => {
                self.doubtful = self.view_nodes().map(|view_nodes| view_nodes.view.id());
            }
            Ok(Err(error)) => {
                events::first_start_failed(&error);
                self.start_at = clock::now() + START_AGAIN;
            }
            Ok(Ok(FirstStart::Needless)) | Err(_) => {}
        }
    }

    fn move_up(&self, view: View, handles: Vec<NodeHandle>) {
        if let Some(membership) = self.membership.upgrade() {
            membership.move_up(view, handles);
        }
    }

    fn view_nodes(&self) -> Option<Arc<ViewNodes>> {
        self.membership
            .upgrade()
            .map(|membership| membership.current())
    }

    async fn look(
        &mut self,
        view_nodes: &ViewNodes,
        guide: &mut Transition,
    ) -> Result<NextStep, Error> {
        let known = view_nodes.view.id();
        let snapshot = ClusterSnapshot::of_most(view_nodes.handles()).await;
        if let Some(newer) = snapshot.successor(&view_nodes.view).await {
            return self.follow(newer);
        }
        snapshot.check_form(Some(known))?;
        if let Some((node, serving)) = snapshot.replaced(known) {
            return Err(Error::StaleView {
                node,
                serving,
                known,
            });
        }
        if snapshot.answers().count() < view_nodes.view.majority()
            && let Some(newer) = self.ask_seeds(view_nodes).await
        {
            return self.follow(newer);
        }
        self.note(view_nodes, guide, &snapshot);
        match self.consider(view_nodes, &snapshot) {
            // The process that starts the cluster again needs every node to itself.
            VoteOutlook::StartsAnew if self.options.init != Init::Never => Ok(NextStep {
                due: Some(clock::now() + LOST_LOOK),
                ..NextStep::default()
            }),
            _ => self.attend(view_nodes, guide).await,
        }
    }

    fn follow(&self, view: View) -> Result<NextStep, Error> {
        let handles = self.registry.members(&view)?;
        Ok(NextStep {
            newer: Some((view, handles)),
            ..NextStep::default()
        })
    }

    /// Handles the case that too few members answer: all may have been replaced
    /// since, and the configured nodes know the newer view.
    async fn ask_seeds(&self, view_nodes: &ViewNodes) -> Option<View> {
        let mut seeds = self.registry.seeds();
        seeds.retain(|seed| view_nodes.view.index_of(&seed.name).is_none());
        let snapshot = ClusterSnapshot::of_most(&seeds).await;
        let newer = snapshot.successor(&view_nodes.view).await;
        newer.filter(|view| view.cluster() == view_nodes.view.cluster())
    }

    /// Determines what happens to a cluster that cannot vote, and starts it again
    /// if that is due.
    fn consider(&mut self, view_nodes: &ViewNodes, snapshot: &ClusterSnapshot<'_>) -> VoteOutlook {
        let vote_outlook = vote_outlook(&view_nodes.view, |name| snapshot.status(name));
        let why = match &vote_outlook {
            VoteOutlook::Votes => too_few_answer(view_nodes, snapshot),
            VoteOutlook::Awaits(nodes) => Some(KeptOut::Awaits {
                nodes: nodes.clone(),
            }),
            VoteOutlook::NeedsForce(doubt) => Some(KeptOut::NeedsForce {
                reason: doubt.to_string(),
            }),
            VoteOutlook::StartsAnew if self.options.init == Init::Never => {
                Some(KeptOut::NeedsForce {
                    reason: "init = \"never\" (a router with init = \"wait\" starts the cluster again unattended)".into(),
                })
            }
            VoteOutlook::StartsAnew if self.doubtful == Some(view_nodes.view.id()) => {
                Some(KeptOut::NeedsForce {
                    reason: RestartObstacle::Passage.to_string(),
                })
            }
            VoteOutlook::StartsAnew => {
                self.start_again(view_nodes);
                Some(KeptOut::StartsAnew { remaining: None })
            }
        };
        let due = *self.due.lock();
        view_nodes.expect(why.map(|why| Outlook { why, due }));
        vote_outlook
    }

    /// Most nodes have lost their data, and all answer: the cluster gets a view
    /// again. Its epoch is above the one that this router knew, so that fences keep
    /// growing.
    fn start_again(&mut self, view_nodes: &ViewNodes) {
        if !self.start.is_empty() || clock::now() < self.start_at {
            return;
        }
        events::majority_lost(view_nodes.view.id());
        let due = Arc::clone(&self.due);
        let listener = Listener::new(move |progress| {
            if let ConnectProgress::Waiting { remaining } = progress {
                *due.lock() = Some(clock::now() + *remaining);
            }
        });
        let options = BootstrapOptions {
            listener,
            ..self.options.clone()
        };
        let (view, handles) = (Arc::clone(&view_nodes.view), view_nodes.handles().to_vec());
        self.start
            .spawn(async move { bootstrap::start_again(&options, &view, &handles).await });
    }

    /// Records the nodes' answers.
    fn note(&self, view_nodes: &ViewNodes, guide: &mut Transition, snapshot: &ClusterSnapshot<'_>) {
        let now = clock::now();
        for (index, (handle, status)) in view_nodes
            .handles()
            .iter()
            .zip(&snapshot.statuses)
            .enumerate()
        {
            let serving = status.as_ref().map(|status| status.standing());
            if serving == Some(NodeState::Serving(view_nodes.view.id())) {
                view_nodes
                    .confirmations
                    .saw(NodeIndex::new(index as u16), snapshot.asked_at);
            }
            handle.meter.seen(status.as_ref(), view_nodes.view.id());
            guide.saw(now, &handle.name, status.clone());
        }
        let returning = guide.returning();
        let back = returning
            .filter_map(|(name, at)| Some((view_nodes.view.index_of(name)?, at + STAND_BY)));
        *view_nodes.returning.lock() = back.collect();
    }

    /// Does what keeps every member in its place.
    async fn attend(
        &mut self,
        view_nodes: &ViewNodes,
        guide: &Transition,
    ) -> Result<NextStep, Error> {
        let now = clock::now();
        let step = guide.next(now, proposer::fresh_nonce)?;
        if !matches!(step, Move::Propose(_)) {
            self.propose_at = None;
        }
        let mut next_step = NextStep::default();
        match step {
            Move::Send(requests) => {
                let help = help(view_nodes, requests).await;
                next_step.has_helped = help.is_adopted;
                // Requests that no node accepted are retried at the next check.
                next_step.due = help.is_taken.then(|| clock::now() + PACE);
            }
            Move::Wait { until, .. } => next_step.due = Some(until),
            Move::Propose(view) => {
                let stand_by = || now + STAND_BY.mul_f64(rand::random());
                let propose_at = *self.propose_at.get_or_insert_with(stand_by);
                if now < propose_at {
                    next_step.due = Some(propose_at);
                } else {
                    self.propose_at = None;
                    return self.readmit(view_nodes, *view).await;
                }
            }
            Move::Blocked(_) | Move::Done | Move::Superseded => {}
        }
        Ok(next_step)
    }

    async fn readmit(&self, view_nodes: &ViewNodes, view: View) -> Result<NextStep, Error> {
        match proposer::decide(&view_nodes.view, view_nodes.handles(), &view).await? {
            Vote::Decided(view) => {
                events::readmitted(view.id());
                let next_step = self.follow(*view)?;
                if let Some((view, handles)) = &next_step.newer {
                    proposer::spread(
                        view,
                        handles,
                        Some((&view_nodes.view, view_nodes.handles())),
                    );
                }
                Ok(next_step)
            }
            Vote::Overtaken => {
                self.refresh.wake();
                Ok(NextStep::default())
            }
            Vote::TooFew { voted, .. } => {
                events::not_readmitted(voted, majority(view_nodes.view.deciders().len()));
                Ok(NextStep::default())
            }
        }
    }
}

/// Returns the reason if nodes lost their data and the others could readmit them,
/// but too few of the others answer.
fn too_few_answer(view_nodes: &ViewNodes, snapshot: &ClusterSnapshot<'_>) -> Option<KeptOut> {
    let deciders = view_nodes.view.deciders();
    let needed = majority(deciders.len());
    let can_vote = |&node: &NodeIndex| {
        let status = snapshot.status(&view_nodes.view.member(node).name);
        status.is_some_and(|status| {
            status.standing() != NodeState::Absent
                && status.nonce.as_ref() == Some(view_nodes.view.nonce(node))
        })
    };
    (deciders.filter(can_vote).count() < needed).then_some(KeptOut::TooFewAnswer)
}

/// When to check without a request: before the confirmation of the view expires, at
/// a random time that differs between routers.
fn idle_until(view_nodes: &ViewNodes) -> Instant {
    let half = view_nodes.view.view_lease() / 2;
    clock::now() + half - half.mul_f64(rand::random::<f64>() / 5.0)
}

/// The effect of the messages.
#[derive(Default)]
struct DeliveryResult {
    /// A node executed its request.
    is_taken: bool,
    /// A node now serves the view because of it.
    is_adopted: bool,
}

/// Sends the messages.
async fn help(view_nodes: &ViewNodes, requests: Vec<(String, Request)>) -> DeliveryResult {
    let mut adoptions = Vec::new();
    let mut addressed = Vec::new();
    for (name, request) in requests {
        let Some(node) = view_nodes.view.index_of(&name) else {
            continue;
        };
        let is_adoption = matches!(request, Request::Adopt { .. });
        if is_adoption {
            events::behind(&name, view_nodes.view.id());
        } else {
            events::quarantined(&name);
        }
        adoptions.push(is_adoption);
        addressed.push((view_nodes.handle(node).clone(), request));
    }
    let mut help = DeliveryResult::default();
    for (answer, is_adoption) in send_all(addressed).await.into_iter().zip(adoptions) {
        let is_done = answer == Ok(Reply::Done);
        help.is_taken |= is_done;
        help.is_adopted |= is_done && is_adoption;
    }
    help
}
