//! A held lease, as its holder sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock;
use crate::error::{Causes, Error, Loss};
use crate::lease::local_queue::ticket::Ticket;
use crate::lease::machines::LeaseMachine;
use crate::lease::manager::LeaseManager;
use crate::lease::operation::Operation;
use crate::lease::state::LeaseState;
use crate::proto::lease::{Fence, Key, Ttl};
use crate::proto::operation::extend::ExtendOutcome;
use crate::proto::operation::machine::Refusal;
use crate::proto::operation::release::{Release, ReleaseOutcome};
use crate::proto::time::Instant;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::task::SameProcess;
use crate::telemetry::events;

/// A lease on a key, from the moment it is granted.
///
/// The lease is valid while [`remaining`](Self::remaining) is above zero, under the
/// assumptions that the crate's front page states. The [`fence`](Self::fence) makes
/// it safe beyond them: pass it to the guarded resource with every write, and let
/// the resource refuse a fence lower than one it has seen.
///
/// Dropping the guard releases the lease in the background; the release is repeated
/// until it succeeds or the ttl has freed the key. [`release`](Self::release) does
/// the same and returns the result. A lease is not re-entrant: another acquire of
/// its key waits like any other.
#[must_use = "a guard that is dropped releases its lease"]
pub struct Guard {
    lease: Arc<LeaseState>,
    fence: Fence,
    is_released: bool,
    /// The router lives as long as its leases.
    _manager: Arc<LeaseManager>,
}

/// An attempt that won.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) lease: Arc<LeaseState>,
    pub(crate) fence: Fence,
}

/// How often an extend restarts because the cluster has a newer view.
const EXTEND_RESTARTS: u32 = 4;

/// The result of a release. No variant is an error: the work under the lease is
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Released {
    /// The lease was valid until its release.
    InTime,
    /// The lease was over before: another client may have held the key since.
    TooLate,
    /// The lease was valid until its release by the local clock, but too few nodes
    /// answered the release. The release is repeated in the background while the
    /// router lives; the ttl frees the key in any case.
    Unknown,
}

impl Guard {
    pub(crate) fn new(won: Granted, manager: Arc<LeaseManager>) -> Self {
        Self {
            lease: won.lease,
            fence: won.fence,
            is_released: false,
            _manager: manager,
        }
    }

    /// Hands the lease to its caller. From now on it is kept alive, if that was
    /// requested, and other callers of this process queue behind it.
    pub(crate) fn begin(&self, ticket: Option<Ticket<LeaseState>>) {
        events::granted(&self.lease.key, self.fence, self.lease.ttl.get());
        if let Some(mut ticket) = ticket {
            ticket.streak.count(self.lease.trip());
            self.lease.keep_ticket(ticket);
        }
        if self.lease.keep_alive.is_some() {
            self.lease.keep();
        }
    }

    /// The time from `started` to the grant.
    pub(crate) fn waited_since(&self, started: Instant) -> Duration {
        self.lease.granted_at().saturating_since(started)
    }

    /// The locked key.
    pub fn key(&self) -> &Key {
        &self.lease.key
    }

    /// The number that grows with every grant of the key.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The instant until which the lease is valid, unless it is extended: the ttl
    /// less 1 % and 2 ms, counted from before the first request; with keep-alive not
    /// after `max_hold`.
    pub fn valid_until(&self) -> Instant {
        match self.is_elsewhere() {
            true => Instant::default(),
            false => self.lease.valid_until(),
        }
    }

    /// The end that an extend moves; `max_hold` may end the lease before it.
    pub(crate) fn extended_until(&self) -> Instant {
        self.lease.extended_until()
    }

    /// The remaining time of the lease; zero once it is over, for whatever reason.
    pub fn remaining(&self) -> Duration {
        if self.is_elsewhere() {
            return Duration::ZERO;
        }
        let now = clock::now();
        match self.lease.check(now) {
            Some(_) => Duration::ZERO,
            None => self.lease.valid_until().saturating_since(now),
        }
    }

    /// Why the lease is over; `None` while it is valid.
    pub fn loss(&self) -> Option<Loss> {
        match self.is_elsewhere() {
            true => Some(Loss::Forked),
            false => self.lease.check(clock::now()),
        }
    }

    /// Whether the lease belongs to another process, from which this one was
    /// forked.
    fn is_elsewhere(&self) -> bool {
        self.life().origin.is_elsewhere()
    }

    fn life(&self) -> &Lifecycle {
        &self.lease.context.lifecycle
    }

    /// Waits until the lease is over, and returns the reason.
    ///
    /// The signal comes no later than [`valid_until`](Self::valid_until), with or
    /// without a network, and is never withdrawn. (On a machine that was suspended
    /// it comes within a second of waking up; [`remaining`](Self::remaining) is
    /// correct at once.)
    ///
    /// The future owns what it needs. It may be spawned, and may outlive the guard,
    /// whose release it then reports.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn lost(&self) -> impl Future<Output = Loss> + Send + 'static {
        let lease = Arc::clone(&self.lease);
        let ended = async move { lease.ended().await };
        SameProcess::new(&self.life().origin, ended, || Loss::Forked)
    }

    /// Extends the lease by its ttl, from now.
    ///
    /// # Errors
    /// [`Error::Lost`]: the lease is over permanently. [`Error::NoQuorum`]: too few
    /// nodes answered; the lease stays valid as long as before, and another extend
    /// may succeed.
    ///
    /// # Cancel safety
    /// A dropped call may or may not extend; it never shortens or releases.
    pub async fn extend(&self) -> Result<(), Error> {
        self.extend_to(self.lease.ttl.get()).await
    }

    /// Extends the lease so that its entries have at least `ttl` left. A ttl
    /// shorter than what is left changes nothing.
    ///
    /// # Errors
    /// The errors of [`extend`](Self::extend), and [`Error::Ttl`].
    ///
    /// # Cancel safety
    /// Like [`extend`](Self::extend).
    pub async fn extend_to(&self, ttl: Duration) -> Result<(), Error> {
        self.life().check_tasks()?;
        let lease = &self.lease;
        let lost = |reason| {
            let key = lease.key.clone();
            Err(Error::Lost { key, reason })
        };
        let view_nodes = lease.view_nodes.newest().unwrap_or(&lease.view_nodes);
        let ttl = Ttl::new(ttl, view_nodes.view.max_ttl())?;
        let mut restarts = 0;
        loop {
            let extend = lease.renew(ttl)?;
            let (view_nodes, placement) = extend.place();
            let limit = lease.valid_until() + lease.view_nodes.node_timeout(lease.ttl);
            let Some(extended) = extend.by(limit).await else {
                return Err(Error::Closed);
            };
            // The tasks may have stopped in between.
            let is_extended = matches!(extended, ExtendOutcome::Extended(_));
            if !is_extended {
                self.life().check_tasks()?;
            }
            let (kept, refusals) = match extended {
                // By now another extend may have found that the lease is lost.
                ExtendOutcome::Extended(_) => {
                    return lease.check(clock::now()).map_or(Ok(()), lost);
                }
                ExtendOutcome::Lost { .. } => {
                    return lost(lease.check(clock::now()).unwrap_or(Loss::Gone));
                }
                ExtendOutcome::Unchanged { kept, refusals } => (kept, refusals),
            };
            if let Some(reason) = lease.check(clock::now()) {
                return lost(reason);
            }
            let is_stale = |(_, refusal): &(_, Refusal)| refusal.is_stale();
            restarts += 1;
            let is_behind = refusals.iter().any(is_stale) && restarts <= EXTEND_RESTARTS;
            if !(is_behind && view_nodes.catch_up(Some(lease.valid_until())).await?) {
                return Err(view_nodes.no_quorum(&lease.key, kept, &placement, refusals));
            }
        }
    }

    /// Releases the lease.
    ///
    /// An outage is no error here, nor is a lease that was over already: the work
    /// is done, and [`Released`] contains the result. So `guard.release().await?`
    /// does not report finished work as failed.
    ///
    /// # Errors
    /// [`Error::Forked`]: the lease belongs to the process from which this one was
    /// forked, which continues to hold it.
    ///
    /// # Cancel safety
    /// A dropped call still releases the lease.
    pub async fn release(self) -> Result<Released, Error> {
        self.give_back().await.map(|(released, _)| released)
    }

    /// Like `release`, and returns the reason if the lease was over before.
    pub(crate) async fn give_back(mut self) -> Result<(Released, Option<Loss>), Error> {
        self.life().check_origin()?;
        let lease = Arc::clone(&self.lease);
        self.is_released = true;
        // By the local clock, whatever the nodes still have.
        let now = clock::now();
        let loss = lease.check(now);
        lease.end(Loss::Released, now);
        lease.count_release(loss.is_some());
        events::released(&lease.key, self.fence);
        let (later, placement) = lease.last_success();
        let machine = Release::new(lease.key.clone(), lease.token.clone(), placement, now);
        let running = Operation::start_from(machine, &lease, later.clone(), None);
        let last = later.as_ref().unwrap_or(&lease.view_nodes);
        lease.release_elsewhere(last, &placement, now);
        lease.pass_ticket();
        let limit = now + 2 * lease.view_nodes.node_timeout(lease.ttl);
        let released = running.by(limit).await;
        let loss = match released.unwrap_or_else(Release::unanswered) {
            _ if loss.is_some() => loss,
            ReleaseOutcome::Released => return Ok((Released::InTime, None)),
            ReleaseOutcome::TooLate { is_taken } => {
                lease.context.counters.gone.add_one();
                events::released_too_late(&lease.key, self.fence);
                Some(if is_taken {
                    Loss::TakenOver
                } else {
                    Loss::Gone
                })
            }
            ReleaseOutcome::Unknown { refusals } => {
                let causes = last.causes(refusals);
                events::release_unanswered(&lease.key, self.fence, &Causes(&causes));
                return Ok((Released::Unknown, None));
            }
        };
        Ok((Released::TooLate, loss))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_elsewhere() {
            // The lease and its router belong to the parent process; this is a
            // copy.
            std::mem::forget((Arc::clone(&self.lease), Arc::clone(&self._manager)));
            return;
        }
        if self.is_released {
            return;
        }
        let now = clock::now();
        let was_lost = self.lease.check(now).is_some();
        self.lease.end(Loss::Released, now);
        self.lease.count_release(was_lost);
        events::released(&self.lease.key, self.fence);
        // A lost lease was released when the loss was found.
        if !was_lost {
            self.lease.release();
        }
        // After the releases: the next turn's requests queue up behind them.
        self.lease.pass_ticket();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", self.key())
            .field("fence", &self.fence)
            .field("remaining", &self.remaining())
            .finish()
    }
}
