//! Consecutive grants: when a process leaves a key to other processes that wait for
//! it.
//!
//! A release and the acquire that follows it use one connection, so other processes
//! never find the key free in between. Each turn therefore knows how many
//! consecutive grants came before it. This count is kept for a moment after the
//! last caller of the process has gone, because a single task that acquires in a
//! loop leaves the queue empty each time.
//!
//! Waiters leave notes with the nodes (see [`Node::interest`]). A process that
//! knows of no waiter continues without a pause.
//!
//! [`Node::interest`]: crate::node::Node::interest

use std::time::Duration;

use crate::clock;
use crate::cluster::nodes::ViewNodes;
use crate::node::Interest;
use crate::proto::lease::Key;
use crate::proto::quorum::VoterSet;
use crate::proto::time::Instant;

/// How often the next pause is doubled after consecutive pauses that no other
/// process used, twice after each. Where notes cannot be read, the time to the next
/// pause is doubled instead: at most `max_local_handoffs` grants times two to this power
/// lie between two pauses.
const MOST_DOUBLINGS: u8 = 6;

/// The maximum number of reads of a key before an attempt at it, if the key changes
/// hands in other processes. A read costs a server less than a failed attempt. The
/// count is random because servers notify waiters in a fixed order.
pub(crate) const MOST_LOOKS: u32 = 3;

/// The shortest time that other processes get for an attempt when this one gives
/// way.
const MIN_YIELD: Duration = Duration::from_micros(200);

/// The longest such time.
const MAX_YIELD: Duration = Duration::from_millis(500);

/// Round trips that other processes need to be notified that a key is free, to read
/// whether it still is, and to attempt it.
const YIELD_ROUND_TRIPS: u32 = 1 + MOST_LOOKS;

/// Grants of one key to one process, with no chance for others in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handoffs {
    /// Their number.
    grants: u16,
    /// How long the last of them took, in microseconds.
    trip: u32,
    /// Consecutive pauses that no other process used.
    pauses: u8,
}

impl Handoffs {
    /// Counts another grant, which took `trip`.
    pub(crate) fn count(&mut self, trip: Duration) {
        self.grants = self.grants.saturating_add(1);
        self.trip = u32::try_from(trip.as_micros()).unwrap_or(u32::MAX);
    }

    /// Whether to consider other processes before the next attempt.
    pub(crate) fn is_due(self, max_local_handoffs: u32) -> bool {
        u32::from(self.grants) >= max_local_handoffs.max(1)
    }

    /// How long to leave `key` to others before the next attempt; `None`: no pause.
    /// At most `max_local_handoffs` consecutive grants are made while other processes are
    /// known to wait. Zero counts as one.
    pub(crate) fn pause(
        &mut self,
        view_nodes: &ViewNodes,
        key: &Key,
        max_local_handoffs: u32,
    ) -> Option<Duration> {
        let most = max_local_handoffs.max(1);
        let doublings = self.pauses.min(MOST_DOUBLINGS);
        let twice = (2 * doublings).min(MOST_DOUBLINGS);
        let yield_time = yield_time(Duration::from_micros(self.trip.into()));
        let pause = match interest(view_nodes, key) {
            Interest::Nobody => {
                // The next check comes after as many grants.
                (self.grants, self.pauses) = (0, 0);
                return None;
            }
            // Twice as long, so that the others need not be fast to be in time.
            Interest::Somebody => (2 * yield_time * (1 << twice)).min(MAX_YIELD),
            Interest::Unknown if u32::from(self.grants) < most << doublings => return None,
            Interest::Unknown => yield_time,
        };
        self.grants = 0;
        self.pauses = self.pauses.saturating_add(1);
        Some(pause)
    }
}

/// How long to leave a key to other waiters; `trip` is how long this process's last
/// attempt took.
fn yield_time(trip: Duration) -> Duration {
    (YIELD_ROUND_TRIPS * trip).clamp(MIN_YIELD, MAX_YIELD)
}

/// Whether other processes wait for `key`, as far as its nodes know. A waiter has
/// left a note with a majority, unless nodes were out of reach.
fn interest(view_nodes: &ViewNodes, key: &Key) -> Interest {
    let placement = view_nodes.view.place(key);
    let mut without = VoterSet::NONE;
    for voter in placement.voters().iter() {
        match view_nodes.handle(placement.node(voter)).node.interest(key) {
            Interest::Somebody => return Interest::Somebody,
            Interest::Nobody => without = without.with(voter),
            Interest::Unknown => {}
        }
    }
    if placement.has_quorum(without) {
        Interest::Nobody
    } else {
        Interest::Unknown
    }
}

/// Streaks per set.
const WAYS: usize = 4;

/// Number of sets.
const SETS: usize = 8;

/// The latest streaks of keys that no caller of the process contends for now. When
/// a set is full, its oldest streak is forgotten first.
#[derive(Debug)]
pub(crate) struct RecentHandoffs {
    slots: [Slot; WAYS * SETS],
}

impl Default for RecentHandoffs {
    fn default() -> Self {
        Self {
            slots: [Slot::default(); WAYS * SETS],
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The hash of the key.
    hash: u64,
    streak: Handoffs,
    /// From then on other processes have had a chance.
    until: Instant,
}

impl RecentHandoffs {
    fn set(&mut self, hash: u64) -> &mut [Slot] {
        let first = hash as usize % SETS * WAYS;
        &mut self.slots[first..first + WAYS]
    }

    /// Keeps the streak of a key that has just lost its last local contender.
    pub(crate) fn keep(&mut self, hash: u64, streak: Handoffs) {
        if streak.grants == 0 && streak.pauses == 0 {
            return;
        }
        let until = clock::now() + yield_time(Duration::from_micros(streak.trip.into()));
        let set = self.set(hash);
        let index = set.iter().position(|slot| slot.hash == hash);
        let oldest = || (0..WAYS).min_by_key(|&index| set[index].until);
        if let Some(index) = index.or_else(oldest) {
            set[index] = Slot {
                hash,
                streak,
                until,
            };
        }
    }

    /// The streak that a key's next grant continues.
    pub(crate) fn resume(&mut self, hash: u64) -> Handoffs {
        let set = self.set(hash);
        let Some(slot) = set.iter_mut().find(|slot| slot.hash == hash) else {
            return Handoffs::default();
        };
        let Slot { streak, until, .. } = std::mem::take(slot);
        if clock::now() < until {
            streak
        } else {
            Handoffs::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streak(grants: u16) -> Handoffs {
        Handoffs {
            grants,
            // As long as a streak is kept.
            trip: u32::MAX,
            pauses: 0,
        }
    }

    #[test]
    fn a_streak_is_continued_once() {
        let mut streaks = RecentHandoffs::default();
        streaks.keep(7, streak(3));
        assert_eq!(streaks.resume(7).grants, 3);
        assert_eq!(streaks.resume(7).grants, 0);
    }

    #[test]
    fn the_oldest_of_a_set_is_forgotten() {
        let mut streaks = RecentHandoffs::default();
        let hashes = (0..=WAYS).map(|index| (index * SETS) as u64 + 1);
        for hash in hashes.clone() {
            streaks.keep(hash, streak(2));
            // Later than the previous one, by the clock.
            std::thread::sleep(Duration::from_micros(10));
        }
        let kept: Vec<u16> = hashes.map(|hash| streaks.resume(hash).grants).collect();
        assert_eq!(kept, [0, 2, 2, 2, 2]);
    }

    #[test]
    fn a_key_that_was_free_for_a_while_begins_again() {
        let mut streaks = RecentHandoffs::default();
        let short = Handoffs {
            trip: 0,
            ..streak(2)
        };
        streaks.keep(1, short);
        std::thread::sleep(yield_time(Duration::ZERO));
        assert_eq!(streaks.resume(1).grants, 0);
    }
}
