//! The future of one acquire. Most keys are free: such a call makes one attempt, and
//! its future has room for no more. The wait for a turn, and whatever follows a
//! first attempt that fails, are futures of their own, made when they are needed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;

use crate::acquire::Acquire;
use crate::acquire::attempt::settle;
use crate::acquire::failure::FailedAttempt;
use crate::acquire::retry::{Deadlines, give_way};
use crate::clock;
use crate::error::Error;
use crate::lease::guard::Guard;
use crate::lease::local_queue::Admission;
use crate::lease::local_queue::queue::Blocker;
use crate::lease::local_queue::ticket::Ticket;
use crate::lease::operation::OperationFuture;
use crate::lease::state::LeaseState;
use crate::proto::operation::acquire::{Attempt, Denied, Grant};
use crate::proto::time::Instant;
use crate::telemetry::events;
use crate::telemetry::stats::CallMetrics;

/// A call in progress. The fields are dropped in this order: what an attempt may
/// have left is released ahead of the next turn's requests.
pub(crate) struct Call {
    first: Option<FirstAttempt>,
    /// Boxed, like `rest`: few calls need either.
    wait: Option<Boxed<Result<Ticket<LeaseState>, Blocker<LeaseState>>>>,
    rest: Option<Boxed<Result<Guard, Error>>>,
    /// Its limits, once it has started.
    deadlines: Option<Deadlines>,
    metrics: CallMetrics,
    /// `None` once the call has ended, or goes on in `rest`.
    acquire: Option<Acquire>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The first attempt of a call, which mostly is the last.
struct FirstAttempt {
    attempt: OperationFuture<Attempt>,
    lease: Arc<LeaseState>,
    ticket: Option<Ticket<LeaseState>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    pub(crate) fn new(acquire: Acquire) -> Self {
        Self {
            first: None,
            wait: None,
            rest: None,
            deadlines: None,
            metrics: CallMetrics::default(),
            acquire: Some(acquire),
        }
    }

    /// Takes a place in this process's queue; tries at once if it is the first.
    fn begin(&mut self) -> Result<(), Error> {
        let Some(own) = &self.acquire else {
            return Ok(());
        };
        // A future that is never polled is no call.
        self.metrics = CallMetrics::begin(own.leases.counters());
        own.leases.lifecycle().check()?;
        let key = own.key.as_ref().map_err(|error| (**error).clone())?;
        let now = clock::now();
        let deadlines = own.deadlines(own.started().unwrap_or(now))?;
        self.deadlines = Some(deadlines);
        let queues = &own.leases.queues;
        let entered = match own.patience.is_one_try() {
            true => queues.try_enter(key),
            false => match queues.join(key, deadlines.deadline) {
                Admission::Turn(ticket) => Ok(ticket),
                Admission::Closed(blocker) => Err(blocker),
                Admission::Wait(wait) => {
                    self.wait = Some(Box::pin(wait.turn()));
                    return Ok(());
                }
            },
        };
        self.enter(entered, now)
    }

    /// Makes the first attempt, or leaves it to `rest`: the call has its turn, or
    /// knows what it has queued behind.
    fn enter(
        &mut self,
        entered: Result<Ticket<LeaseState>, Blocker<LeaseState>>,
        now: Instant,
    ) -> Result<(), Error> {
        let (Some(own), Some(deadlines)) = (&self.acquire, self.deadlines) else {
            return Ok(());
        };
        let key = own.key.as_ref().map_err(|error| (**error).clone())?;
        let ticket = match entered {
            Ok(ticket) => Some(ticket),
            Err(blocker) => {
                let blocked = own.blocked(key, blocker);
                blocked.map_err(|busy| own.give_up(0, deadlines.started, busy))?;
                None
            }
        };
        let most = own.leases.defaults.max_local_handoffs;
        let permit = own.pace().map(|pace| Arc::clone(pace).try_acquire_owned());
        let is_delayed = own.leases.lifecycle().is_guest()
            || permit.as_ref().is_some_and(Result::is_err)
            || ticket
                .as_ref()
                .is_some_and(|ticket| ticket.streak.is_due(most));
        if is_delayed {
            self.go_on(deadlines, ticket, None);
            return Ok(());
        }
        let (lease, attempt) = own.start_attempt(key, deadlines, now);
        self.first = Some(FirstAttempt {
            attempt,
            lease,
            ticket,
            _permit: permit.and_then(Result::ok),
        });
        Ok(())
    }

    /// Ends the first attempt; `None` if it has failed.
    fn end(&mut self, outcome: Result<Grant, Denied>) -> Option<Result<Guard, Error>> {
        let FirstAttempt { lease, ticket, .. } = self.first.take()?;
        let (own, deadlines) = (self.acquire.take()?, self.deadlines?);
        match settle(lease, outcome) {
            Ok(won) => {
                events::attempts(1);
                let is_kept = own.keep_alive.is_some();
                let guard = Guard::new(won, own.leases);
                Some(finish(guard, is_kept, ticket, deadlines, &mut self.metrics))
            }
            Err(failed) => {
                self.acquire = Some(own);
                self.go_on(deadlines, ticket, Some(failed));
                None
            }
        }
    }

    /// Goes on in a second future.
    fn go_on(
        &mut self,
        deadlines: Deadlines,
        ticket: Option<Ticket<LeaseState>>,
        failed: Option<Box<FailedAttempt>>,
    ) {
        let metrics = std::mem::take(&mut self.metrics);
        self.rest = self.acquire.take().map(|own| -> Boxed<_> {
            Box::pin(own.contend_from(deadlines, ticket, failed, metrics))
        });
    }

    /// Whether it has done nothing yet.
    fn is_new(&self) -> bool {
        self.deadlines.is_none()
    }

    /// Goes on as far as it can without its second future.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Guard>, Error>> {
        if self.is_new() {
            self.begin()?;
        }
        if let Some(wait) = &mut self.wait {
            let entered = ready!(wait.as_mut().poll(context));
            self.wait = None;
            self.enter(entered, clock::now())?;
        }
        if let Some(first) = &mut self.first {
            let outcome = ready!(Pin::new(&mut first.attempt).poll(context));
            return Poll::Ready(self.end(outcome).transpose());
        }
        Poll::Ready(Ok(None))
    }
}

impl Future for Call {
    type Output = Result<Guard, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        if call.rest.is_none() {
            match ready!(call.advance(context)) {
                Ok(Some(guard)) => return Poll::Ready(Ok(guard)),
                Err(error) => {
                    call.acquire = None;
                    return Poll::Ready(Err(call.metrics.failed(error)));
                }
                Ok(None) => {}
            }
        }
        match &mut call.rest {
            Some(rest) => rest.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl Acquire {
    /// Contends for the key until the lease is granted or the limits are reached, in
    /// its turn. `failed` is the first attempt, if it was made.
    async fn contend_from(
        self,
        deadlines: Deadlines,
        mut ticket: Option<Ticket<LeaseState>>,
        failed: Option<Box<FailedAttempt>>,
        mut metrics: CallMetrics,
    ) -> Result<Guard, Error> {
        let key = self.key.as_ref();
        let key = key.map_err(|error| metrics.failed((**error).clone().into()))?;
        let attempted = match failed {
            Some(failed) => Err(failed),
            None => {
                if let Some(pause) = self.yield_for_others(key, ticket.as_mut()) {
                    Box::pin(give_way(pause, deadlines.deadline)).await;
                }
                self.attempt(key, deadlines).await
            }
        };
        let guard = match attempted {
            Ok(won) => {
                events::attempts(1);
                self.guard(won)
            }
            Err(failed) => {
                let last = self.waited_for(key, ticket.as_ref());
                let persisting = self.persist(key, deadlines, ticket.as_mut(), failed, last);
                persisting.await.map_err(|error| metrics.failed(error))?
            }
        };
        let is_kept = self.keep_alive.is_some();
        finish(guard, is_kept, ticket, deadlines, &mut metrics)
    }
}

/// Hands the lease to its caller.
fn finish(
    guard: Guard,
    is_kept: bool,
    ticket: Option<Ticket<LeaseState>>,
    deadlines: Deadlines,
    metrics: &mut CallMetrics,
) -> Result<Guard, Error> {
    // The grant may have used up all of `max_hold`.
    if is_kept && let Some(reason) = guard.loss() {
        let key = guard.key().clone();
        return Err(metrics.failed(Error::Lost { key, reason }));
    }
    metrics.granted(|| guard.waited_since(deadlines.started));
    guard.begin(ticket);
    Ok(guard)
}
