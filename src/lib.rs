//! ringlock

mod acquire;
mod bootstrap;
mod builder;
mod clock;
mod config;
mod drive;
mod error;
mod fleet;
mod gate;
mod guard;
mod held;
mod keeper;
pub mod node;
pub mod proto;
mod router;
mod stats;

pub use acquire::Acquire;
pub use builder::RouterBuilder;
pub use config::{Config, ConfigError, Init, NodeConfig, RingConfig, RouterConfig, TlsConfig};
pub use error::{Cause, Error, Loss, NodeCause};
pub use guard::{Guard, Released};
pub use node::MemoryNode;
pub use proto::lease::{Fence, Holder, Key, KeyError, TtlError};
pub use proto::time::Instant;
pub use proto::topology::{Override, TopologyError};
pub use proto::wire::{NodeError, NodeErrorKind, ViewId};
pub use ringlock_ring::{Format, RingError};
pub use router::{Route, Router};
pub use stats::Stats;
