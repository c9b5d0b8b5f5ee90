//! Which nodes there are, and how that changes: views, the vote on the next view,
//! the coordinator's steps, and the start of a cluster.

pub mod new_start;
pub mod paxos;
mod requests;
mod takeback;
pub mod topology;
pub mod transition;
pub mod view;
