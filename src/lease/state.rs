//! The state of one lease in this process, shared by its guard, the scheduler and
//! the operations in flight. It sends nothing: see `cleanup.rs` and `renewal.rs`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cluster::nodes::ViewNodes;
use crate::error::Loss;
use crate::lease::context::LeaseContext;
use crate::lease::local_queue::ticket::{HeldTurn, Ticket};
use crate::node::Node;
use crate::proto::lease::{Fence, Key, Token, Ttl};
use crate::proto::lease_record::record::LeaseRecord;
use crate::proto::lease_record::renewal::RenewalSchedule;
use crate::proto::operation::acquire::{AcquireParams, Grant};
use crate::proto::operation::extend::{ExtendOutcome, ExtendParams};
use crate::proto::operation::known::Known;
use crate::proto::operation::machine::Refusal;
use crate::proto::quorum::{Placement, VoterSet};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// How a lease is kept alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    /// Time from one extend to the next.
    pub(crate) interval: Duration,
    /// When the lease ends in any case.
    pub(crate) until: Instant,
}

/// One lease, from before its attempt until after its release.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) context: Arc<LeaseContext>,
    pub(crate) view_nodes: Arc<ViewNodes>,
    pub(crate) key: Key,
    pub(crate) token: Token,
    pub(crate) ttl: Ttl,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// When its attempt started.
    pub(crate) asked_at: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: LeaseRecord<Arc<ViewNodes>>,
    /// How long the attempt took, in microseconds.
    trip: u32,
    ended: Option<Loss>,
    /// When to extend it next, if it is kept alive.
    renewals: Option<RenewalSchedule>,
    /// Its turn in the process's queue, while it lasts.
    turn: Option<HeldTurn<LeaseState>>,
    /// Wakes the waiters of its end, once there are any.
    ended_signal: Option<Arc<Notify>>,
}

impl Drop for LeaseState {
    fn drop(&mut self) {
        if let Some(turn) = self.state.get_mut().turn.take() {
            turn.pass(&self.key);
        }
    }
}

/// The nodes that may have entries of a lease.
pub(crate) enum Entries {
    /// Those of the view of its grant.
    Granted(Placement),
    /// Nodes of several views, each once.
    Moved(Vec<Arc<dyn Node>>),
}

impl LeaseState {
    /// A lease that is not granted yet.
    pub(crate) fn new(
        context: Arc<LeaseContext>,
        view_nodes: Arc<ViewNodes>,
        key: &Key,
        ttl: Ttl,
        token: Token,
        asked_at: Instant,
        keep_alive: Option<KeepAlive>,
    ) -> Arc<Self> {
        Arc::new(Self {
            // The view may have changed since the call started.
            ttl: ttl.at_most(view_nodes.view.max_ttl()),
            context,
            state: Mutex::new(State {
                record: LeaseRecord::new(Arc::clone(&view_nodes), view_nodes.view.place(key)),
                trip: 0,
                ended: None,
                renewals: None,
                turn: None,
                ended_signal: None,
            }),
            view_nodes,
            key: key.clone(),
            token,
            keep_alive,
            asked_at,
        })
    }

    /// The claim of its attempt.
    pub(crate) fn params(&self) -> AcquireParams {
        AcquireParams {
            view: self.view_nodes.view.id(),
            view_lease: self.view_nodes.view.view_lease(),
            key: self.key.clone(),
            token: self.token.clone(),
            ttl: self.ttl,
            placement: self.placement(),
            t0: self.asked_at,
        }
    }

    /// Records that the attempt has won.
    pub(crate) fn grant(&self, grant: &Grant, now: Instant) {
        let mut state = self.state.lock();
        let Grant {
            fence,
            valid_until,
            known,
            ..
        } = *grant;
        state.record.granted(fence, valid_until, known);
        let trip = now.saturating_since(self.asked_at).as_micros();
        state.trip = u32::try_from(trip).unwrap_or(u32::MAX);
        self.context.counters.held.came();
        state.renewals = self
            .keep_alive
            .map(|keep_alive| RenewalSchedule::new(keep_alive.interval, now, rand::random()));
    }

    /// Keeps the place in the process's queue while the lease lasts.
    pub(crate) fn keep_ticket(self: &Arc<Self>, ticket: Ticket<Self>) {
        let turn = ticket.hold(self);
        self.state.lock().turn = Some(turn);
    }

    /// When its attempt won.
    pub(crate) fn granted_at(&self) -> Instant {
        self.asked_at + self.trip()
    }

    /// How long its attempt took.
    pub(crate) fn trip(&self) -> Duration {
        Duration::from_micros(self.state.lock().trip.into())
    }

    /// When the lease ends, unless it is extended; never after its `max_hold`.
    pub(crate) fn valid_until(&self) -> Instant {
        self.end_of(&self.state.lock())
    }

    /// The end that an extend moves; `max_hold` may end the lease before it.
    pub(crate) fn extended_until(&self) -> Instant {
        self.state.lock().record.valid_until()
    }

    /// The nodes of its grant or last extend.
    pub(crate) fn placement(&self) -> Placement {
        self.state.lock().record.base().placement
    }

    /// Records what an operation in the view of `at` has learned of its entries.
    pub(crate) fn acknowledge(
        &self,
        at: &Arc<ViewNodes>,
        placement: &Placement,
        has: Known,
        lacks: VoterSet,
    ) {
        if has != Known::NONE || !lacks.is_empty() {
            let mut state = self.state.lock();
            state.record.acknowledge(at, placement, has, lacks);
        }
    }

    /// Why the lease is over, if it is. Lapses the lease at its end; then the flag
    /// is true, and its entries must be released.
    pub(crate) fn lapse(&self, now: Instant) -> Option<(Loss, bool)> {
        let mut state = self.state.lock();
        if let Some(loss) = state.ended {
            return Some((loss, false));
        }
        let loss = if self.keep_alive.is_some_and(|keep| now >= keep.until) {
            Loss::MaxHold
        } else if now >= state.record.valid_until() {
            Loss::Expired
        } else {
            return None;
        };
        self.finish(&mut state, loss, now);
        let fence = state.record.fence();
        // A subscriber of the event may read the lease.
        drop(state);
        self.lost(loss, fence);
        Some((loss, true))
    }

    /// Why the lease is over, if it is; outer `None` while it is not granted.
    pub(crate) fn end_since_grant(&self) -> Option<Option<Loss>> {
        let state = self.state.lock();
        state.record.fence().map(|_| state.ended)
    }

    fn end_of(&self, state: &State) -> Instant {
        let limit = self.keep_alive.map(|keep| keep.until);
        let end = state.record.valid_until();
        limit.map_or(end, |limit| limit.min(end))
    }

    /// Wakes the waiters of the end. The end may come before the call.
    pub(crate) fn end_signal(&self) -> Arc<Notify> {
        let mut state = self.state.lock();
        Arc::clone(state.ended_signal.get_or_insert_default())
    }

    /// Ends the lease with `loss`, unless it has ended before.
    pub(crate) fn end(&self, loss: Loss, now: Instant) -> Option<Loss> {
        let mut state = self.state.lock();
        let before = state.ended;
        if before.is_none() {
            self.finish(&mut state, loss, now);
        }
        before
    }

    /// The end is permanent: nothing makes a lease valid again.
    fn finish(&self, state: &mut State, loss: Loss, now: Instant) {
        state.ended = Some(loss);
        // An abandoned attempt ends too, but was never held.
        if state.record.fence().is_some() {
            let counters = &self.context.counters;
            counters.held.went();
            let granted_at = self.asked_at + Duration::from_micros(state.trip.into());
            counters
                .meter
                .hold
                .note_span(now.saturating_since(granted_at));
        }
        if let Some(signal) = &state.ended_signal {
            signal.notify_waiters();
        }
    }

    /// Reports a lease that ended while it was held.
    fn lost(&self, loss: Loss, fence: Option<Fence>) {
        self.context.counters.lost(loss);
        events::lease_lost(&self.key, fence, loss);
    }

    /// Counts a release by the holder, of a lease that was over before or not.
    pub(crate) fn count_release(&self, was_lost: bool) {
        let counters = &self.context.counters;
        match was_lost {
            false => counters.released_in_time.add_one(),
            true => counters.released_too_late.add_one(),
        }
    }

    /// Passes the turn to the next waiter of this process.
    pub(crate) fn pass_ticket(&self) {
        let turn = self.state.lock().turn.take();
        if let Some(turn) = turn {
            turn.pass(&self.key);
        }
    }

    /// The input of an extend to `ttl` at `t0`, in the newest view, and the nodes of
    /// that view unless it is the one of the grant. `None` if it is not granted.
    pub(crate) fn extend_params(
        &self,
        ttl: Ttl,
        t0: Instant,
    ) -> Option<(ExtendParams, Option<Arc<ViewNodes>>)> {
        let mut state = self.state.lock();
        if let Some(newest) = state.record.newest().at.newest().map(Arc::clone) {
            state.record.move_to(newest, &self.key, t0);
        }
        let record = &state.record;
        let params = record.extend_params(&self.key, &self.token, ttl, t0)?;
        Some((params, self.unless_granted(&record.newest().at)))
    }

    /// The view and the placement of its grant or last extend; `None`: the view of
    /// the grant.
    pub(crate) fn last_success(&self) -> (Option<Arc<ViewNodes>>, Placement) {
        let state = self.state.lock();
        let base = state.record.base();
        (self.unless_granted(&base.at), base.placement)
    }

    fn unless_granted(&self, at: &Arc<ViewNodes>) -> Option<Arc<ViewNodes>> {
        (!Arc::ptr_eq(at, &self.view_nodes)).then(|| Arc::clone(at))
    }

    /// Records the outcome of an extend in the view of `at`.
    pub(crate) fn renewed(
        &self,
        at: &Arc<ViewNodes>,
        placement: &Placement,
        extension: &ExtendOutcome,
        now: Instant,
    ) {
        let counters = &self.context.counters;
        match extension {
            ExtendOutcome::Extended(until) => {
                counters.extended.add_one();
                let mut state = self.state.lock();
                // By now another extend may have found that the lease is lost.
                if state.ended.is_none() {
                    state.record.extended(at, placement, *until, now);
                    if let (Some(renewals), Some(KeepAlive { interval, .. })) =
                        (&mut state.renewals, self.keep_alive)
                    {
                        renewals.extended(now, interval, at.view.max_ttl(), rand::random());
                    }
                }
            }
            ExtendOutcome::Unchanged { refusals, .. } => {
                events::extend_failed(&self.key, refusals.len());
                if let Some(renewals) = &mut self.state.lock().renewals {
                    renewals.failed(refusals);
                }
                counters.extend_unchanged.add_one();
            }
            ExtendOutcome::Lost { refusals } => {
                counters.extend_lost.add_one();
                let is_rival = |(_, refusal): &(_, Refusal)| matches!(refusal, Refusal::Busy(_));
                let loss = match refusals.iter().any(is_rival) {
                    true => Loss::TakenOver,
                    false => Loss::Gone,
                };
                if self.end(loss, now).is_none() {
                    let fence = self.state.lock().record.fence();
                    self.lost(loss, fence);
                    // Waiters need not wait until the guard is dropped.
                    self.pass_ticket();
                }
            }
        }
    }

    /// Whether a renewal is due; if so, the following one is not before `retry`.
    pub(crate) fn take_due_renewal(&self, now: Instant, retry: Instant) -> bool {
        let mut state = self.state.lock();
        let renewals = state.renewals.as_mut();
        renewals.is_some_and(|renewals| renewals.take_due(now, retry))
    }

    /// When to extend it next, or when it ends; not after `latest`.
    pub(crate) fn next_event(&self, latest: Instant) -> Instant {
        let state = self.state.lock();
        let renewal = state.renewals.as_ref().map(RenewalSchedule::next);
        let end = self.end_of(&state);
        renewal.map_or(end, |renewal| renewal.min(end)).min(latest)
    }

    /// Handles a newer view: if the last extend failed because it needs one, makes
    /// the next extend due at `now` and returns true.
    pub(crate) fn renew_in_newer_view(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let renewals = state.renewals.as_mut();
        renewals.is_some_and(|renewals| renewals.view_changed(now))
    }

    /// The nodes that may have an entry of it.
    pub(crate) fn entries(&self, now: Instant) -> Entries {
        let state = self.state.lock();
        if !state.record.has_moved() {
            return Entries::Granted(state.record.base().placement);
        }
        let entries = state.record.entries(now);
        let mut nodes: Vec<_> = entries
            .map(|(at, node)| Arc::clone(&at.handle(node).node))
            .collect();
        nodes.sort_by_key(|node| Arc::as_ptr(node).cast::<()>());
        nodes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Entries::Moved(nodes)
    }
}
