//! Topology and view: which nodes there are, and which of them hold a key.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::{Format, Member, NodeIndex, ReplicaSets, Ring, RingError};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::lease::{EPOCH_LIMIT, Key};
use super::quorum::{MAX_REPLICAS, Placement, majority};
use super::wire::{Nonce, Slot, ViewId};

/// Fence counters that the keys of one replica count are spread over, at
/// least: two operations under way at once then rarely share one, and a
/// quorum's counters rarely differ. Costs a node some 60 bytes each.
const QUORUM_SLOTS: usize = 4096;

/// Version of the document's form. A reader refuses any other.
const DOCUMENT_FORM: u32 = 1;

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

/// What all routers of a cluster must agree upon.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
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
    /// The longest ttl, in milliseconds; a change of membership waits it out.
    pub max_ttl_ms: u64,
    /// How long a client may rely on a view after a majority confirmed it, in
    /// milliseconds.
    pub view_lease_ms: u64,
}

/// Why a topology is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The ring cannot be built.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A majority of an even number tolerates no more than of one less.
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
    /// Two overrides of one prefix, or an empty one.
    #[error(
        "override prefix {prefix:?} is empty or stands twice: give each prefix once, and the default as router.replicas"
    )]
    Prefix {
        /// The prefix that was refused.
        prefix: String,
    },
    /// The view document is not what its id says.
    #[error("view {view}: its document is damaged or of another version ({detail})")]
    Document {
        /// The view.
        view: ViewId,
        /// What is wrong with it.
        detail: String,
    },
}

impl Topology {
    /// Puts nodes and overrides in their canonical order: two topologies that
    /// mean the same are then equal.
    pub fn canonical(mut self) -> Self {
        self.nodes
            .sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        self.overrides
            .sort_by(|a, b| a.prefix.as_bytes().cmp(b.prefix.as_bytes()));
        self
    }

    /// Whether both place every key alike and wait alike. Addresses are left
    /// out: a node may be reached by different ones.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let anonymous = |topology: &Self| {
            let mut topology = topology.clone().canonical();
            topology
                .nodes
                .iter_mut()
                .for_each(|node| node.address.clear());
            topology
        };
        anonymous(self) == anonymous(other)
    }

    /// The longest ttl.
    pub fn max_ttl(&self) -> Duration {
        Duration::from_millis(self.max_ttl_ms)
    }

    /// How long a confirmation of the view holds.
    pub fn view_lease(&self) -> Duration {
        Duration::from_millis(self.view_lease_ms)
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
            member
        });
        Ok(Ring::builder()
            .format(self.format)
            .vnodes(self.vnodes)
            .members(members)
            .build()?)
    }
}

/// A topology in force: number, members' nonces, and the tables to route by.
#[derive(Clone)]
pub struct View {
    id: ViewId,
    document: Arc<str>,
    topology: Topology,
    nonces: Vec<Nonce>,
    ring: Ring,
    sets: BTreeMap<usize, ReplicaSets>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    ringlock: u32,
    epoch: u32,
    stable: Topology,
    nonces: Vec<Nonce>,
}

impl View {
    /// Sets a topology in force as `epoch`, its nodes under these nonces.
    ///
    /// # Errors
    /// [`TopologyError`]: the topology contradicts itself.
    pub fn new(epoch: u32, topology: Topology, nonces: Vec<Nonce>) -> Result<Self, TopologyError> {
        let topology = topology.canonical();
        let sheet = Document {
            ringlock: DOCUMENT_FORM,
            epoch,
            stable: topology,
            nonces,
        };
        let text: Arc<str> = serde_json::to_string(&sheet)
            .map_err(|error| damaged(ViewId { epoch, digest: 0 }, &error))?
            .into();
        let id = ViewId {
            epoch,
            digest: xxh3_128(text.as_bytes()),
        };
        Self::assemble(id, text, sheet)
    }

    /// Reads the document of view `id`.
    ///
    /// # Errors
    /// [`TopologyError::Document`]: it is not the one that `id` names.
    pub fn read(id: ViewId, text: &str) -> Result<Self, TopologyError> {
        if xxh3_128(text.as_bytes()) != id.digest {
            return Err(damaged(id, &"the digest differs"));
        }
        let sheet: Document = serde_json::from_str(text).map_err(|error| damaged(id, &error))?;
        if sheet.ringlock != DOCUMENT_FORM {
            return Err(damaged(id, &format_args!("form {}", sheet.ringlock)));
        }
        if sheet.epoch != id.epoch {
            return Err(damaged(id, &format_args!("epoch {}", sheet.epoch)));
        }
        if sheet.stable.clone().canonical() != sheet.stable {
            return Err(damaged(id, &"not in canonical order"));
        }
        Self::assemble(id, text.into(), sheet)
    }

    fn assemble(id: ViewId, document: Arc<str>, sheet: Document) -> Result<Self, TopologyError> {
        let Document {
            stable: topology,
            nonces,
            ..
        } = sheet;
        if nonces.len() != topology.nodes.len() || id.epoch == 0 || id.epoch >= EPOCH_LIMIT {
            return Err(damaged(
                id,
                &"epoch out of range, or not one nonce per node",
            ));
        }
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
            if exception.prefix.is_empty() || is_double {
                return Err(TopologyError::Prefix {
                    prefix: exception.prefix.clone(),
                });
            }
        }
        Ok(Self {
            id,
            document,
            topology,
            nonces,
            ring,
            sets,
        })
    }

    /// The view's name.
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// Its canonical document.
    pub fn document(&self) -> &Arc<str> {
        &self.document
    }

    /// What it sets in force.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The nonce under which `node` belongs to it.
    pub fn nonce(&self, node: NodeIndex) -> &Nonce {
        &self.nonces[node.get()]
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.topology.nodes.len()
    }

    /// Whether it has no nodes; never so.
    pub fn is_empty(&self) -> bool {
        self.topology.nodes.is_empty()
    }

    /// How many nodes are a majority of the view.
    pub fn majority(&self) -> usize {
        majority(self.len())
    }

    /// The ring that it routes by.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// How many replicas `key` has: by the longest matching override.
    pub fn replicas(&self, key: &Key) -> usize {
        self.topology
            .overrides
            .iter()
            .filter(|exception| key.as_bytes().starts_with(exception.prefix.as_bytes()))
            .max_by_key(|exception| exception.prefix.len())
            .map_or(self.topology.replicas, |exception| exception.replicas)
    }

    /// Who holds `key`.
    pub fn place(&self, key: &Key) -> Placement {
        let replicas = self.replicas(key);
        let position = self.ring.position(key.as_bytes());
        let segment = self.ring.segment_at(position);
        if replicas == 1 {
            return Placement::stable(Slot::SINGLE, &[self.ring.owner_of(segment)]);
        }
        let parts = QUORUM_SLOTS.div_ceil(self.ring.segments());
        // A multiplicative hash: the position's high bits chose the arc.
        let spread = position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let slot = Slot {
            replicas: replicas as u8,
            arc: segment.get() as u32,
            part: (spread as usize % parts) as u16,
        };
        Placement::stable(slot, self.sets[&replicas].of_segment(segment))
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("id", &self.id)
            .field("nodes", &self.len())
            .finish()
    }
}

fn check_replicas(replicas: usize) -> Result<(), TopologyError> {
    match replicas {
        _ if replicas > MAX_REPLICAS => Err(TopologyError::TooManyReplicas { replicas }),
        _ if replicas.is_multiple_of(2) => Err(TopologyError::EvenReplicas { replicas }),
        _ => Ok(()),
    }
}

fn damaged(view: ViewId, detail: &dyn fmt::Display) -> TopologyError {
    TopologyError::Document {
        view,
        detail: detail.to_string(),
    }
}

/// The ring format as its word.
mod format_word {
    use ringlock_ring::Format;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    pub(super) fn serialize<S: Serializer>(format: &Format, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(format)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Format, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(nodes: &[&str], replicas: usize) -> Topology {
        Topology {
            nodes: nodes
                .iter()
                .map(|&name| Node {
                    name: name.into(),
                    address: format!("memory://{name}"),
                    weight: 1,
                    zone: None,
                    host: None,
                })
                .collect(),
            format: Format::Xxh3,
            vnodes: 160,
            replicas,
            overrides: vec![Override {
                prefix: "billing/".into(),
                replicas: 3,
            }],
            max_ttl_ms: 30_000,
            view_lease_ms: 10_000,
        }
    }

    fn nonces(n: usize) -> Vec<Nonce> {
        (0..n).map(|i| format!("nonce-{i}").into()).collect()
    }

    #[test]
    fn a_document_reads_back_as_its_view() {
        let view = View::new(1, topology(&["b", "a", "c"], 1), nonces(3)).unwrap();
        let read = View::read(view.id(), view.document()).unwrap();
        assert_eq!((read.id(), read.document()), (view.id(), view.document()));
        assert_eq!(read.topology().nodes[0].name, "a");
        let tampered = view.document().replace("\"a\"", "\"z\"");
        assert!(matches!(
            View::read(view.id(), &tampered),
            Err(TopologyError::Document { .. })
        ));
    }

    #[test]
    fn the_order_of_nodes_changes_nothing() {
        let one = View::new(1, topology(&["a", "b", "c"], 1), nonces(3)).unwrap();
        let other = View::new(1, topology(&["c", "a", "b"], 1), nonces(3)).unwrap();
        assert_eq!(one.id(), other.id());
    }

    #[test]
    fn overrides_choose_the_replicas() {
        let view = View::new(1, topology(&["a", "b", "c"], 1), nonces(3)).unwrap();
        let place = |key| view.place(&Key::new(key).unwrap());
        assert_eq!(place("orders/1").nodes().len(), 1);
        assert_eq!(place("orders/1").slot(), Slot::SINGLE);
        assert_eq!(place("billing/1").nodes().len(), 3);
    }

    #[test]
    fn bad_replica_counts_are_refused() {
        let build = |nodes: &[&str], replicas| {
            View::new(1, topology(nodes, replicas), nonces(nodes.len())).map(|_| ())
        };
        let four = &["a", "b", "c", "d"];
        assert_eq!(
            build(four, 2),
            Err(TopologyError::EvenReplicas { replicas: 2 })
        );
        assert_eq!(
            build(four, 0),
            Err(TopologyError::EvenReplicas { replicas: 0 })
        );
        assert_eq!(
            build(four, 11),
            Err(TopologyError::TooManyReplicas { replicas: 11 })
        );
        assert!(matches!(build(four, 5), Err(TopologyError::Ring(_))));
        assert!(matches!(
            build(&[], 1),
            Err(TopologyError::Ring(RingError::NoMembers))
        ));
    }
}
