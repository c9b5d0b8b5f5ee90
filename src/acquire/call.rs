//! The future of one acquire. Most keys are free: such a call makes one attempt, and
//! its future has room for no more. Whatever takes longer goes on in a second
//! future, which is made when it is needed.

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
use crate::lease::local_queue::Ticket;
use crate::lease::operation::OperationFuture;
use crate::lease::state::LeaseState;
use crate::proto::lease::Key;
use crate::proto::operation::acquire::{Attempt, Denied, Grant};
use crate::telemetry::events;
use crate::telemetry::stats::CallMetrics;

/// A call in progress. The fields are dropped in this order: what an attempt may
/// have left is released ahead of the next turn's requests.
pub(crate) struct Call {
    first: Option<FirstAttempt>,
    rest: Option<Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>>,
    metrics: CallMetrics,
    /// `None` once the call has ended, or goes on in `rest`.
    acquire: Option<Acquire>,
}

/// An attempt at a key for which no other call of this process contends.
struct FirstAttempt {
    attempt: OperationFuture<Attempt>,
    lease: Arc<LeaseState>,
    ticket: Ticket<LeaseState>,
    deadlines: Deadlines,
    _permit: Option<OwnedSemaphorePermit>,
}

/// How far a call has come when its second future takes over.
enum Progress {
    /// Another call of this process contends for the key, or holds it.
    MustQueue,
    /// It has its turn, and has made no attempt.
    HasTurn(Ticket<LeaseState>),
    /// Its first attempt has failed.
    HasFailed(Ticket<LeaseState>, Box<FailedAttempt>),
}

impl Call {
    pub(crate) fn new(acquire: Acquire) -> Self {
        Self {
            first: None,
            rest: None,
            metrics: CallMetrics::begin(acquire.leases.counters()),
            acquire: Some(acquire),
        }
    }

    /// Makes the first attempt, or leaves it to the second future.
    fn begin(&mut self) -> Result<(), Error> {
        let Some(own) = &self.acquire else {
            return Ok(());
        };
        own.leases.lifecycle().check()?;
        let key = own.key.as_ref().map_err(|error| (**error).clone())?;
        let now = clock::now();
        let deadlines = own.deadlines(own.started().unwrap_or(now))?;
        let Some(ticket) = own.leases.queues.enter_vacant(key) else {
            let key = key.clone();
            self.go_on(key, deadlines, Progress::MustQueue);
            return Ok(());
        };
        let permit = own.pace().map(|pace| Arc::clone(pace).try_acquire_owned());
        let is_delayed = own.leases.lifecycle().is_guest()
            || permit.as_ref().is_some_and(Result::is_err)
            || ticket.streak.is_due(own.leases.defaults.max_local_handoffs);
        if is_delayed {
            let key = key.clone();
            self.go_on(key, deadlines, Progress::HasTurn(ticket));
            return Ok(());
        }
        let (lease, attempt) = own.start_attempt(key, deadlines, now);
        self.first = Some(FirstAttempt {
            attempt,
            lease,
            ticket,
            deadlines,
            _permit: permit.and_then(Result::ok),
        });
        Ok(())
    }

    /// Ends the first attempt; `None` if it has failed.
    fn end(&mut self, outcome: Result<Grant, Denied>) -> Option<Result<Guard, Error>> {
        let (first, own) = (self.first.take()?, self.acquire.take()?);
        let ticket = first.ticket;
        match settle(first.lease, outcome) {
            Ok(won) => {
                events::attempts(1);
                let is_kept = own.keep_alive.is_some();
                let guard = Guard::new(won, own.leases);
                Some(finish(
                    guard,
                    is_kept,
                    Some(ticket),
                    first.deadlines,
                    &mut self.metrics,
                ))
            }
            Err(failed) => {
                let key = failed.key.clone();
                self.acquire = Some(own);
                self.go_on(key, first.deadlines, Progress::HasFailed(ticket, failed));
                None
            }
        }
    }

    /// Goes on in a second future.
    fn go_on(&mut self, key: Key, deadlines: Deadlines, progress: Progress) {
        let metrics = std::mem::take(&mut self.metrics);
        let rest = self.acquire.take();
        let rest = rest.map(|own| Box::pin(own.contend_from(key, deadlines, progress, metrics)));
        self.rest = rest.map(|rest| rest as _);
    }
}

impl Future for Call {
    type Output = Result<Guard, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        if call.first.is_none()
            && call.rest.is_none()
            && let Err(error) = call.begin()
        {
            call.acquire = None;
            return Poll::Ready(Err(call.metrics.failed(error)));
        }
        if let Some(first) = &mut call.first {
            let outcome = ready!(Pin::new(&mut first.attempt).poll(context));
            if let Some(result) = call.end(outcome) {
                return Poll::Ready(result);
            }
        }
        match &mut call.rest {
            Some(rest) => rest.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl Acquire {
    /// Contends for `key` until the lease is granted or the limits are reached.
    async fn contend_from(
        self,
        key: Key,
        deadlines: Deadlines,
        progress: Progress,
        mut metrics: CallMetrics,
    ) -> Result<Guard, Error> {
        let (mut ticket, failed) = match progress {
            Progress::MustQueue => match self.ticket(&key, deadlines.deadline).await {
                Ok(ticket) => (ticket, None),
                Err(busy) => {
                    return Err(metrics.failed(self.give_up(0, deadlines.started, busy)));
                }
            },
            Progress::HasTurn(ticket) => (Some(ticket), None),
            Progress::HasFailed(ticket, failed) => (Some(ticket), Some(failed)),
        };
        let attempted = match failed {
            Some(failed) => Err(failed),
            None => {
                if let Some(pause) = self.yield_for_others(&key, ticket.as_mut()) {
                    Box::pin(give_way(pause, deadlines.deadline)).await;
                }
                self.attempt(&key, deadlines).await
            }
        };
        let guard = match attempted {
            Ok(won) => {
                events::attempts(1);
                self.guard(won)
            }
            Err(failed) => {
                let last = self.waited_for(&key, ticket.as_ref());
                let persisting = self.persist(&key, deadlines, ticket.as_mut(), failed, last);
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
