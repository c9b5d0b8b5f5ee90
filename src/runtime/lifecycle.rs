//! Whether a router can still do anything: it can be shut down, lose the runtime
//! that its tasks run on, or be a copy in a forked child.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::runtime::{Handle, Id};

use crate::error::Error;
use crate::runtime::origin::Origin;

/// Nothing has ended.
const OPEN: u8 = 0;

/// It was shut down: nothing new is begun, what is held is held on.
const SHUT: u8 = 1;

/// Its tasks are gone: nothing is sent, answered or extended any more.
const DEAD: u8 = 2;

/// What a router's handles and leases share of its fate.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) origin: Origin,
    /// Where its tasks run.
    runtime: Option<Id>,
    /// Only grows.
    state: AtomicU8,
}

impl Default for Lifecycle {
    /// One that begins here and now.
    fn default() -> Self {
        Self {
            origin: Origin::here(),
            runtime: Handle::try_current().ok().map(|runtime| runtime.id()),
            state: AtomicU8::new(OPEN),
        }
    }
}

impl Lifecycle {
    /// Whether something new may begin.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_below(SHUT)
    }

    /// Whether what is held can still be extended.
    pub(crate) fn check_tasks(&self) -> Result<(), Error> {
        self.check_below(DEAD)
    }

    fn check_below(&self, state: u8) -> Result<(), Error> {
        self.check_origin()?;
        if self.state.load(Ordering::Acquire) >= state {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Whether this is the process that made the router.
    pub(crate) fn check_origin(&self) -> Result<(), Error> {
        match self.origin.is_elsewhere() {
            true => Err(Error::Forked),
            false => Ok(()),
        }
    }

    /// Nothing new may begin from now on.
    pub(crate) fn shut(&self) {
        self.state.fetch_max(SHUT, Ordering::AcqRel);
    }

    /// The tasks are gone.
    pub(crate) fn end(&self) {
        self.state.fetch_max(DEAD, Ordering::AcqRel);
    }

    /// Whether the caller runs on another runtime than the router's tasks. That
    /// one may stand still, so that a caller minds the time itself.
    pub(crate) fn is_guest(&self) -> bool {
        Handle::try_current().is_ok_and(|runtime| Some(runtime.id()) != self.runtime)
    }
}
