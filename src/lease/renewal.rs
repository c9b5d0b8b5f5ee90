//! Extends leases: when their holder asks for it, and automatically with
//! keep-alive.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Loss};
use crate::lease::operation::{Operation, OperationFuture};
use crate::lease::scheduler::Due;
use crate::lease::state::LeaseState;
use crate::proto::lease::Ttl;
use crate::proto::operation::extend::Extend;
use crate::proto::time::Instant;

impl LeaseState {
    /// Keeps the lease alive from now on.
    pub(crate) fn keep(self: &Arc<Self>) {
        let item = Arc::clone(self) as Arc<dyn Due>;
        // Once the task has ended, the lease lapses at its end.
        let _ = self.context.scheduler.schedule(item, Instant::default());
    }

    /// Starts an extend to `ttl`; the state records its success or failure.
    pub(crate) fn renew(self: &Arc<Self>, ttl: Ttl) -> Result<OperationFuture<Extend>, Error> {
        let t0 = clock::now();
        let over = self.check(t0);
        let (Some((params, later)), None) = (self.extend_params(ttl, t0), over) else {
            let reason = over.unwrap_or(Loss::Expired);
            return Err(Error::Lost {
                key: self.key.clone(),
                reason,
            });
        };
        let limit = Some(params.valid_until);
        Ok(Operation::start_from(
            Extend::new(params),
            self,
            later,
            limit,
        ))
    }
}

/// Keeps the lease alive until it is over.
impl Due for LeaseState {
    fn run(self: Arc<Self>, now: Instant) -> Option<Instant> {
        let keep_alive = self.keep_alive?;
        if self.check(now).is_some() {
            return None;
        }
        let retry = self.view_nodes.node_timeout(self.ttl);
        if self.take_due_renewal(now, now + retry) {
            // If the lease is over by now, the next run finds that.
            drop(self.renew(self.ttl));
        }
        // An extend that succeeds soon may be followed by the next before `retry`.
        Some(self.next_event(now + keep_alive.interval))
    }

    fn view_changed(&self, now: Instant) -> bool {
        self.renew_in_newer_view(now)
    }
}
