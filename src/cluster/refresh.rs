//! Who asks for a look at the cluster, and who waits for one.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::clock;
use crate::error::Error;
use crate::proto::time::Instant;

/// What the rest of the router sees of the [watchman](crate::cluster::reconciler).
#[derive(Debug)]
pub(crate) struct RefreshSignal {
    wanted: Notify,
    begun: AtomicU64,
    over: watch::Sender<RefreshOutcome>,
}

/// What a look came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefreshOutcome {
    number: u64,
    /// Whether a node was brought up to the view: what it refused, it may
    /// grant now.
    pub(crate) has_helped: bool,
    /// Why the cluster cannot be followed.
    pub(crate) error: Option<Error>,
}

impl Default for RefreshSignal {
    fn default() -> Self {
        Self {
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            over: watch::Sender::default(),
        }
    }
}

impl RefreshSignal {
    /// Asks for a look, as soon as may be.
    pub(crate) fn wake(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a look that begins after this call, and waits for it up to
    /// `deadline`.
    pub(crate) async fn look(&self, deadline: Option<Instant>) -> Option<RefreshOutcome> {
        let needed = self.begun.load(Ordering::Acquire) + 1;
        let mut over = self.over.subscribe();
        self.wake();
        let done = over.wait_for(|look| look.number >= needed);
        let look = clock::within(deadline, done).await?.ok()?;
        Some(look.clone())
    }

    /// Waits until a look is wanted, up to `due`; false: none is.
    pub(crate) async fn wanted(&self, due: Instant) -> bool {
        let wanted = self.wanted.notified();
        clock::within(Some(due), wanted).await.is_some()
    }

    /// A look begins.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// Nobody looks any more: whoever waits, or comes to wait, is told so.
    pub(crate) fn close(&self) {
        self.over.send_replace(RefreshOutcome {
            number: u64::MAX,
            has_helped: false,
            error: Some(Error::Closed),
        });
    }

    /// The look that began last is over.
    pub(crate) fn finish(&self, has_helped: bool, error: Option<Error>) {
        self.over.send_replace(RefreshOutcome {
            number: self.begun.load(Ordering::Acquire),
            has_helped,
            error,
        });
    }
}
