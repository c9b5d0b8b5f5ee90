//! The effect of the protocol machines' answers and outcomes on a lease.

use std::sync::Arc;

use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::ViewNodes;
use crate::error::Loss;
use crate::lease::cleanup::ReleaseTarget;
use crate::lease::scheduler::Outstanding;
use crate::lease::state::LeaseState;
use crate::proto::node::message::{Answer, Reply};
use crate::proto::operation::acquire::{Attempt, Denied, DenyReason};
use crate::proto::operation::extend::{Extend, ExtendOutcome};
use crate::proto::operation::machine::{Machine, Step};
use crate::proto::operation::release::{Release, ReleaseOutcome};
use crate::proto::quorum::Placement;
use crate::proto::time::Instant;

/// A lease, and the view of one of its operations.
#[derive(Debug)]
pub(crate) struct OperationContext {
    pub(crate) lease: Arc<LeaseState>,
    /// `None`: the view under which the lease was granted.
    pub(crate) later: Option<Arc<ViewNodes>>,
}

impl OperationContext {
    /// The context of an operation in the view under which the lease is granted.
    pub(crate) fn of(lease: &Arc<LeaseState>) -> Self {
        Self {
            lease: Arc::clone(lease),
            later: None,
        }
    }

    pub(crate) fn view_nodes(&self) -> &Arc<ViewNodes> {
        self.later.as_ref().unwrap_or(&self.lease.view_nodes)
    }

    pub(crate) fn target(&self, node: NodeIndex) -> ReleaseTarget {
        match &self.later {
            Some(later) => ReleaseTarget::Node(Arc::clone(&later.handle(node).node)),
            None => ReleaseTarget::Member(node),
        }
    }
}

/// A machine together with the effect of its outcome on the lease.
pub(crate) trait LeaseMachine: Machine<Outcome: Send> + Send + 'static {
    /// Records the outcome, with or without a waiting caller.
    fn settle(ctx: &OperationContext, placement: &Placement, outcome: &Self::Outcome, now: Instant);

    /// Whether its steps depend on the time, or on when the view was confirmed.
    const MINDS_TIME: bool = true;

    /// Whether what it learns of entries is recorded before its outcome.
    const ACKNOWLEDGES_BEFORE_OUTCOME: bool = true;

    /// Receives every answer, also those that the machine no longer needs.
    fn answered(
        _ctx: &OperationContext,
        _from: NodeIndex,
        _step: Step,
        _answer: &Answer,
        _now: Instant,
    ) {
    }

    /// Whether the outcome ends the lease, so that its entries are released.
    fn ends_lease(_outcome: &Self::Outcome) -> bool {
        false
    }

    /// The outcome if no node has answered or will answer.
    fn unanswered() -> Self::Outcome;

    /// The caller no longer waits for the outcome.
    fn abandoned(_lease: &Arc<LeaseState>) {}

    /// What a shutdown waits for, until every node has answered.
    fn outstanding(_lease: &Arc<LeaseState>) -> Option<Outstanding> {
        None
    }
}

impl LeaseMachine for Attempt {
    const ACKNOWLEDGES_BEFORE_OUTCOME: bool = false;

    fn settle(ctx: &OperationContext, _: &Placement, outcome: &Self::Outcome, now: Instant) {
        if let Ok(grant) = outcome {
            ctx.lease.grant(grant, now);
        }
    }

    fn unanswered() -> Self::Outcome {
        Err(Denied {
            reason: DenyReason::Votes,
            granted: 0,
            refusals: Vec::new(),
        })
    }

    fn answered(
        ctx: &OperationContext,
        from: NodeIndex,
        step: Step,
        answer: &Answer,
        now: Instant,
    ) {
        let may_be_there = match answer {
            Ok(Reply::Granted { .. }) => true,
            Err(error) => step == Step::Main && !error.is_unsent(),
            Ok(_) => false,
        };
        if may_be_there {
            ctx.lease.may_be_at(|| ctx.target(from), now);
        }
    }

    fn abandoned(lease: &Arc<LeaseState>) {
        lease.end(Loss::Released, clock::now());
    }
}

impl LeaseMachine for Extend {
    fn settle(
        ctx: &OperationContext,
        placement: &Placement,
        outcome: &ExtendOutcome,
        now: Instant,
    ) {
        ctx.lease.renewed(ctx.view_nodes(), placement, outcome, now);
    }

    fn unanswered() -> ExtendOutcome {
        ExtendOutcome::Unchanged {
            kept: 0,
            refusals: Vec::new(),
        }
    }

    /// The keeper and the lease's owner are different threads: a release may have
    /// overtaken the extend, which then created the entry again.
    ///
    /// A heal is sent when answers show that the entry is absent, which may be
    /// after the release. If the heal gets no answer, it may have created the
    /// entry.
    fn answered(
        ctx: &OperationContext,
        from: NodeIndex,
        step: Step,
        answer: &Answer,
        now: Instant,
    ) {
        let may_be_there = match answer {
            Ok(Reply::Kept { .. } | Reply::Made { .. }) => true,
            Err(error) => step == Step::Heal && !error.is_unsent(),
            Ok(_) => false,
        };
        if may_be_there && ctx.lease.check(now).is_some() {
            ctx.lease.release_at(ctx.target(from));
        }
    }

    fn ends_lease(outcome: &ExtendOutcome) -> bool {
        matches!(outcome, ExtendOutcome::Lost { .. })
    }

    fn outstanding(lease: &Arc<LeaseState>) -> Option<Outstanding> {
        Some(Outstanding::by(&lease.context.scheduler))
    }
}

impl LeaseMachine for Release {
    const MINDS_TIME: bool = false;

    fn settle(_: &OperationContext, _: &Placement, _: &Self::Outcome, _: Instant) {}

    fn unanswered() -> ReleaseOutcome {
        ReleaseOutcome::Unknown {
            refusals: Vec::new(),
        }
    }

    fn answered(ctx: &OperationContext, from: NodeIndex, _: Step, answer: &Answer, _: Instant) {
        if answer.is_err() {
            ctx.lease.release_later(ctx.target(from));
        }
    }

    fn outstanding(lease: &Arc<LeaseState>) -> Option<Outstanding> {
        Some(Outstanding::by(&lease.context.scheduler))
    }
}
