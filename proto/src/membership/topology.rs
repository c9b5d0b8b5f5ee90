//! Topology: which nodes there are, and how keys are spread over them.

use std::collections::btree_map::{BTreeMap, Entry};
use std::time::Duration;

use ringlock_ring::{Format, Member, NodeIndex, ReplicaSets, Ring, RingError, Segment};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::lease::{Key, MAX_KEY_BYTES};
use crate::node::message::ViewId;
use crate::quorum::MAX_REPLICAS;

/// A member node. Its name is its identity on the ring; the address may change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Identity of the node.
    pub name: String,
    /// Where it is reached, without credentials.
    pub address: String,
    /// Share of the keys, relative to the other nodes'.
    pub weight: u32,
    /// Failure domain; a replica set keeps a majority outside any one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Machine; two nodes of one replica set never share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The node whose points on the ring it has taken over: the anchor of the node
    /// that it replaced. Its own points where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
}

/// Replicas for the keys with a certain prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Keys that begin with this; the longest match counts.
    pub prefix: String,
    /// Their replicas.
    pub replicas: usize,
}

/// What all routers of a cluster must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Name of the cluster, drawn at random at its first start, then a slash and
    /// the prefix of its keys: see [`key_prefix`](Self::key_prefix). It
    /// detects servers that are now in use by another cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The members, in the order of their names' bytes.
    pub nodes: Vec<Node>,
    /// How nodes and keys are placed on the ring.
    #[serde(with = "format_word")]
    pub format: Format,
    /// Points of a node per unit of weight.
    pub vnodes: u32,
    /// Replicas of a key: 1 (sharded) or odd (quorum).
    pub replicas: usize,
    /// Exceptions by prefix, in the order of the prefixes' bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// The longest ttl, in milliseconds; a change of membership waits for it.
    pub max_ttl_ms: u64,
    /// How long a client may rely on a view after a majority confirmed it, in
    /// milliseconds.
    pub view_lease_ms: u64,
}

/// Separator between a cluster's name and the prefix of its keys.
const PREFIX_MARK: char = '/';

/// Maximum recorded length of an escaped prefix; far below [`MAX_TEXT`].
const LONGEST_PREFIX: usize = 256;

/// The longest text of a topology that is displayed to people, in bytes.
pub const MAX_TEXT: usize = 512;

/// The longest max_ttl and view_lease: every change of membership waits for
/// both.
pub const LONGEST_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Why a topology is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The ring cannot be built.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// An even number tolerates as many failures as one less.
    #[error("replicas = {replicas} is not 1 or an odd number: an even set tolerates no more failures than one node less; use {}", replicas.saturating_sub(1).max(1))]
    EvenReplicas {
        /// The number that was refused.
        replicas: usize,
    },
    /// More than [`MAX_REPLICAS`].
    #[error(
        "replicas = {replicas} is more than {MAX_REPLICAS}: every replica is a request per lock; use 3 or 5"
    )]
    TooManyReplicas {
        /// The number that was refused.
        replicas: usize,
    },
    /// Two overrides of one prefix, an empty one, or one longer than any key.
    #[error(
        "override prefix {prefix:?} is empty, duplicate or longer than any key: give each prefix once, and the default as router.replicas"
    )]
    Prefix {
        /// The prefix that was refused.
        prefix: String,
    },
    /// A text that is displayed and logged is too long or has control characters.
    #[error("{what} {text:?} is longer than {MAX_TEXT} bytes or contains control characters")]
    Text {
        /// What the text is.
        what: &'static str,
        /// Its beginning.
        text: String,
    },
    /// A span longer than any cluster may have: every change of membership waits for it.
    #[error("{what} = {span:?} is more than {LONGEST_SPAN:?}")]
    Span {
        /// Name of the span.
        what: &'static str,
        /// Its length.
        span: Duration,
    },
    /// The view document has the form of another version of ringlock.
    #[error(
        "view {view}: its document has form {form}, and this version of ringlock reads form {known}: upgrade the older one, this program or the one that wrote the view"
    )]
    Form {
        /// The view.
        view: ViewId,
        /// The form of the document.
        form: u32,
        /// The form that this version reads.
        known: u32,
    },
    /// The view document does not match its id.
    #[error("view {view}: its document is damaged ({detail})")]
    Document {
        /// The view.
        view: ViewId,
        /// What is wrong with it.
        detail: String,
    },
}

impl Topology {
    /// Sorts nodes and overrides into their canonical order: two topologies with
    /// the same meaning are then equal.
    pub fn canonical(mut self) -> Self {
        self.nodes
            .sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        self.overrides
            .sort_by(|a, b| a.prefix.as_bytes().cmp(b.prefix.as_bytes()));
        self
    }

    /// The prefix of the keys' names on the servers, as the cluster's first router
    /// had it; two routers with different prefixes do not exclude each other. It is
    /// escaped, and a long one ends in its digest. `None`: an earlier version of
    /// ringlock did not record it.
    pub fn key_prefix(&self) -> Option<&str> {
        self.cluster
            .split_once(PREFIX_MARK)
            .map(|(_, prefix)| prefix)
    }

    /// Records the prefix of the cluster's keys after its name.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: &str) -> Self {
        let mut text: String = prefix.escape_default().collect();
        if text.len() > LONGEST_PREFIX {
            // The escaped text is ASCII only.
            text.truncate(LONGEST_PREFIX);
            text += &format!("#{:016x}", xxh3_64(prefix.as_bytes()));
        }
        let name = self.cluster.split(PREFIX_MARK).next().unwrap_or_default();
        self.cluster = format!("{name}{PREFIX_MARK}{text}");
        self
    }

    /// Sets the name of a cluster that has none.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        if self.cluster.is_empty() || self.cluster.starts_with(PREFIX_MARK) {
            self.cluster.insert_str(0, name);
        }
        self
    }

    /// Whether both use the same key names on the servers, as far as recorded.
    fn shares_key_prefix(&self, other: &Self) -> bool {
        match (self.key_prefix(), other.key_prefix()) {
            (Some(own), Some(others)) => own == others,
            _ => true,
        }
    }

    /// Whether both place and name every key in the same way and have the same waits.
    /// Addresses are ignored: a node may be reachable at different ones.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let anonymous = |topology: &Self| {
            let mut topology = topology.clone().canonical();
            topology.cluster.clear();
            topology
                .nodes
                .iter_mut()
                .for_each(|node| node.address.clear());
            topology
        };
        self.shares_key_prefix(other) && anonymous(self) == anonymous(other)
    }

    /// The longest ttl.
    pub fn max_ttl(&self) -> Duration {
        Duration::from_millis(self.max_ttl_ms)
    }

    /// How long a confirmation of the view is valid.
    pub fn view_lease(&self) -> Duration {
        Duration::from_millis(self.view_lease_ms)
    }

    /// Replicas of the keys that begin with `text`: by the longest matching
    /// override.
    pub fn replicas_of(&self, text: impl AsRef<[u8]>) -> usize {
        let text = text.as_ref();
        self.overrides
            .iter()
            .filter(|exception| text.starts_with(exception.prefix.as_bytes()))
            .max_by_key(|exception| exception.prefix.len())
            .map_or(self.replicas, |exception| exception.replicas)
    }

    /// The replica sets of the keys with this many replicas.
    ///
    /// # Errors
    /// [`TopologyError::Ring`].
    pub fn replica_sets(&self, replicas: usize) -> Result<ReplicaSets, TopologyError> {
        Ok(self.ring()?.replica_sets(replicas)?)
    }

    fn ring(&self) -> Result<Ring, TopologyError> {
        let members = self.nodes.iter().map(|node| {
            let mut member = Member::new(&node.name).with_weight(node.weight);
            if let Some(zone) = &node.zone {
                member = member.with_zone(zone);
            }
            if let Some(host) = &node.host {
                member = member.with_host(host);
            }
            if let Some(anchor) = &node.anchor {
                member = member.with_anchor(anchor);
            }
            member
        });
        Ok(Ring::builder()
            .format(self.format)
            .vnodes(self.vnodes)
            .members(members)
            .build()?)
    }
}

/// A topology with its routing tables.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) topology: Topology,
    pub(crate) ring: Ring,
    sets: BTreeMap<usize, ReplicaSets>,
}

impl Layout {
    pub(crate) fn new(topology: Topology) -> Result<Self, TopologyError> {
        check_texts(&topology)?;
        check_spans(&topology)?;
        let ring = topology.ring()?;
        let mut sets = BTreeMap::new();
        let overridden = topology
            .overrides
            .iter()
            .map(|exception| exception.replicas);
        for replicas in std::iter::once(topology.replicas).chain(overridden) {
            check_replicas(replicas)?;
            if let Entry::Vacant(vacant) = sets.entry(replicas) {
                vacant.insert(ring.replica_sets(replicas)?);
            }
        }
        for (index, exception) in topology.overrides.iter().enumerate() {
            let is_double = topology.overrides[..index]
                .iter()
                .any(|o| o.prefix == exception.prefix);
            if exception.prefix.is_empty() || exception.prefix.len() > MAX_KEY_BYTES || is_double {
                return Err(TopologyError::Prefix {
                    prefix: exception.prefix.chars().take(64).collect(),
                });
            }
        }
        Ok(Self {
            topology,
            ring,
            sets,
        })
    }

    /// The position of `key`, and its number of replicas.
    pub(crate) fn position(&self, key: &Key) -> RingPosition {
        let replicas = self.topology.replicas_of(key.as_bytes());
        let position = self.ring.position(key.as_bytes());
        RingPosition {
            replicas,
            position,
            segment: self.ring.segment_at(position),
        }
    }

    /// The nodes that hold the keys at this spot, the owner first.
    pub(crate) fn set(&self, position: &RingPosition) -> &[NodeIndex] {
        self.sets[&position.replicas].of_segment(position.segment)
    }

    /// The replica sets of every number of replicas.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &ReplicaSets> {
        self.sets.values()
    }
}

/// The position of a key on a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingPosition {
    pub(crate) replicas: usize,
    pub(crate) position: u64,
    pub(crate) segment: Segment,
}

fn check_texts(topology: &Topology) -> Result<(), TopologyError> {
    let of_node = |node: &Node| {
        let Node {
            name,
            address,
            zone,
            host,
            anchor,
            ..
        } = node.clone();
        [
            ("node name", Some(name)),
            ("address", Some(address)),
            ("zone", zone),
            ("host", host),
            ("anchor", anchor),
        ]
    };
    let of_nodes = topology.nodes.iter().flat_map(of_node);
    let own = ("cluster name", Some(topology.cluster.clone()));
    let mut texts = of_nodes
        .chain([own])
        .filter_map(|(what, text)| Some((what, text?)));
    let is_unfit = |text: &str| text.len() > MAX_TEXT || text.chars().any(char::is_control);
    match texts.find(|(_, text)| is_unfit(text)) {
        Some((what, text)) => Err(TopologyError::Text {
            what,
            text: text.chars().take(64).collect(),
        }),
        None => Ok(()),
    }
}

fn check_spans(topology: &Topology) -> Result<(), TopologyError> {
    let spans = [
        ("max_ttl", topology.max_ttl()),
        ("view_lease", topology.view_lease()),
    ];
    match spans.into_iter().find(|(_, span)| *span > LONGEST_SPAN) {
        Some((what, span)) => Err(TopologyError::Span { what, span }),
        None => Ok(()),
    }
}

fn check_replicas(replicas: usize) -> Result<(), TopologyError> {
    match replicas {
        _ if replicas > MAX_REPLICAS => Err(TopologyError::TooManyReplicas { replicas }),
        _ if replicas.is_multiple_of(2) => Err(TopologyError::EvenReplicas { replicas }),
        _ => Ok(()),
    }
}

/// The ring format as a word.
mod format_word {
    use ringlock_ring::Format;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    pub(crate) fn serialize<S: Serializer>(format: &Format, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(format)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Format, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
impl Topology {
    /// A topology of in-memory nodes, for tests.
    pub(crate) fn sample(names: &[&str], replicas: usize) -> Self {
        let node = |&name: &&str| Node {
            name: name.into(),
            address: format!("memory://{name}"),
            weight: 1,
            zone: None,
            host: None,
            anchor: None,
        };
        Self {
            cluster: "cluster".into(),
            nodes: names.iter().map(node).collect(),
            format: Format::Xxh3,
            vnodes: 160,
            replicas,
            overrides: Vec::new(),
            max_ttl_ms: 30_000,
            view_lease_ms: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::view::View;

    #[test]
    fn the_prefix_of_keys_is_noted_next_to_the_name() {
        let sample = || Topology {
            cluster: String::new(),
            ..Topology::sample(&["a"], 1)
        };
        assert_eq!(sample().key_prefix(), None);
        for (prefix, noted) in [
            ("ringlock:", "ringlock:"),
            ("", ""),
            ("a/b", "a/b"),
            ("sch\u{fc}\n", "sch\\u{fc}\\n"),
        ] {
            let topology = sample().with_key_prefix(prefix);
            assert_eq!(topology.key_prefix(), Some(noted));
            let named = topology.clone().named("c0ffee");
            assert_eq!(named.cluster, format!("c0ffee/{noted}"));
            assert_eq!(named.clone().named("other"), named, "a name is kept");
            assert!(named.agrees_with(&topology));
            assert!(!named.agrees_with(&sample().with_key_prefix("other")));
            assert!(named.agrees_with(&sample()), "it was not noted");
        }
        let noted = |prefix: &str| sample().with_key_prefix(prefix).named("c0ffee");
        let long = "x".repeat(5_000);
        assert!(!noted(&long).agrees_with(&noted(&format!("{long}y"))));
        let nonces = [("a".to_owned(), "n".into())].into();
        assert!(View::stable(1, noted(&long), &nonces).is_ok());
    }
}
