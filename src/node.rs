//! The node floor: something that carries out [`Request`]s, one at a time and
//! in order, and answers every one of them.

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

pub use key_watch::{Interest, Sight, Watch, Watchlist};
pub use memory::MemoryNode;

/// One lock server.
///
/// A release takes effect after the acquire of the same token, and requests
/// that change what the node serves take effect one after the other, in the
/// order in which they were submitted; beside that a node may carry out first
/// what it holds more urgent. Each request is answered
/// exactly once, by its deadline. Neither call blocks: `submit` may be made
/// from a destructor. The answer may come before `submit` returns.
pub trait Node: fmt::Debug + Send + Sync {
    /// Sends `request` on its way; `reply` is told the answer, an error at the
    /// latest at `deadline`.
    fn submit(&self, request: Request, deadline: Instant, reply: ReplyTo);

    /// Keeps an eye on `key` and tells when it may have become free, whoever
    /// freed it and however; `None` where that is not to be had.
    ///
    /// It may tell too often, but what frees the key after the watch has
    /// looked at it first must not go unseen; expiry alone may. A watch that
    /// cannot look at the key within a second or two, or has lost sight of it,
    /// says [`Sight::Lost`].
    fn watch(&self, _key: &Key) -> Option<Watch> {
        None
    }

    /// Tells other processes that somebody waits for `key`, for a second or so:
    /// [`watch`](Self::watch) does so too, where it is to be had.
    fn want(&self, _key: &Key) {}

    /// Whether other processes said in the last second or so that somebody
    /// waits for `key`. Advice: it decides who tries first, never who has the
    /// lock. A node that has to ask says [`Interest::Unknown`] meanwhile.
    fn interest(&self, _key: &Key) -> Interest {
        Interest::Unknown
    }

    /// No lock lasts longer than `ttl` under a view that is in force from now
    /// on: for so long a node is not to be relied upon whose clock was stepped.
    fn heed_longest_ttl(&self, _ttl: Duration) {}

    /// Where it is reached, without credentials.
    fn address(&self) -> String;

    /// Whether its data lives and dies with this process.
    fn is_embedded(&self) -> bool {
        false
    }

    /// Finishes what is queued, refuses what comes later, and disconnects.
    fn close(&self);
}

/// Takes answers in. Called from wherever the answer arrives: it must be
/// quick and must not block.
pub trait Sink: Send + Sync {
    /// The answer to the request that was submitted with `ticket`.
    fn accept(self: Arc<Self>, ticket: u32, answer: Answer);
}

/// Where one answer goes. Dropped without an answer, it says so itself: no
/// request is ever left waiting.
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
    /// Answers go to `sink`, marked with `ticket`.
    pub fn new(sink: Arc<dyn Sink>, ticket: u32) -> Self {
        Self {
            sink: Some(SinkRef(sink)),
            ticket,
        }
    }

    /// The answer is for nobody.
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

/// By how much longer than a node's own tasks a caller waits for their answer:
/// they may run on a runtime that stands still.
const BACKSTOP: Duration = Duration::from_millis(250);

/// Submits one request and waits for its answer.
///
/// Cancel safe: a dropped call leaves the request on its way.
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
        let message = "no answer: the runtime that made the router stands still";
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
