//! What a coordinator tells nodes beside its votes.

use std::sync::Arc;

use ringlock_ring::NodeIndex;

use crate::proto::membership::view::View;
use crate::proto::node::message::{NodeStatus, Nonce, Request};

/// Has a node stop serving what `status` says, and take `nonce`.
pub fn quarantine(status: &NodeStatus, nonce: Nonce) -> Request {
    Request::Quarantine {
        expected_nonce: status.nonce.clone(),
        expected_view: status.serving,
        nonce,
    }
}

/// Has `node` serve the view.
pub fn adopt(view: &View, node: NodeIndex) -> Request {
    adopt_under(view, view.nonce(node))
}

/// Has the node under this nonce serve the view, member of it or not.
pub fn adopt_under(view: &View, nonce: &Nonce) -> Request {
    Request::Adopt {
        view: view.id(),
        document: Arc::clone(view.document()),
        nonce: Arc::clone(nonce),
    }
}
