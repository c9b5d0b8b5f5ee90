//! One safeguard removed at a time, from outside: each must be caught, or the
//! simulation proves nothing about it.

use ringlock_proto::membership::view::View;
use ringlock_proto::node::message::{NodeState, Request};

use crate::core::Core;

/// The removed safeguard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Coordinators move from one stable view directly to the next.
    NoJointPhase,
    /// They wait one tenth too short, both for old leases and in quarantine.
    ShortWait,
    /// Nodes execute requests of any view.
    NoViewCheck,
    /// Nodes ignore the minimum count in a request.
    NoFloor,
    /// A lease that is carried over assumes that a node is the same one, under
    /// any nonce.
    AnyNonce,
}

impl Mutant {
    pub(crate) const ALL: [Self; 5] = [
        Self::NoJointPhase,
        Self::ShortWait,
        Self::NoViewCheck,
        Self::NoFloor,
        Self::AnyNonce,
    ];
}

impl Core {
    /// The request that reaches the node in place of `request`, if it is altered.
    pub(crate) fn forged(&self, node: usize, request: &Request) -> Option<Request> {
        let mut forged = match self.mutant? {
            Mutant::NoViewCheck | Mutant::NoFloor => request.clone(),
            _ => return None,
        };
        if let Request::Acquire { view, floor, .. } | Request::Extend { view, floor, .. } =
            &mut forged
        {
            if self.is(Mutant::NoFloor) {
                *floor = 0;
            } else if let NodeState::Serving(served) = self.servers[node].status.standing() {
                *view = served;
            }
        }
        Some(forged)
    }

    /// The view that is proposed in place of `view`.
    pub(crate) fn skipped(&self, view: View) -> View {
        let Some(next) = view.next().filter(|_| self.is(Mutant::NoJointPhase)) else {
            return view;
        };
        let mut nonces = view.nonces();
        nonces.retain(|name, _| next.nodes.iter().any(|node| node.name == *name));
        View::stable(view.id().epoch, next.clone(), &nonces).unwrap_or(view)
    }
}
