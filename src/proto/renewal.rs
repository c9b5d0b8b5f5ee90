//! Extending a lease: ask every node of the placement to raise its entry.

use std::time::Duration;

use super::lease::{Fence, Key, Token, Ttl};
use super::quorum::{Placement, Seats};
use super::round::{Effects, Event, Machine, Refusal, Step};
use super::time::{Instant, valid_until};
use super::wire::{Absent, Answer, Reply, Request, ViewId};
use ringlock_ring::NodeIndex;

/// What an extend is made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prolongation {
    /// The view that chose the placement.
    pub view: ViewId,
    /// How long a confirmation of the view holds.
    pub view_lease: Duration,
    /// What is locked.
    pub key: Key,
    /// The lease's own.
    pub token: Token,
    /// The lease's own.
    pub fence: Fence,
    /// Life of the entries, from now.
    pub ttl: Ttl,
    /// Who must agree.
    pub placement: Placement,
    /// How many groups of the placement, from the first, the lease's last
    /// success already had: at least one.
    pub established: usize,
    /// Seats that had acknowledged the token before `t0`; only they can vouch
    /// that the entry was never gone.
    pub acknowledged: Seats,
    /// Until when the lease is valid if this extend fails.
    pub valid_until: Instant,
    /// Read once, before anything is sent.
    pub t0: Instant,
}

/// What an extend comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// The lease is valid until then.
    Extended(Instant),
    /// Nothing changed: the lease stays valid as long as it was. Try again.
    Unchanged {
        /// Nodes that kept or made the entry.
        kept: usize,
        /// What the other nodes said, so far.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
    /// So many nodes have lost the entry to others that it cannot be had back.
    Lost {
        /// What they said.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// The machine of one extend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    terms: Prolongation,
    is_open: bool,
    kept: Seats,
    made: Seats,
    lost: Seats,
    failed: Seats,
    probes_out: usize,
    refusals: Vec<(NodeIndex, Refusal)>,
}

impl Renewal {
    /// An extend that has not begun.
    pub fn new(terms: Prolongation) -> Self {
        Self {
            terms,
            is_open: true,
            kept: Seats::NONE,
            made: Seats::NONE,
            lost: Seats::NONE,
            failed: Seats::NONE,
            probes_out: 0,
            refusals: Vec::new(),
        }
    }

    /// What it was made with.
    pub fn terms(&self) -> &Prolongation {
        &self.terms
    }

    fn take(&mut self, from: NodeIndex, step: Step, answer: Answer) -> (Seats, Seats) {
        let (Step::Main, Some(seat)) = (step, self.terms.placement.seat(from)) else {
            self.probes_out = self.probes_out.saturating_sub(1);
            return (Seats::NONE, Seats::NONE);
        };
        let here = Seats::NONE.with(seat);
        match answer {
            Ok(Reply::Kept { .. }) => self.kept = self.kept.with(seat),
            Ok(Reply::Made { .. }) => self.made = self.made.with(seat),
            other => {
                let is_lost = matches!(other, Ok(Reply::Lost(_)));
                let tally = if is_lost {
                    &mut self.lost
                } else {
                    &mut self.failed
                };
                *tally = tally.with(seat);
                self.refusals.push((from, Refusal::of(other)));
                return (Seats::NONE, if is_lost { here } else { Seats::NONE });
            }
        }
        (here, Seats::NONE)
    }

    fn settle(&mut self, now: Instant, confirmed_at: Instant) -> Option<Extension> {
        let Prolongation { placement, t0, .. } = self.terms;
        if placement.is_blocked_by(self.lost) {
            return self.close(|refusals| Extension::Lost { refusals });
        }
        let is_in_time = now < self.terms.valid_until;
        let is_confirmed = t0 < confirmed_at + self.terms.view_lease;
        if is_in_time && is_confirmed && self.has_quorum() {
            let until = valid_until(t0, self.terms.ttl.get()).max(self.terms.valid_until);
            return self.close(|_| Extension::Extended(until));
        }
        let answered = self
            .kept
            .union(self.made)
            .union(self.lost)
            .union(self.failed);
        let is_over = answered == placement.seats() && (self.probes_out == 0 || !self.has_quorum());
        let kept = self.kept.union(self.made).len();
        if is_over || !is_in_time {
            return self.close(|refusals| Extension::Unchanged { kept, refusals });
        }
        None
    }

    /// A majority has the entry in every group; and in the groups that the
    /// lease stood on, a majority vouches that it was never gone.
    fn has_quorum(&self) -> bool {
        let vouching = self.kept.intersection(self.terms.acknowledged);
        let is_continuous = self
            .terms
            .placement
            .groups()
            .take(self.terms.established.max(1))
            .all(|group| 2 * group.intersection(vouching).len() > group.len());
        is_continuous && self.terms.placement.has_quorum(self.kept.union(self.made))
    }

    fn close(
        &mut self,
        outcome: impl FnOnce(Vec<(NodeIndex, Refusal)>) -> Extension,
    ) -> Option<Extension> {
        self.is_open = false;
        Some(outcome(std::mem::take(&mut self.refusals)))
    }
}

impl Machine for Renewal {
    type Outcome = Extension;

    fn on(&mut self, now: Instant, confirmed_at: Instant, event: Event) -> Effects<Extension> {
        match event {
            Event::Start { probes } => {
                self.probes_out = probes.len();
                let send = vec![(Step::Main, self.terms.placement.seats())];
                Effects {
                    send,
                    probe: probes,
                    ..Effects::default()
                }
            }
            Event::Answered { from, step, answer } => {
                let (acknowledged, disowned) = self.take(from, step, answer);
                let outcome = if self.is_open {
                    self.settle(now, confirmed_at)
                } else {
                    None
                };
                Effects {
                    acknowledged,
                    disowned,
                    outcome,
                    ..Effects::default()
                }
            }
            // An extend that nobody waits for does no harm: it is the lease's
            // owner who releases.
            Event::Abandoned => Effects::default(),
        }
    }

    fn request(&self, step: Step) -> Request {
        if step == Step::Probe {
            return Request::Status;
        }
        let Prolongation {
            view,
            key,
            token,
            fence,
            ttl,
            placement,
            established,
            ..
        } = &self.terms;
        let is_single = placement.seats().len() == 1 && *established > 0;
        Request::Extend {
            view: *view,
            key: key.clone(),
            token: token.clone(),
            ttl: *ttl,
            slot: placement.slot(),
            floor: if fence.epoch() == view.epoch {
                fence.counter()
            } else {
                0
            },
            absent: if is_single {
                Absent::Keep
            } else {
                Absent::Heal
            },
        }
    }

    fn placement(&self) -> &Placement {
        &self.terms.placement
    }

    fn started_at(&self) -> Instant {
        self.terms.t0
    }
}
