//! How one topology differs from another, in words.

use crate::config::Config;
use crate::proto::membership::topology::{Node, Topology};

/// How a comparison names its two topologies.
struct Sides {
    old: &'static str,
    new: &'static str,
    only_old: &'static str,
    only_new: &'static str,
    /// Whether addresses are compared too.
    with_addresses: bool,
}

const CONFIGURED: Sides = Sides {
    old: "as served",
    new: "as configured",
    only_old: "is served and not configured",
    only_new: "is configured and not served",
    with_addresses: false,
};

const PASSAGE: Sides = Sides {
    old: "now",
    new: "then",
    only_old: "leaves",
    only_new: "joins",
    with_addresses: true,
};

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

impl Topology {
    /// All changes that a passage from this topology to `next` makes, each as a
    /// sentence without its full stop.
    pub fn changes_to(&self, next: &Self) -> Vec<String> {
        PASSAGE.compare(self, next)
    }
}

/// All differences of the configured topology from the `served` one.
pub(crate) fn differences(served: &Topology, configured: &Topology) -> Vec<String> {
    CONFIGURED.compare(served, configured)
}

impl Sides {
    fn compare(&self, old: &Topology, new: &Topology) -> Vec<String> {
        let mut found = self.settings(old, new);
        found.extend(self.nodes(&old.nodes, &new.nodes));
        found.extend(self.overrides(old, new));
        found
    }

    fn settings(&self, old: &Topology, new: &Topology) -> Vec<String> {
        let settings = |topology: &Topology| {
            [
                ("router.replicas", topology.replicas.to_string()),
                ("router.max_ttl", format!("{:?}", topology.max_ttl())),
                ("router.view_lease", format!("{:?}", topology.view_lease())),
                ("ring.format", topology.format.to_string()),
                ("ring.vnodes", topology.vnodes.to_string()),
            ]
        };
        let pairs = settings(old).into_iter().zip(settings(new));
        let found = pairs.filter_map(|((what, old), (_, new))| self.differ(what, &old, &new));
        found.chain(self.key_prefix(old, new)).collect()
    }

    /// Unlike the other settings, routers do not take over the served prefix: each
    /// router keeps its configured one.
    fn key_prefix(&self, old: &Topology, new: &Topology) -> Option<String> {
        let quoted = |prefix| format!("\"{prefix}\"");
        let (before, after) = (old.key_prefix()?, new.key_prefix()?);
        let differs = self.differ("router.key_prefix", &quoted(before), &quoted(after))?;
        Some(format!(
            "{differs}: routers that differ in it both hold one key"
        ))
    }

    fn nodes(&self, old: &[Node], new: &[Node]) -> Vec<String> {
        let mut found = Vec::new();
        for before in old {
            let name = &before.name;
            match new.iter().find(|after| after.name == *name) {
                Some(after) => found.extend(self.node(before, after)),
                None => found.push(format!("node {name} {}", self.only_old)),
            }
        }
        for after in new {
            if !old.iter().any(|before| before.name == after.name) {
                found.push(format!("node {} {}", after.name, self.only_new));
            }
        }
        found
    }

    fn node(&self, old: &Node, new: &Node) -> Vec<String> {
        let label = |label: &Option<String>| label.clone().unwrap_or_else(|| "none".into());
        let address = |node: &Node| match self.with_addresses {
            true => node.address.clone(),
            false => String::new(),
        };
        // A node may be reached at different addresses, but not in another database
        // of its server, which has none of the locks.
        let databases = match (database(&old.address), database(&new.address)) {
            (Some(before), Some(after)) if !self.with_addresses => {
                (before.to_owned(), after.to_owned())
            }
            _ => Default::default(),
        };
        let sides = [
            ("weight", old.weight.to_string(), new.weight.to_string()),
            ("zone", label(&old.zone), label(&new.zone)),
            ("anchor", label(&old.anchor), label(&new.anchor)),
            ("host", label(&old.host), label(&new.host)),
            ("address", address(old), address(new)),
            ("database", databases.0, databases.1),
        ];
        sides
            .into_iter()
            .filter_map(|(what, before, after)| {
                self.differ(&format!("the {what} of node {}", old.name), &before, &after)
            })
            .collect()
    }

    fn overrides(&self, old: &Topology, new: &Topology) -> Vec<String> {
        let replicas = |topology: &Topology, prefix: &str| {
            let exception = topology.overrides.iter().find(|o| o.prefix == prefix);
            exception.map_or_else(|| "none".into(), |o| o.replicas.to_string())
        };
        let all = old.overrides.iter().chain(&new.overrides);
        let mut prefixes: Vec<&str> = all.map(|exception| &*exception.prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let differ = |prefix: &&str| {
            let what = format!("the override of prefix {prefix:?}");
            self.differ(&what, &replicas(old, prefix), &replicas(new, prefix))
        };
        prefixes.iter().filter_map(differ).collect()
    }

    fn differ(&self, what: &str, old: &str, new: &str) -> Option<String> {
        (old != new).then(|| format!("{what} is {old} {} and {new} {}", self.old, self.new))
    }
}

/// The database that an address names; `None`: there is no address, or one that
/// cannot name a database.
fn database(address: &str) -> Option<&str> {
    let (scheme, place) = address.split_once("://")?;
    let named = match scheme {
        "memory" => return None,
        _ if scheme.ends_with("sentinel") => return None,
        "unix" => place.split_once("?db=").map(|(_, database)| database),
        _ => place.rsplit_once('/').map(|(_, database)| database),
    };
    Some(named.unwrap_or("0"))
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
    fn every_difference_is_told() {
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
    fn another_key_prefix_and_another_database_are_told() {
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
                 routers that differ in it both hold one key",
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
    fn a_passage_is_told_in_its_own_words() {
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
