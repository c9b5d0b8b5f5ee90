//! The node layer: a node carries out [`Request`]s, one at a time and in order,
//! and answers every one of them.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock;
use crate::proto::lease::Key;
use crate::proto::node::message::{Answer, NodeError, NodeErrorKind, Request};
use crate::proto::time::Instant;

mod key_watch;
mod memory;
#[cfg(feature = "redis")]
pub mod redis;

pub use key_watch::{Interest, Watch, WatchEvent, Watchers};
pub use memory::MemoryNode;

/// One lock server.
///
/// A release takes effect after the acquire of the same token. Requests that
/// change what the node serves take effect one after the other, in the order in
/// which they were submitted. Apart from that, a node may carry out more urgent
/// requests first. Each request is answered exactly once, by its deadline.
/// No call blocks: `submit` may be called from a destructor. The answer
/// may arrive before `submit` returns.
pub trait Node: fmt::Debug + Send + Sync {
    /// Sends `request`. `reply` receives the answer or, by `deadline`, an
    /// error.
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo);

    /// Watches `key` and reports when it may have become free, whatever freed
    /// it. Returns `None` where this is not available.
    ///
    /// A watch may report too often. It must not miss an event that frees the
    /// key after its first read of the key; only an expiry may be missed. A
    /// watch that cannot read the key within a second or two, or can no longer
    /// observe it, reports [`WatchEvent::Lost`].
    fn watch(&self, _key: &Key) -> Option<Watch> {
        None
    }

    /// Announces to other processes, for about a second, that a caller waits
    /// for `key`. [`watch`](Self::watch) does so too, where it is available.
    fn want(&self, _key: &Key) {}

    /// Whether other processes announced in the last second or so that a caller
    /// waits for `key`. This is advice: it decides which caller tries first,
    /// never which one has the lock. A node that has to ask its server returns
    /// [`Interest::Unknown`] until the reply arrives.
    fn interest(&self, _key: &Key) -> Interest {
        Interest::Unknown
    }

    /// No lock lasts longer than `ttl` under a view that is in force from now
    /// on. A node whose clock was stepped must not be relied upon for that
    /// long.
    fn set_longest_ttl(&self, _ttl: Duration) {}

    /// The node's address, without credentials.
    fn address(&self) -> String;

    /// Whether the node's data lives only as long as this process.
    fn is_embedded(&self) -> bool {
        false
    }

    /// Finishes what is queued, refuses later requests, and disconnects.
    fn close(&self);
}

/// Receives answers. It is called wherever the answer arrives: it must be quick
/// and must not block.
pub trait Sink: Send + Sync {
    /// The answer to the request that was submitted with `ticket`.
    fn accept(self: Arc<Self>, ticket: u32, answer: Answer);
}

/// Where one answer goes. Dropped without an answer, it sends an error itself:
/// no request is ever left waiting.
#[derive(Debug)]
pub struct ReplyTo {
    sink: Option<SinkRef>,
    ticket: u32,
}

struct SinkRef(Arc<dyn Sink>);

impl fmt::Debug for SinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

impl ReplyTo {
    /// Sends the answer to `sink`, marked with `ticket`.
    pub fn new(sink: Arc<dyn Sink>, ticket: u32) -> Self {
        Self {
            sink: Some(SinkRef(sink)),
            ticket,
        }
    }

    /// Discards the answer.
    pub fn nobody() -> Self {
        Self {
            sink: None,
            ticket: 0,
        }
    }

    /// Whether nobody waits for the answer.
    pub fn is_nobody(&self) -> bool {
        self.sink.is_none()
    }

    /// Delivers the answer.
    pub fn send(mut self, answer: Answer) {
        self.deliver(answer);
    }

    fn deliver(&mut self, answer: Answer) {
        if let Some(SinkRef(sink)) = self.sink.take() {
            sink.accept(self.ticket, answer);
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.deliver(Err(NodeError::new(
                NodeErrorKind::Closed,
                "the node was shut down",
            )));
        }
    }
}

/// How much longer than a node's own tasks a caller waits for their answer:
/// they may run on a runtime that is stalled.
const BACKSTOP: Duration = Duration::from_millis(250);

/// Submits one request and waits for its answer.
///
/// Cancel safe: dropping the call leaves the request in flight.
pub(crate) async fn call(node: &dyn Node, request: Request, deadline: Instant) -> Answer {
    let slot = Arc::new(Slot::default());
    node.submit(
        request,
        deadline,
        ReplyTo::new(Arc::clone(&slot) as Arc<dyn Sink>, 0),
    );
    let answer = std::future::poll_fn(|context| slot.poll(context));
    let answer = clock::within(Some(deadline + BACKSTOP), answer).await;
    answer.unwrap_or_else(|| {
        let message = "no answer: the runtime that created the router is not running";
        Err(NodeError::new(NodeErrorKind::Timeout, message))
    })
}

#[derive(Default)]
struct Slot(Mutex<(Option<Answer>, Option<std::task::Waker>)>);

impl Slot {
    fn poll(&self, context: &Context<'_>) -> Poll<Answer> {
        let mut slot = self.0.lock();
        if let Some(answer) = slot.0.take() {
            return Poll::Ready(answer);
        }
        slot.1 = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Sink for Slot {
    fn accept(self: Arc<Self>, _: u32, answer: Answer) {
        let mut slot = self.0.lock();
        slot.0 = Some(answer);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
