//! The operations on a lock, each a machine that is fed answers.

pub mod acquire;
pub mod extend;
pub mod machine;
pub mod release;
