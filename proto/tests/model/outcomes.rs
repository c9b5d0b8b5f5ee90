//! What an outcome does to a client's lease, and what it implies for the claims.

use std::sync::Arc;

use ringlock_proto::lease::Fence;
use ringlock_proto::lease_record::record::LeaseRecord;
use ringlock_proto::node::message::Answer;
use ringlock_proto::operation::acquire::{Denied, DenyReason, Grant};
use ringlock_proto::operation::extend::ExtendOutcome;
use ringlock_proto::operation::machine::{Event, Refusal, Step};
use ringlock_proto::time::Instant;

use crate::client::{Client, Op};
use crate::cluster::{home, member};
use crate::lease::Lease;
use crate::mutations;
use crate::network::Message;
use crate::properties::{Claim, Seen};
use crate::running::Running;
use crate::scenario::{Loss, Mutant, at};
use crate::world::Explored;

/// The context of a client while it acts.
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Explored,
    pub(crate) who: usize,
    pub(crate) tick: u8,
    pub(crate) fences: &'a mut Vec<u64>,
    pub(crate) outbox: Vec<Message>,
    pub(crate) broken: Option<Claim>,
}

impl Context<'_> {
    pub(crate) fn now(&self) -> Instant {
        at(self.tick)
    }

    pub(crate) fn highest_fence(&self) -> u64 {
        self.fences.last().copied().unwrap_or(0)
    }

    /// Whether fences must increase in the order of the grants: then the last one
    /// represents all.
    pub(crate) fn is_fence_ordered(&self) -> bool {
        self.model.scenario.claims.contains(&Claim::FenceOrder)
    }
}

impl Client {
    pub(crate) fn hear_late(
        &mut self,
        context: &mut Context<'_>,
        (from, step): (usize, Step),
        answer: Answer,
    ) {
        let Some(lease) = &mut self.lease else { return };
        let Some((serial, running, view)) = &mut lease.tail else {
            return;
        };
        let Some(from) = member(view, from) else {
            return;
        };
        let event = Event::Answered { from, step, answer };
        let mut effects = running.on(context.now(), context.now(), event);
        assert!(effects.outcome.is_none(), "an outcome is given once");
        if !effects.acknowledged.is_empty() {
            context.model.see(Seen::LateAcknowledged);
        }
        let (placement, view) = (running.placement(), Arc::clone(view));
        let requests: Vec<_> = (effects.send.take().into_iter())
            .flat_map(|(step, voters)| voters.iter().map(move |voter| (step, voter)))
            .map(|(step, voter)| {
                let to = home(&view, placement.node(voter));
                (step, to, running.request(step, voter))
            })
            .collect();
        // On one connection, a request sent now arrives after those of an extend
        // that has begun since. The model orders by extend, so that it would arrive
        // before them: it counts as lost instead.
        let is_behind = self.op.is_some();
        let serial = *serial;
        let has = mutations::seen(&context.model.scenario, &effects);
        let record = &mut lease.record;
        record.acknowledge(&view, &placement, has, effects.disowned);
        for (step, to, request) in requests.into_iter().filter(|_| !is_behind) {
            self.send(context, (serial, step.into()), to, request);
        }
    }

    /// An expired lease is released; while an extend runs, the extend decides.
    pub(crate) fn look_at_clock(&mut self, context: &mut Context<'_>) {
        let is_over = |lease: &Lease| context.now() >= lease.record.valid_until();
        if self.op.is_none() && self.lease.as_ref().is_some_and(is_over) {
            context.model.see(Seen::Lapsed);
            self.release(context);
        }
    }

    pub(crate) fn conclude(
        &mut self,
        context: &mut Context<'_>,
        op: Op,
        result: Result<Grant, Denied>,
    ) {
        match result {
            Ok(grant) => {
                let Running::Attempt(machine) = &op.running else {
                    return;
                };
                self.check_fence(context, op.before, grant.fence);
                if grant.wrote_back {
                    context.model.see(Seen::WroteBack);
                }
                if op.view.id().epoch > 1 {
                    context.model.see(Seen::Moved);
                }
                if op.view.next().is_some() {
                    context.model.see(Seen::GrantedJoint);
                } else if context.model.is_last(&op.view) {
                    context.model.see(Seen::GrantedLast);
                }
                let is_extendable = context.model.scenario.extends[context.who] > 0;
                let params = machine.params();
                let mut record = LeaseRecord::new(Arc::clone(&op.view), params.placement);
                let known = mutations::known(&context.model.scenario, grant.known);
                record.granted(grant.fence, grant.valid_until, known);
                self.lease = Some(Lease {
                    token: params.token.clone(),
                    record,
                    has_gap: false,
                    tail: is_extendable.then_some((op.serial, op.running, op.view)),
                });
            }
            Err(denied) => {
                self.token = None;
                context.model.see(match denied.reason {
                    DenyReason::Votes => Seen::Contended,
                    DenyReason::Expired => Seen::Expired,
                    DenyReason::Fence => Seen::NoFence,
                    DenyReason::Unconfirmed => Seen::Unconfirmed,
                });
            }
        }
    }

    pub(crate) fn renewed(&mut self, context: &mut Context<'_>, op: Op, extension: &ExtendOutcome) {
        let Some(lease) = &mut self.lease else { return };
        let placement = op.running.placement();
        let has_gap = match context.model.scenario.loss {
            Some(Loss::Vanish | Loss::Forced) => op.has_gap,
            _ => lease.has_gap,
        };
        lease.tail = Some((op.serial, op.running, Arc::clone(&op.view)));
        match extension {
            ExtendOutcome::Extended(until) => {
                context.model.see(Seen::Extended);
                if has_gap {
                    context.broken = Some(Claim::Continuity);
                }
                let record = &mut lease.record;
                if record.fence().map_or(0, Fence::get) < op.before {
                    context.broken = Some(Claim::Ousted);
                }
                assert!(*until >= record.valid_until(), "an extend never shortens");
                if record.base().at != op.view {
                    context.model.see(Seen::Carried);
                }
                record.extended(&op.view, &placement, *until, context.now());
                lease.has_gap = false;
            }
            ExtendOutcome::Unchanged { refusals, .. } => {
                context.model.see(Seen::Unchanged);
                // A contender on the new owner breaks the migration. On fewer nodes
                // than could grant it the key, it blocks no other client.
                let rivals = refusals
                    .iter()
                    .filter(|(_, refusal)| matches!(refusal, Refusal::Busy(Some(_))))
                    .filter_map(|(node, _)| placement.voter(*node))
                    .collect();
                let is_in_time = context.now() < lease.record.valid_until();
                let is_robbed = is_in_time && !lease.has_gap && placement.is_blocked_by(rivals);
                if is_robbed && context.model.scenario.claims.contains(&Claim::Robbed) {
                    context.broken = Some(Claim::Robbed);
                }
            }
            ExtendOutcome::Lost { .. } => {
                context.model.see(Seen::Lost);
                let is_robbed = !lease.has_gap && context.now() < lease.record.valid_until();
                if is_robbed && context.model.scenario.claims.contains(&Claim::Robbed) {
                    context.broken = Some(Claim::Robbed);
                }
                self.release(context);
            }
        }
        self.look_at_clock(context);
    }

    pub(crate) fn check_fence(&self, context: &mut Context<'_>, before: u64, fence: Fence) {
        let fence = if context.model.scenario.is(Mutant::NoEpochInFence) {
            fence.counter()
        } else {
            fence.get()
        };
        if context.fences.contains(&fence) || fence <= before {
            context.broken = Some(Claim::Fence);
        } else if context.is_fence_ordered() && fence < context.highest_fence() {
            context.broken = Some(Claim::FenceOrder);
        }
        context.model.see(Seen::Granted);
        if !context.fences.is_empty() {
            context.model.see(Seen::Again);
        }
        if context.is_fence_ordered() {
            context.fences.clear();
        }
        context.fences.push(fence);
        context.fences.sort_unstable();
    }
}
