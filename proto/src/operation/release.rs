//! Releasing a lease: a RELEASE to every node that was ever sent its token.

use crate::lease::{Key, Token};
use crate::node::message::{Reply, Request};
use crate::operation::machine::{Effects, Event, Machine, Refusal, Step};
use crate::quorum::{Placement, Voter, VoterSet};
use crate::time::Instant;
use ringlock_ring::NodeIndex;

/// The outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReleaseOutcome {
    /// The entries were held to the end, and are deleted.
    Released,
    /// So many nodes had no entry of the lease that others may have held the key
    /// before the release.
    TooLate {
        /// Another holder was seen.
        is_taken: bool,
    },
    /// Too few nodes answered to decide.
    Unknown {
        /// Their answers.
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
    released: VoterSet,
    gone: VoterSet,
    is_taken: bool,
    failed: VoterSet,
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
            released: VoterSet::NONE,
            gone: VoterSet::NONE,
            is_taken: false,
            failed: VoterSet::NONE,
            refusals: Vec::new(),
        }
    }

    fn settle(&mut self) -> Option<ReleaseOutcome> {
        let answered = self.released.union(self.gone).union(self.failed);
        let farewell = if self.placement.is_blocked_by(self.gone) {
            let is_taken = self.is_taken;
            ReleaseOutcome::TooLate { is_taken }
        } else if self.placement.has_quorum(self.released) {
            ReleaseOutcome::Released
        } else if answered != self.placement.voters() {
            return None;
        } else {
            ReleaseOutcome::Unknown {
                refusals: std::mem::take(&mut self.refusals),
            }
        };
        self.is_open = false;
        Some(farewell)
    }
}

impl Machine for Release {
    type Outcome = ReleaseOutcome;

    fn on(&mut self, _: Instant, _: Instant, event: Event) -> Effects<ReleaseOutcome> {
        match event {
            Event::Start { .. } => Effects {
                send: Some((Step::Main, self.placement.voters())),
                ..Effects::default()
            },
            Event::Answered { from, answer, .. } => {
                let Some(voter) = self.placement.voter(from) else {
                    return Effects::default();
                };
                match answer {
                    Ok(Reply::Released) => self.released = self.released.with(voter),
                    Ok(reply @ (Reply::Missing | Reply::Foreign)) => {
                        self.gone = self.gone.with(voter);
                        self.is_taken |= reply == Reply::Foreign;
                    }
                    other => {
                        self.failed = self.failed.with(voter);
                        self.refusals.push((from, Refusal::of(other)));
                    }
                }
                let outcome = if self.is_open { self.settle() } else { None };
                Effects {
                    outcome,
                    ..Effects::default()
                }
            }
            // A request that was sent stays sent.
            Event::Abandoned => Effects::default(),
        }
    }

    fn request(&self, _: Step, _: Voter) -> Request {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::message::{FenceCounterId, NodeError, NodeErrorKind};

    fn started(n: u16) -> Release {
        let group: Vec<NodeIndex> = (0..n).map(NodeIndex::new).collect();
        let placement = Placement::stable(FenceCounterId::SINGLE, &group);
        let key = Key::new("k").unwrap();
        let t0 = Instant::default();
        let mut release = Release::new(key.clone(), Token::new(7, None), placement, t0);
        let effects = release.on(t0, t0, Event::Start { probes: Vec::new() });
        assert_eq!(effects.send, Some((Step::Main, placement.voters())));
        let token = Token::new(7, None);
        let owner = placement.voter(NodeIndex::new(0)).unwrap();
        let request = release.request(Step::Main, owner);
        assert_eq!(request, Request::Release { key, token });
        release
    }

    fn hears(release: &mut Release, from: u16, reply: Option<Reply>) -> Option<ReleaseOutcome> {
        let from = NodeIndex::new(from);
        let answer = reply.ok_or_else(|| NodeError::new(NodeErrorKind::Timeout, "no answer"));
        let event = Event::Answered {
            from,
            step: Step::Main,
            answer,
        };
        let t0 = Instant::default();
        release.on(t0, t0, event).outcome
    }

    #[test]
    fn a_single_owner_answers_three_ways() {
        for (reply, farewell) in [
            (Reply::Released, ReleaseOutcome::Released),
            (Reply::Missing, ReleaseOutcome::TooLate { is_taken: false }),
            (Reply::Foreign, ReleaseOutcome::TooLate { is_taken: true }),
        ] {
            assert_eq!(hears(&mut started(1), 0, Some(reply)), Some(farewell));
        }
        let outcome = hears(&mut started(1), 0, None);
        assert!(
            matches!(outcome, Some(ReleaseOutcome::Unknown { refusals }) if refusals.len() == 1)
        );
    }

    #[test]
    fn a_majority_decides() {
        let mut release = started(3);
        assert_eq!(hears(&mut release, 2, Some(Reply::Missing)), None);
        assert_eq!(hears(&mut release, 0, Some(Reply::Released)), None);
        let outcome = hears(&mut release, 1, Some(Reply::Released));
        assert_eq!(outcome, Some(ReleaseOutcome::Released));

        let mut release = started(3);
        assert_eq!(hears(&mut release, 0, Some(Reply::Released)), None);
        assert_eq!(hears(&mut release, 1, Some(Reply::Missing)), None);
        let outcome = hears(&mut release, 2, Some(Reply::Foreign));
        assert_eq!(outcome, Some(ReleaseOutcome::TooLate { is_taken: true }));
    }

    #[test]
    fn the_outcome_is_given_once() {
        let mut release = started(3);
        assert_eq!(hears(&mut release, 0, Some(Reply::Released)), None);
        assert!(hears(&mut release, 1, Some(Reply::Released)).is_some());
        assert_eq!(hears(&mut release, 2, Some(Reply::Missing)), None);
    }

    #[test]
    fn silence_everywhere_is_not_taken_for_a_release() {
        let mut release = started(3);
        assert_eq!(hears(&mut release, 0, None), None);
        assert_eq!(hears(&mut release, 1, None), None);
        let outcome = hears(&mut release, 2, Some(Reply::Missing));
        assert!(
            matches!(outcome, Some(ReleaseOutcome::Unknown { refusals }) if refusals.len() == 2)
        );
    }

    #[test]
    fn a_stranger_has_no_vote() {
        assert_eq!(hears(&mut started(1), 9, Some(Reply::Missing)), None);
    }
}
