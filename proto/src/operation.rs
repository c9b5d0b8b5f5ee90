//! The operations on a lock, each a machine that takes answers as input.

pub mod acquire;
pub mod extend;
pub mod known;
pub mod machine;
pub mod release;
