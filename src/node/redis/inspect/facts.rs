//! What a server reports about itself.

use std::time::Duration;

use crate::node::redis::connection::server_info::Identity;
use crate::proto::node::message::{Incarnation, NodeError};

/// What a server reports about itself.
#[derive(Clone, Debug)]
pub struct Facts {
    pub(crate) identity: Identity,
    pub(crate) round_trip: Duration,
    pub(crate) clock_ahead_us: i64,
    pub(crate) dbsize: i64,
}

impl Facts {
    /// The value of a field of INFO.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.identity.fact(name)
    }

    /// `Redis` or `Valkey`.
    pub fn family(&self) -> &'static str {
        match self.info("valkey_version") {
            Some(_) => "Valkey",
            None => "Redis",
        }
    }

    /// The version, in the family's own numbering.
    pub fn version(&self) -> &str {
        let version = self.info("valkey_version").or(self.info("redis_version"));
        version.unwrap_or("unknown")
    }

    /// The incarnation of the server's data set.
    ///
    /// # Errors
    /// [`Protocol`](crate::NodeErrorKind::Protocol): the server reports none.
    pub fn incarnation(&self) -> Result<Incarnation, NodeError> {
        self.identity.incarnation().map(Into::into)
    }

    /// The time between a question and its answer.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// By how many microseconds the server's wall clock is ahead of this
    /// machine's, to within half of [`round_trip`](Self::round_trip).
    pub fn clock_ahead_us(&self) -> i64 {
        self.clock_ahead_us
    }

    /// The number of keys in the database, of any kind.
    pub fn dbsize(&self) -> u64 {
        self.dbsize.unsigned_abs()
    }

    /// Whether such a server may hold locks.
    ///
    /// # Errors
    /// [`Unsuitable`](crate::NodeErrorKind::Unsuitable), with what to change.
    pub fn check(&self) -> Result<(), NodeError> {
        self.identity.check()
    }

    /// The same, rule by rule: each rule's name and its outcome.
    pub fn checks(&self) -> [(&'static str, Result<(), NodeError>); 4] {
        let identity = &self.identity;
        [
            ("version", identity.check_version()),
            ("mode", identity.check_mode()),
            ("role", identity.check_role()),
            ("maxmemory-policy", identity.check_eviction()),
        ]
    }

    /// Whether the operator's assurance that the server keeps every write
    /// through a restart can be true, as far as the server's report shows.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn check_durable(&self) -> Result<(), &'static str> {
        self.identity.check_durable()
    }
}
