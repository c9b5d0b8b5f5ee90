//! What one lease stands on: where it was granted or last extended, where it is
//! extended now, which nodes may hold entries of it, and when to renew it.
//!
//! The router, the model checker and the simulation use the same record.

pub mod position;
pub mod record;
pub mod renewal;
#[cfg(test)]
mod samples;
