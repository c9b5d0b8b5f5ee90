//! How a member of a cluster is reached: views carry addresses, and no
//! credentials, for they lie open on the servers.

use std::borrow::Cow;

use crate::config::{Config, NodeConfig, substitute};

impl Config {
    /// The node of this name as this configuration has it or, where it does
    /// not name it, at `address` as [`reach_at`](Self::reach_at) has it.
    pub fn reach(&self, name: &str, address: &str) -> NodeConfig {
        let own = self.named(name).cloned();
        own.unwrap_or_else(|| self.reach_at(name, address))
    }

    /// The node of this name at `address`, whatever the configuration says of
    /// its place: as its own user where the configuration names it, otherwise
    /// as the first one configured. An address that names a user is left as it
    /// is.
    pub fn reach_at(&self, name: &str, address: &str) -> NodeConfig {
        let own = self.named(name);
        let mut node = NodeConfig::new(name, address);
        node.durable = own.is_some_and(|own| own.durable);
        if User::of(address).is_some() {
            return node;
        }
        let mut log_in = |by: &NodeConfig| {
            let url = whole(&by.url);
            if let Some(user) = User::of(&url) {
                node.url = user.at(address);
            }
            if let (Some(login), Some("")) = (login_at_sentinels(&url), login_at_sentinels(address))
                && !login.is_empty()
            {
                node.url = format!("{}?{login}", node.url);
            }
            (node.username, node.password) = (by.username.clone(), by.password.clone());
            node.password.is_some() || node.url != address
        };
        let _ = match own {
            Some(own) => log_in(own),
            None => self.nodes.iter().any(log_in),
        };
        node
    }

    pub(crate) fn named(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// As whom a URL speaks to its server, in the URL's own writing, which `${NAME}`
/// may be part of.
#[derive(Clone, Copy)]
enum User<'a> {
    /// `user:password`, before the host.
    Login(&'a str),
    /// `user=…` and `pass=…`, behind the path of a unix socket.
    Query {
        user: Option<&'a str>,
        password: &'a str,
    },
}

impl<'a> User<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !is_unix(scheme) {
            let authority = rest.split(['/', '?']).next()?;
            return authority
                .rsplit_once('@')
                .map(|(user, _)| Self::Login(user));
        }
        let (_, query) = rest.split_once('?')?;
        let value = |name| {
            let fields = query.split('&').filter_map(|field| field.split_once('='));
            fields
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value)
                .next()
        };
        let (user, password) = (value("user"), value("pass")?);
        Some(Self::Query { user, password })
    }

    /// `address`, which names no user, with this one.
    fn at(self, address: &str) -> String {
        match address.split_once("://") {
            Some((scheme, path)) if is_unix(scheme) => {
                let sign = if path.contains('?') { '&' } else { '?' };
                format!("{address}{sign}{}", self.query())
            }
            Some((scheme, place)) if scheme.starts_with("redis") => {
                format!("{scheme}://{}@{place}", self.login())
            }
            _ => address.into(),
        }
    }

    fn login(self) -> String {
        match self {
            Self::Login(login) => login.into(),
            Self::Query { user, password } => {
                let plain = |text: &str| {
                    let text = text.replace('+', "%20").replace(':', "%3A");
                    text.replace('@', "%40")
                        .replace('/', "%2F")
                        .replace('?', "%3F")
                };
                format!("{}:{}", plain(user.unwrap_or_default()), plain(password))
            }
        }
    }

    fn query(self) -> String {
        match self {
            Self::Login(login) => {
                let plain = |text: &str| text.replace('+', "%2B").replace('&', "%26");
                match login.split_once(':') {
                    Some(("", password)) => format!("pass={}", plain(password)),
                    Some((user, password)) => {
                        format!("user={}&pass={}", plain(user), plain(password))
                    }
                    None => format!("user={}", plain(login)),
                }
            }
            Self::Query { user, password } => {
                let user = user.map_or_else(String::new, |user| format!("user={user}&"));
                format!("{user}pass={password}")
            }
        }
    }
}

/// The query of a URL with sentinels, which is as whom to speak to those.
fn login_at_sentinels(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let query = || rest.split_once('?').map_or("", |(_, query)| query);
    scheme.ends_with("+sentinel").then(query)
}

/// The URL itself, where it is written as a variable from the scheme on. What
/// is only part of it stays as it is: it is nobody's but the connection's.
fn whole(url: &str) -> Cow<'_, str> {
    let looked_up =
        (!url.contains("://")).then(|| substitute(url, |name| std::env::var(name).ok()));
    match looked_up {
        Some(Ok(url)) => Cow::Owned(url),
        _ => Cow::Borrowed(url),
    }
}

fn is_unix(scheme: &str) -> bool {
    matches!(scheme, "unix" | "redis+unix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_configured_is_spoken_to_as_the_first_user() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"redis://a\"\n\
            [[node]]\nname = \"b\"\nurl = \"redis://me:pw@b\"\ndurable = true\n\
            [[node]]\nname = \"c\"\nurl = \"redis://you:pw@c\"\n"
            .parse()
            .unwrap();
        let url = |node: NodeConfig| node.url;
        assert_eq!(url(config.reach("c", "redis://x")), "redis://you:pw@c");
        assert_eq!(url(config.reach("d", "rediss://d:1")), "rediss://me:pw@d:1");
        assert_eq!(
            url(config.reach("d", "unix:///d?db=2")),
            "unix:///d?db=2&user=me&pass=pw"
        );
        assert_eq!(url(config.reach("d", "memory://d")), "memory://d");
        assert_eq!(url(config.reach_at("a", "redis://x")), "redis://x");
        assert_eq!(url(config.reach_at("c", "redis://x")), "redis://you:pw@x");
        assert_eq!(url(config.reach_at("d", "redis://me@x")), "redis://me@x");
        assert!(config.reach_at("b", "redis://x").durable);
        assert!(!config.reach("d", "redis://x").durable);
    }

    #[test]
    fn users_of_unix_sockets() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"unix:///a?user=me&pass=${PW}\"\n\
            [[node]]\nname = \"b\"\nurl = \"redis://:a+b@h/1\"\n"
            .parse()
            .unwrap();
        let url = |name, address| config.reach_at(name, address).url;
        assert_eq!(url("a", "unix:///x"), "unix:///x?user=me&pass=${PW}");
        assert_eq!(url("c", "redis://c/2"), "redis://me:${PW}@c/2");
        assert_eq!(url("b", "unix:///b"), "unix:///b?pass=a%2Bb");
        assert_eq!(url("b", "unix:///b?pass=other"), "unix:///b?pass=other");
    }

    #[test]
    fn passwords_in_files() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"redis://a\"\n\
            username = \"me\"\npassword_file = \"/one\"\n\
            [[node]]\nname = \"b\"\nurl = \"redis://you:pw@b\"\n"
            .parse()
            .unwrap();
        let login = |name, address| {
            let node = config.reach_at(name, address);
            (node.url, node.username, node.password)
        };
        let file = crate::config::Password::file("/one");
        let me = |url: &str| (url.to_owned(), Some("me".to_owned()), Some(file.clone()));
        assert_eq!(login("a", "redis://x"), me("redis://x"));
        assert_eq!(login("c", "unix:///x"), me("unix:///x"));
        let plain = |url: &str| (url.to_owned(), None, None);
        assert_eq!(login("b", "redis://x"), plain("redis://you:pw@x"));
        assert_eq!(login("a", "redis://u:v@x"), plain("redis://u:v@x"));
    }

    #[test]
    fn users_at_sentinels() {
        let config: Config = "[[node]]\nname = \"a\"\n\
            url = \"redis+sentinel://me:pw@h:1,i:2/main/3?sentinel_password=s\"\n"
            .parse()
            .unwrap();
        let url = |address| config.reach_at("d", address).url;
        assert_eq!(
            url("redis+sentinel://j:1,k:2/other"),
            "redis+sentinel://me:pw@j:1,k:2/other?sentinel_password=s"
        );
        assert_eq!(url("redis://d"), "redis://me:pw@d");
    }
}
