//! The wait for a turn.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::clock;
use crate::lease::local_queue::queue::{Blocker, Watch};
use crate::lease::local_queue::ticket::Ticket;
use crate::lease::local_queue::{Expires, LocalQueue, Place};
use crate::proto::time::Instant;

/// A place in the queue of a key.
pub(crate) struct QueueWait<H: Expires> {
    pub(super) queues: Arc<LocalQueue<H>>,
    pub(super) place: Place,
    pub(super) receiver: oneshot::Receiver<Ticket<H>>,
    pub(super) watch: Watch,
    /// The turn that was current when it was taken.
    pub(super) since: u64,
    pub(super) deadline: Option<Instant>,
}

impl<H: Expires + Send + Sync> QueueWait<H> {
    /// Waits for the turn, up to the deadline.
    ///
    /// Cancel safe: a dropped waiter passes its turn on.
    // Not an `async fn`, whose future would hold its argument twice: there may be
    // very many waiters.
    #[allow(clippy::manual_async_fn, reason = "its future is half as large")]
    pub(crate) fn turn(mut self) -> impl Future<Output = Result<Ticket<H>, Blocker<H>>> + Send {
        async move {
            let _waiting = self.queues.counters.waiting.enter();
            // One `select!` and no nested future, for the same reason.
            loop {
                let lapse = self.queues.holder(&self.place);
                let lapse = lapse.map(|holder| holder.valid_until());
                let wake = lapse.into_iter().chain(self.deadline).min();
                tokio::select! {
                    biased;
                    ticket = &mut self.receiver => {
                        // A sender is only dropped together with the queues, or by
                        // `close`.
                        return match ticket {
                            Ok(mut ticket) => {
                                ticket.since = self.since;
                                Ok(ticket)
                            }
                            Err(_) => Err(self.queues.ahead(&self.place, self.since)),
                        };
                    }
                    // There is a new lease.
                    () = self.watch.0.notified() => {}
                    () = clock::sleep_until(wake.unwrap_or(Instant::MAX)) => {
                        if self.deadline.is_some_and(|deadline| clock::now() >= deadline) {
                            return Err(self.queues.ahead(&self.place, self.since));
                        }
                        self.queues.evict_lapsed(&self.place);
                    }
                }
            }
        }
    }
}
