//! How a configuration differs from the topology that a cluster serves.

use crate::config::Config;
use crate::proto::topology::{Node, Topology};

impl Config {
    /// The topology that it describes, in canonical order. Addresses are left
    /// empty: a node may be reached by different ones.
    pub fn layout(&self) -> Topology {
        self.topology(|_| String::new())
    }

    /// Everything in which it differs from `served`, each as a sentence without
    /// its full stop; none where both place every key alike and wait alike.
    pub fn differences(&self, served: &Topology) -> Vec<String> {
        let wanted = self.layout();
        let mut found = Vec::new();
        settings(served, &wanted, &mut found);
        nodes(&served.nodes, &wanted.nodes, &mut found);
        overrides(served, &wanted, &mut found);
        found
    }
}

fn settings(served: &Topology, wanted: &Topology, found: &mut Vec<String>) {
    let settings = |topology: &Topology| {
        [
            ("router.replicas", topology.replicas.to_string()),
            ("router.max_ttl", format!("{:?}", topology.max_ttl())),
            ("router.view_lease", format!("{:?}", topology.view_lease())),
            ("ring.format", topology.format.to_string()),
            ("ring.vnodes", topology.vnodes.to_string()),
        ]
    };
    for ((what, served), (_, wanted)) in settings(served).into_iter().zip(settings(wanted)) {
        compare(what, served, wanted, found);
    }
}

fn nodes(served: &[Node], wanted: &[Node], found: &mut Vec<String>) {
    let label = |label: &Option<String>| label.clone().unwrap_or_else(|| "none".into());
    for theirs in served {
        let name = &theirs.name;
        let Some(ours) = wanted.iter().find(|ours| ours.name == *name) else {
            found.push(format!("node {name} is served and not configured"));
            continue;
        };
        let sides = [
            ("weight", theirs.weight.to_string(), ours.weight.to_string()),
            ("zone", label(&theirs.zone), label(&ours.zone)),
            ("host", label(&theirs.host), label(&ours.host)),
        ];
        for (what, theirs, ours) in sides {
            compare(&format!("the {what} of node {name}"), theirs, ours, found);
        }
    }
    for ours in wanted {
        if !served.iter().any(|theirs| theirs.name == ours.name) {
            found.push(format!("node {} is configured and not served", ours.name));
        }
    }
}

fn overrides(served: &Topology, wanted: &Topology, found: &mut Vec<String>) {
    let replicas = |topology: &Topology, prefix: &str| {
        let exception = topology.overrides.iter().find(|o| o.prefix == prefix);
        exception.map_or_else(|| "none".into(), |o| o.replicas.to_string())
    };
    let all = served.overrides.iter().chain(&wanted.overrides);
    let mut prefixes: Vec<&str> = all.map(|exception| &*exception.prefix).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    for prefix in prefixes {
        let what = format!("the override of prefix {prefix:?}");
        compare(
            &what,
            replicas(served, prefix),
            replicas(wanted, prefix),
            found,
        );
    }
}

fn compare(what: &str, served: String, wanted: String, found: &mut Vec<String>) {
    if served != wanted {
        found.push(format!(
            "{what} is {served} as served and {wanted} as configured"
        ));
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
}
