//! Taking a lease: queue for the turn, attempt, wait for a notification, retry.

use std::sync::Arc;
use std::time::Duration;

use crate::acquire::Acquire;
use crate::acquire::failure::FailedAttempt;
use crate::acquire::retry::Deadlines;
use crate::clock;
use crate::config::LEAST_HOLD;
use crate::error::Error;
use crate::lease::guard::{Granted, Guard};
use crate::lease::local_queue::history::QueueHistory;
use crate::lease::local_queue::queue::Blocker;
use crate::lease::local_queue::ticket::Ticket;
use crate::lease::operation::{Operation, OperationFuture};
use crate::lease::state::{KeepAlive, LeaseState};
use crate::proto::lease::{Key, Token, Ttl};
use crate::proto::operation::acquire::{Attempt, Denied, Grant};
use crate::proto::time::Instant;
use crate::runtime::random;
use crate::telemetry::events;

/// The shortest time between two extends of one lease.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How often one call restarts because the cluster has a newer view, at most. The
/// view does not change more often than that during one call.
const MAX_RESTARTS: u32 = 16;

/// The longest time of an attempt, in node timeouts.
const ROUNDS: u32 = 3;

/// The time in which a single attempt may still restart under a newer view, in node
/// timeouts. Its last round comes after that.
const LOOKS: u32 = 2;

impl Acquire {
    /// The limits of a call that started at `started`.
    pub(crate) fn deadlines(&self, started: Instant) -> Result<Deadlines, Error> {
        let (ttl, node_timeout) = self.leases.membership.read(|nodes| {
            let longest = nodes.view.max_ttl();
            // The cluster's longest ttl may be shorter now than when the router was
            // configured.
            let default = || self.leases.defaults.ttl.min(longest);
            let ttl = Ttl::new(self.ttl.unwrap_or_else(default), longest)?;
            Ok::<_, Error>((ttl, nodes.node_timeout(ttl)))
        })?;
        if let Some(max_hold) = self
            .max_hold_set()
            .filter(|&max_hold| max_hold < LEAST_HOLD)
        {
            return Err(Error::MaxHold { max_hold });
        }
        Ok(Deadlines {
            ttl,
            started,
            deadline: self.patience.deadline(started, node_timeout),
        })
    }

    /// Retries until the lease is granted or the limits are reached. Callers behind
    /// `ticket` get the errors that it meets. `last` is the previous obstacle, if
    /// any.
    pub(crate) async fn contend(
        &self,
        key: &Key,
        deadlines: Deadlines,
        ticket: Option<&mut Ticket<LeaseState>>,
        last: Option<Error>,
    ) -> Result<Guard, Error> {
        match self.attempt(key, deadlines).await {
            Ok(won) => Ok(self.guard(won)),
            Err(failed) => self.persist(key, deadlines, ticket, failed, last).await,
        }
    }

    /// Retries after a first attempt that failed.
    pub(crate) async fn persist(
        &self,
        key: &Key,
        deadlines: Deadlines,
        ticket: Option<&mut Ticket<LeaseState>>,
        failed: Box<FailedAttempt>,
        last: Option<Error>,
    ) -> Result<Guard, Error> {
        // Boxed: a caller that gets a free key needs no room for it.
        Box::pin(self.try_again(key, deadlines, ticket, failed, last)).await
    }

    async fn try_again(
        &self,
        key: &Key,
        deadlines: Deadlines,
        mut ticket: Option<&mut Ticket<LeaseState>>,
        mut failed: Box<FailedAttempt>,
        mut last: Option<Error>,
    ) -> Result<Guard, Error> {
        let _waiting = self.leases.counters().waiting.enter();
        let deadline = deadlines.deadline;
        let mut pacer = self.patience.pacer();
        let mut attempts = 1;
        let mut restarts = 0;
        // A single attempt also restarts under a newer view, but not without limit.
        let restart_by = deadline.unwrap_or_else(|| {
            deadlines.started + LOOKS * failed.view_nodes.node_timeout(deadlines.ttl)
        });
        loop {
            // Attempts find no nodes once the router has closed them.
            self.leases.lifecycle().check()?;
            let can_restart =
                failed.is_outdated && restarts < MAX_RESTARTS && clock::now() < restart_by;
            if can_restart && failed.view_nodes.catch_up(Some(restart_by)).await? {
                // Under another view it still counts as the same attempt.
                restarts += 1;
            } else {
                let error = match last.take() {
                    Some(last) if failed.is_less_specific(deadlines) => last,
                    _ => failed.error,
                };
                if let Some(ticket) = &mut ticket {
                    ticket.failed(&error);
                }
                let limit = self.patience.most_attempts();
                let is_exhausted = deadline.is_some_and(|deadline| clock::now() >= deadline)
                    || limit.is_some_and(|limit| attempts >= limit);
                let goes_on = !is_exhausted && error.is_transient() && {
                    let (view_nodes, conflict) = (&failed.view_nodes, &failed.conflict);
                    pacer
                        .wait(self.leases.lifecycle(), view_nodes, key, conflict, deadline)
                        .await
                };
                if !goes_on {
                    events::attempts(attempts);
                    return Err(self.give_up(attempts, deadlines.started, error));
                }
                last = Some(error);
                attempts += 1;
            }
            failed = match self.attempt(key, deadlines).await {
                Ok(won) => {
                    events::attempts(attempts);
                    return Ok(self.guard(won));
                }
                Err(failed) => failed,
            };
        }
    }

    /// What a caller that queued knows of the key, whatever the result of an
    /// attempt in the last moments. A caller without a turn that waits has waited
    /// until its deadline, behind a lease that was over by then.
    pub(crate) fn waited_for(
        &self,
        key: &Key,
        ticket: Option<&Ticket<LeaseState>>,
    ) -> Option<Error> {
        match ticket {
            Some(ticket) => ticket.met().map(|met| self.error_of(key, &met)),
            None if self.patience.is_one_try() => None,
            None => Some(self.error_of(key, &QueueHistory::Held)),
        }
    }

    /// The error for a caller that timed out in the queue.
    pub(crate) fn error_of(&self, key: &Key, met: &QueueHistory) -> Error {
        match met {
            QueueHistory::Held => Error::Contended {
                key: key.clone(),
                holder: None,
                remaining: None,
            },
            QueueHistory::Failed(error) => match &**error {
                // It concerns another key that the caller ahead also wants.
                Error::Contended { key: other, .. } if other != key => {
                    self.error_of(key, &QueueHistory::Held)
                }
                error => error.clone(),
            },
            QueueHistory::Unanswered => {
                let view_nodes = self.leases.nodes();
                view_nodes.no_quorum(key, 0, &view_nodes.view.place(key), Vec::new())
            }
        }
    }

    /// How long to leave the key to other processes, if this process has reached
    /// its limit of consecutive hand-overs.
    pub(crate) fn yield_for_others(
        &self,
        key: &Key,
        ticket: Option<&mut Ticket<LeaseState>>,
    ) -> Option<Duration> {
        let max_local_handoffs = self.leases.defaults.max_local_handoffs;
        let ticket = ticket.filter(|ticket| ticket.streak.is_due(max_local_handoffs))?;
        let pause = ticket
            .streak
            .pause(&self.leases.nodes(), key, max_local_handoffs)?;
        ticket.pauses();
        Some(pause)
    }

    /// The place in this process's queue. `None` for a single attempt while a
    /// caller ahead is still trying: it may try as well.
    pub(crate) async fn ticket(
        &self,
        key: &Key,
        deadline: Option<Instant>,
    ) -> Result<Option<Ticket<LeaseState>>, Error> {
        let queues = &self.leases.queues;
        let ahead = if self.patience.is_one_try() {
            queues.try_enter(key)
        } else {
            queues.enter(key, deadline).await
        };
        match ahead {
            Ok(ticket) => Ok(Some(ticket)),
            Err(blocker) => self.blocked(key, blocker).map(|()| None),
        }
    }

    /// Whether a caller may try without a turn, behind `blocker`.
    pub(crate) fn blocked(&self, key: &Key, blocker: Blocker<LeaseState>) -> Result<(), Error> {
        self.leases.lifecycle().check()?;
        match blocker {
            Blocker::Contender(_) if self.patience.is_one_try() => Ok(()),
            Blocker::Contender(met) => Err(self.error_of(key, &met)),
            Blocker::Holder(lease) if lease.check(clock::now()).is_none() => {
                let remaining = lease.valid_until().saturating_since(clock::now());
                let holder = Some(lease.token.holder());
                Err(Error::Contended {
                    key: key.clone(),
                    holder,
                    remaining: Some(remaining),
                })
            }
            Blocker::Holder(_) => Ok(()),
        }
    }

    /// Makes the guard of a lease that was won.
    pub(crate) fn guard(&self, won: Granted) -> Guard {
        Guard::new(won, Arc::clone(&self.leases))
    }

    /// A single attempt. A lease that it wins is neither kept alive nor marked as
    /// having the turn before [`Guard::begin`].
    pub(crate) async fn attempt(
        &self,
        key: &Key,
        deadlines: Deadlines,
    ) -> Result<Granted, Box<FailedAttempt>> {
        let _permit = match self.pace() {
            Some(pace) => Box::pin(pace.acquire()).await.ok(),
            None => None,
        };
        let (lease, attempt) = self.start_attempt(key, deadlines, clock::now());
        // Two rounds, and the probes.
        let limit = lease.asked_at + ROUNDS * lease.view_nodes.node_timeout(deadlines.ttl);
        match attempt.by(limit).await {
            Some(outcome) => settle(lease, outcome),
            None => Err(Box::new(FailedAttempt::deserted(&lease))),
        }
    }

    /// Asks the nodes for a new lease; `now` is a reading of the clock from before.
    pub(crate) fn start_attempt(
        &self,
        key: &Key,
        deadlines: Deadlines,
        now: Instant,
    ) -> (Arc<LeaseState>, OperationFuture<Attempt>) {
        let lease = self.candidate(key, deadlines.ttl, now);
        let attempt = Operation::start(Attempt::new(lease.params()), &lease, deadlines.answer_by());
        (lease, attempt)
    }

    /// The lease that an attempt tries to win.
    fn candidate(&self, key: &Key, ttl: Ttl, now: Instant) -> Arc<LeaseState> {
        let defaults = &self.leases.defaults;
        let label = self.label_set().unwrap_or(&defaults.label);
        let token = Token::new(random::unique(), label.clone());
        let keep_alive = self.keep_alive.map(|interval| KeepAlive {
            interval: interval
                .map(|own| own.max(SHORTEST_INTERVAL))
                .filter(|&own| own < ttl.get() / 2)
                .unwrap_or(ttl.get() / 3),
            until: now + self.max_hold_set().unwrap_or(defaults.max_hold),
        });
        let view_nodes = self.leases.nodes();
        let context = &self.leases.context;
        context.counters.attempts.add_one();
        LeaseState::new(
            Arc::clone(context),
            view_nodes,
            key,
            ttl,
            token,
            now,
            keep_alive,
        )
    }

    pub(crate) fn give_up(&self, attempts: u32, started: Instant, last: Error) -> Error {
        if self.patience.is_single || !last.is_transient() {
            return last;
        }
        let waited = clock::now().saturating_since(started);
        Error::TimedOut {
            attempts,
            waited,
            last: Box::new(last),
        }
    }
}

/// Counts the outcome of an attempt at `lease`.
pub(crate) fn settle(
    lease: Arc<LeaseState>,
    outcome: Result<Grant, Denied>,
) -> Result<Granted, Box<FailedAttempt>> {
    let counters = &lease.context.counters;
    match outcome {
        Ok(grant) => {
            counters.granted.add_one();
            if grant.wrote_back {
                counters.write_backs.add_one();
            }
            let fence = grant.fence;
            Ok(Granted { lease, fence })
        }
        Err(refused) => {
            let failed = Box::new(FailedAttempt::of(&lease, refused));
            events::refused(&lease.key, &failed.error);
            Err(failed)
        }
    }
}
