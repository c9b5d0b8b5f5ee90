//! The right to contend for a key, and then to hold it.

use std::sync::Arc;

use crate::error::Error;
use crate::lease::handoffs::Handoffs;
use crate::lease::local_queue::history::{LastFailure, QueueHistory};
use crate::lease::local_queue::{Expires, LocalQueue, Place};
use crate::proto::lease::Key;

/// The right to contend for a key, and then to hold it.
#[derive(Debug)]
pub(crate) struct Ticket<H: Expires> {
    pub(super) queues: Arc<LocalQueue<H>>,
    pub(super) place: Place,
    /// [`NONE`] once it has been passed on.
    pub(super) number: u64,
    /// The consecutive grants before it.
    pub(crate) streak: Handoffs,
    /// The turn that was current when its owner joined the queue; [`NONE`]: the
    /// owner did not queue.
    pub(super) since: u64,
}

/// The turn of a holder, which knows the key itself: there may be very many holders.
#[derive(Debug)]
pub(crate) struct HeldTurn<H: Expires> {
    pub(super) queues: Arc<LocalQueue<H>>,
    /// The hash of the key.
    hash: u64,
    pub(super) number: u64,
    streak: Handoffs,
}

/// No turn has this number.
pub(super) const NONE: u64 = u64::MAX;

impl<H: Expires> Ticket<H> {
    /// What its owner met while it queued, as far as that is the latest known about
    /// the key; `None`: the owner did not queue.
    pub(crate) fn met(&self) -> Option<QueueHistory> {
        (self.since != NONE).then(|| self.queues.met(&self.place, self.since))
    }

    /// Records a failed attempt in this turn: other processes have had a chance,
    /// and callers in the queue get the error if they time out.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.streak = Handoffs::default();
        self.queues
            .on_turn(&self.place, self.number, |queue| queue.fail(error));
    }

    /// Records that its owner leaves the key to other processes before it tries:
    /// for callers in the queue the key counts as held.
    pub(crate) fn pauses(&self) {
        self.queues
            .on_turn(&self.place, self.number, |queue| queue.count_as_held());
    }

    /// From now on `failure` holds what its owner meets.
    pub(crate) fn share(&self, failure: Arc<LastFailure>) {
        self.queues
            .on_turn(&self.place, self.number, |queue| queue.share(failure));
    }

    /// The turn's owner now holds the key, and passes the turn on with it.
    pub(crate) fn hold(mut self, holder: &Arc<H>) -> HeldTurn<H> {
        self.queues
            .on_turn(&self.place, self.number, |queue| queue.hold(holder));
        HeldTurn {
            queues: Arc::clone(&self.queues),
            hash: self.place.hash,
            number: std::mem::replace(&mut self.number, NONE),
            streak: self.streak,
        }
    }
}

impl<H: Expires> HeldTurn<H> {
    /// Ends the turn of the holder of `key`.
    pub(crate) fn pass(self, key: &Key) {
        let place = Place {
            hash: self.hash,
            key: key.clone(),
        };
        self.queues.pass_on(&place, self.number, self.streak);
    }
}

impl<H: Expires> Drop for Ticket<H> {
    fn drop(&mut self) {
        if self.number != NONE {
            self.queues.pass_on(&self.place, self.number, self.streak);
        }
    }
}
