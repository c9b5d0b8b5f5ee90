//! Whether a router can still work: it can be shut down, lose the runtime of its
//! tasks, or be a copy in a forked child.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::runtime::{Handle, Id};

use crate::error::Error;
use crate::runtime::origin::ProcessOrigin;

/// The router is open.
const OPEN: u8 = 0;

/// The router was shut down: nothing new starts; leases continue.
const SHUT: u8 = 1;

/// The tasks are gone: nothing is sent, answered or extended anymore.
const DEAD: u8 = 2;

/// The state that a router's handles and leases share.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) origin: ProcessOrigin,
    /// The runtime of its tasks.
    runtime: Option<Id>,
    /// Only increases.
    state: AtomicU8,
}

impl Default for Lifecycle {
    /// A lifecycle that starts in this process and runtime.
    fn default() -> Self {
        Self {
            origin: ProcessOrigin::here(),
            runtime: Handle::try_current().ok().map(|runtime| runtime.id()),
            state: AtomicU8::new(OPEN),
        }
    }
}

impl Lifecycle {
    /// Whether new operations may start.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_below(SHUT)
    }

    /// Whether held leases can still be extended.
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

    /// Refuses new operations from now on.
    pub(crate) fn shut(&self) {
        self.state.fetch_max(SHUT, Ordering::AcqRel);
    }

    /// Records that the tasks are gone.
    pub(crate) fn end(&self) {
        self.state.fetch_max(DEAD, Ordering::AcqRel);
    }

    /// Whether the caller runs on another runtime than the router's tasks. The
    /// tasks' runtime may have stopped, so such a caller checks the time itself.
    pub(crate) fn is_guest(&self) -> bool {
        Handle::try_current().is_ok_and(|runtime| Some(runtime.id()) != self.runtime)
    }
}
