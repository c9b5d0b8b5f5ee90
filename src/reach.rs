//! How a member of a cluster is reached: views carry addresses, and no
//! credentials, for they lie open on the servers.

use crate::config::{Config, NodeConfig};

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
        let user = match own {
            Some(own) => user_of(own),
            None => self.nodes.iter().find_map(user_of),
        };
        let url = match (user, address.split_once("://")) {
            (Some(user), Some((scheme @ ("redis" | "rediss"), place))) if !place.contains('@') => {
                format!("{scheme}://{user}@{place}")
            }
            _ => address.into(),
        };
        let mut node = NodeConfig::new(name, url);
        node.durable = own.is_some_and(|own| own.durable);
        node
    }

    pub(crate) fn named(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

fn user_of(node: &NodeConfig) -> Option<&str> {
    let (_, rest) = node.url.split_once("://")?;
    rest.rsplit_once('@').map(|(user, _)| user)
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
        assert_eq!(url(config.reach("d", "unix:///d")), "unix:///d");
        assert_eq!(url(config.reach_at("a", "redis://x")), "redis://x");
        assert_eq!(url(config.reach_at("c", "redis://x")), "redis://you:pw@x");
        assert_eq!(url(config.reach_at("d", "redis://me@x")), "redis://me@x");
        assert!(config.reach_at("b", "redis://x").durable);
        assert!(!config.reach("d", "redis://x").durable);
    }
}
