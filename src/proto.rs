//! The lock protocol, pure: values and machines, no clock, no randomness, no
//! I/O.
//!
//! Everything above it only moves these values about: the drivers feed the
//! machines and carry out their [`Effects`](operation::machine::Effects). The same code
//! runs in production, in the in-memory nodes and under the model checker.
//! Public for tests and simulators; versions may change it freely.
//!
//! Read in this order: [`node`] (what a node is asked, and what it does),
//! [`quorum`] (who must agree), [`operation`] (how a lock is taken, extended and
//! released), [`membership`] (which nodes there are, and how that changes),
//! [`lease_record`] (what is known of a lease's entries).

pub mod backoff;
pub(crate) mod escape;
pub mod lease;
pub mod lease_record;
pub mod membership;
pub mod node;
pub mod operation;
pub mod quorum;
pub mod time;
