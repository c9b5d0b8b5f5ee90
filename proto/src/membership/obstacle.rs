//! What keeps a node from doing its part in a transition.

use std::fmt;

use crate::node::message::ViewId;

/// Why a node blocks a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// It does not answer.
    Silent,
    /// It serves another cluster, or an earlier view of this one.
    Foreign(ViewId),
    /// It does not serve the view yet.
    Behind,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("does not answer"),
            Self::Foreign(view) => write!(
                f,
                "serves view {view}, which belongs to another cluster or is outdated"
            ),
            Self::Behind => f.write_str("does not serve the view yet"),
        }
    }
}
