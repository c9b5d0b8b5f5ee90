//! The changes, as the command line spells them.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ringlock::proto::membership::view::View;
use ringlock::{Change, Config, NodeConfig};

/// One change after `--and`.
#[derive(Debug, Parser)]
#[command(name = "--and", no_binary_name = true, disable_help_flag = true)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) wanted: Wanted,
}

/// One change.
#[derive(Debug, Subcommand)]
pub(crate) enum Wanted {
    /// A node joins.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        traits: Traits,
    },
    /// A node leaves; it need not be reachable.
    Remove {
        /// Its name.
        name: String,
    },
    /// A node leaves, and another one joins with its weight.
    Replace {
        /// The name of the one that leaves; it need not be reachable.
        name: String,
        /// The name of the one that joins.
        #[arg(long, value_name = "NEW")]
        by: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        traits: Traits,
    },
    /// A node gets another share of the keys.
    Reweight {
        /// Its name.
        name: String,
        /// Its share, relative to the other nodes'.
        weight: u32,
    },
    /// A node moves to another address; it must be the same server with its
    /// data.
    Move {
        /// Its name.
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// A node's zone or host changes; a label that is not named stays.
    Relabel(Labels),
    /// Keys get another number of replicas.
    Replicas {
        /// How many.
        #[arg(required_unless_present = "none")]
        replicas: Option<usize>,
        /// Only of keys that begin with this prefix.
        #[arg(long)]
        prefix: Option<String>,
        /// Remove the exception for those keys.
        #[arg(long, requires = "prefix", conflicts_with = "replicas")]
        none: bool,
    },
    /// The longest ttl changes.
    MaxTtl {
        #[arg(value_name = "DURATION", value_parser = humantime::parse_duration)]
        span: Duration,
    },
    /// The time for which a router may rely on a confirmed view changes.
    ViewLease {
        #[arg(value_name = "DURATION", value_parser = humantime::parse_duration)]
        span: Duration,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Place {
    /// Where it is reached. If the URL names no user, the node's configured
    /// user applies or, if the node is not configured, the first configured
    /// user.
    #[arg(long)]
    url: String,
}

#[derive(Args, Debug)]
pub(crate) struct Traits {
    /// Its share of the keys, relative to the other nodes'; 1 by default.
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Its failure domain.
    #[arg(long)]
    zone: Option<String>,
    /// Its machine.
    #[arg(long)]
    host: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Labels {
    /// Its name.
    name: String,
    /// Its failure domain.
    #[arg(long, required_unless_present_any = ["no_zone", "host", "no_host"])]
    zone: Option<String>,
    /// Remove its zone.
    #[arg(long, conflicts_with = "zone")]
    no_zone: bool,
    /// Its machine.
    #[arg(long)]
    host: Option<String>,
    /// Remove its host.
    #[arg(long, conflicts_with = "host")]
    no_host: bool,
}

impl Wanted {
    /// The node that this change requires to be reachable.
    pub(super) fn introduces(&self, config: &Config) -> Option<NodeConfig> {
        match self {
            Self::Add { name, place, .. } | Self::Move { name, place } => {
                Some(place.of(name, config))
            }
            Self::Replace { by, place, .. } => Some(place.of(by, config)),
            _ => None,
        }
    }

    pub(super) fn change(&self, config: &Config, view: &View) -> Change {
        match self {
            Self::Add {
                name,
                place,
                traits,
            } => Change::Add(traits.of(place.of(name, config))),
            Self::Remove { name } => Change::Remove { node: name.clone() },
            Self::Replace {
                name,
                by,
                place,
                traits,
            } => Change::Replace {
                node: name.clone(),
                by: traits.of(place.of(by, config)),
            },
            Self::Reweight { name, weight } => Change::Reweight {
                node: name.clone(),
                weight: *weight,
            },
            Self::Move { name, place } => Change::Move {
                node: name.clone(),
                url: place.of(name, config).url,
            },
            Self::Relabel(labels) => labels.change(view),
            Self::Replicas {
                replicas, prefix, ..
            } => Change::Replicas {
                prefix: prefix.clone(),
                replicas: *replicas,
            },
            Self::MaxTtl { span } => Change::MaxTtl(*span),
            Self::ViewLease { span } => Change::ViewLease(*span),
        }
    }
}

impl Place {
    fn of(&self, name: &str, config: &Config) -> NodeConfig {
        config.reach_at(name, &self.url)
    }
}

impl Traits {
    fn of(&self, mut node: NodeConfig) -> NodeConfig {
        node.weight = self.weight.unwrap_or(node.weight);
        node.zone.clone_from(&self.zone);
        node.host.clone_from(&self.host);
        node
    }
}

impl Labels {
    fn change(&self, view: &View) -> Change {
        let now = view.members().find(|node| node.name == self.name);
        let label = |given: &Option<String>, is_none: bool, now: Option<String>| match given {
            Some(label) => Some(label.clone()),
            None => now.filter(|_| !is_none),
        };
        let zone = now.and_then(|node| node.zone.clone());
        let host = now.and_then(|node| node.host.clone());
        Change::Relabel {
            node: self.name.clone(),
            zone: label(&self.zone, self.no_zone, zone),
            host: label(&self.host, self.no_host, host),
        }
    }
}
