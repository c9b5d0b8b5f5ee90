//! Where a server is, and as whom to speak to it.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::RedisOptions;
use super::sentinel::Service;
use crate::config::{Password, TlsConfig};

/// A parsed node URL.
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) username: Option<String>,
    pub(super) password: Option<Password>,
    pub(super) database: i64,
    pub(super) tls: TlsConfig,
}

/// Where to connect to.
pub(super) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    Tls {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// Wherever the primary is.
    Service(Service),
}

impl Address {
    /// Parses the URL of a node that is spoken to with these options.
    pub(super) fn of_node(url: &str, options: &RedisOptions) -> Result<Self, String> {
        let mut address = Self::parse(url, &options.tls)?;
        match (&options.username, &options.password) {
            (None, None) => return Ok(address),
            (Some(_), None) => {
                return Err("comes with a username, but no password_file: name both".into());
            }
            _ => {}
        }
        if address.username.is_some() || address.password.is_some() {
            return Err("names a user, and so does its password_file: keep one of them".into());
        }
        address.username.clone_from(&options.username);
        address.password.clone_from(&options.password);
        Ok(address)
    }

    /// Parses a URL of one of the schemes that a node may have.
    pub(super) fn parse(url: &str, tls: &TlsConfig) -> Result<Self, String> {
        const HELP: &str = "write redis://[user:password@]host[:port][/db], rediss://…, unix:///path, redis+sentinel://… or memory://";
        let (scheme, rest) = url
            .split_once("://")
            .ok_or(format!("has no scheme: {HELP}"))?;
        let of_service = scheme.strip_suffix("+sentinel");
        match of_service.unwrap_or(scheme) {
            "redis" => {}
            "unix" | "redis+unix" if of_service.is_none() => {}
            "rediss" if cfg!(feature = "tls") => {}
            "rediss" => return Err("needs the feature `tls`".into()),
            // Shown only if it can be one: it may be a password.
            _ if scheme
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'+')
                && scheme.len() < 16 =>
            {
                return Err(format!("has the unknown scheme {scheme:?}: {HELP}"));
            }
            _ => return Err(format!("has an unknown scheme: {HELP}")),
        }
        if url.contains('#') {
            return Err("has a fragment (#…), which ringlock knows none of".into());
        }
        if let Some(scheme) = of_service {
            return Service::parse(scheme, rest, tls);
        }
        // The parser reads rediss:// only where it could also speak it; the
        // rest of the URL is the same. Its own message may quote the URL, and
        // with it a password.
        let is_tls = scheme == "rediss";
        let plain = if is_tls {
            url.replacen("rediss", "redis", 1)
        } else {
            url.into()
        };
        let info = plain
            .into_connection_info()
            .map_err(|_| format!("is malformed: {HELP}"))?;
        let place = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) if is_tls => Place::Tls { host, port },
            ConnectionAddr::Tcp(host, port) => Place::Tcp { host, port },
            ConnectionAddr::Unix(path) => Place::Unix(path),
            _ => return Err(format!("is of an unsupported kind: {HELP}")),
        };
        let settings = info.redis_settings();
        Ok(Self {
            place,
            username: settings.username().map(Into::into),
            password: settings.password().map(Password::written),
            database: settings.db(),
            tls: tls.clone(),
        })
    }
}

impl fmt::Display for Address {
    /// Leaves user and password out; otherwise it is what can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place, database, ..
        } = self;
        match (place, database) {
            (_, 0) => write!(f, "{place}"),
            (Place::Unix(_), _) => write!(f, "{place}?db={database}"),
            _ => write!(f, "{place}/{database}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "redis://{}:{port}", Host(host)),
            Self::Tls { host, port } => write!(f, "rediss://{}:{port}", Host(host)),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Service(service) => service.fmt(f),
        }
    }
}

/// A host as URLs have it.
pub(super) struct Host<'a>(pub(super) &'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(':') {
            true => write!(f, "[{}]", self.0),
            false => f.write_str(self.0),
        }
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
    }

    #[test]
    fn what_is_shown_can_be_parsed_again() {
        for url in [
            "redis://example:7001",
            "redis://example:7001/2",
            "redis://127.0.0.1:6379",
            "redis://[::1]:6379/3",
            "unix:///run/redis.sock",
            "unix:///run/redis.sock?db=5",
        ] {
            let shown = parse(url).unwrap().to_string();
            assert_eq!(shown, url);
        }
        let credentials = parse("unix:///s?user=me&pass=s3cret&db=5").unwrap();
        assert_eq!(credentials.to_string(), "unix:///s?db=5");
    }

    #[test]
    fn one_login_per_node() {
        let file = || Password::file("/run/secrets/redis");
        let of = |url, options: RedisOptions| Address::of_node(url, &options);
        let with_file = || RedisOptions::default().login(Some("me"), file());
        let address = of("redis://h", with_file()).unwrap();
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password, Some(file()));
        let twice = of("redis://:s3cret@h", with_file()).err().unwrap();
        assert!(twice.contains("keep one") && !twice.contains("s3cret"));
        let mut half = with_file();
        half.password = None;
        assert!(
            of("redis://h", half)
                .err()
                .unwrap()
                .contains("password_file")
        );
    }

    #[test]
    fn unix_sockets() {
        let address = parse("unix:///run/redis.sock").unwrap();
        assert!(matches!(address.place, Place::Unix(path) if path == *"/run/redis.sock"));
    }

    #[test]
    fn bad_urls_say_what_to_write_and_keep_secrets() {
        for url in [
            "",
            "localhost:6379",
            "http://h",
            "redis://:s3cret@h:notaport",
            "redis://:s3cret@",
        ] {
            let problem = parse(url).err().unwrap();
            assert!(
                problem.contains("redis://") && !problem.contains("s3cret"),
                "{url}: {problem}"
            );
        }
    }
}
