//! How a node is spoken to, apart from where it is.

use std::time::Duration;

use crate::config::{Config, NodeConfig, Password, TlsConfig};

/// What acquires and releases are encoded with, from what every server can do
/// to what costs it the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Encoding {
    /// One script call per batch. Redis 6.2 on.
    Script,
    /// Acquires as `MULTI · SET NX GET PX · HINCRBY · GET · EXEC`: no script to
    /// enter, which costs a server more than the SET itself. Redis 7.0 on.
    Transaction,
    /// Also `MSETEX` for acquires of one ttl whose keys have a single owner,
    /// and `DELIFEQ` or `DELEX` for each release: of these, what the server has
    /// and lets the user use. Valkey 9.0 on, with `MSETEX` 9.1; Redis 8.4 on.
    Command,
}

/// How a node is spoken to, beside where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// What a key's name on the server begins with.
    pub key_prefix: String,
    /// Under which names ringlock keeps its own state: those that begin with
    /// it and `!`.
    pub namespace: String,
    /// The operator's word that the server keeps every write through a restart.
    pub durable: bool,
    /// The most that acquires and releases may be encoded with; `None` sets no
    /// limit to what the server can do.
    pub encoding: Option<Encoding>,
    /// Requests go out in the order in which they come, and the server is
    /// believed what it says of itself: to compare it with the specification.
    #[doc(hidden)]
    pub literal: bool,
    /// Certificates for `rediss://`.
    pub tls: TlsConfig,
    /// The user that `password` is of; `None`: the default user.
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

    /// Under which names ringlock keeps its own state: those that begin with
    /// it and `!`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// What a key's name on the server begins with.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// The most that acquires and releases may be encoded with. Of that, each
    /// server gets what it can do and lets the user do.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// The operator's word that the server keeps every write through a restart
    /// (`appendonly yes`, `appendfsync always`).
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A password that may change, and the user that it is of; `None`: the
    /// default user.
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
