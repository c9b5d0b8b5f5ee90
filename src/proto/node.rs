//! A node: what it is asked and answers, and what it does.

pub mod lock_table;
pub mod message;
