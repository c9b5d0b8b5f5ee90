//! Servers, proxies and other clients that do what they must not: nothing of it
//! is believed, shown as it is or fatal, and nobody else suffers by it.
//!
//! `RINGLOCK_SEED` repeats the random tests' runs.

mod impostors;
mod liar;
mod lies;
mod litter;
mod secrets;
mod shifted;
