//! Distributed locks over many Redis or Valkey nodes.
//!
//! A consistent-hash ring gives each key its node, so that locks for millions
//! of keys spread over as many servers as they need. Where one node is not
//! safe enough, the owner and its successors form a Redlock quorum: the same
//! call, another number in the configuration. With every lease comes a
//! *fencing token* that only grows, in both modes.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
//! use ringlock::Router;
//!
//! // Five nodes in memory. Real ones: Router::connect(Config::load("ringlock.toml")?)
//! let router = Router::in_memory(5).await?;
//!
//! let written = router
//!     .with("orders/42", async |lease| {
//!         // Kept alive while this runs; released when it ends, panics or is dropped.
//!         format!("UPDATE orders SET …, fence = {0} WHERE fence <= {0}", lease.fence())
//!     })
//!     .await?;
//! # let _ = written; Ok(()) }
//! ```
//!
//! # Guarantees
//!
//! - No two leases of one key are valid at once, each by its holder's clock.
//! - Fences of one key differ, and a later lock has the higher one. This needs
//!   no clock at all: if the guarded resource refuses any fence lower than the
//!   highest that it has seen, no late holder can harm it.
//! - A lost lease is signalled no later than the moment when it may no longer
//!   be relied upon, and is never valid again. A failed extend harms nothing.
//! - Dropping any future at any point leaves nothing locked.
//! - A server that forgot its locks, or may have forgotten them, grants
//!   nothing.
//!
//! # What is assumed, and not guaranteed
//!
//! The first guarantee needs clocks of clients and servers that run at the same
//! rate within 1 % and 2 ms over a ttl, and servers whose wall clock makes no
//! step forward: expiry follows it. A router that was connected before such a
//! step notices it ahead of the next lock that it asks for (its last reading of
//! the server's clock is then at most a millisecond old). It asks that server
//! for no lock until everything that the server may have forgotten has expired.
//! Data loss must be visible (as an absent state, another `run_id` or another
//! replication history). Single lock keys that are deleted by hand, or a
//! virtual machine that is rolled back under its connections, are not visible.
//! A lease is advice to its holder; the fence, checked at the resource, is the
//! guarantee. A lock is not re-entrant.
//!
//! A router's tasks run on the runtime that created it. After that runtime's
//! end, or a [`shutdown`](Router::shutdown), every call returns
//! [`Error::Closed`]. A process that forks keeps its routers and leases: the
//! child draws its own tokens, must create its own router, and gets
//! [`Error::Forked`] from its parent's.
//!
//! # Where to read on
//!
//! The [`guide`] has the reasons. [`Acquire`] and [`Guard`] are the everyday
//! calls, [`AcquireAll`] and [`AcquireMany`] those for many keys.
//! [`Rebalancer`] changes the set of nodes, [`Config`] has the settings,
//! [`Error`] the failures. For the code, read [`proto`] (the protocol, pure)
//! first, then [`node`] (which carries it out), then the folders `cluster` (the
//! set of nodes), `lease` (what this process holds) and `acquire`.

mod acquire;
mod clock;
mod cluster;
mod config;
mod error;
#[cfg(all(any(test, fuzzing), feature = "redis"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod lease;
pub mod node;
pub mod rebalancer;
mod router;
mod runtime;
mod telemetry;

pub use acquire::many::{AcquireAll, AcquireMany, Gathering, GuardSet, Outcomes};
pub use acquire::{Acquire, Acquiring};
pub use cluster::ConnectProgress;
pub use config::{
    Config, ConfigError, Init, NodeConfig, OnMismatch, Password, RingConfig, RouterConfig,
    TlsConfig,
};
pub use error::{Cause, Error, KeptOut, Loss, NodeCause};
pub use lease::{Guard, Released, WithError};
pub use node::MemoryNode;
pub use rebalancer::{Change, Plan, Rebalancer};
#[doc(hidden)]
pub use ringlock_proto as proto;
#[doc(inline)]
pub use ringlock_proto::lease::{Fence, FenceError, Holder, IntoKey, Key, KeyError, TtlError};
#[doc(inline)]
pub use ringlock_proto::membership::topology::{Override, TopologyError};
#[doc(inline)]
pub use ringlock_proto::node::message::{NodeError, NodeErrorKind, ViewId};
#[doc(inline)]
pub use ringlock_proto::time::Instant;
pub use ringlock_ring::{Format, RingError};
pub use router::{Route, Router, RouterBuilder};
pub use telemetry::{HotKey, Stats};
