//! How one topology differs from another, in words.

use crate::membership::topology::{Node, Topology};

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

impl Topology {
    /// All changes that a passage from this topology to `next` makes, each as a
    /// sentence without its full stop.
    pub fn changes_to(&self, next: &Self) -> Vec<String> {
        PASSAGE.compare(self, next)
    }
}

/// All differences of the configured topology from the `served` one.
pub fn differences(served: &Topology, configured: &Topology) -> Vec<String> {
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
            "{differs}: routers that differ in it can hold the same key at once"
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
