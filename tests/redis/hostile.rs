//! Servers, proxies and other clients that misbehave: the router does not
//! believe them, escapes their text, survives, and keeps other nodes usable.
//!
//! `RINGLOCK_SEED` repeats the random tests' runs.

mod impostors;
mod lies;
mod litter;
mod secrets;
mod shifted;
