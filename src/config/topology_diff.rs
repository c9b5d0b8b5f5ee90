//! How a configured topology differs from the one that a cluster serves.

use crate::config::Config;
use crate::proto::membership::topology::Topology;
use crate::proto::membership::topology_diff::differences;

impl Config {
    /// The topology that the configuration describes, in canonical order. Addresses
    /// are left empty: a node may be reached at different ones.
    pub fn layout(&self) -> Topology {
        self.topology(|_| String::new())
    }

    /// All differences from `served`, each as a sentence without its full stop.
    /// Empty if both place every key alike and use the same times.
    pub fn differences(&self, served: &Topology) -> Vec<String> {
        differences(served, &self.layout())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        text.parse().unwrap()
    }

    const SERVED: &str = "[router]\nmax_ttl = \"20s\"\n\
        [[node]]\nname = \"a\"\nurl = \"memory://\"\nweight = 2\n\
        [[node]]\nname = \"b\"\nurl = \"memory://\"\nzone = \"z\"\n\
        [[override]]\nprefix = \"x/\"\nreplicas = 1\n";

    #[test]
    fn what_is_alike_has_no_differences() {
        let served = config(SERVED).layout();
        assert_eq!(config(SERVED).differences(&served), [""; 0]);
    }

    #[test]
    fn every_difference_is_reported() {
        let other = "[ring]\nformat = \"md5\"\nvnodes = 9\n[router]\nreplicas = 3\nview_lease = \"1s\"\n\
            [[node]]\nname = \"a\"\nurl = \"memory://\"\nhost = \"h\"\n\
            [[node]]\nname = \"c\"\nurl = \"memory://\"\n\
            [[override]]\nprefix = \"y/\"\nreplicas = 1\n";
        let found = config(other).differences(&config(SERVED).layout());
        let expected = [
            "router.replicas is 1 as served and 3 as configured",
            "router.max_ttl is 20s as served and 30s as configured",
            "router.view_lease is 10s as served and 1s as configured",
            "ring.format is xxh3 as served and md5 as configured",
            "ring.vnodes is 160 as served and 9 as configured",
            "the weight of node a is 2 as served and 1 as configured",
            "the host of node a is none as served and h as configured",
            "node b is served and not configured",
            "node c is configured and not served",
            "the override of prefix \"x/\" is 1 as served and none as configured",
            "the override of prefix \"y/\" is none as served and 1 as configured",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn another_key_prefix_and_another_database_are_reported() {
        let cluster = |prefix: &str, address: &str| {
            let text = format!(
                "[router]\nkey_prefix = {prefix:?}\n[[node]]\nname = \"a\"\nurl = \"memory://\"\n"
            );
            let mut topology = config(&text).layout().named("c0ffee");
            topology.nodes[0].address = address.into();
            topology
        };
        let served = cluster("app:", "redis://one");
        for (configured, expected) in [
            (cluster("app:", "redis://two"), ""),
            (cluster("app:", "unix:///s"), ""),
            (cluster("app:", ""), ""),
            (
                cluster("shop:", "redis://one"),
                "router.key_prefix is \"app:\" as served and \"shop:\" as configured: \
                 routers that differ in it can hold the same key at once",
            ),
            (
                cluster("app:", "redis://two/3"),
                "the database of node a is 0 as served and 3 as configured",
            ),
            (
                cluster("app:", "unix:///s?db=3"),
                "the database of node a is 0 as served and 3 as configured",
            ),
        ] {
            assert_eq!(differences(&served, &configured).join("; "), expected);
            let shares = !expected.contains("key_prefix");
            assert_eq!(served.agrees_with(&configured), shares, "{expected}");
        }
        // A topology that an earlier version put into force has no prefix to
        // compare.
        let mut old = served;
        old.cluster = "c0ffee".into();
        assert!(differences(&old, &cluster("shop:", "")).is_empty());
    }

    #[test]
    fn a_change_is_reported_in_its_own_words() {
        let old = config(SERVED).layout();
        let mut new = old.clone();
        new.replicas = 3;
        new.nodes[0].name = "c".into();
        new.nodes[1].address = "redis://elsewhere".into();
        let expected = [
            "router.replicas is 1 now and 3 then",
            "node a leaves",
            "the address of node b is  now and redis://elsewhere then",
            "node c joins",
        ];
        assert_eq!(old.changes_to(&new), expected);
    }
}
