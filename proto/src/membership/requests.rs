//! A coordinator's requests to nodes in addition to its votes.

use std::sync::Arc;

use ringlock_ring::NodeIndex;

use crate::membership::view::View;
use crate::node::message::{NodeStatus, Nonce, Request};

/// Makes a node in the state `status` stop serving, and take `nonce`.
pub fn quarantine(status: &NodeStatus, nonce: Nonce) -> Request {
    Request::Quarantine {
        expected_nonce: status.nonce.clone(),
        expected_view: status.serving,
        nonce,
    }
}

/// Makes `node` serve the view.
pub fn adopt(view: &View, node: NodeIndex) -> Request {
    adopt_under(view, view.nonce(node))
}

/// Makes the node under this nonce serve the view, whether or not it is a member.
pub fn adopt_under(view: &View, nonce: &Nonce) -> Request {
    Request::Adopt {
        view: view.id(),
        document: Arc::clone(view.document()),
        nonce: Arc::clone(nonce),
    }
}
