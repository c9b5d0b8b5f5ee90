//! Where a server is, and as whom to speak to it.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::config::TlsConfig;

/// A parsed node URL.
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "read for rediss:// alone")
    )]
    pub(super) tls: TlsConfig,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// Parses a URL of one of the schemes that a node may have.
    pub(super) fn parse(url: &str, tls: &TlsConfig) -> Result<Self, String> {
        const HELP: &str =
            "write redis://[user:password@]host[:port][/db], rediss://…, unix:///path or memory://";
        let (scheme, _) = url
            .split_once("://")
            .ok_or(format!("has no scheme: {HELP}"))?;
        match scheme {
            "redis" | "unix" | "redis+unix" => {}
            "rediss" if cfg!(feature = "tls") => {}
            "rediss" => return Err("needs the feature `tls`".into()),
            other => return Err(format!("has the unknown scheme {other:?}: {HELP}")),
        }
        if url.contains('#') {
            return Err("has a fragment (#…), which ringlock knows none of".into());
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
            password: settings.password().map(Into::into),
            database: settings.db(),
            tls: tls.clone(),
        })
    }
}

impl fmt::Display for Address {
    /// Leaves user and password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port } => write!(f, "redis://{host}:{port}")?,
            Place::Tls { host, port } => write!(f, "rediss://{host}:{port}")?,
            Place::Unix(path) => write!(f, "unix://{}", path.display())?,
        }
        if self.database == 0 {
            Ok(())
        } else {
            write!(f, "/{}", self.database)
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
        assert_eq!(address.password.as_deref(), Some("s3cret"));
    }

    #[test]
    fn unix_sockets() {
        let address = parse("unix:///run/redis.sock").unwrap();
        assert_eq!(address.place, Place::Unix("/run/redis.sock".into()));
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
