//! The current view, its nodes, and the tasks that keep both up to date.

pub(crate) mod bootstrap;
pub(crate) mod first_start;
pub(crate) mod membership;
pub(crate) mod nodes;
pub(crate) mod proposer;
pub(crate) mod reconciler;
pub(crate) mod refresh;
pub(crate) mod registry;
pub(crate) mod snapshot;

pub use first_start::ConnectProgress;
