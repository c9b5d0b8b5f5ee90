//! A client's requests to single nodes, in addition to its operations.

use std::time::Duration;

use rand::RngExt;
use ringlock_proto::backoff::Backoff;
use ringlock_proto::lease::{Key, Token};
use ringlock_proto::node::message::{Reply, Request, ViewId};
use ringlock_proto::operation::machine::Step;
use ringlock_proto::time::Instant;

use crate::client::{Alarm, Client};
use crate::core::Core;
use crate::network::{Answered, Ticket};

/// How long a node may take to answer about itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// One request and its purpose.
#[derive(Clone, Debug)]
pub(crate) enum NodeRequest {
    /// Repeated until it is answered, or there is nothing to release.
    Release(Box<Owed>),
    /// With the send time.
    Status(Instant),
    Document(ViewId),
    Help,
}

/// A RELEASE that must still reach a node.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) node: usize,
    pub(crate) key: Key,
    pub(crate) token: Token,
    /// When the entry has expired anyway.
    pub(crate) until: Instant,
    pub(crate) tries: u32,
    pub(crate) is_out: bool,
}

impl Client {
    /// Asks a node, once.
    pub(crate) fn ask(
        &mut self,
        core: &mut Core,
        node: usize,
        node_request: NodeRequest,
        request: Request,
    ) {
        let operation = core.fresh();
        self.node_requests.insert(operation, node_request);
        let step = Step::Probe;
        core.send(self.host, node, Ticket { operation, step }, request);
        let at = core.local(self.host) + PATIENCE;
        core.wake(self.host, at, Alarm::NodeRequest(operation));
    }

    /// Sends a RELEASE to a node now, and repeats it until it is answered.
    pub(crate) fn owe(&mut self, core: &mut Core, owed: Owed) {
        let id = core.fresh();
        self.node_requests
            .insert(id, NodeRequest::Release(Box::new(owed)));
        self.run_node_request(core, id);
    }

    /// An errand's timer has fired.
    pub(crate) fn run_node_request(&mut self, core: &mut Core, id: u64) {
        let now = core.local(self.host);
        let Some(NodeRequest::Release(owed)) = self.node_requests.get_mut(&id) else {
            let node_request = self.node_requests.remove(&id);
            if let Some(NodeRequest::Document(view)) = node_request {
                self.heard_document(core, view, None);
            }
            return;
        };
        if now >= owed.until {
            self.node_requests.remove(&id);
            return;
        }
        if owed.is_out {
            owed.is_out = false;
            owed.tries += 1;
            let wait = Backoff::RECONNECT.wait(owed.tries, core.random.random());
            return core.wake(self.host, now + wait, Alarm::NodeRequest(id));
        }
        owed.is_out = true;
        let (key, token) = (owed.key.clone(), owed.token.clone());
        let ticket = Ticket {
            operation: id,
            step: Step::Probe,
        };
        core.send(
            self.host,
            owed.node,
            ticket,
            Request::Release { key, token },
        );
        core.wake(self.host, now + PATIENCE, Alarm::NodeRequest(id));
    }

    /// An answer for which no operation waits.
    pub(crate) fn hear_node_request(&mut self, core: &mut Core, answered: Answered) {
        let Some(node_request) = self.node_requests.remove(&answered.ticket.operation) else {
            return;
        };
        match (node_request, answered.reply) {
            (NodeRequest::Status(sent_at), Reply::Status(status)) => {
                self.heard_status(core, (answered.node, sent_at), &status);
            }
            (NodeRequest::Document(id), Reply::Document(text)) => {
                self.heard_document(core, id, text.as_deref());
            }
            _ => {}
        }
    }
}
