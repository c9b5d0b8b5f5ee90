//! Giving a lease back: a RELEASE to every node that was ever sent its token.

use super::lease::{Key, Token};
use super::quorum::{Placement, Seats};
use super::round::{Effects, Event, Machine, Refusal, Step};
use super::time::Instant;
use super::wire::{Reply, Request};
use ringlock_ring::NodeIndex;

/// What a release comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Farewell {
    /// The entries were ours to the end, and are deleted.
    Released,
    /// So many nodes had no entry of ours that others may have held the key
    /// before we let go of it.
    TooLate,
    /// Too few nodes answered to know.
    Unknown {
        /// What they said.
        refusals: Vec<(NodeIndex, Refusal)>,
    },
}

/// The machine of one release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    key: Key,
    token: Token,
    placement: Placement,
    t0: Instant,
    is_open: bool,
    released: Seats,
    gone: Seats,
    failed: Seats,
    refusals: Vec<(NodeIndex, Refusal)>,
}

impl Release {
    /// A release that has not begun.
    pub fn new(key: Key, token: Token, placement: Placement, t0: Instant) -> Self {
        Self {
            key,
            token,
            placement,
            t0,
            is_open: true,
            released: Seats::NONE,
            gone: Seats::NONE,
            failed: Seats::NONE,
            refusals: Vec::new(),
        }
    }

    fn settle(&mut self) -> Option<Farewell> {
        let answered = self.released.union(self.gone).union(self.failed);
        let farewell = if self.placement.is_blocked_by(self.gone) {
            Farewell::TooLate
        } else if self.placement.has_quorum(self.released) {
            Farewell::Released
        } else if answered != self.placement.seats() {
            return None;
        } else if self.released.is_empty() {
            Farewell::Unknown {
                refusals: std::mem::take(&mut self.refusals),
            }
        } else {
            Farewell::Released
        };
        self.is_open = false;
        Some(farewell)
    }
}

impl Machine for Release {
    type Outcome = Farewell;

    fn on(&mut self, _: Instant, _: Instant, event: Event) -> Effects<Farewell> {
        match event {
            Event::Start { .. } => Effects {
                send: vec![(Step::Main, self.placement.seats())],
                ..Effects::default()
            },
            Event::Answered { from, answer, .. } => {
                let Some(seat) = self.placement.seat(from) else {
                    return Effects::default();
                };
                match answer {
                    Ok(Reply::Released) => self.released = self.released.with(seat),
                    Ok(Reply::Missing | Reply::Foreign) => self.gone = self.gone.with(seat),
                    other => {
                        self.failed = self.failed.with(seat);
                        self.refusals.push((from, Refusal::of(other)));
                    }
                }
                let outcome = if self.is_open { self.settle() } else { None };
                Effects {
                    outcome,
                    ..Effects::default()
                }
            }
            // What is sent stays sent.
            Event::Abandoned => Effects::default(),
        }
    }

    fn request(&self, _: Step) -> Request {
        Request::Release {
            key: self.key.clone(),
            token: self.token.clone(),
        }
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn started_at(&self) -> Instant {
        self.t0
    }
}
