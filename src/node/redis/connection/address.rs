//! A server's address, and the credentials for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use crate::config::node_url::{self, Endpoint, Login, NodeUrl};
use crate::config::{Password, TlsConfig};
use crate::node::redis::options::RedisOptions;

/// A server, as a node's URL and options name it.
pub(crate) struct Address {
    pub(crate) place: Place,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Password>,
    pub(crate) database: u64,
    pub(crate) tls: TlsConfig,
    /// The URL without logins.
    shown: String,
}

/// Where to connect to.
pub(crate) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    Tls {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// The primary of a service.
    Service(Service),
}

/// A primary that is known to sentinels by name.
pub(crate) struct Service {
    pub(super) name: String,
    pub(super) sentinels: Vec<Address>,
    /// The sentinel that answered last; it is asked first.
    pub(super) last: AtomicUsize,
    pub(super) is_tls: bool,
}

impl Address {
    /// Parses the URL of a node that has these options.
    pub(crate) fn of_node(url: &str, options: &RedisOptions) -> Result<Self, String> {
        let mut address = Self::parse(url, &options.tls)?;
        if options.durable && matches!(address.place, Place::Service(_)) {
            return Err(
                "names a service of sentinels, which cannot be durable: a promoted replica lacks the last writes; remove durable"
                    .into(),
            );
        }
        let user = options.username.as_ref().filter(|user| !user.is_empty());
        match (user, &options.password) {
            (None, None) => return Ok(address),
            (Some(_), None) => {
                return Err("comes with a username but no password_file: give both".into());
            }
            _ => {}
        }
        if address.username.is_some() || address.password.is_some() {
            return Err("names a user, and the node has a password_file: keep one of them".into());
        }
        address.username = user.cloned();
        address.password.clone_from(&options.password);
        Ok(address)
    }

    /// Parses a URL of one of the schemes that a node may have.
    pub(crate) fn parse(url: &str, tls: &TlsConfig) -> Result<Self, String> {
        Ok(Self::of_url(NodeUrl::parse(url)?, tls))
    }

    fn of_url(url: NodeUrl, tls: &TlsConfig) -> Self {
        let shown = url.to_string();
        let place = match url.place {
            node_url::Place::Host { at, is_tls } => Place::at(at, is_tls),
            node_url::Place::Socket(path) => Place::Unix(path),
            node_url::Place::Service {
                name,
                sentinels,
                login,
                is_tls,
            } => {
                let sentinel = |at| {
                    let place = node_url::Place::Host { at, is_tls };
                    let (login, database) = (login.clone(), 0);
                    Self::of_url(
                        NodeUrl {
                            place,
                            login,
                            database,
                        },
                        tls,
                    )
                };
                let sentinels = sentinels.into_iter().map(sentinel).collect();
                Place::Service(Service::new(name, sentinels, is_tls))
            }
        };
        let (username, password) = match url.login {
            Some(Login { user, password }) => (user, Some(Password::written(password))),
            None => (None, None),
        };
        Self {
            place,
            username,
            password,
            database: url.database,
            tls: tls.clone(),
            shown,
        }
    }
}

impl Place {
    pub(crate) fn at(Endpoint { host, port }: Endpoint, is_tls: bool) -> Self {
        match is_tls {
            true => Self::Tls { host, port },
            false => Self::Tcp { host, port },
        }
    }
}

impl Service {
    fn new(name: String, sentinels: Vec<Address>, is_tls: bool) -> Self {
        Self {
            name,
            sentinels,
            last: AtomicUsize::new(0),
            is_tls,
        }
    }
}

impl fmt::Display for Address {
    /// Leaves user and password out; otherwise the result can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tcp { host, port } => ("redis", host, *port),
            Self::Tls { host, port } => ("rediss", host, *port),
            Self::Unix(path) => return write!(f, "unix://{}", path.display()),
            Self::Service(_) => return f.write_str("its primary"),
        };
        let host = host.clone();
        write!(f, "{scheme}://{}", Endpoint { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &TlsConfig::default())
    }

    #[test]
    fn credentials_are_read_and_not_shown() {
        let address = parse("redis://me:s3cret@example:7001/2").unwrap();
        assert_eq!(address.to_string(), "redis://example:7001/2");
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password, Some(Password::written("s3cret")));
        let address = parse("redis+sentinel://me@h,i/m?sentinel_user=you&sentinel_password=a@b");
        let address = address.unwrap();
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password, Some(Password::written("")));
        let Place::Service(service) = &address.place else {
            panic!("{address}");
        };
        for sentinel in &service.sentinels {
            assert_eq!(sentinel.username.as_deref(), Some("you"));
            assert_eq!(sentinel.password, Some(Password::written("a@b")));
        }
    }

    #[test]
    fn a_service_that_fails_over_is_not_durable() {
        let of = |url, durable| Address::of_node(url, &RedisOptions::default().durable(durable));
        assert!(of("redis+sentinel://h/m", false).is_ok());
        assert!(of("redis://h", true).is_ok());
        let problem = of("redis+sentinel://h/m", true).err().unwrap_or_default();
        assert!(problem.contains("remove durable"), "{problem}");
    }

    #[test]
    fn one_login_per_node() {
        let file = || Password::file("/run/secrets/redis");
        let of = |url, options: RedisOptions| Address::of_node(url, &options);
        let with_file = || RedisOptions::default().login(Some("me"), file());
        let address = of("redis://h", with_file()).unwrap();
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password, Some(file()));
        for url in [
            "redis://:s3cret@h",
            "redis://s3cret@h",
            "unix:///s?user=s3cret",
        ] {
            let twice = of(url, with_file()).err().unwrap();
            assert!(
                twice.contains("keep one") && !twice.contains("s3cret"),
                "{url}"
            );
        }
        let mut half = with_file();
        half.password = None;
        assert!(
            of("redis://h", half)
                .err()
                .unwrap()
                .contains("password_file")
        );
    }
}
