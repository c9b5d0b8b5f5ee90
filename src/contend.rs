//! Taking a lease: wait for the turn, try, wait to be told, try again.

use std::sync::Arc;
use std::time::Duration;

use crate::acquire::Acquire;
use crate::clock;
use crate::drive::Operation;
use crate::error::Error;
use crate::events;
use crate::fleet::Fleet;
use crate::gate::{Ahead, Turn};
use crate::guard::Guard;
use crate::held::{Held, KeepAlive};
use crate::proto::attempt::{Attempt, Refused, Shortfall};
use crate::proto::backoff::Backoff;
use crate::proto::lease::{Fence, Holder, Key, Token, Ttl};
use crate::proto::round::Refusal;
use crate::proto::time::Instant;
use crate::proto::wire::Rival;
use crate::stats::Call;
use crate::waiting::{Pauses, Rivals, way};

/// Extends of one lease follow each other no faster.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How often one call begins anew because the cluster has a newer view, at
/// most: more changes than that are made in no call's time.
const MAX_RESTARTS: u32 = 16;

/// Node timeouts that a single attempt may take, and look for the newest view
/// meanwhile, before it begins its last round.
const LOOKS: u32 = 2;

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) wait: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) retry_delay: Option<Duration>,
    /// A single attempt, its error told as it is.
    pub(crate) is_single: bool,
}

/// What holds for all attempts of a call that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) ttl: Ttl,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
}

impl Acquire {
    pub(crate) async fn run(self) -> Result<Guard, Error> {
        let mut call = Call::begin(self.router.counters());
        let key = self.key.clone();
        let key = key.map_err(|error| call.failed((*error).into()))?;
        let terms = self.terms(self.started.unwrap_or_else(clock::now));
        let terms = terms.map_err(|error| call.failed(error))?;
        let mut turn = match self.turn(&key, terms.deadline).await {
            Ok(turn) => turn,
            Err(busy) => return Err(call.failed(self.give_up(0, terms.started, busy))),
        };
        if let Some(turn) = &mut turn
            && turn.streak.grants > self.router.defaults().hand_overs
        {
            self.give_way(turn, terms.deadline).await;
        }
        let guard = match self.attempt(&key, terms).await {
            Ok(won) => {
                events::attempts(1);
                Guard::new(won, self.router)
            }
            Err(failed) => {
                let last = self.waited_for(&key, turn.as_ref());
                let persisting = self.persist(&key, terms, turn.as_mut(), failed, last);
                persisting.await.map_err(|error| call.failed(error))?
            }
        };
        call.granted(|| guard.waited_since(terms.started));
        guard.begin(turn);
        Ok(guard)
    }

    /// What a call that began at `started` is bound to.
    pub(crate) fn terms(&self, started: Instant) -> Result<Terms, Error> {
        let longest = self.router.max_ttl();
        // The cluster's may have become shorter than the router was told.
        let default = || self.router.defaults().ttl.min(longest);
        let ttl = Ttl::new(self.ttl.unwrap_or_else(default), longest)?;
        Ok(Terms {
            ttl,
            started,
            deadline: self.patience.deadline(started, ttl),
        })
    }

    /// Tries until it is granted or in vain, the turn being another's care.
    /// `last` is what stood in its way so far.
    pub(crate) async fn contend(
        &self,
        key: &Key,
        terms: Terms,
        last: Option<Error>,
    ) -> Result<Guard, Error> {
        match self.attempt(key, terms).await {
            Ok(won) => Ok(self.guard(won)),
            Err(failed) => self.persist(key, terms, None, failed, last).await,
        }
    }

    /// Tries again after a first attempt that has failed.
    async fn persist(
        &self,
        key: &Key,
        terms: Terms,
        turn: Option<&mut Turn>,
        failed: Box<Failed>,
        last: Option<Error>,
    ) -> Result<Guard, Error> {
        // On the heap: who is granted a free key needs no room for it.
        Box::pin(self.try_again(key, terms, turn, failed, last)).await
    }

    async fn try_again(
        &self,
        key: &Key,
        terms: Terms,
        mut turn: Option<&mut Turn>,
        mut failed: Box<Failed>,
        mut last: Option<Error>,
    ) -> Result<Guard, Error> {
        let _waiting = self.router.counters().waiting.enter();
        let deadline = terms.deadline;
        let mut pauses = self.patience.pauses();
        let mut attempts = 1;
        let mut restarts = 0;
        // A single attempt goes by a newer view too, but not for ever.
        let restart_by =
            deadline.unwrap_or_else(|| terms.started + LOOKS * Fleet::node_timeout(terms.ttl));
        loop {
            let can_restart =
                failed.is_outdated && restarts < MAX_RESTARTS && clock::now() < restart_by;
            if can_restart && failed.fleet.catch_up(Some(restart_by)).await? {
                // Under another view it is the same attempt still.
                restarts += 1;
            } else {
                if let Some(turn) = &mut turn {
                    turn.end_streak();
                }
                let error = match last.take() {
                    Some(last) if failed.tells_less(terms) => last,
                    _ => failed.error,
                };
                let limit = self.patience.attempts;
                let is_exhausted = deadline.is_some_and(|deadline| clock::now() >= deadline)
                    || limit.is_some_and(|limit| attempts >= limit);
                let goes_on = !is_exhausted && error.is_transient() && {
                    let (fleet, rivals) = (&failed.fleet, &failed.rivals);
                    pauses.wait(fleet, key, rivals, deadline).await
                };
                if !goes_on {
                    events::attempts(attempts);
                    return Err(self.give_up(attempts, terms.started, error));
                }
                last = Some(error);
                attempts += 1;
            }
            failed = match self.attempt(key, terms).await {
                Ok(won) => {
                    events::attempts(attempts);
                    return Ok(self.guard(won));
                }
                Err(failed) => failed,
            };
        }
    }

    /// Who stood in line knows that the key was held, whatever an attempt in the
    /// last moments comes to. Only who waited to the end, behind a lease that
    /// was over by then, has no turn; or who does not wait.
    pub(crate) fn waited_for(&self, key: &Key, turn: Option<&Turn>) -> Option<Error> {
        let has_waited = turn.map_or(!self.patience.is_single, |turn| turn.has_waited);
        has_waited.then(|| Error::Contended {
            key: key.clone(),
            holder: None,
            remaining: None,
        })
    }

    /// Leaves the key to other processes for a moment, for this one has had it
    /// as often in a row as it may; not past `deadline`.
    async fn give_way(&self, turn: &mut Turn, deadline: Option<Instant>) {
        let until = clock::now() + way(turn.streak.trip());
        if deadline.is_none_or(|deadline| until < deadline) {
            Box::pin(clock::sleep_until(until)).await;
            turn.end_streak();
        }
    }

    /// The place in this process's queue; `None` for a single attempt while
    /// somebody ahead is still trying: it may try as well.
    pub(crate) async fn turn(
        &self,
        key: &Key,
        deadline: Option<Instant>,
    ) -> Result<Option<Turn>, Error> {
        let gate = self.router.gate();
        let ahead = if self.patience.is_single {
            gate.try_enter(key)
        } else {
            gate.enter(key, deadline).await
        };
        match ahead {
            Ok(turn) => Ok(Some(turn)),
            Err(Ahead::Contender) if self.patience.is_single => Ok(None),
            Err(Ahead::Contender) => Err(Error::Contended {
                key: key.clone(),
                holder: None,
                remaining: None,
            }),
            Err(Ahead::Holder(held)) if held.check(clock::now()).is_none() => {
                let remaining = held.valid_until().saturating_since(clock::now());
                let holder = Some(held.token.holder());
                Err(Error::Contended {
                    key: key.clone(),
                    holder,
                    remaining: Some(remaining),
                })
            }
            Err(Ahead::Holder(_)) => Ok(None),
        }
    }

    /// What was won is this caller's from now on.
    pub(crate) fn guard(&self, won: Won) -> Guard {
        Guard::new(won, self.router.clone())
    }

    /// A single attempt. What it wins is neither kept alive nor marked as
    /// having the turn before [`Guard::begin`].
    pub(crate) async fn attempt(&self, key: &Key, terms: Terms) -> Result<Won, Box<Failed>> {
        let _permit = match &self.pace {
            Some(pace) => Box::pin(pace.acquire()).await.ok(),
            None => None,
        };
        let held = self.candidate(key, terms.ttl);
        let attempt = Operation::start(Attempt::new(held.claim()), &held, terms.deadline);
        let outcome = attempt.await;
        let counters = &held.fleet.counters;
        match outcome {
            Ok(grant) => {
                counters.granted.add_one();
                if grant.wrote_back {
                    counters.write_backs.add_one();
                }
                let fence = grant.fence;
                Ok(Won { held, fence })
            }
            Err(refused) => {
                let failed = Box::new(Failed::explain(&held, refused));
                events::refused(key, &failed.error);
                Err(failed)
            }
        }
    }

    /// The lease that an attempt is to win.
    fn candidate(&self, key: &Key, ttl: Ttl) -> Arc<Held> {
        let defaults = self.router.defaults();
        let label = self.label.as_ref().unwrap_or(&defaults.label);
        let token = Token::new(rand::random(), label.as_deref());
        let now = clock::now();
        let keep_alive = self.keep_alive.map(|interval| KeepAlive {
            interval: interval
                .map(|own| own.max(SHORTEST_INTERVAL))
                .filter(|&own| own < ttl.get() / 2)
                .unwrap_or(ttl.get() / 3),
            until: now + self.max_hold.unwrap_or(defaults.max_hold),
        });
        let fleet = self.router.fleet();
        fleet.counters.attempts.add_one();
        Held::new(fleet, key, ttl, token, now, keep_alive)
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

impl Patience {
    /// When to stop. Attempts without a wait are bounded too, for they may
    /// have to queue behind others of this process: by the time that as many
    /// would take at the longest.
    fn deadline(&self, started: Instant, ttl: Ttl) -> Option<Instant> {
        if self.is_single {
            return None;
        }
        let longest_pause = self.retry_delay.unwrap_or(Backoff::CONTENTION.cap);
        let longest_attempt = 2 * Fleet::node_timeout(ttl);
        let by_attempts = |attempts| (longest_pause + longest_attempt).saturating_mul(attempts);
        let limit = self.wait.or(self.attempts.map(by_attempts))?;
        Some(started + limit)
    }

    /// Attempts that are counted or spaced are made as said, whatever could
    /// be told of the key.
    fn pauses(&self) -> Pauses {
        Pauses::new(self.retry_delay, self.attempts.is_some())
    }
}

/// An attempt that won.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) held: Arc<Held>,
    pub(crate) fence: Fence,
}

/// An attempt that did not win.
pub(crate) struct Failed {
    /// The nodes that it was made on.
    fleet: Arc<Fleet>,
    began: Instant,
    pub(crate) error: Error,
    /// Who stood in the way.
    rivals: Rivals,
    /// Nodes serve another view, or none.
    is_outdated: bool,
}

impl Failed {
    /// Whether it was an outage, as far as it could tell in what was left of
    /// the wait: one that had its time tells more.
    fn tells_less(&self, terms: Terms) -> bool {
        let needed = Fleet::node_timeout(terms.ttl);
        let is_cut_short = terms
            .deadline
            .is_some_and(|deadline| self.began + needed > deadline);
        is_cut_short && self.error.is_transient() && !self.error.is_contention()
    }

    fn explain(held: &Held, refused: Refused) -> Self {
        let fleet = &held.fleet;
        let Refused {
            shortfall,
            granted,
            refusals,
        } = refused;
        let obstacles = Rivals::of(&held.placement, granted, &refusals);
        let rivals = || {
            refusals.iter().filter_map(|(_, refusal)| match refusal {
                Refusal::Busy(rival) => Some(rival.as_ref()),
                _ => None,
            })
        };
        let outages = refusals
            .iter()
            .filter(|(_, refusal)| !matches!(refusal, Refusal::Busy(_)))
            .filter_map(|(node, _)| held.placement.seat(*node))
            .collect();
        let is_outage = held.placement.is_blocked_by(outages) || rivals().next().is_none();
        let is_outdated = refusals
            .iter()
            .any(|(node, refusal)| refusal.is_stale() && !fleet.is_returning(*node));
        let key = held.key.clone();
        let counters = &fleet.counters;
        let is_contended = shortfall == Shortfall::Votes && !is_outage;
        if is_contended {
            counters.hot.note(&key);
        }
        if is_contended {
            &counters.contended
        } else {
            &counters.failed
        }
        .add_one();
        let error = match shortfall {
            _ if is_contended => {
                let lasts = |rival: &&Rival| {
                    let holder = rival.holder.as_ref();
                    (holder.is_some_and(Holder::never_expires), rival.remaining)
                };
                let strongest = rivals().flatten().max_by_key(lasts);
                let holder: Option<Holder> = strongest.and_then(|rival| rival.holder.clone());
                Error::Contended {
                    key,
                    holder,
                    remaining: strongest.and_then(|rival| rival.remaining),
                }
            }
            Shortfall::Votes | Shortfall::Fence => {
                fleet.no_quorum(&key, granted, &held.placement, refusals)
            }
            Shortfall::Expired => Error::TooSlow {
                key,
                ttl: held.ttl.get(),
            },
            Shortfall::Unconfirmed => Error::Unconfirmed {
                key,
                needed: fleet.view.majority(),
                causes: fleet.causes(refusals),
            },
        };
        Self {
            fleet: Arc::clone(fleet),
            began: held.asked_at,
            error,
            rivals: obstacles,
            is_outdated,
        }
    }
}
