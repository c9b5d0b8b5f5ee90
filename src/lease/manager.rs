//! The state that all leases of one router share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::membership::Membership;
use crate::cluster::nodes::ViewNodes;
use crate::lease::context::LeaseContext;
use crate::lease::local_queue::LocalQueue;
use crate::lease::state::LeaseState;
use crate::proto::lease::{IntoKey, Key, KeyError};
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::task;
use crate::telemetry::stats::Counters;

/// The state that all leases of one router share. The router's handles, its calls
/// and its guards own it. Dropping it ends the router's tasks and closes its nodes.
pub(crate) struct LeaseManager {
    pub(crate) membership: Arc<Membership>,
    pub(crate) queues: Arc<LocalQueue<LeaseState>>,
    pub(crate) context: Arc<LeaseContext>,
    pub(crate) defaults: Defaults,
    /// Keys must not begin with it: such a key, with the key prefix in front,
    /// names ringlock's own state.
    reserved: Option<String>,
}

/// The settings of an acquire that sets nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) ttl: Duration,
    pub(crate) wait: Duration,
    pub(crate) max_hold: Duration,
    pub(crate) max_local_handoffs: u32,
    pub(crate) label: Option<Arc<str>>,
}

impl LeaseManager {
    /// Starts the scheduler's task on the current runtime.
    pub(crate) fn start(
        membership: Arc<Membership>,
        context: Arc<LeaseContext>,
        defaults: Defaults,
        reserved: Option<String>,
    ) -> Arc<Self> {
        let manager = Arc::new(Self {
            membership,
            queues: LocalQueue::new(Arc::clone(&context.counters)),
            context: Arc::clone(&context),
            defaults,
            reserved,
        });
        let weak = Arc::downgrade(&manager);
        task::spawn(Arc::clone(&context.scheduler).run(), move || {
            context.lifecycle.end();
            context.scheduler.end();
            if let Some(manager) = weak.upgrade() {
                manager.wake_all();
            }
        });
        manager
    }

    /// The nodes of the current view.
    pub(crate) fn nodes(&self) -> Arc<ViewNodes> {
        self.membership.current()
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.context.lifecycle
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.context.counters
    }

    pub(crate) fn check_key(&self, key: impl IntoKey) -> Result<Key, KeyError> {
        let key = key.into_key()?;
        if let Some(reserved) = &self.reserved
            && key.as_bytes().starts_with(reserved.as_bytes())
        {
            let (key, reserved) = (key.to_string(), reserved.clone());
            return Err(KeyError::Reserved { key, reserved });
        }
        Ok(key)
    }

    /// Refuses new calls. Leases continue.
    pub(crate) fn shut(&self) {
        self.lifecycle().shut();
        self.wake_all();
    }

    /// Wakes every waiting call: the router is closed.
    fn wake_all(&self) {
        self.queues.close();
        self.nodes().left.notify_waiters();
    }
}

impl Drop for LeaseManager {
    fn drop(&mut self) {
        if self.lifecycle().origin.is_elsewhere() {
            // Both are copies of the parent's.
            std::mem::forget((Arc::clone(&self.queues), Arc::clone(&self.context)));
            return;
        }
        self.context.scheduler.close();
    }
}

impl fmt::Debug for LeaseManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseManager")
            .field("membership", &self.membership)
            .finish_non_exhaustive()
    }
}
