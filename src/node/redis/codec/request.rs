//! A request that waits for its answer, and the answers that the node gives
//! without the server.

use crate::node::ReplyTo;
use crate::proto::node::message::{Answer, NodeError, NodeErrorKind, Request};
use crate::proto::time::Instant;

/// A request that has not been answered yet.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) request: Request,
    pub(crate) deadline: Instant,
    pub(crate) reply: ReplyTo,
}

impl PendingRequest {
    /// Answers with a timeout, and discards any later answer.
    pub(crate) fn expire(&mut self) {
        std::mem::replace(&mut self.reply, ReplyTo::nobody()).send(Err(timeout()));
    }
}

/// Answers that are given once no lock is held: the receiver of one may submit
/// the next request at once.
pub(crate) type Completions = Vec<(ReplyTo, Answer)>;

pub(crate) fn deliver(answers: &mut Completions) {
    for (reply, answer) in answers.drain(..) {
        reply.send(answer);
    }
}

/// Its deadline passed before the connection was ready for it.
pub(crate) fn unasked() -> NodeError {
    let message =
        "no answer within the node timeout: earlier requests to the node are still unanswered";
    NodeError::new(NodeErrorKind::Timeout, message).unsent()
}

pub(crate) fn overloaded() -> NodeError {
    let message = "too many requests wait for this node: it is slower than its callers";
    NodeError::new(NodeErrorKind::Overloaded, message)
}

pub(crate) fn unsent_in_time() -> NodeError {
    let message = "the request was not sent in time: too many requests wait for the node";
    NodeError::new(NodeErrorKind::Overloaded, message).unsent()
}

pub(crate) fn timeout() -> NodeError {
    NodeError::new(NodeErrorKind::Timeout, "no answer within the node timeout")
}

pub(crate) fn closed() -> NodeError {
    let message = "the router was shut down, or the runtime that created it has ended";
    NodeError::new(NodeErrorKind::Closed, message)
}

pub(crate) fn forked() -> NodeError {
    let message = "the connection belongs to the process that this one was forked from";
    NodeError::new(NodeErrorKind::Closed, message)
}
