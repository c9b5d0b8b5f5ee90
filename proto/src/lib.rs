//! The lock protocol as pure values and state machines: no clock, no randomness,
//! no I/O.
//!
//! The layers above only move these values: the drivers feed the machines and
//! execute their [`Effects`](operation::machine::Effects). The same code runs in
//! production, in the in-memory nodes and under the model checker.
//! Public for tests and simulators; any version may change it.
//!
//! Suggested reading order: [`node`] (the requests to a node and its replies),
//! [`quorum`] (who must agree), [`operation`] (how a lock is acquired, extended and
//! released), [`membership`] (which nodes there are, and how that changes),
//! [`confirmation`] (which nodes confirmed a view), [`lease_record`] (what a lease
//! stands on).

pub mod backoff;
pub mod confirmation;
pub mod escape;
mod hex;
pub mod lease;
pub mod lease_record;
pub mod membership;
pub mod node;
pub mod operation;
pub mod quorum;
pub mod time;
