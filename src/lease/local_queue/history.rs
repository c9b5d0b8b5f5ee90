//! What those who queue for a key know of it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Error;

/// The error of a contender's last attempt, for those behind it. A call for many
/// keys has one for all of its turns.
#[derive(Debug, Default)]
pub(crate) struct LastFailure(Mutex<Option<Arc<Error>>>);

impl LastFailure {
    /// Sets what the contender has met; `None`: none of its attempts was answered
    /// yet.
    pub(crate) fn set(&self, error: Option<Error>) {
        *self.0.lock() = error.map(Arc::new);
    }

    pub(super) fn get(&self) -> Option<Arc<Error>> {
        self.0.lock().clone()
    }
}

/// What a caller knows of a key for which it queued.
#[derive(Clone, Debug)]
pub(crate) enum QueueHistory {
    /// This process held the key during the wait.
    Held,
    /// An attempt of this process failed, and none has succeeded since.
    Failed(Arc<Error>),
    /// An attempt of this process has not been answered yet.
    Unanswered,
}
