//! ringlock

pub mod proto;
