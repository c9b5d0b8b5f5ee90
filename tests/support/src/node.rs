//! Direct requests to nodes, and a count of their answers.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::node::{Node, ReplyTo, Sink};
use ringlock::proto::lease::{Key, Token, Ttl};
use ringlock::proto::node::message::{
    Answer, FenceCounterId, IfMissing, NodeStatus, Reply, Request, ViewId,
};

use crate::cluster::TestNode;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

/// The reading of the clock that the deadlines of nodes refer to.
pub fn now() -> ringlock::Instant {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32).as_nanos();
    ringlock::Instant::from_nanos(nanos as u64)
}

/// Submits one request to `node` and waits for its answer.
pub async fn ask(node: &dyn Node, request: Request, limit: Duration) -> Answer {
    let inbox = Inbox::new(1);
    node.submit(request, now() + limit, inbox.slot(0));
    inbox.all(limit).await.remove(0)
}

/// The node itself, to send it requests without a router.
pub fn direct(node: &TestNode) -> Box<dyn Node> {
    match node {
        TestNode::Memory(node) => Box::new(node.clone()),
        TestNode::Redis(server) => {
            let node = RedisNode::new(&server.url(), RedisOptions::default());
            Box::new(node.expect("a node"))
        }
    }
}

/// Its status, which it must report.
pub async fn status(node: &dyn Node) -> NodeStatus {
    match ask(node, Request::Status, GRACE).await {
        Ok(Reply::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

/// Quarantines a node in any state under this nonce.
pub async fn quarantine_as(node: &dyn Node, nonce: &str) {
    let status = status(node).await;
    let quarantine = Request::Quarantine {
        expected_nonce: status.nonce,
        expected_view: status.serving,
        nonce: nonce.into(),
    };
    assert_eq!(ask(node, quarantine, GRACE).await, Ok(Reply::Done));
}

/// How late after its deadline an answer may arrive: the machine may be busy.
pub const GRACE: Duration = Duration::from_secs(10);

/// The view that a node of [`serving`] serves.
pub const VIEW: ViewId = ViewId {
    epoch: 1,
    digest: 7,
};

/// A node that serves [`VIEW`].
pub async fn serving(url: &str, options: RedisOptions) -> RedisNode {
    let node = RedisNode::new(url, options).expect("a node");
    for request in [quarantine(), adopt()] {
        assert_eq!(ask(&node, request, GRACE).await, Ok(Reply::Done));
    }
    node
}

/// Quarantines a new node.
pub fn quarantine() -> Request {
    Request::Quarantine {
        expected_nonce: None,
        expected_view: None,
        nonce: "n".into(),
    }
}

/// Makes a quarantined node serve [`VIEW`].
pub fn adopt() -> Request {
    Request::Adopt {
        view: VIEW,
        document: "a document".into(),
        nonce: "n".into(),
    }
}

/// Requests the key for a minute.
pub fn acquire(key: &str, token: u128) -> Request {
    let minute = Duration::from_secs(60);
    Request::Acquire {
        view: VIEW,
        key: Key::new(key).expect("a key"),
        token: Token::new(token, None),
        ttl: Ttl::new(minute, minute).expect("a ttl"),
        slot: FenceCounterId::SINGLE,
        floor: 0,
    }
}

/// Extends what [`acquire`] was granted, for a minute.
pub fn extend(key: &str, token: u128, if_missing: IfMissing) -> Request {
    let minute = Duration::from_secs(60);
    Request::Extend {
        view: VIEW,
        key: Key::new(key).expect("a key"),
        token: Token::new(token, None),
        ttl: Ttl::new(minute, minute).expect("a ttl"),
        slot: FenceCounterId::SINGLE,
        floor: 0,
        if_missing,
    }
}

/// Releases what [`acquire`] was granted.
pub fn release(key: &str, token: u128) -> Request {
    Request::Release {
        key: Key::new(key).expect("a key"),
        token: Token::new(token, None),
    }
}

/// Collects the answers to many requests, and counts them.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug)]
struct State {
    answers: Vec<Option<Answer>>,
    missing: usize,
    surplus: Vec<Answer>,
}

impl Inbox {
    /// For this many requests.
    pub fn new(requests: usize) -> Arc<Self> {
        let state = State {
            answers: vec![None; requests],
            missing: requests,
            surplus: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            complete: Notify::new(),
        })
    }

    /// The destination of the answer to request `index`.
    pub fn slot(self: &Arc<Self>, index: usize) -> ReplyTo {
        let sink = Arc::clone(self) as Arc<dyn Sink>;
        ReplyTo::new(sink, u32::try_from(index).expect("few requests"))
    }

    /// Requests that are not answered yet.
    pub fn missing(&self) -> usize {
        self.state.lock().missing
    }

    /// The answers, exactly one to each request; they must be there within
    /// `limit` and a [`GRACE`].
    pub async fn all(&self, limit: Duration) -> Vec<Answer> {
        if self.missing() > 0 {
            let in_time = tokio::time::timeout(limit + GRACE, self.complete.notified()).await;
            let missing = self.missing();
            assert!(in_time.is_ok(), "{missing} requests are unanswered");
        }
        let mut state = self.state.lock();
        let surplus = &state.surplus;
        assert!(surplus.is_empty(), "answered more than once: {surplus:?}");
        state.answers.drain(..).flatten().collect()
    }
}

impl Sink for Inbox {
    fn accept(self: Arc<Self>, ticket: u32, answer: Answer) {
        let mut state = self.state.lock();
        if let Some(second) = state.answers[ticket as usize].replace(answer) {
            state.surplus.push(second);
            return;
        }
        state.missing -= 1;
        if state.missing == 0 {
            self.complete.notify_one();
        }
    }
}
