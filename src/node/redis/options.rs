//! How to talk to a node, apart from its address.

use std::time::Duration;

use crate::config::{Config, NodeConfig, Password, TlsConfig};

/// How acquires and releases are encoded, from what every server supports to
/// what costs the server least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Encoding {
    /// One script call per batch. From Redis 6.2.
    Script,
    /// Acquires as separate commands, `SET NX GET PX · HINCRBY · GET`, once a
    /// connection has read which view is served. This avoids entering a script,
    /// which costs a server more than the SET itself. From Redis 7.0.
    Pipeline,
    /// Also `MSETEX` for acquires of one ttl whose keys have a single owner,
    /// and `DELIFEQ` or `DELEX` for each release, as far as the server has
    /// these commands and lets the user use them. From Valkey 9.0, with
    /// `MSETEX` from 9.1; from Redis 8.4.
    Command,
}

/// How to talk to a node, in addition to its address.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// The prefix of a key's name on the server.
    pub key_prefix: String,
    /// The namespace of ringlock's own state: its names begin with it and `!`.
    pub namespace: String,
    /// The operator's assurance that the server keeps every write through a
    /// restart.
    pub durable: bool,
    /// The most advanced encoding that acquires and releases may use; `None`
    /// sets no limit to what the server can do.
    pub encoding: Option<Encoding>,
    /// Requests go out in the order in which they are submitted, and what the
    /// server reports about itself is believed: to compare it with the
    /// specification.
    #[doc(hidden)]
    pub literal: bool,
    /// Certificates for `rediss://`.
    pub tls: TlsConfig,
    /// The user of `password`; `None`: the default user.
    pub username: Option<String>,
    /// A password that may change, instead of one in the URL.
    pub password: Option<Password>,
    /// How long an attempt to connect may take, with lookup, handshake, login
    /// and all questions: nine tenths of this, and at least two seconds.
    pub connect_timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        let defaults = crate::config::RouterConfig::default();
        Self {
            key_prefix: defaults.key_prefix,
            namespace: defaults.namespace,
            durable: false,
            encoding: None,
            literal: false,
            tls: TlsConfig::default(),
            username: None,
            password: None,
            connect_timeout: defaults.connect_timeout,
        }
    }
}

impl RedisOptions {
    pub(crate) fn from_config(config: &Config, node: &NodeConfig) -> Self {
        Self {
            key_prefix: config.router.key_prefix.clone(),
            namespace: config.router.namespace.clone(),
            durable: node.durable,
            encoding: None,
            literal: false,
            tls: config.tls.clone(),
            username: node.username.clone(),
            password: node.password.clone(),
            connect_timeout: config.router.connect_timeout,
        }
    }

    /// The namespace of ringlock's own state: its names begin with it and `!`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The prefix of a key's name on the server.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// The most advanced encoding that acquires and releases may use. Within
    /// it, each server gets what it supports and what the user may use.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// The operator's assurance that the server keeps every write through a
    /// restart (`appendonly yes`, `appendfsync always`).
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A password that may change, and its user; `None`: the default user.
    #[must_use]
    pub fn login(mut self, user: Option<&str>, password: Password) -> Self {
        self.username = user.map(Into::into);
        self.password = Some(password);
        self
    }

    /// How long an attempt to connect may take: nine tenths of this, and at least
    /// two seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}
