//! What the crate needs of its process: tasks whose end is noticed, what a fork
//! leaves behind, draws that are unique, and whether a router can still work.

pub(crate) mod lifecycle;
pub(crate) mod origin;
pub(crate) mod random;
pub(crate) mod task;
