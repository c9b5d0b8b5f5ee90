//! Requests for a refresh of the cluster state, and waiting for its result.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::clock;
use crate::error::Error;
use crate::proto::time::Instant;

/// The interface of the rest of the router to the [reconciler](crate::cluster::reconciler).
#[derive(Debug)]
pub(crate) struct RefreshSignal {
    wanted: Notify,
    begun: AtomicU64,
    over: watch::Sender<RefreshOutcome>,
}

/// The result of a refresh.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefreshOutcome {
    number: u64,
    /// Whether a node was brought up to the view: it may now grant what it refused
    /// before.
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
    /// Requests a refresh as soon as possible.
    pub(crate) fn wake(&self) {
        self.wanted.notify_one();
    }

    /// Requests a refresh that starts after this call, and waits for it up to
    /// `deadline`.
    pub(crate) async fn look(&self, deadline: Option<Instant>) -> Option<RefreshOutcome> {
        let needed = self.begun.load(Ordering::Acquire) + 1;
        let mut over = self.over.subscribe();
        self.wake();
        let done = over.wait_for(|look| look.number >= needed);
        let look = clock::within(deadline, done).await?.ok()?;
        Some(look.clone())
    }

    /// Waits until a refresh is requested, up to `due`; false: none is.
    pub(crate) async fn wanted(&self, due: Instant) -> bool {
        let wanted = self.wanted.notified();
        clock::within(Some(due), wanted).await.is_some()
    }

    /// A refresh starts.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// No further refresh happens: current and later waiters get [`Error::Closed`].
    pub(crate) fn close(&self) {
        self.over.send_replace(RefreshOutcome {
            number: u64::MAX,
            has_helped: false,
            error: Some(Error::Closed),
        });
    }

    /// The refresh that started last is over.
    pub(crate) fn finish(&self, has_helped: bool, error: Option<Error>) {
        self.over.send_replace(RefreshOutcome {
            number: self.begun.load(Ordering::Acquire),
            has_helped,
            error,
        });
    }
}
