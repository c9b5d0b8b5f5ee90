//! A node: the requests it takes, its replies, and its behaviour.

pub mod lock_table;
pub mod message;
