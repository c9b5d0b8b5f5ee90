//! The leases of this process, from before their attempt until after their release,
//! the queues in front of them, and the task that keeps them alive.

pub(crate) mod cleanup;
pub(crate) mod context;
pub(crate) mod guard;
pub(crate) mod handoffs;
pub(crate) mod local_queue;
pub(crate) mod machines;
pub(crate) mod manager;
pub(crate) mod operation;
pub(crate) mod renewal;
pub(crate) mod scheduler;
pub(crate) mod scoped;
pub(crate) mod state;

pub use guard::{Guard, Released};
pub use scoped::WithError;
