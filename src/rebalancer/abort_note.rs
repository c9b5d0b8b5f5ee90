//! Lets the process that carries out a change learn which process took it back.
//!
//! Neither ballots nor views name their authors. The process that aborts therefore
//! holds, for a few seconds, an ordinary lock under one of ringlock's own names,
//! and the process that is stopped reads its holder. The note is only advice: the
//! vote is what stops a change.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use crate::acquire::Acquire;
use crate::clock;
use crate::error::Error;
use crate::lease::guard::Guard;
use crate::lease::manager::LeaseManager;

/// The key of the note. One name is enough: it is read at once.
const KEY: &str = "ringlock/abort";

/// How long the note stays at most; the process that is stopped checks every half
/// second.
const STAYS: Duration = Duration::from_secs(3);

/// How long it may take to leave or read the note: it must not hold up the abort.
const LIMIT: Duration = Duration::from_secs(1);

/// A note that was left; it expires automatically.
pub(crate) struct Note(Option<Guard>);

impl Note {
    /// Leaves the note, if that is possible.
    pub(crate) async fn leave(leases: &Arc<LeaseManager>) -> Self {
        let ttl = STAYS.min(leases.membership.max_ttl());
        let lock = Acquire::new(Arc::clone(leases), KEY, true)
            .ttl(ttl)
            .into_future();
        let guard = clock::within(Some(clock::now() + LIMIT), lock).await;
        Self(guard.and_then(Result::ok))
    }
}

impl Drop for Note {
    /// The note outlives the call that left it. If the process ends first, the
    /// entry's ttl ends it.
    fn drop(&mut self) {
        if let (Some(guard), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let guard = ManuallyDrop::new(guard);
            runtime.spawn(async move {
                clock::sleep_until(clock::now() + STAYS).await;
                drop(ManuallyDrop::into_inner(guard));
            });
        }
    }
}

/// The label of the router that left a note in the last few seconds.
pub(crate) async fn author(leases: &Arc<LeaseManager>) -> Option<String> {
    let ttl = STAYS.min(leases.membership.max_ttl());
    let lock = Acquire::new(Arc::clone(leases), KEY, true)
        .ttl(ttl)
        .into_future();
    match clock::within(Some(clock::now() + LIMIT), lock).await? {
        Err(Error::Contended {
            holder: Some(holder),
            ..
        }) => Some(holder.to_string()),
        _ => None,
    }
}
