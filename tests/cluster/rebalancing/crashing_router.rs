//! In-memory nodes whose router's process dies at a chosen step, and a record
//! of every view that was ever adopted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ringlock::node::{Node, ReplyTo, Watch};
use ringlock::proto::node::message::Request;
use ringlock::{Instant, Key, MemoryNode, ViewId};

/// The views that nodes were asked to serve, by epoch.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<BTreeMap<u32, BTreeSet<ViewId>>>);

impl Record {
    fn add(&self, view: ViewId) {
        self.0.lock().entry(view.epoch).or_default().insert(view);
    }

    /// Epochs for which there were two views.
    pub(crate) fn doubles(&self) -> Vec<(u32, BTreeSet<ViewId>)> {
        let views = self.0.lock().clone();
        views.into_iter().filter(|(_, ids)| ids.len() > 1).collect()
    }

    /// The highest epoch of any view.
    pub(crate) fn highest(&self) -> u32 {
        self.0.lock().keys().last().copied().unwrap_or(0)
    }
}

/// When a process dies, in steps: requests that change what nodes serve or have
/// promised.
#[derive(Debug)]
pub(crate) struct Fate {
    steps: AtomicU64,
    dies_at: u64,
    /// Whether the last step is still carried out.
    is_done: bool,
}

impl Fate {
    pub(crate) fn new(dies_at: u64, is_done: bool) -> Arc<Self> {
        Arc::new(Self {
            steps: AtomicU64::new(0),
            dies_at,
            is_done,
        })
    }

    pub(crate) fn immortal() -> Arc<Self> {
        Self::new(u64::MAX, true)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.steps.load(Ordering::SeqCst) >= self.dies_at
    }
}

/// A node as one process reaches it.
#[derive(Debug)]
pub(crate) struct Spy {
    pub(crate) node: MemoryNode,
    pub(crate) fate: Arc<Fate>,
    pub(crate) record: Arc<Record>,
}

impl Node for Spy {
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo) {
        let is_step = matches!(
            request,
            Request::Quarantine { .. }
                | Request::Prepare { .. }
                | Request::Accept { .. }
                | Request::Adopt { .. }
        );
        let was_dead = self.fate.is_dead();
        if is_step {
            self.fate.steps.fetch_add(1, Ordering::SeqCst);
        }
        let is_last = !was_dead && self.fate.is_dead();
        if was_dead || is_last && !self.fate.is_done {
            return;
        }
        if let Request::Adopt { view, .. } = &request {
            self.record.add(*view);
        }
        let reply = if is_last { ReplyTo::nobody() } else { reply };
        self.node.submit(request, deadline, reply);
    }

    fn watch(&self, key: &Key) -> Option<Watch> {
        self.node.watch(key)
    }

    fn address(&self) -> String {
        self.node.address()
    }

    fn is_embedded(&self) -> bool {
        true
    }

    fn close(&self) {}
}
