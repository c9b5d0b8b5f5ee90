//! The current view and its nodes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::cluster::nodes::{NodeHandle, ViewNodes};
use crate::cluster::registry::NodeRegistry;
use crate::proto::membership::view::View;
use crate::runtime::origin::ProcessOrigin;
use crate::telemetry::events;
use crate::telemetry::stats::Counters;

/// The current view of a router and its nodes. Views are switched only here.
///
/// Dropping it ends the reconciler and closes every node.
pub(crate) struct Membership {
    registry: Arc<NodeRegistry>,
    /// Read by every call, on every thread: readers share no memory that they
    /// write.
    current: ArcSwap<ViewNodes>,
    /// Held while the view is switched.
    switching: Mutex<()>,
    counters: Arc<Counters>,
    /// Called after each switch to a newer view.
    on_change: Box<dyn Fn() + Send + Sync>,
    reconciler: Mutex<Option<JoinHandle<()>>>,
    origin: ProcessOrigin,
}

impl Membership {
    /// Starts with `nodes`. `on_change` is called after each switch to a newer
    /// view, and must not block.
    pub(crate) fn new(
        nodes: ViewNodes,
        registry: Arc<NodeRegistry>,
        counters: Arc<Counters>,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let view = &nodes.view;
        counters.meter.moved(view.id(), view.next().is_some());
        Arc::new(Self {
            registry,
            current: ArcSwap::from_pointee(nodes),
            switching: Mutex::default(),
            counters,
            on_change: Box::new(on_change),
            reconciler: Mutex::default(),
            origin: ProcessOrigin::here(),
        })
    }

    /// The nodes of the current view.
    pub(crate) fn current(&self) -> Arc<ViewNodes> {
        self.current.load_full()
    }

    /// Reads something of the nodes of the current view.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ViewNodes) -> T) -> T {
        read(&self.current.load())
    }

    pub(crate) fn registry(&self) -> &Arc<NodeRegistry> {
        &self.registry
    }

    pub(crate) fn max_ttl(&self) -> Duration {
        self.read(|nodes| nodes.view.max_ttl())
    }

    /// Takes ownership of the reconciler's task, which ends together with this.
    pub(crate) fn own(&self, reconciler: JoinHandle<()>) {
        *self.reconciler.lock() = Some(reconciler);
    }

    /// Switches to `view`, whose members are `handles`, if it is newer.
    pub(crate) fn move_up(&self, view: View, handles: Vec<NodeHandle>) {
        let switching = self.switching.lock();
        let nodes = self.current.load_full();
        if nodes.view.id().epoch >= view.id().epoch {
            return;
        }
        events::moved(nodes.view.id(), view.id(), view.next().is_some());
        let meter = &self.counters.meter;
        meter.moved(view.id(), view.next().is_some());
        self.registry.retire(&view);
        self.current
            .store(nodes.followed_by(Arc::new(view), handles));
        // Those that it wakes find the new view.
        nodes.left.notify_waiters();
        drop(switching);
        (self.on_change)();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let task = self.reconciler.get_mut().take();
        if self.origin.is_elsewhere() {
            // All of it is a copy of the parent's, including the sockets.
            let nodes = self.current.load_full();
            std::mem::forget((Arc::clone(&self.registry), nodes, task));
            return;
        }
        if let Some(task) = task {
            task.abort();
        }
        self.registry.close();
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("view", &self.current.load().view)
            .finish_non_exhaustive()
    }
}
