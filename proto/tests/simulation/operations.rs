//! The machines that acquire, extend and release leases, and the driver around
//! them.

use std::sync::Arc;

use ringlock_proto::node::message::{NodeError, NodeErrorKind, NodeState, Reply, Request};
use ringlock_proto::operation::acquire::{Attempt, Denied, Grant};
use ringlock_proto::operation::extend::{Extend, ExtendOutcome};
use ringlock_proto::operation::known::Known;
use ringlock_proto::operation::machine::{Effects, Event, Machine, Step, vouches_for};
use ringlock_proto::operation::release::{Release, ReleaseOutcome};
use ringlock_proto::quorum::{Placement, Voter};
use ringlock_proto::time::Instant;

use crate::client::{Alarm, Client, ViewNodes};
use crate::core::Core;
use crate::leases::{State, node_timeout};
use crate::network::{Answered, Ticket};

/// A machine in progress.
#[derive(Debug)]
pub(crate) enum Running {
    Attempt(Box<Attempt>),
    Extend(Box<Extend>),
    Release(Box<Release>),
}

enum Outcome {
    Attempt(Result<Grant, Denied>),
    Extend(ExtendOutcome),
    Release,
}

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) lease: u64,
    view_nodes: Arc<ViewNodes>,
    t0: Instant,
    pub(crate) running: Running,
    /// Nodes that have not answered yet, each with its deadline.
    waits: Vec<(usize, Step, Instant)>,
    /// No caller waits for its outcome.
    pub(crate) is_over: bool,
}

impl Running {
    fn machine(&self) -> &dyn Asks {
        match self {
            Self::Attempt(machine) => &**machine,
            Self::Extend(machine) => &**machine,
            Self::Release(machine) => &**machine,
        }
    }

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> Effects<Outcome> {
        match self {
            Self::Attempt(machine) => {
                as_outcome(machine.on(now, confirmed_at, event), Outcome::Attempt)
            }
            Self::Extend(machine) => {
                as_outcome(machine.on(now, confirmed_at, event), Outcome::Extend)
            }
            Self::Release(machine) => {
                let outcome = |_: ReleaseOutcome| Outcome::Release;
                as_outcome(machine.on(now, confirmed_at, event), outcome)
            }
        }
    }
}

/// The part of a machine that does not depend on its outcome type.
trait Asks {
    fn places(&self) -> &Placement;
    fn asks(&self, step: Step, voter: Voter) -> Request;
}

impl<M: Machine> Asks for M {
    fn places(&self) -> &Placement {
        self.placement()
    }

    fn asks(&self, step: Step, voter: Voter) -> Request {
        self.request(step, voter)
    }
}

fn as_outcome<T>(effects: Effects<T>, outcome: impl FnOnce(T) -> Outcome) -> Effects<Outcome> {
    Effects {
        send: effects.send,
        probe: effects.probe,
        release: effects.release,
        acknowledged: effects.acknowledged,
        vouching: effects.vouching,
        disowned: effects.disowned,
        outcome: effects.outcome.map(outcome),
    }
}

impl Client {
    /// Starts an operation of `lease` in the view of `view_nodes`.
    pub(crate) fn begin(
        &mut self,
        core: &mut Core,
        lease: u64,
        view_nodes: Arc<ViewNodes>,
        running: Running,
    ) {
        let t0 = core.local(self.host);
        let probes = match running {
            Running::Release(_) => Vec::new(),
            _ => {
                let placement = running.machine().places();
                let confirmations = &view_nodes.confirmations;
                confirmations.probes(&view_nodes.view, placement, t0)
            }
        };
        let operation = Operation {
            lease,
            view_nodes,
            t0,
            running,
            waits: Vec::new(),
            is_over: false,
        };
        let id = core.fresh();
        self.operations.insert(id, operation);
        self.feed(core, id, Event::Start { probes });
    }

    /// Passes an event to the machine of an operation, and executes its effects.
    pub(crate) fn feed(&mut self, core: &mut Core, id: u64, event: Event) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let now = core.local(self.host);
        let view_nodes = Arc::clone(&operation.view_nodes);
        let confirmations = &view_nodes.confirmations;
        let confirmed_at = confirmations.for_operation(&view_nodes.view, operation.t0);
        let effects = operation.running.on(now, confirmed_at, event);
        let Some(lease) = self.leases.get_mut(&operation.lease) else {
            return;
        };
        let machine = operation.running.machine();
        let placement = *machine.places();
        let has = Known {
            seen: effects.acknowledged,
            vouching: effects.vouching,
        };
        let lacks = effects.disowned;
        let record = &mut lease.record;
        record.acknowledge(&view_nodes, &placement, has, lacks);
        let deadline = now + node_timeout(lease.ttl);
        let before = operation.waits.len();
        let mut requests = Vec::new();
        if let Some((step, voters)) = effects.send {
            for voter in voters.iter() {
                let node = operation.view_nodes.server(placement.node(voter));
                requests.push((node, step, machine.asks(step, voter)));
            }
        }
        for node in effects.probe {
            requests.push((
                operation.view_nodes.server(node),
                Step::Probe,
                Request::Status,
            ));
        }
        for (node, step, request) in requests {
            operation.waits.push((node, step, deadline));
            let ticket = Ticket {
                operation: id,
                step,
            };
            core.send(self.host, node, ticket, request);
        }
        if operation.waits.len() > before {
            core.wake(self.host, deadline, Alarm::GiveUp(id));
        }
        let about = operation.lease;
        let t0 = operation.t0;
        let outcome = effects.outcome.filter(|_| !operation.is_over);
        operation.is_over |= outcome.is_some();
        for voter in effects.release.iter() {
            self.release_at(core, about, view_nodes.server(placement.node(voter)));
        }
        match outcome {
            None => {}
            Some(Outcome::Attempt(Ok(grant))) => self.granted(core, about, &grant),
            Some(Outcome::Attempt(Err(denied))) => self.denied(core, about, &denied),
            Some(Outcome::Extend(extension)) => {
                self.renewed(core, about, &view_nodes, (placement, t0), &extension);
            }
            Some(Outcome::Release) => {}
        }
        self.tidy(id);
    }

    /// Drops an operation for which no answer is outstanding.
    fn tidy(&mut self, id: u64) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        if !(operation.is_over && operation.waits.is_empty()) {
            return;
        }
        let about = operation.lease;
        self.operations.remove(&id);
        let is_over = self.leases.get(&about).map(|lease| lease.state) == Some(State::Over);
        if is_over && !self.operations.values().any(|other| other.lease == about) {
            self.leases.remove(&about);
        }
    }

    /// An answer has arrived.
    pub(crate) fn hear(&mut self, core: &mut Core, answered: Answered) {
        let Ticket {
            operation: id,
            step,
        } = answered.ticket;
        let node = answered.node;
        let Some(operation) = self.operations.get_mut(&id) else {
            return self.hear_node_request(core, answered);
        };
        let waited = operation
            .waits
            .iter()
            .position(|&(from, of, _)| (from, of) == (node, step));
        let (Some(waited), Some(from)) = (waited, operation.view_nodes.member(node)) else {
            return;
        };
        operation.waits.swap_remove(waited);
        let (about, view) = (operation.lease, operation.view_nodes.view.id());
        let answer = Ok(answered.reply);
        if vouches_for(&answer, view) {
            operation.view_nodes.confirmations.saw(from, operation.t0);
        }
        let stale = match &answer {
            Ok(Reply::Stale(serving)) => Some(*serving),
            Ok(Reply::Status(status)) => match status.standing() {
                NodeState::Serving(serving) if serving == view => None,
                NodeState::Serving(serving) => Some(Some(serving)),
                NodeState::Absent | NodeState::Quarantined => Some(None),
            },
            _ => None,
        };
        let is_renewal = matches!(operation.running, Running::Extend(_));
        let is_there = matches!(answer, Ok(Reply::Kept { .. } | Reply::Made { .. }));
        let is_over = self.leases.get(&about).map(|lease| lease.state) == Some(State::Over);
        if is_renewal && is_there && is_over {
            // The release has overtaken the extend.
            self.release_at(core, about, node);
        }
        self.feed(core, id, Event::Answered { from, step, answer });
        if let Some(serving) = stale {
            self.heard_stale(core, node, serving);
        }
    }

    /// Nodes that have not answered by now count as silent.
    pub(crate) fn give_up(&mut self, core: &mut Core, id: u64) {
        let now = core.local(self.host);
        while let Some(operation) = self.operations.get_mut(&id) {
            let late = operation.waits.iter().position(|&(.., by)| by <= now);
            let Some(late) = late else { return };
            let (node, step, _) = operation.waits.swap_remove(late);
            let is_release = matches!(operation.running, Running::Release(_));
            let about = operation.lease;
            let Some(from) = operation.view_nodes.member(node) else {
                continue;
            };
            let error = NodeError::new(NodeErrorKind::Timeout, "no answer");
            let answer = Err(error);
            let is_over = self.leases.get(&about).map(|lease| lease.state) == Some(State::Over);
            if is_release || step == Step::Heal && is_over {
                self.release_at(core, about, node);
            }
            self.feed(core, id, Event::Answered { from, step, answer });
        }
    }
}
