//! How a member of a cluster is reached. Views contain addresses but no
//! credentials, because they are readable on the servers.

use crate::config::{Config, NodeConfig};

impl Config {
    /// The node of this name as this configuration has it. If it does not name the
    /// node, the node at `address` as in [`reach_at`](Self::reach_at).
    pub fn reach(&self, name: &str, address: &str) -> NodeConfig {
        let own = self.named(name).cloned();
        own.unwrap_or_else(|| self.reach_at(name, address))
    }

    /// The node of this name at `address`, even if the configuration has another
    /// address for it: with its configured user if the configuration names it,
    /// otherwise with the user of the first configured node. An address that
    /// contains a user is not changed.
    ///
    /// Environment variables are replaced when a login is copied. If the URL with
    /// the login names a variable that is not set, that URL is returned instead of
    /// `address`: the user of the URL then gets that error, and is not logged in as
    /// the default user.
    pub fn reach_at(&self, name: &str, address: &str) -> NodeConfig {
        let own = self.named(name);
        let mut node = NodeConfig::new(name, address);
        node.durable = own.is_some_and(|own| own.durable);
        #[cfg(feature = "redis")]
        let _ = match own {
            Some(own) => log_in(&mut node, own),
            None => self.nodes.iter().any(|by| log_in(&mut node, by)),
        };
        node
    }

    pub(crate) fn named(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// Gives `node` the login of `by`. True: there was a login to copy, or nothing
/// needs to change.
#[cfg(feature = "redis")]
fn log_in(node: &mut NodeConfig, by: &NodeConfig) -> bool {
    use crate::config::node_url::NodeUrl;
    use crate::config::substitute;

    let resolved = |url: &str| substitute(url, |name| std::env::var(name).ok());
    let place = resolved(&node.url).and_then(|url| NodeUrl::parse(&url));
    if place.as_ref().is_ok_and(|place| place.login.is_some()) {
        return true;
    }
    (node.username, node.password) = (by.username.clone(), by.password.clone());
    let has_options = node.username.is_some() || node.password.is_some();
    let Ok(mut place) = place else {
        return has_options;
    };
    let Ok(url) = resolved(&by.url) else {
        node.url.clone_from(&by.url);
        return true;
    };
    let is_taken = NodeUrl::parse(&url).is_ok_and(|url| place.log_in_as(&url));
    if is_taken {
        node.url = place.with_logins();
    }
    has_options || is_taken
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;
    use crate::config::node_url::NodeUrl;

    #[test]
    fn unconfigured_nodes_are_logged_in_to_as_the_first_user() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"redis://a\"\n\
            [[node]]\nname = \"b\"\nurl = \"redis://me:pw@b\"\ndurable = true\n\
            [[node]]\nname = \"c\"\nurl = \"redis://you:pw@c\"\n"
            .parse()
            .unwrap();
        let url = |node: NodeConfig| node.url;
        assert_eq!(url(config.reach("c", "redis://x")), "redis://you:pw@c");
        if cfg!(feature = "tls") {
            assert_eq!(url(config.reach("d", "rediss://d:1")), "rediss://me:pw@d:1");
        }
        assert_eq!(
            url(config.reach("d", "unix:///d?db=2")),
            "unix:///d?db=2&user=me&pass=pw"
        );
        assert_eq!(url(config.reach("d", "memory://d")), "memory://d");
        assert_eq!(url(config.reach_at("a", "redis://x")), "redis://x");
        assert_eq!(
            url(config.reach_at("c", "redis://x")),
            "redis://you:pw@x:6379"
        );
        assert_eq!(url(config.reach_at("d", "redis://me@x")), "redis://me@x");
        assert!(config.reach_at("b", "redis://x").durable);
        assert!(!config.reach("d", "redis://x").durable);
    }

    #[test]
    fn users_move_between_the_forms_of_urls() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"unix:///a?user=me&pass=${PATH}\"\n\
            [[node]]\nname = \"b\"\nurl = \"redis://:a+b@h/1\"\n\
            [[node]]\nname = \"c\"\nurl = \"redis://bob@h\"\n"
            .parse()
            .unwrap();
        let path = std::env::var("PATH").unwrap();
        let of = |name, address| {
            let node = config.reach_at(name, address);
            let login = NodeUrl::parse(&node.url).unwrap().login.unwrap();
            (login.user, login.password)
        };
        let me = (Some("me".into()), path);
        for (name, address) in [
            ("a", "unix:///x"),
            ("d", "redis://d/2"),
            ("d", "unix:///d%2541"),
        ] {
            assert_eq!(of(name, address), me, "{address}");
        }
        assert_eq!(of("b", "unix:///b"), (None, "a+b".into()));
        assert_eq!(of("b", "unix:///b?pass=other"), (None, "other".into()));
        for address in [
            "unix:///c",
            "redis://x",
            "valkey://x",
            "redis+sentinel://h/m",
        ] {
            assert_eq!(
                of("c", address),
                (Some("bob".into()), String::new()),
                "{address}"
            );
        }
    }

    #[test]
    fn a_login_that_is_not_there_is_no_other() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"redis://me:${RINGLOCK_UNSET}@a\"\n"
            .parse()
            .unwrap();
        for name in ["a", "b"] {
            let url = config.reach_at(name, "redis://x").url;
            assert!(url.contains("${RINGLOCK_UNSET}"), "{url}");
        }
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
        assert_eq!(login("b", "redis://x"), plain("redis://you:pw@x:6379"));
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
        assert_eq!(url("redis://d"), "redis://me:pw@d:6379");
    }
}
