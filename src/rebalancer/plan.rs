//! A change of membership as data that can be reviewed before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ringlock_ring::{ReplicaSets, RingDiff, fraction};
use serde::{Deserialize, Serialize};

use super::RebalanceError;
use crate::config::{ConfigError, bounded};
use crate::proto::escape::shown;
use crate::proto::lease::Key;
use crate::proto::membership::topology::{Node, Topology, TopologyError};
use crate::proto::membership::view::{Nonces, View};
use crate::proto::node::message::ViewId;
use crate::proto::quorum::majority;
use crate::proto::time::outwait;

/// Version of a plan's format. A reader refuses any other.
const PLAN_FORM: u32 = 1;

/// The maximum number of bytes of a parse error that are shown: it may quote the
/// plan.
const MAX_DETAIL: usize = 300;

/// The part that plans of all versions have.
#[derive(Deserialize)]
struct Form {
    ringlock_plan: u32,
}

/// Shares are rounded to trillionths.
const SHARE_GRAIN: f64 = 1e12;

/// A planned change of membership: the topology in force, the new topology, and
/// what moves between them.
///
/// A plan is made for one view, and is refused once the cluster has another. Its
/// text format is JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plan {
    ringlock_plan: u32,
    /// The view from which it starts.
    #[serde(with = "view_text")]
    pub parent: ViewId,
    /// The topology in force.
    pub from: Topology,
    /// The new topology.
    pub to: Topology,
    /// Nodes that no client can reach anymore, as declared by the operator.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fenced: BTreeSet<String>,
    /// Retired nodes that join again, each with the view from which it was retired.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) retired: BTreeMap<String, String>,
    /// What it moves, for each number of replicas in use.
    pub moves: Vec<Moves>,
}

/// What a plan moves of the keys with one number of replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Moves {
    /// The keys that begin with this; empty for all keys without an override.
    pub prefix: String,
    /// Their replicas: now, and after the change.
    pub replicas: (usize, usize),
    /// The share of keys whose owner changes, from 0 to 1.
    pub owners: f64,
    /// The minimum share that the change of weights requires.
    pub owners_minimum: f64,
    /// The share of keys whose replica set changes: their locks need the agreement
    /// of both sets during the change.
    pub sets: f64,
    /// Owners by pair: from, to, share of the keys.
    pub by_owner: Vec<(String, String, f64)>,
    /// Replicas by exchange: the nodes that leave a set, the nodes that join it,
    /// share of the keys.
    pub by_set: Vec<(Vec<String>, Vec<String>, f64)>,
}

/// The replicas of a key that moves, by name: now, and after the change. The owner
/// comes first.
pub type Detour = (Vec<String>, Vec<String>);

impl Plan {
    pub(super) fn new(view: &View, to: Topology) -> Result<Self, RebalanceError> {
        let from = view.topology().clone();
        let to = to.canonical();
        if from == to {
            return Err(RebalanceError::NothingToDo);
        }
        Ok(Self {
            ringlock_plan: PLAN_FORM,
            parent: view.id(),
            moves: consequences(&from, &to)?,
            from,
            to,
            fenced: BTreeSet::new(),
            retired: BTreeMap::new(),
        })
    }

    /// Declares that no client reaches these nodes anymore: they are switched off,
    /// or isolated from every client. The change then need not wait until no client
    /// relies on them.
    #[must_use]
    pub fn fenced(mut self, nodes: impl IntoIterator<Item = String>) -> Self {
        self.fenced.extend(nodes);
        self
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// [`RebalanceError::Unreadable`]: the text is not a plan, or the plan was
    /// altered: its topologies do not lead to the moves that it lists.
    pub fn from_json(text: &str) -> Result<Self, RebalanceError> {
        let unreadable = |detail: String| RebalanceError::Unreadable { detail };
        let quoted =
            |error: serde_json::Error| unreadable(shown(error.to_string().as_bytes(), MAX_DETAIL));
        // The format first: extra fields of another format are no error.
        let Form {
            ringlock_plan: form,
        } = serde_json::from_str(text).map_err(quoted)?;
        if form != PLAN_FORM {
            return Err(unreadable(format!(
                "it has form {form}, and this version of ringlock reads form {PLAN_FORM}: make a new plan with this version"
            )));
        }
        let plan: Self = serde_json::from_str(text).map_err(quoted)?;
        let consequences = consequences(&plan.from, &plan.to);
        if consequences.map_err(|error| unreadable(error.to_string()))? != plan.moves {
            return Err(unreadable(
                "it was altered: its moves do not follow from its topologies; make a new plan"
                    .into(),
            ));
        }
        Ok(plan)
    }

    /// Writes the plan as JSON.
    pub fn to_json(&self) -> String {
        // It cannot fail: all of its map keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Nodes that join.
    pub fn newcomers(&self) -> impl Iterator<Item = &str> {
        only_in(&self.to, &self.from)
    }

    /// Nodes that leave.
    pub fn leavers(&self) -> impl Iterator<Item = &str> {
        only_in(&self.from, &self.to)
    }

    /// How many of the nodes in force must answer for the change to be made. All
    /// nodes that join must answer, too.
    pub fn needs(&self) -> usize {
        majority(self.from.nodes.len())
    }

    /// How long it takes: the shortest time, if every node answers, and the
    /// longest, if as many nodes are silent as the change tolerates.
    pub fn duration(&self) -> (Duration, Duration) {
        let ttl = self.from.max_ttl().max(self.to.max_ttl());
        let lease = self.from.view_lease().max(self.to.view_lease());
        let quarantine = match self.newcomers().next() {
            Some(_) => outwait(ttl),
            None => Duration::ZERO,
        };
        (quarantine + outwait(ttl), quarantine + outwait(ttl + lease))
    }

    /// The replicas of `key` if it moves; `None` if it stays.
    ///
    /// # Errors
    /// [`TopologyError`]: the plan was tampered with.
    pub fn route(&self, key: &Key) -> Result<Option<Detour>, TopologyError> {
        let names = |topology: &Topology| -> Result<Vec<String>, TopologyError> {
            let view = View::stable(1, topology.clone(), &nonces(topology))?;
            let placement = view.place(key);
            let name = |&node| view.member(node).name.clone();
            Ok(placement.nodes().iter().map(name).collect())
        };
        let (old, new) = (names(&self.from)?, names(&self.to)?);
        Ok((old != new).then_some((old, new)))
    }
}

/// A view needs nonces; their values do not matter here.
fn nonces(topology: &Topology) -> Nonces {
    let nonce = |node: &Node| (node.name.clone(), "plan".into());
    topology.nodes.iter().map(nonce).collect()
}

fn only_in<'t>(one: &'t Topology, other: &'t Topology) -> impl Iterator<Item = &'t str> {
    let is_in_other = |name: &str| other.nodes.iter().any(|node| node.name == name);
    let names = one.nodes.iter().map(|node| node.name.as_str());
    names.filter(move |name| !is_in_other(name))
}

/// What a change moves, if its new topology is valid.
fn consequences(from: &Topology, to: &Topology) -> Result<Vec<Moves>, ConfigError> {
    bounded("router.max_ttl", to.max_ttl())?;
    bounded("router.view_lease", to.view_lease())?;
    // The rest is checked when the view takes effect.
    View::stable(1, to.clone(), &nonces(to))?;
    Ok(moves(from, to)?)
}

/// What moves from node to node. The list is empty if the ring's format changes:
/// every key may then move anywhere.
pub(super) fn moves(from: &Topology, to: &Topology) -> Result<Vec<Moves>, TopologyError> {
    if from.format != to.format {
        return Ok(Vec::new());
    }
    let prefixes: BTreeSet<&str> = std::iter::once("")
        .chain(from.overrides.iter().map(|known| known.prefix.as_str()))
        .chain(to.overrides.iter().map(|known| known.prefix.as_str()))
        .collect();
    let of_prefix = |prefix: &&str| {
        let (old, new) = (from.replicas_of(prefix), to.replicas_of(prefix));
        let sets: [ReplicaSets; 2] = [from.replica_sets(old)?, to.replica_sets(new)?];
        let diff = RingDiff::between(&sets[0], &sets[1])?;
        Ok(Moves {
            prefix: (*prefix).into(),
            replicas: (old, new),
            owners: share(diff.owner_width()),
            owners_minimum: share(diff.owner_minimum()),
            sets: share(diff.set_width()),
            by_owner: diff
                .owner_moves()
                .iter()
                .map(|one| (one.from.clone(), one.to.clone(), share(one.width)))
                .collect(),
            by_set: diff
                .set_moves()
                .iter()
                .map(|one| (one.left.clone(), one.joined.clone(), share(one.width)))
                .collect(),
        })
    };
    prefixes.iter().map(of_prefix).collect()
}

/// A share rounded so that writing and reading it again does not change it.
fn share(width: u128) -> f64 {
    (fraction(width) * SHARE_GRAIN).round() / SHARE_GRAIN
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: Vec<&str>| match names.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let (least, most) = self.duration();
        writeln!(f, "from view  {}", self.parent)?;
        writeln!(f, "joining    {}", list(self.newcomers().collect()))?;
        writeln!(f, "leaving    {}", list(self.leavers().collect()))?;
        for moves in &self.moves {
            let percent = |share: f64| format!("{:.1} %", share * 100.0);
            let (old, new) = moves.replicas;
            let of = match moves.prefix.as_str() {
                "" => "all keys".to_owned(),
                prefix => format!("keys {prefix}*"),
            };
            writeln!(
                f,
                "{of}, replicas {old} -> {new}: {} get another owner (at least {} must), {} another replica set",
                percent(moves.owners),
                percent(moves.owners_minimum),
                percent(moves.sets),
            )?;
            for (from, to, share) in &moves.by_owner {
                writeln!(f, "  {from} -> {to}  {}", percent(*share))?;
            }
        }
        if self.from.format != self.to.format {
            writeln!(f, "the ring's format changes: every key may move")?;
        }
        writeln!(
            f,
            "must answer  {} of {} nodes in force, and every one that joins",
            self.needs(),
            self.from.nodes.len()
        )?;
        write!(f, "takes      {least:.1?} to {most:.1?}")
    }
}

/// A view's id as text.
mod view_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::proto::node::message::ViewId;

    pub(super) fn serialize<S: Serializer>(view: &ViewId, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(view)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<ViewId, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(D::Error::custom)
    }
}
