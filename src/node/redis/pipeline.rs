//! What is in flight on a connection: queued, batched, written, read, completed.

pub(crate) mod batch;
pub(crate) mod completion;
pub(crate) mod congestion;
pub(crate) mod connection_task;
pub(crate) mod identity_check;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod script_reload;
pub(crate) mod state;
pub(crate) mod writer;
