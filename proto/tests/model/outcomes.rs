//! What an outcome does to a client's lease, and what it implies for the claims.

use std::sync::Arc;

use ringlock_proto::lease::Fence;
use ringlock_proto::node::message::Answer;
use ringlock_proto::operation::acquire::{Grant, Refused, Shortfall};
use ringlock_proto::operation::extend::ExtendOutcome;
use ringlock_proto::operation::machine::{Event, Refusal, Step};
use ringlock_proto::time::Instant;

use crate::client::{Client, Op};
use crate::cluster::{home, member};
use crate::lease::Lease;
use crate::meddle;
use crate::post::Letter;
use crate::properties::{Claim, Seen};
use crate::running::Running;
use crate::scenario::{Loss, Mutant, at};
use crate::world::Explored;

/// The context of a client while it acts.
pub(crate) struct Desk<'a> {
    pub(crate) model: &'a Explored,
    pub(crate) who: usize,
    pub(crate) tick: u8,
    pub(crate) fences: &'a mut Vec<u64>,
    pub(crate) outbox: Vec<Letter>,
    pub(crate) broken: Option<Claim>,
}

impl Desk<'_> {
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
        desk: &mut Desk<'_>,
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
        let mut effects = running.on(desk.now(), desk.now(), event);
        assert!(effects.outcome.is_none(), "an outcome is given once");
        if !effects.acknowledged.is_empty() {
            desk.model.see(Seen::LateAcknowledged);
        }
        let (placement, view) = (running.placement(), Arc::clone(view));
        let requests: Vec<_> = (effects.send.take().into_iter())
            .flat_map(|(step, seats)| seats.iter().map(move |seat| (step, seat)))
            .map(|(step, seat)| {
                let to = home(&view, placement.node(seat));
                (step, to, running.request(step, seat))
            })
            .collect();
        // On one connection, a request sent now arrives after those of an extend
        // that has begun since. The model orders by extend, so that it would arrive
        // before them: it counts as lost instead.
        let is_behind = self.op.is_some();
        let serial = *serial;
        let has = meddle::seen(&desk.model.scenario, &effects);
        lease.take_in(&view, &placement, (has, effects.disowned));
        for (step, to, request) in requests.into_iter().filter(|_| !is_behind) {
            self.asked |= 1 << to;
            self.post(desk, (serial, step.into()), to, request);
        }
    }

    /// An expired lease is released; while an extend runs, the extend decides.
    pub(crate) fn look_at_clock(&mut self, desk: &mut Desk<'_>) {
        let is_over = |lease: &Lease| desk.now() >= lease.valid_until;
        if self.op.is_none() && self.lease.as_ref().is_some_and(is_over) {
            desk.model.see(Seen::Lapsed);
            self.release(desk);
        }
    }

    pub(crate) fn conclude(&mut self, desk: &mut Desk<'_>, op: Op, result: Result<Grant, Refused>) {
        match result {
            Ok(grant) => {
                let Running::Attempt(machine) = &op.running else {
                    return;
                };
                self.check_fence(desk, op.before, grant.fence);
                if grant.wrote_back {
                    desk.model.see(Seen::WroteBack);
                }
                if op.view.id().epoch > 1 {
                    desk.model.see(Seen::Moved);
                }
                if op.view.next().is_some() {
                    desk.model.see(Seen::GrantedJoint);
                } else if desk.model.is_last(&op.view) {
                    desk.model.see(Seen::GrantedLast);
                }
                let is_extendable = desk.model.scenario.extends[desk.who] > 0;
                self.lease = Some(Lease {
                    token: machine.claim().token.clone(),
                    valid_until: grant.valid_until,
                    fence: grant.fence,
                    placement: machine.claim().placement,
                    view: Arc::clone(&op.view),
                    known: meddle::known(&desk.model.scenario, grant.known),
                    has_gap: false,
                    tail: is_extendable.then_some((op.serial, op.running, op.view)),
                });
            }
            Err(refused) => {
                self.token = None;
                desk.model.see(match refused.shortfall {
                    Shortfall::Votes => Seen::Contended,
                    Shortfall::Expired => Seen::Expired,
                    Shortfall::Fence => Seen::NoFence,
                    Shortfall::Unconfirmed => Seen::Unconfirmed,
                });
            }
        }
    }

    pub(crate) fn renewed(&mut self, desk: &mut Desk<'_>, op: Op, extension: &ExtendOutcome) {
        let Some(lease) = &mut self.lease else { return };
        let placement = op.running.placement();
        let has_gap = match desk.model.scenario.loss {
            Some(Loss::Vanish | Loss::Forced) => op.has_gap,
            _ => lease.has_gap,
        };
        lease.tail = Some((op.serial, op.running, Arc::clone(&op.view)));
        match extension {
            ExtendOutcome::Extended(until) => {
                desk.model.see(Seen::Extended);
                if has_gap {
                    desk.broken = Some(Claim::Continuity);
                }
                if lease.fence.get() < op.before {
                    desk.broken = Some(Claim::Ousted);
                }
                assert!(*until >= lease.valid_until, "an extend never shortens");
                lease.valid_until = *until;
                lease.has_gap = false;
                if lease.view != op.view {
                    desk.model.see(Seen::Carried);
                    lease.settle_in(op.view, placement, op.holders);
                }
            }
            ExtendOutcome::Unchanged { refusals, .. } => {
                desk.model.see(Seen::Unchanged);
                // A contender on the new owner breaks the migration. On fewer nodes
                // than could grant it the key, it blocks no other client.
                let rivals = refusals
                    .iter()
                    .filter(|(_, refusal)| matches!(refusal, Refusal::Busy(Some(_))))
                    .filter_map(|(node, _)| placement.seat(*node))
                    .collect();
                let is_in_time = desk.now() < lease.valid_until;
                let is_robbed = is_in_time && !lease.has_gap && placement.is_blocked_by(rivals);
                if is_robbed && desk.model.scenario.claims.contains(&Claim::Robbed) {
                    desk.broken = Some(Claim::Robbed);
                }
            }
            ExtendOutcome::Lost { .. } => {
                desk.model.see(Seen::Lost);
                let is_robbed = !lease.has_gap && desk.now() < lease.valid_until;
                if is_robbed && desk.model.scenario.claims.contains(&Claim::Robbed) {
                    desk.broken = Some(Claim::Robbed);
                }
                self.release(desk);
            }
        }
        self.look_at_clock(desk);
    }

    pub(crate) fn check_fence(&self, desk: &mut Desk<'_>, before: u64, fence: Fence) {
        let fence = if desk.model.scenario.is(Mutant::NoEpochInFence) {
            fence.counter()
        } else {
            fence.get()
        };
        if desk.fences.contains(&fence) || fence <= before {
            desk.broken = Some(Claim::Fence);
        } else if desk.is_fence_ordered() && fence < desk.highest_fence() {
            desk.broken = Some(Claim::FenceOrder);
        }
        desk.model.see(Seen::Granted);
        if !desk.fences.is_empty() {
            desk.model.see(Seen::Again);
        }
        if desk.is_fence_ordered() {
            desk.fences.clear();
        }
        desk.fences.push(fence);
        desk.fences.sort_unstable();
    }
}
