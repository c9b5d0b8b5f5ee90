//! A connection, from its address to the end of the handshake.

pub(crate) mod address;
pub(crate) mod attempt;
pub(crate) mod clock_monitor;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod handshake;
pub(crate) mod sentinel;
pub(crate) mod server_info;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
