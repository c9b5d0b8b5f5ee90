//! Drives a machine: executes its effects, feeds it the answers, and wakes its
//! caller once, at the outcome.
//!
//! There is no task per operation. The code that receives an answer feeds the
//! machine: a connection's task, or the caller itself if a node answers at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};
use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::ViewNodes;
use crate::lease::machines::{LeaseMachine, OperationContext};
use crate::lease::scheduler::Outstanding;
use crate::lease::state::LeaseState;
use crate::node::{ReplyTo, Sink};
use crate::proto::node::message::{Answer, Reply, Request, ViewId};
use crate::proto::operation::known::Known;
use crate::proto::operation::machine::{Effects, Event, Step, vouches_for};
use crate::proto::quorum::{Placement, Voter, VoterSet};
use crate::proto::time::Instant;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::handles;

/// One operation in flight.
pub(crate) struct Operation<M: LeaseMachine> {
    ctx: OperationContext,
    t0: Instant,
    limit: Option<Instant>,
    core: Mutex<OperationState<M>>,
    _outstanding: Option<Outstanding>,
}

struct OperationState<M: LeaseMachine> {
    machine: M,
    outbox: Outgoing,
    /// A thread is emptying the outbox: nodes that answer at once re-enter.
    is_sending: bool,
    outcome: Option<M::Outcome>,
    /// It has had its outcome, and processes late answers.
    is_settled: bool,
    waker: Option<Waker>,
}

/// Requests that are not handed to their nodes yet. A node gets them in the order
/// of the steps, with a release last.
#[derive(Default)]
struct Outgoing {
    main: VoterSet,
    write_back: VoterSet,
    heal: VoterSet,
    probe: Vec<NodeIndex>,
    release: VoterSet,
    /// The lease is over: every node that may have an entry gets a release.
    is_end: bool,
}

enum OutgoingItem {
    Ask(Voter, Step),
    Probe(NodeIndex),
    Release(Voter),
    ReleaseAll,
}

impl Outgoing {
    fn pop(&mut self) -> Option<OutgoingItem> {
        let Self {
            main,
            write_back,
            heal,
            probe,
            release,
            is_end,
        } = self;
        let ask = |step| move |voter| OutgoingItem::Ask(voter, step);
        main.take_first()
            .map(ask(Step::Main))
            .or_else(|| write_back.take_first().map(ask(Step::WriteBack)))
            .or_else(|| heal.take_first().map(ask(Step::Heal)))
            .or_else(|| probe.pop().map(OutgoingItem::Probe))
            .or_else(|| release.take_first().map(OutgoingItem::Release))
            .or_else(|| std::mem::take(is_end).then_some(OutgoingItem::ReleaseAll))
    }
}

impl<M: LeaseMachine> Operation<M> {
    /// Starts an operation of `lease`. It waits for no node past `limit`.
    #[inline]
    pub(crate) fn start(
        machine: M,
        lease: &Arc<LeaseState>,
        limit: Option<Instant>,
    ) -> OperationFuture<M> {
        Self::start_at(machine, OperationContext::of(lease), limit)
    }

    /// Starts an operation under the view of `later`; `None` is the view of the
    /// grant.
    pub(crate) fn start_from(
        machine: M,
        lease: &Arc<LeaseState>,
        later: Option<Arc<ViewNodes>>,
        limit: Option<Instant>,
    ) -> OperationFuture<M> {
        let lease = Arc::clone(lease);
        Self::start_at(machine, OperationContext { lease, later }, limit)
    }

    // Inlined, so that the machine is made in its place instead of being moved there.
    #[inline]
    fn start_at(machine: M, ctx: OperationContext, limit: Option<Instant>) -> OperationFuture<M> {
        let t0 = machine.started_at();
        let view_nodes = ctx.view_nodes();
        let probes = view_nodes
            .confirmations
            .probes(&view_nodes.view, machine.placement(), t0);
        let outstanding = M::outstanding(&ctx.lease);
        let operation = Arc::new(Self {
            ctx,
            t0,
            limit,
            core: Mutex::new(OperationState {
                machine,
                outbox: Outgoing::default(),
                is_sending: false,
                outcome: None,
                is_settled: false,
                waker: None,
            }),
            _outstanding: outstanding,
        });
        // The operation starts at `t0`.
        operation.feed(t0, Event::Start { probes });
        OperationFuture {
            operation,
            is_over: false,
        }
    }

    /// Whether a node that serves `serving` is behind the newest known view: it has
    /// received that view since, or will.
    fn is_past(&self, serving: Option<ViewId>) -> bool {
        let own = self.view_nodes().view.id().epoch;
        let newest = self
            .view_nodes()
            .newest()
            .map_or(own, |view_nodes| view_nodes.view.id().epoch);
        newest > own && serving.is_some_and(|view| view.epoch <= newest)
    }

    fn view_nodes(&self) -> &Arc<ViewNodes> {
        self.ctx.view_nodes()
    }

    fn life(&self) -> &Lifecycle {
        &self.ctx.lease.context.lifecycle
    }

    fn feed(self: &Arc<Self>, now: Instant, event: Event) {
        let confirmed_at = match M::MINDS_TIME {
            true => {
                let view_nodes = self.view_nodes();
                let confirmations = &view_nodes.confirmations;
                confirmations.for_operation(&view_nodes.view, self.t0)
            }
            false => Instant::default(),
        };
        let mut core = self.core.lock();
        let effects = core.machine.on(now, confirmed_at, event);
        self.take_in(&mut core, effects, now);
        if let Some(waker) = self.send_all(core, now) {
            waker.wake();
        }
    }

    fn take_in(&self, core: &mut OperationState<M>, effects: Effects<M::Outcome>, now: Instant) {
        let Effects {
            send,
            probe,
            release,
            acknowledged: seen,
            vouching,
            disowned,
            outcome,
        } = effects;
        // The outcome of an attempt contains what it had learned by then.
        if M::ACKNOWLEDGES_BEFORE_OUTCOME || core.is_settled {
            let placement = core.machine.placement();
            let has = Known { seen, vouching };
            self.ctx
                .lease
                .acknowledge(self.view_nodes(), placement, has, disowned);
        }
        let outbox = &mut core.outbox;
        match send {
            Some((Step::WriteBack, voters)) => outbox.write_back = outbox.write_back.union(voters),
            Some((Step::Heal, voters)) => outbox.heal = outbox.heal.union(voters),
            Some((_, voters)) => outbox.main = outbox.main.union(voters),
            None => {}
        }
        outbox.probe.extend(probe);
        outbox.release = outbox.release.union(release);
        let Some(outcome) = outcome else { return };
        outbox.is_end |= M::ends_lease(&outcome);
        M::settle(&self.ctx, core.machine.placement(), &outcome, now);
        core.is_settled = true;
        core.outcome = Some(outcome);
    }

    /// Empties the outbox and releases the lock during each call to a node. If
    /// another thread is already emptying it, that thread also sends these
    /// requests, in order. The thread that finishes the outbox wakes the caller:
    /// the caller's next request to a node must not overtake one of this
    /// operation's.
    fn send_all<'a>(
        self: &'a Arc<Self>,
        mut core: MutexGuard<'a, OperationState<M>>,
        now: Instant,
    ) -> Option<Waker> {
        if core.is_sending {
            return None;
        }
        core.is_sending = true;
        loop {
            let OperationState {
                machine, outbox, ..
            } = &mut *core;
            let Some(parcel) = outbox.pop() else {
                break;
            };
            let (node, step, request) = match parcel {
                OutgoingItem::Ask(voter, step) => {
                    let node = machine.placement().node(voter);
                    (node, step, machine.request(step, voter))
                }
                OutgoingItem::Probe(node) => (node, Step::Probe, Request::Status),
                OutgoingItem::ReleaseAll => {
                    MutexGuard::unlocked(&mut core, || self.ctx.lease.release());
                    continue;
                }
                OutgoingItem::Release(voter) => {
                    let node = machine.placement().node(voter);
                    MutexGuard::unlocked(&mut core, || {
                        self.ctx.lease.release_at(self.ctx.target(node));
                    });
                    continue;
                }
            };
            MutexGuard::unlocked(&mut core, || self.ask(node, step, request, now));
        }
        core.is_sending = false;
        core.outcome.is_some().then(|| core.waker.take())?
    }

    fn ask(self: &Arc<Self>, node: NodeIndex, step: Step, request: Request, now: Instant) {
        let deadline = self
            .view_nodes()
            .deadline(self.ctx.lease.ttl, now, self.limit);
        let sink = Arc::clone(self) as Arc<dyn Sink>;
        let reply = ReplyTo::new(sink, ticket(node, step, now > self.t0));
        let handle = self.view_nodes().handle(node);
        handle.meter.asked(&request);
        handle.node.submit(request, deadline, reply);
    }
}

impl<M: LeaseMachine> Sink for Operation<M> {
    fn accept(self: Arc<Self>, ticket: u32, answer: Answer) {
        let (from, step) = (NodeIndex::new((ticket >> 8) as u16), step(ticket));
        if vouches_for(&answer, self.view_nodes().view.id()) {
            self.view_nodes().confirmations.saw(from, self.t0);
        }
        if let Ok(Reply::Stale(serving)) = &answer
            && !self.is_past(*serving)
            && !self.view_nodes().is_returning(from)
        {
            self.view_nodes().refresh.wake();
        }
        let now = if M::MINDS_TIME || handles::ARE_ON {
            clock::now()
        } else {
            self.t0
        };
        M::answered(&self.ctx, from, step, &answer, now);
        // The send time of later requests is not kept.
        let was_first = ticket & LATER == 0;
        let took = was_first.then(|| now.saturating_since(self.t0));
        self.view_nodes().handle(from).meter.answered(&answer, took);
        self.feed(now, Event::Answered { from, step, answer });
    }
}

const STEPS: [Step; 4] = [Step::Main, Step::WriteBack, Step::Probe, Step::Heal];

/// Marks, in addition to the step, a request that was not sent when its operation
/// started.
const LATER: u32 = 0x80;

fn ticket(node: NodeIndex, step: Step, is_later: bool) -> u32 {
    let mark = if is_later { LATER } else { 0 };
    (node.get() as u32) << 8 | mark | step as u32
}

fn step(ticket: u32) -> Step {
    STEPS[(ticket & 0x7f) as usize]
}

/// An operation that its caller waits for. Dropping it abandons the operation: what
/// it may have left on the nodes is released.
#[must_use]
pub(crate) struct OperationFuture<M: LeaseMachine> {
    operation: Arc<Operation<M>>,
    is_over: bool,
}

impl<M: LeaseMachine> OperationFuture<M> {
    /// The nodes that it contacts, and which of them must agree.
    pub(crate) fn place(&self) -> (Arc<ViewNodes>, Placement) {
        let placement = *self.operation.core.lock().machine.placement();
        (Arc::clone(self.operation.view_nodes()), placement)
    }

    /// The outcome. A caller on another runtime than the node's tasks waits until
    /// `limit` at most, because that runtime may have stopped; then the result is
    /// `None`.
    pub(crate) async fn by(self, limit: Instant) -> Option<M::Outcome> {
        if self.operation.life().is_guest() {
            // Boxed: most callers need no separate timer.
            Box::pin(clock::within(Some(limit), self)).await
        } else {
            Some(self.await)
        }
    }
}

impl<M: LeaseMachine> Future for OperationFuture<M> {
    type Output = M::Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<M::Outcome> {
        if self.operation.life().origin.is_elsewhere() {
            return Poll::Ready(M::unanswered());
        }
        let mut core = self.operation.core.lock();
        if !core.is_sending
            && let Some(outcome) = core.outcome.take()
        {
            drop(core);
            self.is_over = true;
            return Poll::Ready(outcome);
        }
        match &mut core.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<M: LeaseMachine> Drop for OperationFuture<M> {
    fn drop(&mut self) {
        if self.operation.life().origin.is_elsewhere() {
            std::mem::forget(Arc::clone(&self.operation));
            return;
        }
        if !self.is_over {
            M::abandoned(&self.operation.ctx.lease);
            self.operation.feed(clock::now(), Event::Abandoned);
        }
    }
}
