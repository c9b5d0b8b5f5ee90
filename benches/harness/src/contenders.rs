//! The contenders.

pub mod bare;
pub(crate) mod ceiling;
pub(crate) mod foreign;
pub mod patient;
pub(crate) mod routed;
pub(crate) mod signal;

/// TTL of every contender's locks, in milliseconds: longer than any turn.
pub const TTL_MS: u64 = 10_000;

/// A fresh token of 128 bits in hex, like ringlock's.
pub fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}
