//! The wire format of Redis, RESP 2 and 3.

pub(crate) mod encoder;
pub(crate) mod error_reply;
pub(crate) mod parser;
