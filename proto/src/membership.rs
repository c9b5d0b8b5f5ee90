//! Which nodes there are, and how that changes: views, the vote on the next view,
//! the coordinator's steps, and the start of a cluster.

pub mod new_start;
mod obstacle;
pub mod paxos;
mod requests;
mod takeback;
pub mod topology;
pub mod topology_diff;
pub mod transition;
pub mod view;
