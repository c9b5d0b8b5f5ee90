//! The state of one lease in this process, shared by its guard, the scheduler and
//! the operations in flight. It sends nothing: see `cleanup.rs` and `renewal.rs`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cluster::nodes::ViewNodes;
use crate::error::Loss;
use crate::lease::context::LeaseContext;
use crate::lease::local_queue::Ticket;
use crate::lease::position::{Ledger, Position, Relocation};
use crate::node::Node;
use crate::proto::lease::{Fence, Key, Token, Ttl};
use crate::proto::lease_record::carry::LastSuccess;
use crate::proto::operation::acquire::{AcquireParams, Grant};
use crate::proto::operation::extend::ExtendOutcome;
use crate::proto::operation::machine::Refusal;
use crate::proto::quorum::Placement;
use crate::proto::time::Instant;
use crate::telemetry::events;

/// Renewals that fall due within this time are sent together.
const RENEWAL_GRID: Duration = Duration::from_millis(10);

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
    pub(crate) placement: Placement,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// When its attempt started.
    pub(crate) asked_at: Instant,
    ledger: Ledger,
    state: Mutex<State>,
    /// Wakes the waiters of its end, once there are any.
    ended: OnceLock<Box<Notify>>,
}

#[derive(Debug)]
struct State {
    valid_until: Instant,
    /// How long the attempt took, in microseconds.
    trip: u32,
    fence: Option<Fence>,
    ended: Option<Loss>,
    /// When to extend it next, if it is kept alive.
    renew_at: Instant,
    /// The last extend failed because it needs a newer view.
    awaits_view: bool,
    ticket: Option<Ticket<LeaseState>>,
    /// Its positions in later views.
    moved: Option<Box<Relocation>>,
}

/// The starting point of an extend.
pub(crate) struct ExtensionBase {
    pub(crate) fence: Option<Fence>,
    pub(crate) valid_until: Instant,
    /// Where to extend it; `None`: where it was granted.
    pub(crate) position: Option<Arc<Position>>,
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
            placement: view_nodes.view.place(key),
            // The view may have changed since the call started.
            ttl: ttl.at_most(view_nodes.view.max_ttl()),
            context,
            view_nodes,
            key: key.clone(),
            token,
            keep_alive,
            asked_at,
            ledger: Ledger::default(),
            state: Mutex::new(State {
                valid_until: Instant::default(),
                trip: 0,
                fence: None,
                ended: None,
                renew_at: Instant::default(),
                awaits_view: false,
                ticket: None,
                moved: None,
            }),
            ended: OnceLock::new(),
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
            placement: self.placement,
            t0: self.asked_at,
        }
    }

    /// Records that the attempt has won.
    pub(crate) fn grant(&self, grant: &Grant, now: Instant) {
        let mut state = self.state.lock();
        state.valid_until = grant.valid_until;
        let trip = now.saturating_since(self.asked_at).as_micros();
        state.trip = u32::try_from(trip).unwrap_or(u32::MAX);
        state.fence = Some(grant.fence);
        self.context.counters.held.came();
        if let Some(keep_alive) = &self.keep_alive {
            // The first renewal is at a random point of the second half: many
            // leases are often taken at once.
            let first = keep_alive
                .interval
                .mul_f64(1.0 - rand::random::<f64>() / 2.0);
            state.renew_at = next_renewal(now, first);
        }
    }

    /// Keeps the place in the process's queue while the lease lasts.
    pub(crate) fn keep_ticket(self: &Arc<Self>, ticket: Ticket<Self>) {
        ticket.hold(self);
        self.state.lock().ticket = Some(ticket);
    }

    /// When its attempt won.
    pub(crate) fn granted_at(&self) -> Instant {
        self.asked_at + self.trip()
    }

    /// How long its attempt took.
    pub(crate) fn trip(&self) -> Duration {
        Duration::from_micros(self.state.lock().trip.into())
    }

    pub(crate) fn valid_until(&self) -> Instant {
        self.state.lock().valid_until
    }

    /// What is known of its entries under the view of its grant.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
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
        } else if now >= state.valid_until {
            Loss::Expired
        } else {
            return None;
        };
        self.finish(&mut state, loss, now);
        let fence = state.fence;
        // A subscriber of the event may read the lease.
        drop(state);
        self.lost(loss, fence);
        Some((loss, true))
    }

    /// Why the lease is over, if it is; outer `None` while it is not granted.
    pub(crate) fn end_since_grant(&self) -> Option<Option<Loss>> {
        let state = self.state.lock();
        state.fence.map(|_| state.ended)
    }

    /// When the lease ends unless it is extended.
    pub(crate) fn ends_at(&self) -> Instant {
        self.end_of(&self.state.lock())
    }

    fn end_of(&self, state: &State) -> Instant {
        let limit = self.keep_alive.map(|keep| keep.until);
        limit.map_or(state.valid_until, |limit| limit.min(state.valid_until))
    }

    /// Wakes the waiters of the end. The end may come before the call.
    pub(crate) fn end_signal(&self) -> &Notify {
        self.ended.get_or_init(Box::default)
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
        if state.fence.is_some() {
            let counters = &self.context.counters;
            counters.held.went();
            let granted_at = self.asked_at + Duration::from_micros(state.trip.into());
            counters
                .meter
                .hold
                .note_span(now.saturating_since(granted_at));
        }
        if let Some(waiting) = self.ended.get() {
            waiting.notify_waiters();
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
        let ticket = self.state.lock().ticket.take();
        drop(ticket);
    }

    /// The starting point of an extend at `now`.
    pub(crate) fn follow(&self, now: Instant) -> ExtensionBase {
        let mut state = self.state.lock();
        let position = self.newest_stance(&mut state, now);
        ExtensionBase {
            fence: state.fence,
            valid_until: state.valid_until,
            position,
        }
    }

    /// Where to extend it: in the newest view. `None`: that is still the view of
    /// its grant.
    fn newest_stance(&self, state: &mut State, now: Instant) -> Option<Arc<Position>> {
        let known = state.moved.as_ref().and_then(|moved| moved.newest());
        let view_nodes = known.map_or(&self.view_nodes, |position| &position.view_nodes);
        if let Some(newest) = view_nodes.newest().map(Arc::clone) {
            let granted = LastSuccess {
                view: &self.view_nodes.view,
                placement: self.placement,
                known: self.ledger.read(),
            };
            let until = now
                + newest
                    .view
                    .longest_ttl()
                    .max(self.view_nodes.view.longest_ttl());
            let moved = state.moved.get_or_insert_default();
            moved.forget(now);
            moved.follow(newest, &granted, &self.key, until);
        }
        state.moved.as_ref()?.newest().map(Arc::clone)
    }

    /// The position of its last success, if it is not that of the grant, and the
    /// placement there.
    pub(crate) fn standing(&self) -> (Option<Arc<Position>>, Placement) {
        let state = self.state.lock();
        let base = state
            .moved
            .as_ref()
            .and_then(|moved| moved.base())
            .map(Arc::clone);
        let placement = base.as_ref().map_or(self.placement, |base| base.placement);
        (base, placement)
    }

    /// Records an extend's outcome.
    pub(crate) fn renewed(
        &self,
        position: Option<&Arc<Position>>,
        extension: &ExtendOutcome,
        now: Instant,
    ) {
        let counters = &self.context.counters;
        match extension {
            ExtendOutcome::Extended(until) => {
                counters.extended.add_one();
                let mut state = self.state.lock();
                state.awaits_view = false;
                let limit = now + self.view_nodes.view.longest_ttl();
                if let (Some(position), Some(moved)) = (position, &mut state.moved) {
                    moved.settle(position, limit);
                }
                if state.ended.is_none() {
                    state.valid_until = state.valid_until.max(*until);
                    if let Some(keep_alive) = &self.keep_alive {
                        let max_ttl = position.map(|position| position.view_nodes.view.max_ttl());
                        let most = max_ttl.map_or(Duration::MAX, |max_ttl| max_ttl / 3);
                        state.renew_at = next_renewal(now, keep_alive.interval.min(most));
                    }
                }
            }
            ExtendOutcome::Unchanged { refusals, .. } => {
                events::extend_failed(&self.key, refusals.len());
                let is_stale = |(_, refusal): &(_, Refusal)| refusal.is_stale();
                self.state.lock().awaits_view |= refusals.iter().any(is_stale);
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
                    let fence = self.state.lock().fence;
                    self.lost(loss, fence);
                    // Waiters need not wait until the guard is dropped.
                    self.pass_ticket();
                }
            }
        }
    }

    /// Whether a renewal is due; if so, the following one is not before `next`.
    pub(crate) fn take_due_renewal(&self, now: Instant, next: Instant) -> bool {
        let mut state = self.state.lock();
        let is_due = state.renew_at <= now;
        if is_due {
            state.renew_at = next;
        }
        is_due
    }

    /// When to extend it next, or when it ends; not after `latest`.
    pub(crate) fn next_event(&self, latest: Instant) -> Instant {
        let state = self.state.lock();
        state.renew_at.min(latest).min(self.end_of(&state))
    }

    /// Handles a newer view: if the last extend failed because it needs one, makes
    /// the next extend due at `now` and returns true.
    pub(crate) fn renew_in_newer_view(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.awaits_view {
            state.renew_at = now;
        }
        state.awaits_view
    }

    /// Whether no entry can be left where the lease was granted, and every other
    /// node that may have an entry.
    pub(crate) fn entries(&self, now: Instant) -> (bool, Vec<Arc<dyn Node>>) {
        match &self.state.lock().moved {
            Some(moved) => moved.entries(now),
            None => (false, Vec::new()),
        }
    }
}

/// When to extend a lease next, `interval` from `now`: up to a tenth earlier, so
/// that renewals that started together spread out, and on a grid, so that renewals
/// of one moment are sent together.
fn next_renewal(now: Instant, interval: Duration) -> Instant {
    let at = now + interval - interval.mul_f64(rand::random::<f64>() / 10.0);
    let grid = (interval / 64).min(RENEWAL_GRID).as_nanos().max(1) as u64;
    Instant::from_nanos(at.as_nanos() / grid * grid)
}
