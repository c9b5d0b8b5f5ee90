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
use crate::cluster::bootstrap::{BootstrapOptions, NewBeginning};
use crate::cluster::first_start::{ConnectProgress, Listener};
use crate::cluster::membership::Membership;
use crate::cluster::nodes::{NodeHandle, Outlook, ViewNodes};
use crate::cluster::proposer;
use crate::cluster::proposer::Vote;
use crate::cluster::refresh::RefreshSignal;
use crate::cluster::registry::NodeRegistry;
use crate::cluster::snapshot::{ClusterSnapshot, tell};
use crate::config::Init;
use crate::error::{Error, KeptOut};
use crate::proto::membership::new_start::{Doubt, Prospect, prospect};
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
    lookout: Arc<RefreshSignal>,
    roster: Arc<NodeRegistry>,
    charter: BootstrapOptions,
    membership: Weak<Membership>,
    /// When to readmit a node that is due, unless another router has done so.
    propose_at: Option<Instant>,
    /// Starts a cluster again after most members lost their data.
    start: JoinSet<Result<NewBeginning, Error>>,
    /// The next start is not before this time, because the last one failed.
    start_at: Instant,
    /// The view that may still be served elsewhere.
    doubtful: Option<ViewId>,
    /// When the start is due, as far as is known.
    due: Arc<Mutex<Option<Instant>>>,
}

/// Starts the task on the current runtime. It ends together with `membership`.
pub(crate) fn start(membership: &Arc<Membership>, charter: BootstrapOptions) {
    let watchman = Reconciler::new(membership, charter);
    let lookout = Arc::clone(&watchman.lookout);
    membership.own(task::spawn(watchman.run(), move || lookout.close()));
}

/// What to do after a check.
#[derive(Default)]
struct Sequel {
    has_helped: bool,
    newer: Option<(View, Vec<NodeHandle>)>,
    /// When to check again, if that is sooner than usual.
    due: Option<Instant>,
}

impl Reconciler {
    fn new(membership: &Arc<Membership>, charter: BootstrapOptions) -> Self {
        Self {
            lookout: Arc::clone(&membership.current().lookout),
            roster: Arc::clone(membership.registry()),
            charter,
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
        let Some(fleet) = self.fleet() else { return };
        let mut guide = Transition::new(Goal::Keep, Arc::clone(&fleet.view));
        let mut due = idle_until(&fleet);
        let mut fruitless = 0;
        drop(fleet);
        loop {
            let is_wanted = tokio::select! {
                Some(started) = self.start.join_next() => {
                    self.started(started);
                    true
                }
                is_wanted = self.lookout.wanted(due) => is_wanted,
            };
            let Some(fleet) = self.fleet() else { return };
            let since = clock::now() - fleet.view.view_lease() / 2;
            let is_idle_look = !is_wanted && self.propose_at.is_none();
            if is_idle_look && fleet.has_seen_all(since) && fleet.returning.lock().is_empty() {
                fleet.peers().iter().for_each(|peer| peer.meter.serves());
                due = idle_until(&fleet);
                continue;
            }
            guide.moved(Arc::clone(&fleet.view));
            self.lookout.begin();
            let looked_at = clock::now();
            let (sequel, error) = match self.look(&fleet, &mut guide).await {
                Ok(sequel) => (sequel, None),
                Err(error) => (Sequel::default(), Some(error)),
            };
            let is_fruitful = sequel.has_helped || sequel.newer.is_some();
            fruitless = match is_wanted && !is_fruitful {
                true => SLOWEST.min(fruitless + 1),
                false => 0,
            };
            if let Some((view, peers)) = sequel.newer {
                self.move_up(view, peers);
            }
            let Some(fleet) = self.fleet() else { return };
            due = sequel.due.unwrap_or(Instant::MAX).min(idle_until(&fleet));
            self.lookout.finish(sequel.has_helped, error);
            drop(fleet);
            clock::sleep_until(looked_at + PACE * (1 << fruitless)).await;
        }
    }

    /// Handles the end of a try to start the cluster again.
    fn started(&mut self, started: Result<Result<NewBeginning, Error>, JoinError>) {
        match started {
            Ok(Ok(NewBeginning::Made(view, peers))) => self.move_up(view, peers),
            Ok(Ok(NewBeginning::Doubtful)) => {
                self.doubtful = self.fleet().map(|fleet| fleet.view.id());
            }
            Ok(Err(error)) => {
                events::first_start_failed(&error);
                self.start_at = clock::now() + START_AGAIN;
            }
            Ok(Ok(NewBeginning::Needless)) | Err(_) => {}
        }
    }

    fn move_up(&self, view: View, peers: Vec<NodeHandle>) {
        if let Some(membership) = self.membership.upgrade() {
            membership.move_up(view, peers);
        }
    }

    fn fleet(&self) -> Option<Arc<ViewNodes>> {
        self.membership
            .upgrade()
            .map(|membership| membership.current())
    }

    async fn look(&mut self, fleet: &ViewNodes, guide: &mut Transition) -> Result<Sequel, Error> {
        let known = fleet.view.id();
        let survey = ClusterSnapshot::of_most(fleet.peers()).await;
        if let Some(newer) = survey.successor(&fleet.view).await {
            return self.follow(newer);
        }
        survey.check_form(Some(known))?;
        if let Some((node, serving)) = survey.replaced(known) {
            return Err(Error::StaleView {
                node,
                serving,
                known,
            });
        }
        if survey.answers().count() < fleet.view.majority()
            && let Some(newer) = self.ask_seeds(fleet).await
        {
            return self.follow(newer);
        }
        self.note(fleet, guide, &survey);
        match self.consider(fleet, &survey) {
            // The process that starts the cluster again needs every node to itself.
            Prospect::StartsAnew if self.charter.init != Init::Never => Ok(Sequel {
                due: Some(clock::now() + LOST_LOOK),
                ..Sequel::default()
            }),
            _ => self.attend(fleet, guide).await,
        }
    }

    fn follow(&self, view: View) -> Result<Sequel, Error> {
        let peers = self.roster.members(&view)?;
        Ok(Sequel {
            newer: Some((view, peers)),
            ..Sequel::default()
        })
    }

    /// Handles the case that too few members answer: all may have been replaced
    /// since, and the configured nodes know the newer view.
    async fn ask_seeds(&self, fleet: &ViewNodes) -> Option<View> {
        let mut seeds = self.roster.seeds();
        seeds.retain(|seed| fleet.view.index_of(&seed.name).is_none());
        let survey = ClusterSnapshot::of_most(&seeds).await;
        let newer = survey.successor(&fleet.view).await;
        newer.filter(|view| view.cluster() == fleet.view.cluster())
    }

    /// Determines what happens to a cluster that cannot vote, and starts it again
    /// if that is due.
    fn consider(&mut self, fleet: &ViewNodes, survey: &ClusterSnapshot<'_>) -> Prospect {
        let prospect = prospect(&fleet.view, |name| survey.status(name));
        let why = match &prospect {
            Prospect::Votes => too_few_answer(fleet, survey),
            Prospect::Awaits(nodes) => Some(KeptOut::Awaits {
                nodes: nodes.clone(),
            }),
            Prospect::NeedsForce(doubt) => Some(KeptOut::NeedsForce {
                reason: doubt.to_string(),
            }),
            Prospect::StartsAnew if self.charter.init == Init::Never => {
                Some(KeptOut::NeedsForce {
                    reason: "init = \"never\" (a router with init = \"wait\" starts the cluster anew unattended)".into(),
                })
            }
            Prospect::StartsAnew if self.doubtful == Some(fleet.view.id()) => {
                Some(KeptOut::NeedsForce {
                    reason: Doubt::Passage.to_string(),
                })
            }
            Prospect::StartsAnew => {
                self.start_again(fleet);
                Some(KeptOut::StartsAnew { remaining: None })
            }
        };
        let due = *self.due.lock();
        fleet.expect(why.map(|why| Outlook { why, due }));
        prospect
    }

    /// Most nodes have lost their data, and all answer: the cluster gets a view
    /// again. Its epoch is above the one that this router knew, so that fences keep
    /// growing.
    fn start_again(&mut self, fleet: &ViewNodes) {
        if !self.start.is_empty() || clock::now() < self.start_at {
            return;
        }
        events::majority_lost(fleet.view.id());
        let due = Arc::clone(&self.due);
        let listener = Listener::new(move |progress| {
            if let ConnectProgress::Waiting { remaining } = progress {
                *due.lock() = Some(clock::now() + *remaining);
            }
        });
        let charter = BootstrapOptions {
            listener,
            ..self.charter.clone()
        };
        let (view, peers) = (Arc::clone(&fleet.view), fleet.peers().to_vec());
        self.start
            .spawn(async move { bootstrap::start_anew(&charter, &view, &peers).await });
    }

    /// Records the nodes' answers.
    fn note(&self, fleet: &ViewNodes, guide: &mut Transition, survey: &ClusterSnapshot<'_>) {
        let now = clock::now();
        for (index, (peer, status)) in fleet.peers().iter().zip(&survey.statuses).enumerate() {
            let serving = status.as_ref().map(|status| status.standing());
            if serving == Some(NodeState::Serving(fleet.view.id())) {
                fleet.saw(NodeIndex::new(index as u16), survey.asked_at);
            }
            peer.meter.seen(status.as_ref(), fleet.view.id());
            guide.saw(now, &peer.name, status.clone());
        }
        let returning = guide.returning();
        let back =
            returning.filter_map(|(name, at)| Some((fleet.view.index_of(name)?, at + STAND_BY)));
        *fleet.returning.lock() = back.collect();
    }

    /// Does what keeps every member in its place.
    async fn attend(&mut self, fleet: &ViewNodes, guide: &Transition) -> Result<Sequel, Error> {
        let now = clock::now();
        let step = guide.next(now, proposer::fresh_nonce)?;
        if !matches!(step, Move::Propose(_)) {
            self.propose_at = None;
        }
        let mut sequel = Sequel::default();
        match step {
            Move::Tell(letters) => {
                let help = help(fleet, letters).await;
                sequel.has_helped = help.is_adopted;
                // Requests that no node accepted are retried at the next check.
                sequel.due = help.is_taken.then(|| clock::now() + PACE);
            }
            Move::Wait { until, .. } => sequel.due = Some(until),
            Move::Propose(view) => {
                let stand_by = || now + STAND_BY.mul_f64(rand::random());
                let propose_at = *self.propose_at.get_or_insert_with(stand_by);
                if now < propose_at {
                    sequel.due = Some(propose_at);
                } else {
                    self.propose_at = None;
                    return self.readmit(fleet, *view).await;
                }
            }
            Move::Blocked(_) | Move::Done | Move::Superseded => {}
        }
        Ok(sequel)
    }

    async fn readmit(&self, fleet: &ViewNodes, view: View) -> Result<Sequel, Error> {
        match proposer::decide(&fleet.view, fleet.peers(), &view).await? {
            Vote::Decided(view) => {
                events::readmitted(view.id());
                let sequel = self.follow(*view)?;
                if let Some((view, peers)) = &sequel.newer {
                    proposer::spread(view, peers, Some((&fleet.view, fleet.peers())));
                }
                Ok(sequel)
            }
            Vote::Overtaken => {
                self.lookout.wake();
                Ok(Sequel::default())
            }
            Vote::TooFew { voted, .. } => {
                events::not_readmitted(voted, majority(fleet.view.deciders().len()));
                Ok(Sequel::default())
            }
        }
    }
}

/// Returns the reason if nodes lost their data and the others could readmit them,
/// but too few of the others answer.
fn too_few_answer(fleet: &ViewNodes, survey: &ClusterSnapshot<'_>) -> Option<KeptOut> {
    let deciders = fleet.view.deciders();
    let needed = majority(deciders.len());
    let can_vote = |&node: &NodeIndex| {
        let status = survey.status(&fleet.view.member(node).name);
        status.is_some_and(|status| {
            status.standing() != NodeState::Absent
                && status.nonce.as_ref() == Some(fleet.view.nonce(node))
        })
    };
    (deciders.filter(can_vote).count() < needed).then_some(KeptOut::TooFewAnswer)
}

/// When to check without a request: before the confirmation of the view expires, at
/// a random time that differs between routers.
fn idle_until(fleet: &ViewNodes) -> Instant {
    let half = fleet.view.view_lease() / 2;
    clock::now() + half - half.mul_f64(rand::random::<f64>() / 5.0)
}

/// The effect of the messages.
#[derive(Default)]
struct Help {
    /// A node executed its request.
    is_taken: bool,
    /// A node now serves the view because of it.
    is_adopted: bool,
}

/// Sends the messages.
async fn help(fleet: &ViewNodes, letters: Vec<(String, Request)>) -> Help {
    let mut adoptions = Vec::new();
    let mut addressed = Vec::new();
    for (name, request) in letters {
        let Some(node) = fleet.view.index_of(&name) else {
            continue;
        };
        let is_adoption = matches!(request, Request::Adopt { .. });
        if is_adoption {
            events::behind(&name, fleet.view.id());
        } else {
            events::quarantined(&name);
        }
        adoptions.push(is_adoption);
        addressed.push((fleet.peer(node).clone(), request));
    }
    let mut help = Help::default();
    for (answer, is_adoption) in tell(addressed).await.into_iter().zip(adoptions) {
        let is_done = answer == Ok(Reply::Done);
        help.is_taken |= is_done;
        help.is_adopted |= is_done && is_adoption;
    }
    help
}
