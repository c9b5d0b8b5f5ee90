//! A coordinator: finds out which views are served, asks `Transition` for the next
//! step, and takes it. It keeps nothing when it dies; another begins by observing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use ringlock_proto::membership::paxos::BallotRun;
use ringlock_proto::membership::transition::{Goal, Move, Transition};
use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::{
    NodeError, NodeErrorKind, NodeState, NodeStatus, Nonce, Reply, Request, ViewId,
};
use ringlock_proto::operation::machine::Step;
use ringlock_proto::time::Instant;

use crate::admin;
use crate::client::Alarm;
use crate::core::{Core, Task};
use crate::network::{Answered, Ticket};
use crate::report::Fault;
use crate::server::index_of;

/// How long nodes may take to answer.
const PATIENCE: Duration = Duration::from_millis(60);

/// Time between two observations while the change is blocked.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// The purpose of a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Readmit nodes that lost their memory.
    Keep,
    /// Change the cluster, or finish the change in progress.
    Change,
    /// Take back the change in progress.
    Abort,
    /// Finish the change in progress.
    Settle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Asks all nodes which view they serve.
    Discover,
    /// Reads a view that is new to it.
    Fetch(ViewId),
    /// Asks the nodes concerned for their status.
    Observe,
    /// Sends the transition's requests.
    Send,
    Vote,
    Pause,
    /// Waits up to a known instant.
    Wait,
    Over,
}

pub(crate) struct Coordinator {
    pub(crate) host: usize,
    pub(crate) intent: Intent,
    pub(crate) stage: Stage,
    pub(crate) round: u64,
    /// The first round of the vote in progress.
    pub(crate) vote: u64,
    waits: Vec<usize>,
    seen: BTreeMap<usize, NodeStatus>,
    goal: Option<Goal>,
    pub(crate) transition: Option<Transition>,
    pub(crate) decision: Option<BallotRun>,
    pub(crate) ballot: u32,
}

impl Coordinator {
    pub(crate) fn new(host: usize, intent: Intent) -> Self {
        Self {
            host,
            intent,
            stage: Stage::Discover,
            round: 0,
            vote: 0,
            waits: Vec::new(),
            seen: BTreeMap::new(),
            goal: None,
            transition: None,
            decision: None,
            ballot: 0,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub(crate) fn start(&mut self, core: &mut Core) {
        self.discover(core);
    }

    fn discover(&mut self, core: &mut Core) {
        self.seen.clear();
        let requests = (0..core.servers.len()).map(|node| (node, Request::Status));
        let requests = requests.collect();
        self.ask(core, Stage::Discover, requests);
    }

    pub(crate) fn ask(&mut self, core: &mut Core, stage: Stage, requests: Vec<(usize, Request)>) {
        self.stage = stage;
        self.round = core.fresh();
        self.waits = requests.iter().map(|(node, _)| *node).collect();
        for (node, request) in requests {
            let ticket = Ticket {
                operation: self.round,
                step: Step::Main,
            };
            core.send(self.host, node, ticket, request);
        }
        if stage == Stage::Send {
            // The status requests follow the messages on the same connections.
            return self.look(core);
        }
        let at = core.local(self.host) + PATIENCE;
        core.wake(self.host, at, Alarm::Round(self.round));
    }

    pub(crate) fn pause(&mut self, core: &mut Core, until: Instant) {
        self.stage = Stage::Pause;
        self.round = core.fresh();
        core.wake(self.host, until, Alarm::Round(self.round));
    }

    pub(crate) fn pause_for(&mut self, core: &mut Core, span: Duration) {
        let jitter = span.mul_f64(0.5 + core.random.random::<f64>());
        let until = core.local(self.host) + jitter;
        self.pause(core, until);
    }

    pub(crate) fn hear(&mut self, core: &mut Core, answered: Answered) {
        let Answered {
            node,
            ticket,
            reply,
            ..
        } = answered;
        let is_current = ticket.operation == self.round;
        if is_current {
            self.waits.retain(|&wait| wait != node);
        }
        if self.stage == Stage::Vote {
            if ticket.operation >= self.vote {
                self.voted(core, node, Ok(reply));
            }
            return;
        }
        if !is_current {
            return;
        }
        match (self.stage, reply) {
            (Stage::Discover, Reply::Status(status)) => {
                self.seen.insert(node, *status);
            }
            (Stage::Observe, Reply::Status(status)) => {
                let now = core.local(self.host);
                if let Some(transition) = &mut self.transition {
                    transition.saw(now, &core.servers[node].name, Some((*status).clone()));
                }
                self.seen.insert(node, *status);
            }
            (Stage::Fetch(id), Reply::Document(Some(text))) => {
                if let Some(view) = core.read(id, &text) {
                    return self.learn(core, view);
                }
            }
            _ => {}
        }
        if self.waits.is_empty() {
            self.round_over(core);
        }
    }

    /// Nodes that have not answered by now count as silent.
    pub(crate) fn on_alarm(&mut self, core: &mut Core, round: u64) {
        if round != self.round {
            return;
        }
        let silent = std::mem::take(&mut self.waits);
        match self.stage {
            Stage::Vote => {
                for node in silent {
                    let error = NodeError::new(NodeErrorKind::Timeout, "no answer");
                    if self.stage == Stage::Vote {
                        self.voted(core, node, Err(error));
                    }
                }
                return;
            }
            Stage::Observe => {
                let now = core.local(self.host);
                for node in silent {
                    self.seen.remove(&node);
                    if let Some(transition) = &mut self.transition {
                        transition.saw(now, &core.servers[node].name, None);
                    }
                }
            }
            _ => {}
        }
        self.round_over(core);
    }

    fn round_over(&mut self, core: &mut Core) {
        match (self.stage, &self.transition) {
            (Stage::Discover | Stage::Observe, _) => match self.newer() {
                Some((node, view)) => {
                    let requests = vec![(node, Request::Document)];
                    self.ask(core, Stage::Fetch(view), requests);
                }
                None if self.transition.is_some() => self.decide(core),
                None => self.pause_for(core, LOOK_AGAIN),
            },
            (Stage::Fetch(_), Some(_)) => self.pause_for(core, LOOK_AGAIN),
            (_, None) => self.discover(core),
            // The wait is over: no observation is needed to know that.
            (Stage::Wait, Some(_)) => self.decide(core),
            (_, Some(_)) => self.look(core),
        }
    }

    /// The newest view that is served, if it is new to the coordinator.
    fn newer(&self) -> Option<(usize, ViewId)> {
        let known = self.transition.as_ref().map(|own| own.view().id().epoch);
        let served = self.seen.iter().filter_map(|(&node, status)| {
            let NodeState::Serving(view) = status.standing() else {
                return None;
            };
            Some((node, view))
        });
        let newest = served.max_by_key(|(_, view)| view.epoch)?;
        (known.is_none_or(|known| known < newest.1.epoch)).then_some(newest)
    }

    fn learn(&mut self, core: &mut Core, view: Arc<View>) {
        match &mut self.transition {
            Some(transition) => transition.moved(view),
            None => {
                let Some(goal) = self.goal_at(core, &view) else {
                    return self.over();
                };
                core.say(|| format!("coordinator {} wants {goal:?}", self.host));
                self.goal = Some(goal.clone());
                self.transition = Some(Transition::new(goal, view));
            }
        }
        self.look(core);
    }

    fn goal_at(&self, core: &mut Core, view: &View) -> Option<Goal> {
        let from = view.topology().clone();
        match (self.intent, view.next().cloned()) {
            (Intent::Keep, _) | (Intent::Settle, None) => Some(Goal::Keep),
            (Intent::Abort, _) => Some(Goal::Abort),
            (Intent::Change | Intent::Settle, Some(to)) => Some(Goal::Reach { from, to }),
            (Intent::Change, None) => {
                let to = admin::changed(core, &from)?;
                Some(Goal::Reach { from, to })
            }
        }
    }

    pub(crate) fn look(&mut self, core: &mut Core) {
        self.seen.clear();
        let names = self.transition.iter().flat_map(Transition::everybody);
        let requests = names.map(|name| (index_of(&name), Request::Status));
        let requests = requests.collect();
        self.ask(core, Stage::Observe, requests);
    }

    fn decide(&mut self, core: &mut Core) {
        if self.dies(core) {
            return;
        }
        self.take_in_retired();
        let now = core.local(self.host);
        let Some(transition) = &self.transition else {
            return;
        };
        let fresh = || Nonce::from(core.fresh().to_string());
        let step = transition.next(now, fresh);
        core.say(|| format!("coordinator {}: {step:?}", self.host));
        match step {
            Ok(Move::Send(requests)) => {
                let requests = requests.into_iter();
                let requests = requests.map(|(name, request)| (index_of(&name), request));
                self.ask(core, Stage::Send, requests.collect());
            }
            Ok(Move::Propose(view)) => self.propose(core, *view),
            Ok(Move::Wait { until, .. }) if until > now + LOOK_AGAIN => {
                self.pause(core, now + LOOK_AGAIN);
            }
            Ok(Move::Wait { until, .. }) => {
                self.pause(core, until);
                self.stage = Stage::Wait;
            }
            Ok(Move::Blocked(_)) => self.pause_for(core, LOOK_AGAIN),
            Ok(Move::Done) => {
                match self.goal {
                    Some(Goal::Reach { .. }) => core.tally.finished += 1,
                    Some(Goal::Abort) => core.tally.aborted += 1,
                    _ => {}
                }
                self.over();
            }
            Ok(Move::Superseded) => {
                core.tally.superseded += 1;
                self.over();
            }
            Err(error) => panic!("a goal that was looked at before: {error}"),
        }
    }

    /// Nodes that serve a view that left them out may be admitted again.
    fn take_in_retired(&mut self) {
        let Some(transition) = self.transition.take() else {
            return;
        };
        let view = Arc::clone(transition.view());
        let retired = self.seen.iter().filter_map(|(&node, status)| {
            let name = format!("n{node}");
            match status.standing() {
                NodeState::Serving(served)
                    if view.index_of(&name).is_none() && served.epoch <= view.id().epoch =>
                {
                    Some((name, served))
                }
                _ => None,
            }
        });
        self.transition = Some(transition.with_retired(retired));
    }

    /// Whether it dies now.
    pub(crate) fn dies(&mut self, core: &mut Core) -> bool {
        let dies = !core.is_healed && core.chance(0.02);
        if dies {
            core.tally.fault(Fault::CoordinatorDeath);
            core.hosts[self.host].is_dead = true;
            core.tasks.push(Task::Gone);
            self.over();
        }
        dies
    }

    pub(crate) fn over(&mut self) {
        self.stage = Stage::Over;
        self.round = u64::MAX;
        self.waits.clear();
    }
}
