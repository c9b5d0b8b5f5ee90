//! A server's address, the credentials for it, and the names of keys on it.

use std::fmt;
use std::time::Duration;

use super::{ANSWER_LIMIT, Inspector};
use crate::clock;
use crate::config::{Config, ConfigError, NodeConfig, Password, TlsConfig, substitute};
use crate::node::redis::connection::address::Address;
use crate::node::redis::connection::attempt::Attempt;
use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::options::RedisOptions;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::ErrorReply;
use crate::proto::lease::Key;
use crate::proto::node::message::{NodeError, NodeErrorKind};

/// The user and the password for a server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    user: Option<String>,
    password: Option<Password>,
}

impl Credentials {
    /// A password and its user; without a user, the default user.
    pub fn new(user: Option<&str>, password: Option<&str>) -> Self {
        Self {
            user: user.map(Into::into),
            password: password.map(Password::written),
        }
    }

    /// The credentials in a node URL.
    ///
    /// # Errors
    /// What is wrong with the URL, as the tail of a sentence about it.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let address = Address::parse(url, &TlsConfig::default())?;
        Ok(Self {
            user: address.username,
            password: address.password,
        })
    }
}

impl fmt::Debug for Credentials {
    /// Shows only the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A server that can be inspected.
pub struct Server {
    address: Address,
    key_prefix: Vec<u8>,
    namespace: String,
    connect_timeout: Duration,
}

impl Server {
    /// The server at `url`. Of the options, the names, the certificates, the
    /// login and `connect_timeout` are used.
    ///
    /// # Errors
    /// What is wrong with the URL, as the tail of a sentence about it. The URL
    /// itself is not shown, because it may hold a password.
    pub fn new(url: &str, options: &RedisOptions) -> Result<Self, String> {
        Ok(Self {
            address: Address::of_node(url, options)?,
            key_prefix: options.key_prefix.clone().into_bytes(),
            namespace: options.namespace.clone(),
            connect_timeout: options.connect_timeout,
        })
    }

    /// The server at `address`, a URL without credentials as views store it,
    /// with these credentials.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn at(
        address: &str,
        credentials: Credentials,
        options: &RedisOptions,
    ) -> Result<Self, String> {
        let mut server = Self::new(address, options)?;
        server.address.username = credentials.user;
        server.address.password = credentials.password;
        Ok(server)
    }

    /// The server that a configuration has as `node`; `None` for `memory://`,
    /// which lives in the process that made it and cannot be inspected.
    ///
    /// # Errors
    /// [`ConfigError::Url`].
    pub fn from_config(config: &Config, node: &NodeConfig) -> Result<Option<Self>, ConfigError> {
        let problem = |problem| ConfigError::Url {
            node: node.name.clone(),
            problem,
        };
        let url = substitute(&node.url, |name| std::env::var(name).ok()).map_err(problem)?;
        if url.starts_with("memory://") {
            return Ok(None);
        }
        let options = RedisOptions::from_config(config, node);
        Self::new(&url, &options).map(Some).map_err(problem)
    }

    /// The address, without credentials.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// [`NodeErrorKind::Denied`]; [`NodeErrorKind::Unreachable`], after at most
    /// nine tenths of the options' `connect_timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(&self) -> Result<Inspector<'_>, NodeError> {
        let attempt = Attempt::begin(self.connect_timeout);
        let opening = Exchange::open(&self.address, &attempt);
        let opened = clock::within(Some(attempt.deadline), opening).await;
        Ok(Inspector {
            server: self,
            exchange: Some(opened.unwrap_or_else(|| Err(attempt.late(&self.address)))?),
        })
    }

    /// Whether the server pushes changes of keys to a connection (RESP3 client
    /// tracking). Without that, the waiters for a key poll.
    ///
    /// # Errors
    /// The reason why not.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn check_tracking(&self) -> Result<(), NodeError> {
        let mut look = self.open().await?;
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"HELLO", b"3"]);
            command(out, &[b"CLIENT", b"TRACKING", b"ON"]);
        };
        let answers = look.ask(write, 2).await?;
        ErrorReply::first(&answers).map_or(Ok(()), |error| Err(error.explain()))
    }

    pub(crate) fn key_prefix(&self) -> &[u8] {
        &self.key_prefix
    }

    pub(crate) fn late(&self) -> NodeError {
        let message = format!("{} did not answer within {ANSWER_LIMIT:?}", self.address);
        NodeError::new(NodeErrorKind::Timeout, message)
    }

    pub(crate) fn state(&self, name: &str) -> Vec<u8> {
        format!("{}!{name}", self.namespace).into_bytes()
    }

    /// The key whose name on the server is `name`; `None`: the name is
    /// ringlock's own state, or no key that could be locked.
    pub(crate) fn key(&self, name: &[u8]) -> Option<Key> {
        let key = name.strip_prefix(&*self.key_prefix)?;
        Key::new(key).ok().filter(|_| !self.is_state(name))
    }

    /// Whether `name` belongs to ringlock's own state.
    pub(crate) fn is_state(&self, name: &[u8]) -> bool {
        name.starts_with(&self.state(""))
    }

    pub(crate) fn name(&self, key: &Key) -> Vec<u8> {
        [&self.key_prefix, key.as_bytes()].concat()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.address()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let credentials = Credentials::of_url("redis://me:s3cret@h").unwrap();
        assert_eq!(credentials, Credentials::new(Some("me"), Some("s3cret")));
        let server = Server::at("redis://h", credentials.clone(), &RedisOptions::default());
        let shown = format!("{credentials:?}{server:?}");
        assert!(shown.contains("me") && !shown.contains("s3cret"), "{shown}");
    }
}
