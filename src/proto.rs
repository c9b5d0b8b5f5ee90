//! The lock protocol, pure: values and machines, no clock, no randomness, no
//! I/O.
//!
//! Everything above it only moves these values about: the drivers feed the
//! machines and carry out their [`Effects`](round::Effects). The same code
//! runs in production, in the in-memory nodes and under the model checker.
//! Public for tests and simulators; versions may change it freely.
//!
//! Read in this order: [`wire`] (what a node is asked), [`table`] (what a node
//! does), [`quorum`] (who must agree), [`round`] and [`attempt`] (how a lock is
//! taken), [`renewal`], [`release`], [`topology`]
//! and [`view`] (which nodes there are), [`decide`], [`transition`] and [`carry`]
//! (how that changes), [`new_start`] (what is done where nobody can decide).

pub mod attempt;
pub mod backoff;
pub mod carry;
pub mod decide;
pub mod known;
pub mod lease;
mod letter;
pub mod new_start;
pub mod quorum;
pub mod release;
pub mod renewal;
pub mod round;
pub(crate) mod shown;
mod stop;
pub mod table;
pub mod time;
pub mod topology;
pub mod transition;
pub mod view;
pub mod wire;
