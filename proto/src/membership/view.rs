//! A view: a topology in force, or the transition from one to the next.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::{NodeIndex, Ring};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::escape::shown;
use crate::lease::{EPOCH_LIMIT, Key};
use crate::membership::topology::{Layout, Node, RingPosition, Topology, TopologyError};
use crate::node::message::{FenceCounterId, Nonce, ViewId};
use crate::quorum::{Placement, majority};

/// Minimum number of fence counters over which the keys of one replica count are
/// spread: two concurrent operations then rarely share one, and a quorum's
/// counters rarely differ. Costs a node some 60 bytes each.
const QUORUM_SLOTS: usize = 4096;

/// Maximum number of arcs of a joint view's slots: rings of two formats have no
/// arcs in common, and there would be too many pairs of them.
const JOINT_ARCS: u64 = 1 << 16;

/// Version of the document's form. A reader refuses any other.
pub const DOCUMENT_FORM: u32 = 1;

/// The nonce of every member, by name.
pub type Nonces = BTreeMap<String, Nonce>;

/// A topology in force, or two while one replaces the other: epoch, members'
/// nonces, and the routing tables.
#[derive(Clone)]
pub struct View {
    id: ViewId,
    document: Arc<str>,
    members: Vec<Member>,
    layout: Layout,
    next: Option<Next>,
}

#[derive(Clone)]
struct Member {
    node: Node,
    nonce: Nonce,
}

/// The new topology of a joint view.
#[derive(Clone)]
struct Next {
    layout: Layout,
    /// Its nodes, as members of the view.
    voters: Vec<NodeIndex>,
    since: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    ringlock: u32,
    epoch: u32,
    stable: Cow<'a, Topology>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joint: Option<ChangeRecord<'a>>,
    nonces: Cow<'a, Nonces>,
}

/// The part that the documents of all versions share.
#[derive(Deserialize)]
struct Form {
    ringlock: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRecord<'a> {
    to: Cow<'a, Topology>,
    since: u32,
}

impl View {
    /// Puts a topology in force as `epoch`, its nodes under these nonces.
    ///
    /// # Errors
    /// [`TopologyError`]: the topology contradicts itself.
    pub fn stable(epoch: u32, topology: Topology, nonces: &Nonces) -> Result<Self, TopologyError> {
        Self::write(epoch, topology.canonical(), None, nonces)
    }

    /// Puts the transition between two topologies in force as `epoch`. `since` is
    /// the first epoch of the unbroken run that leads to `to`.
    ///
    /// # Errors
    /// [`TopologyError`]: a topology contradicts itself.
    pub fn joint(
        epoch: u32,
        from: Topology,
        to: Topology,
        since: u32,
        nonces: &Nonces,
    ) -> Result<Self, TopologyError> {
        Self::write(
            epoch,
            from.canonical(),
            Some((to.canonical(), since)),
            nonces,
        )
    }

    fn write(
        epoch: u32,
        stable: Topology,
        joint: Option<(Topology, u32)>,
        nonces: &Nonces,
    ) -> Result<Self, TopologyError> {
        let sheet = Document {
            ringlock: DOCUMENT_FORM,
            epoch,
            stable: Cow::Owned(stable),
            joint: joint.map(|(to, since)| ChangeRecord {
                to: Cow::Owned(to),
                since,
            }),
            nonces: Cow::Borrowed(nonces),
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
    /// [`TopologyError::Document`]: it is not the one that `id` identifies.
    pub fn read(id: ViewId, text: &str) -> Result<Self, TopologyError> {
        if xxh3_128(text.as_bytes()) != id.digest {
            return Err(damaged(id, &"the digest differs"));
        }
        // The form is checked first: extra fields of another form are no damage.
        let Form { ringlock: form } =
            serde_json::from_str(text).map_err(|error| damaged(id, &error))?;
        if form != DOCUMENT_FORM {
            return Err(TopologyError::Form {
                view: id,
                form,
                known: DOCUMENT_FORM,
            });
        }
        let sheet: Document<'_> =
            serde_json::from_str(text).map_err(|error| damaged(id, &error))?;
        if sheet.epoch != id.epoch {
            return Err(damaged(id, &format_args!("epoch {}", sheet.epoch)));
        }
        let next = sheet.joint.as_ref().map(|passage| &passage.to);
        for topology in std::iter::once(&sheet.stable).chain(next) {
            if Topology::clone(topology).canonical() != **topology {
                return Err(damaged(id, &"not in canonical order"));
            }
        }
        Self::assemble(id, text.into(), sheet)
    }

    fn assemble(
        id: ViewId,
        document: Arc<str>,
        sheet: Document<'_>,
    ) -> Result<Self, TopologyError> {
        if id.epoch == 0 || id.epoch >= EPOCH_LIMIT {
            return Err(damaged(id, &"its epoch is out of range"));
        }
        let layout = Layout::new(sheet.stable.into_owned())?;
        let mut nodes = layout.topology.nodes.clone();
        let next = match sheet.joint {
            Some(passage) if (1..=id.epoch).contains(&passage.since) => {
                let layout = Layout::new(passage.to.into_owned())?;
                let voters = layout
                    .topology
                    .nodes
                    .iter()
                    .map(|node| voter(&mut nodes, node));
                let voters = voters.collect();
                Some(Next {
                    layout,
                    voters,
                    since: passage.since,
                })
            }
            Some(_) => return Err(damaged(id, &"its passage began out of range")),
            None => None,
        };
        let nonces = sheet.nonces;
        let with_nonce = |node: Node| {
            let nonce = nonces.get(&node.name).map(Arc::clone)?;
            Some(Member { node, nonce })
        };
        let members: Option<Vec<Member>> = nodes.into_iter().map(with_nonce).collect();
        match members {
            Some(members) if members.len() == nonces.len() => Ok(Self {
                id,
                document,
                members,
                layout,
                next,
            }),
            _ => Err(damaged(id, &"not one nonce per node")),
        }
    }

    /// The view's id.
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// Its canonical document.
    pub fn document(&self) -> &Arc<str> {
        &self.document
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.layout.topology.cluster
    }

    /// The topology in force; in a joint view the old one of the two.
    pub fn topology(&self) -> &Topology {
        &self.layout.topology
    }

    /// The new topology of a joint view.
    pub fn next(&self) -> Option<&Topology> {
        self.next.as_ref().map(|next| &next.layout.topology)
    }

    /// The first epoch of the unbroken run that leads to [`next`](Self::next); the
    /// view's epoch where it has no next topology.
    pub fn since(&self) -> u32 {
        self.next.as_ref().map_or(self.id.epoch, |next| next.since)
    }

    /// The nodes of both topologies: those of the old one, then those that are
    /// only in the new one.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.members.iter().map(|member| &member.node)
    }

    /// The member at index `node`.
    pub fn member(&self, node: NodeIndex) -> &Node {
        &self.members[node.get()].node
    }

    /// The index of the member with this name.
    pub fn index_of(&self, name: &str) -> Option<NodeIndex> {
        let position = self.members().position(|node| node.name == name);
        position.map(|index| NodeIndex::new(index as u16))
    }

    /// The nonce under which `node` is a member.
    pub fn nonce(&self, node: NodeIndex) -> &Nonce {
        &self.members[node.get()].nonce
    }

    /// The nonces of all members.
    pub fn nonces(&self) -> Nonces {
        let pair = |member: &Member| (member.node.name.clone(), Arc::clone(&member.nonce));
        self.members.iter().map(pair).collect()
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no members; always false.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The nodes that decide which view follows: those of the old topology.
    pub fn deciders(&self) -> impl ExactSizeIterator<Item = NodeIndex> {
        (0..self.layout.topology.nodes.len()).map(|index| NodeIndex::new(index as u16))
    }

    /// Whether `is_in` holds for a majority of the nodes of each topology.
    pub fn has_majority(&self, is_in: impl Fn(NodeIndex) -> bool) -> bool {
        let has_most = |group: &mut dyn Iterator<Item = NodeIndex>, n: usize| {
            group.filter(|&node| is_in(node)).count() >= majority(n)
        };
        has_most(&mut self.deciders(), self.deciders().len())
            && self
                .next
                .as_ref()
                .is_none_or(|next| has_most(&mut next.voters.iter().copied(), next.voters.len()))
    }

    /// The latest instant, by `seen_at` in nanoseconds, at which a majority of each
    /// topology is known to have served the view.
    pub fn confirmed_at(&self, seen_at: impl Fn(NodeIndex) -> u64) -> u64 {
        let most_since = |seen: &mut Vec<u64>| {
            seen.sort_unstable_by(|a, b| b.cmp(a));
            seen[majority(seen.len()) - 1]
        };
        let old = most_since(&mut self.deciders().map(&seen_at).collect());
        let new = self.next.as_ref().map(|next| {
            let mut seen = next.voters.iter().copied().map(&seen_at).collect();
            most_since(&mut seen)
        });
        new.map_or(old, |new| new.min(old))
    }

    /// The size of the larger of its majorities.
    pub fn majority(&self) -> usize {
        let new = self.next.as_ref().map_or(0, |next| next.voters.len());
        majority(self.deciders().len().max(new))
    }

    /// The longest ttl that it grants: in a joint view the shorter of both, so
    /// that a wait by either topology covers it.
    pub fn max_ttl(&self) -> Duration {
        self.least(Topology::max_ttl)
    }

    /// How long a confirmation of it is valid.
    pub fn view_lease(&self) -> Duration {
        self.least(Topology::view_lease)
    }

    /// The longest ttl that may have been granted before it.
    pub fn longest_ttl(&self) -> Duration {
        self.most(Topology::max_ttl)
    }

    /// The longest time for which a client may have relied on a view before it.
    pub fn longest_view_lease(&self) -> Duration {
        self.most(Topology::view_lease)
    }

    fn least(&self, of: impl Fn(&Topology) -> Duration) -> Duration {
        let old = of(self.topology());
        self.next().map_or(old, |next| of(next).min(old))
    }

    fn most(&self, of: impl Fn(&Topology) -> Duration) -> Duration {
        let old = of(self.topology());
        self.next().map_or(old, |next| of(next).max(old))
    }

    /// The ring that routes its keys; in a joint view the old one of the two.
    pub fn ring(&self) -> &Ring {
        &self.layout.ring
    }

    /// Replicas of each key, by the longest matching override; in a joint view by
    /// the old topology.
    pub fn replicas(&self, key: &Key) -> usize {
        self.layout.position(key).replicas
    }

    /// The nodes that hold `key`.
    pub fn place(&self, key: &Key) -> Placement {
        let position = self.layout.position(key);
        let set = self.layout.set(&position);
        match &self.next {
            None => Placement::stable(self.slot(&position), set),
            Some(next) => next.place(key, &position, set, self.parts()),
        }
    }

    fn slot(&self, position: &RingPosition) -> FenceCounterId {
        if position.replicas == 1 {
            return FenceCounterId::SINGLE;
        }
        FenceCounterId {
            replicas: position.replicas as u8,
            arc: position.segment.get() as u32,
            part: part_of(position.position, self.parts()),
        }
    }

    fn parts(&self) -> usize {
        QUORUM_SLOTS.div_ceil(self.layout.ring.segments())
    }

    /// Whether the nodes that do not satisfy `is_reached` are too few to hold any
    /// key among themselves, by the old topology.
    pub fn is_cut_off(&self, is_reached: impl Fn(NodeIndex) -> bool) -> bool {
        let is_blocked = |set: &[NodeIndex]| {
            let unreached = set.iter().filter(|&&node| !is_reached(node)).count();
            unreached < majority(set.len())
        };
        self.layout.tables().all(|sets| sets.sets().all(is_blocked))
    }
}

impl Next {
    /// Keys that keep their only owner keep its single counter; keys of one arc of
    /// each ring share a replica set, and so a counter.
    fn place(
        &self,
        key: &Key,
        old: &RingPosition,
        old_set: &[NodeIndex],
        parts: usize,
    ) -> Placement {
        let new = self.layout.position(key);
        let voters: Vec<NodeIndex> = self
            .layout
            .set(&new)
            .iter()
            .map(|node| self.voters[node.get()])
            .collect();
        let slot = if old.replicas == 1 && voters == old_set {
            FenceCounterId::SINGLE
        } else {
            let mut pair = [0; 16];
            pair[..8].copy_from_slice(&(old.segment.get() as u64).to_le_bytes());
            pair[8..].copy_from_slice(&(new.segment.get() as u64).to_le_bytes());
            FenceCounterId {
                replicas: (old.replicas << 4 | new.replicas) as u8,
                arc: (xxh3_64(&pair) % JOINT_ARCS) as u32,
                part: part_of(old.position, parts),
            }
        };
        Placement::joint(slot, old_set, &voters)
    }
}

/// The voter of `node` among the members. For a node of both topologies, the new
/// one's address is used.
fn voter(nodes: &mut Vec<Node>, node: &Node) -> NodeIndex {
    let found = nodes.iter().position(|other| other.name == node.name);
    let index = found.unwrap_or(nodes.len());
    match found {
        Some(index) => nodes[index] = node.clone(),
        None => nodes.push(node.clone()),
    }
    NodeIndex::new(index as u16)
}

/// A multiplicative hash: the position's high bits chose the arc.
fn part_of(position: u64, parts: usize) -> u16 {
    let spread = position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (spread as usize % parts) as u16
}

/// The id identifies the whole view.
impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for View {}

impl Hash for View {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
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

/// Maximum length of an error detail about a document, which may quote it.
const MAX_DETAIL: usize = 300;

fn damaged(view: ViewId, detail: &dyn fmt::Display) -> TopologyError {
    TopologyError::Document {
        view,
        detail: shown(detail.to_string().as_bytes(), MAX_DETAIL),
    }
}

#[cfg(test)]
mod tests {
    use ringlock_ring::RingError;

    use super::*;
    use crate::membership::topology::Override;

    fn topology(nodes: &[&str], replicas: usize) -> Topology {
        Topology {
            overrides: vec![Override {
                prefix: "billing/".into(),
                replicas: 3,
            }],
            ..Topology::sample(nodes, replicas)
        }
    }

    fn nonces(nodes: &[&str]) -> Nonces {
        let nonce = |&name: &&str| (name.into(), format!("nonce of {name}").into());
        nodes.iter().map(nonce).collect()
    }

    fn stable(nodes: &[&str], replicas: usize) -> Result<View, TopologyError> {
        View::stable(1, topology(nodes, replicas), &nonces(nodes))
    }

    fn joint(old: &[&str], new: &[&str], replicas: usize) -> View {
        let all: Vec<&str> = old.iter().chain(new).copied().collect();
        let (from, to) = (topology(old, replicas), topology(new, replicas));
        View::joint(2, from, to, 2, &nonces(&all)).unwrap()
    }

    #[test]
    fn a_document_reads_back_as_its_view() {
        let view = stable(&["b", "a", "c"], 1).unwrap();
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
        let one = stable(&["a", "b", "c"], 1).unwrap();
        let other = stable(&["c", "a", "b"], 1).unwrap();
        assert_eq!(one.id(), other.id());
    }

    #[test]
    fn overrides_choose_the_replicas() {
        let view = stable(&["a", "b", "c"], 1).unwrap();
        let place = |key| view.place(&Key::new(key).unwrap());
        assert_eq!(place("orders/1").nodes().len(), 1);
        assert_eq!(place("orders/1").slot(), FenceCounterId::SINGLE);
        assert_eq!(place("billing/1").nodes().len(), 3);
    }

    #[test]
    fn bad_replica_counts_are_refused() {
        let build = |nodes: &[&str], replicas| stable(nodes, replicas).map(|_| ());
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

    #[test]
    fn a_joint_view_reads_back_and_names_each_node_once() {
        let view = joint(&["b", "c", "d"], &["a", "b", "c"], 1);
        let read = View::read(view.id(), view.document()).unwrap();
        let names: Vec<&str> = read.members().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["b", "c", "d", "a"]);
        assert_eq!((read.since(), read.deciders().len()), (2, 3));
        assert_eq!(read.next(), view.next());
        let key = Key::new("k").unwrap();
        assert_eq!(read.place(&key), view.place(&key));
    }

    #[test]
    fn a_joint_view_asks_the_sets_of_both_topologies() {
        let (old, new) = (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "f"]);
        for replicas in [1, 3, 5] {
            let names = |view: &View, nodes: &[NodeIndex]| -> Vec<String> {
                let name = |&node: &NodeIndex| view.member(node).name.clone();
                nodes.iter().map(name).collect()
            };
            let (before, after) = (stable(&old, replicas), stable(&new, replicas));
            let (before, after) = (before.unwrap(), after.unwrap());
            let view = joint(&old, &new, replicas);
            for key in 0..500 {
                let key = Key::new(format!("key-{key}")).unwrap();
                let joint = view.place(&key);
                let group = |voters: crate::quorum::VoterSet| {
                    let nodes: Vec<_> = voters.iter().map(|voter| joint.node(voter)).collect();
                    let mut names = names(&view, &nodes);
                    names.sort();
                    names
                };
                let sorted = |view: &View| {
                    let mut names = names(view, view.place(&key).nodes());
                    names.sort();
                    names
                };
                let mut sets = vec![sorted(&before), sorted(&after)];
                sets.dedup();
                let groups: Vec<_> = joint.groups().map(group).collect();
                assert_eq!(groups, sets, "{replicas} replicas of {key}");
                assert_eq!(
                    joint.nodes().len() == 1,
                    joint.slot() == FenceCounterId::SINGLE
                );
            }
        }
    }

    #[test]
    fn both_topologies_must_confirm_a_joint_view() {
        let view = joint(&["a", "b", "c"], &["c", "d", "e"], 1);
        let among = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
            let view = view.clone();
            move |node| names.contains(&view.member(node).name)
        };
        assert!(view.has_majority(among(&["a", "c", "d"])));
        assert!(!view.has_majority(among(&["a", "b", "c"])));
        assert!(!view.has_majority(among(&["c", "d", "e"])));
        // a b c at 5 4 3, d e at 2 1: a majority of the new topology is known since 2.
        let seen = [5, 4, 3, 2, 1];
        assert_eq!(view.confirmed_at(|node| seen[node.get()]), 2);
    }

    #[test]
    fn a_joint_view_grants_the_shorter_ttl_and_waits_for_the_longer() {
        let names = ["a", "b", "c"];
        let mut longer = topology(&names, 1);
        longer.max_ttl_ms = 60_000;
        longer.view_lease_ms = 1_000;
        let joint = View::joint(2, topology(&names, 1), longer, 2, &nonces(&names)).unwrap();
        let secs = Duration::from_secs;
        assert_eq!((joint.max_ttl(), joint.longest_ttl()), (secs(30), secs(60)));
        assert_eq!(
            (joint.view_lease(), joint.longest_view_lease()),
            (secs(1), secs(10))
        );
    }

    #[test]
    fn a_key_is_cut_off_where_the_unreached_cannot_agree_on_it() {
        let is_cut_off = |replicas, reached: &[usize]| {
            let mut topology = topology(&["a", "b", "c", "d", "e"], replicas);
            topology.overrides.clear();
            let view = View::stable(1, topology, &nonces(&["a", "b", "c", "d", "e"])).unwrap();
            view.is_cut_off(|node| reached.contains(&node.get()))
        };
        assert!(is_cut_off(1, &[0, 1, 2, 3, 4]));
        assert!(!is_cut_off(1, &[0, 1, 2, 3]));
        assert!(is_cut_off(3, &[0, 1, 2, 3]));
        assert!(!is_cut_off(3, &[0, 1, 2]));
        assert!(is_cut_off(5, &[0, 1, 2]));
        assert!(!is_cut_off(5, &[0, 1]));
    }

    #[test]
    fn a_document_that_contradicts_itself_is_refused() {
        let view = joint(&["a", "b", "c"], &["a", "b", "d"], 1);
        for (part, other) in [
            ("\"since\":2", "\"since\":3"),
            ("\"since\":2", "\"since\":0"),
            ("\"epoch\":2", "\"epoch\":3"),
            ("nonces\":{\"a\"", "nonces\":{\"x\""),
            ("nonces\":{", "nonces\":{\"x\":\"y\","),
        ] {
            assert!(view.document().contains(part), "{part}");
            let text = view.document().replacen(part, other, 1);
            let id = ViewId {
                digest: xxh3_128(text.as_bytes()),
                ..view.id()
            };
            let refused = View::read(id, &text);
            assert!(
                matches!(refused, Err(TopologyError::Document { .. })),
                "{other}"
            );
        }
    }

    #[test]
    fn a_document_of_another_form_is_reported_by_its_form() {
        let view = stable(&["a", "b", "c"], 1).unwrap();
        for (part, other) in [
            ("\"ringlock\":1", "\"ringlock\":2"),
            ("\"ringlock\":1", "\"ringlock\":2,\"quorums\":{\"a\":[1]}"),
            ("{\"ringlock\":1", "{\"shards\":null,\"ringlock\":2"),
        ] {
            let text = view.document().replacen(part, other, 1);
            let id = ViewId {
                digest: xxh3_128(text.as_bytes()),
                ..view.id()
            };
            let refused = View::read(id, &text).unwrap_err();
            assert!(
                matches!(
                    refused,
                    TopologyError::Form {
                        form: 2,
                        known: 1,
                        ..
                    }
                ),
                "{refused}"
            );
            assert!(refused.to_string().contains("form 2"), "{refused}");
        }
    }

    #[test]
    fn what_is_not_fit_to_be_shown_is_refused() {
        let with = |change: fn(&mut Topology)| {
            let mut topology = topology(&["a", "b", "c"], 1);
            change(&mut topology);
            let nonces = topology.nodes.iter();
            let nonces = nonces.map(|node| (node.name.clone(), "n".into())).collect();
            View::stable(1, topology, &nonces).unwrap_err()
        };
        let unfit: [fn(&mut Topology); 6] = [
            |topology| topology.nodes[0].name = "a\u{1b}[31m".into(),
            |topology| topology.nodes[0].name = "a".repeat(1000),
            |topology| topology.nodes[1].address = "redis://h\r\n".into(),
            |topology| topology.nodes[1].zone = Some("\u{9b}".into()),
            |topology| topology.cluster = "\0".into(),
            |topology| topology.nodes[2].host = Some("\t".into()),
        ];
        for change in unfit {
            let error = with(change);
            assert!(matches!(error, TopologyError::Text { .. }), "{error}");
            let message = error.to_string();
            assert!(message.len() < 700 && !message.contains(char::is_control));
        }
        let endless = with(|topology| topology.max_ttl_ms = u64::MAX);
        assert!(matches!(endless, TopologyError::Span { .. }), "{endless}");
    }
}
