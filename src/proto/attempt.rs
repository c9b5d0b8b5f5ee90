//! One attempt at a lock: ask every node of the placement, agree on a fence,
//! and grant or take everything back.

use std::time::Duration;

use super::lease::{COUNTER_LIMIT, Fence, Key, Token, Ttl};
use super::quorum::{MAX_REPLICAS, Placement, Seat, Seats};
use super::round::{Effects, Event, Machine, Refusal, Step};
use super::time::{Instant, valid_until};
use super::wire::{Absent, Answer, Reply, Request, ViewId};
use ringlock_ring::NodeIndex;

/// What an attempt is made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The view that chose the placement.
    pub view: ViewId,
    /// How long a confirmation of the view holds.
    pub view_lease: Duration,
    /// What to lock.
    pub key: Key,
    /// Fresh and random, for this attempt alone.
    pub token: Token,
    /// Life of the entries.
    pub ttl: Ttl,
    /// Who must agree.
    pub placement: Placement,
    /// Read once, before anything is sent.
    pub t0: Instant,
}

/// A lease, as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Grows with every grant of the key.
    pub fence: Fence,
    /// How long the lease may be relied upon.
    pub valid_until: Instant,
    /// Who holds the entry for sure.
    pub acknowledged: Seats,
    /// Whether the fence took a second round.
    pub wrote_back: bool,
}

/// Why an attempt failed, beside what the nodes said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortfall {
    /// No majority granted it.
    Votes,
    /// It took longer than the lease would have been valid.
    Expired,
    /// The counters could not be brought together.
    Fence,
    /// No majority of the cluster is known to serve the view still.
    Unconfirmed,
}

/// A failed attempt. Everything it may have left behind is being released.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// What was lacking.
    pub shortfall: Shortfall,
    /// Nodes that had granted it.
    pub granted: usize,
    /// What the other nodes said, so far.
    pub refusals: Vec<(NodeIndex, Refusal)>,
}

/// The machine of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    claim: Claim,
    valid_until: Instant,
    stage: Stage,
    asked: Seats,
    granted: Seats,
    refused: Seats,
    counters: [u64; 2 * MAX_REPLICAS],
    floor: u64,
    write_back: Option<WriteBack>,
    probes_out: usize,
    refusals: Vec<(NodeIndex, Refusal)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Open,
    Granted,
    Refused,
}

/// Raising the low counters to one that a majority shares, so that the next
/// grant anywhere exceeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WriteBack {
    to: u64,
    asked: Seats,
    raised: Seats,
    refused: Seats,
}

type AttemptEffects = Effects<Result<Grant, Refused>>;

impl Attempt {
    /// An attempt that has not begun.
    pub fn new(claim: Claim) -> Self {
        Self {
            valid_until: valid_until(claim.t0, claim.ttl.get()),
            claim,
            stage: Stage::Open,
            asked: Seats::NONE,
            granted: Seats::NONE,
            refused: Seats::NONE,
            counters: [0; 2 * MAX_REPLICAS],
            floor: 0,
            write_back: None,
            probes_out: 0,
            refusals: Vec::new(),
        }
    }

    /// What it was made with.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    fn start(&mut self, probes: Vec<NodeIndex>) -> AttemptEffects {
        // In a joint view the old group comes first: a contender who has only
        // the new owner must not be able to break the holder's migration.
        self.asked = self.claim.placement.groups().next().unwrap_or_default();
        self.probes_out = probes.len();
        Effects {
            send: vec![(Step::Main, self.asked)],
            probe: probes,
            ..Effects::default()
        }
    }

    fn take(&mut self, from: NodeIndex, step: Step, answer: Answer) {
        let seat = self.claim.placement.seat(from);
        match (step, seat) {
            (Step::Main, Some(seat)) => match answer {
                Ok(Reply::Granted { counter }) if counter < COUNTER_LIMIT => {
                    self.granted = self.granted.with(seat);
                    self.counters[seat.get()] = counter;
                }
                other => {
                    self.refused = self.refused.with(seat);
                    self.refusals.push((from, Refusal::of(other)));
                }
            },
            (Step::WriteBack, Some(seat)) => {
                if let Some(write_back) = &mut self.write_back {
                    match answer {
                        Ok(Reply::Kept { .. }) => write_back.raised = write_back.raised.with(seat),
                        other => {
                            write_back.refused = write_back.refused.with(seat);
                            self.refusals.push((from, Refusal::of(other)));
                        }
                    }
                }
            }
            (Step::Probe, _) | (_, None) => self.probes_out = self.probes_out.saturating_sub(1),
        }
    }

    fn settle(&mut self, now: Instant, confirmed_at: Instant) -> AttemptEffects {
        let placement = self.claim.placement;
        if placement.is_blocked_by(self.refused) {
            return self.refuse(Shortfall::Votes);
        }
        if now >= self.valid_until {
            return self.refuse(Shortfall::Expired);
        }
        if !placement.has_quorum(self.granted) {
            return self.widen();
        }
        let Some(counter) = self.agreed_counter() else {
            return self.bring_together();
        };
        if self.claim.t0 >= confirmed_at + self.claim.view_lease {
            let is_waiting = self.probes_out > 0 || !self.unanswered().is_empty();
            let wait = Effects::default();
            return if is_waiting {
                wait
            } else {
                self.refuse(Shortfall::Unconfirmed)
            };
        }
        match Fence::new(self.claim.view.epoch, counter) {
            Some(fence) => self.grant(fence),
            None => self.refuse(Shortfall::Fence),
        }
    }

    /// Asks the new group of a joint placement once the old one has granted.
    fn widen(&mut self) -> AttemptEffects {
        let placement = self.claim.placement;
        let old = placement.groups().next().unwrap_or_default();
        let unasked = placement.seats().minus(self.asked);
        let is_old_won = 2 * old.intersection(self.granted).len() > old.len();
        if unasked.is_empty() || !is_old_won {
            return Effects::default();
        }
        self.asked = placement.seats();
        self.floor = self.highest_counter();
        Effects {
            send: vec![(Step::Main, unasked)],
            ..Effects::default()
        }
    }

    /// A count that a majority of every group stands at, by the grant itself
    /// or raised to it under our own token.
    ///
    /// Two grants of a key can then not share a fence, for at a node that is
    /// in both majorities the later one counted on. Nodes that answered any
    /// other count are simply not used.
    fn agreed_counter(&self) -> Option<u64> {
        let by_grant = self.granted.iter().map(|seat| self.counters[seat.get()]);
        let by_raise = self.write_back.map(|write_back| write_back.to);
        by_grant
            .chain(by_raise)
            .find(|&counter| self.claim.placement.has_quorum(self.standing_at(counter)))
    }

    fn standing_at(&self, counter: u64) -> Seats {
        let granted_at = |&seat: &Seat| self.counters[seat.get()] == counter;
        let raised = match self.write_back {
            Some(write_back) if write_back.to == counter => write_back.raised,
            _ => Seats::NONE,
        };
        self.granted
            .iter()
            .filter(granted_at)
            .collect::<Seats>()
            .union(raised)
    }

    /// Writes the highest count back to the nodes below it. Answers that are
    /// still out are welcome too: whichever makes a majority first.
    fn bring_together(&mut self) -> AttemptEffects {
        let placement = self.claim.placement;
        let highest = self.highest_counter();
        let write_back = self.write_back.get_or_insert(WriteBack {
            to: highest,
            asked: Seats::NONE,
            raised: Seats::NONE,
            refused: Seats::NONE,
        });
        let is_low = |&seat: &Seat| self.counters[seat.get()] < write_back.to;
        let is_high = |&seat: &Seat| self.counters[seat.get()] > write_back.to;
        let low = self
            .granted
            .iter()
            .filter(is_low)
            .collect::<Seats>()
            .minus(write_back.asked);
        let high = self.granted.iter().filter(is_high).collect::<Seats>();
        write_back.asked = write_back.asked.union(low);
        let useless = self.refused.union(write_back.refused).union(high);
        let is_waiting = !self.unanswered().is_empty();
        if placement.is_blocked_by(useless) && !is_waiting {
            return self.refuse(Shortfall::Fence);
        }
        let send = if low.is_empty() {
            Vec::new()
        } else {
            vec![(Step::WriteBack, low)]
        };
        Effects {
            send,
            ..Effects::default()
        }
    }

    fn highest_counter(&self) -> u64 {
        self.granted
            .iter()
            .map(|seat| self.counters[seat.get()])
            .max()
            .unwrap_or(0)
    }

    fn unanswered(&self) -> Seats {
        self.asked.minus(self.granted).minus(self.refused)
    }

    fn grant(&mut self, fence: Fence) -> AttemptEffects {
        self.stage = Stage::Granted;
        let grant = Grant {
            fence,
            valid_until: self.valid_until,
            acknowledged: self.granted,
            wrote_back: self
                .write_back
                .is_some_and(|write_back| write_back.to == fence.counter()),
        };
        Effects {
            acknowledged: self.granted,
            outcome: Some(Ok(grant)),
            ..Effects::default()
        }
    }

    fn refuse(&mut self, shortfall: Shortfall) -> AttemptEffects {
        self.stage = Stage::Refused;
        let refused = Refused {
            shortfall,
            granted: self.granted.len(),
            refusals: std::mem::take(&mut self.refusals),
        };
        // Silent nodes too: the request may have reached them.
        Effects {
            release: self.asked,
            outcome: Some(Err(refused)),
            ..Effects::default()
        }
    }
}

impl Machine for Attempt {
    type Outcome = Result<Grant, Refused>;

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> AttemptEffects {
        match (self.stage, event) {
            (Stage::Open, Event::Start { probes }) => self.start(probes),
            (Stage::Open, Event::Answered { from, step, answer }) => {
                self.take(from, step, answer);
                self.settle(now, confirmed_at)
            }
            (Stage::Open | Stage::Granted, Event::Abandoned) => {
                self.stage = Stage::Refused;
                Effects {
                    release: self.asked,
                    ..Effects::default()
                }
            }
            (
                Stage::Granted,
                Event::Answered {
                    from,
                    step: Step::Main,
                    answer,
                },
            ) => {
                let seat = self.claim.placement.seat(from);
                let is_granted = matches!(answer, Ok(Reply::Granted { .. }));
                let acknowledged = seat.filter(|_| is_granted).into_iter().collect();
                Effects {
                    acknowledged,
                    ..Effects::default()
                }
            }
            _ => Effects::default(),
        }
    }

    fn request(&self, step: Step) -> Request {
        let Claim {
            view,
            key,
            token,
            ttl,
            placement,
            ..
        } = &self.claim;
        let (view, key, token, ttl) = (*view, key.clone(), token.clone(), *ttl);
        let slot = placement.slot();
        match step {
            Step::Main => Request::Acquire {
                view,
                key,
                token,
                ttl,
                slot,
                floor: self.floor,
            },
            Step::WriteBack => {
                let floor = self.write_back.map_or(0, |write_back| write_back.to);
                Request::Extend {
                    view,
                    key,
                    token,
                    ttl,
                    slot,
                    floor,
                    absent: Absent::Keep,
                }
            }
            Step::Probe => Request::Status,
        }
    }

    fn placement(&self) -> &Placement {
        &self.claim.placement
    }

    fn started_at(&self) -> Instant {
        self.claim.t0
    }
}
