//! Messages between clients and nodes.

use ringlock_proto::lease::Token;
use ringlock_proto::node::message::{IfMissing, Reply, Request};
use ringlock_proto::operation::machine::Step;

use crate::pipeline::Progress;

/// Identifies an operation's messages, in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Main,
    WriteBack,
    Probe,
    Heal,
    /// A RELEASE without a waiter.
    ReleaseOutcome,
}

impl From<Step> for Kind {
    fn from(step: Step) -> Self {
        match step {
            Step::Main => Self::Main,
            Step::WriteBack => Self::WriteBack,
            Step::Probe => Self::Probe,
            Step::Heal => Self::Heal,
        }
    }
}

impl Kind {
    pub(crate) fn step(self) -> Step {
        match self {
            Self::Main | Self::ReleaseOutcome => Step::Main,
            Self::WriteBack => Step::WriteBack,
            Self::Probe => Step::Probe,
            Self::Heal => Step::Heal,
        }
    }
}

/// Identifies a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) client: usize,
    pub(crate) node: usize,
    /// The client's attempt whose token it carries.
    pub(crate) attempt: u8,
    /// Operation of the client, counted from 0.
    pub(crate) serial: u8,
    pub(crate) kind: Kind,
    pub(crate) is_reply: bool,
    /// A request that arrives a second time, and whose answer is dropped.
    pub(crate) is_echo: bool,
}

impl Address {
    /// The owner of the token and the target node.
    pub(crate) fn way(&self) -> (usize, usize, u8) {
        (self.client, self.node, self.attempt)
    }

    /// Whether `self`, sent earlier, uses the connection of `other`.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        let is_request = !self.is_reply && self.kind != Kind::Probe;
        is_request
            && self.way() == other.way()
            && (self.serial, self.kind) < (other.serial, other.kind)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Body {
    Ask(Request),
    Send(Reply),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) address: Address,
    /// It stays in flight although the client no longer uses its token.
    pub(crate) is_late: bool,
    /// How much of it the node has carried out, where that happens in parts.
    pub(crate) progress: Option<Progress>,
    pub(crate) body: Body,
}

impl Message {
    /// The token of a request.
    pub(crate) fn token(&self) -> Option<&Token> {
        match &self.body {
            Body::Ask(
                Request::Acquire { token, .. }
                | Request::Extend { token, .. }
                | Request::Release { token, .. },
            ) => Some(token),
            _ => None,
        }
    }

    /// Whether it removes `token` from `node`.
    pub(crate) fn releases(&self, token: &Token, node: usize) -> bool {
        matches!(self.body, Body::Ask(Request::Release { .. }))
            && self.address.node == node
            && self.token() == Some(token)
    }

    /// Whether it may create an entry of `token` on a node that has none.
    pub(crate) fn makes(&self, token: &Token) -> bool {
        let Body::Ask(request) = &self.body else {
            return false;
        };
        let is_made = matches!(
            request,
            Request::Acquire { .. }
                | Request::Extend {
                    if_missing: IfMissing::Recreate,
                    ..
                }
        );
        is_made && self.token() == Some(token)
    }
}
