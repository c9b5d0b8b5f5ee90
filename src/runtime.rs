//! The crate's dependencies on its process: tasks with notification of their end,
//! fork detection, unique random numbers, hashes that are given, and the state of a
//! router's runtime.

pub(crate) mod given_hash;
pub(crate) mod lifecycle;
pub(crate) mod origin;
pub(crate) mod random;
pub(crate) mod task;
