//! The servers of a configuration, each looked into.

use std::sync::Arc;

use futures_util::future::join_all;
use ringlock::node::redis::inspect::{Facts, Look, Server};
use ringlock::proto::view::View;
use ringlock::proto::wire::{NodeStatus, Standing};
use ringlock::{Config, NodeError, NodeErrorKind, ViewId};
use serde::Serialize;

use crate::output::{Exit, Failure};

/// Why nodes in memory are not looked into.
pub(crate) const NOTHING_TO_LOOK_INTO: &str = "a memory:// node lives in the process that made it: there is nothing to look into from another";

/// The servers of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
}

/// A node of the configuration.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) server: Server,
}

impl Cluster {
    /// The servers that `config` names, in the order of their names.
    pub(crate) fn new(config: &Config) -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        for node in &config.nodes {
            let server = Server::from_config(config, node)?.ok_or_else(|| {
                let message = format!("node {}: {NOTHING_TO_LOOK_INTO}", node.name);
                Failure::new(Exit::Failed, message).next("ask that process")
            })?;
            nodes.push(Node {
                name: node.name.clone(),
                durable: node.durable,
                server,
            });
        }
        nodes.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(Self { nodes })
    }

    /// Looks into every server, all at once.
    pub(crate) async fn survey(&self) -> Survey<'_> {
        let looks = self.nodes.iter().map(async |node| Sighting {
            node,
            seen: look_into(&node.server).await,
        });
        let sightings = join_all(looks).await;
        let view = newest(&sightings);
        Survey { sightings, view }
    }
}

async fn look_into(server: &Server) -> Result<Seen<'_>, NodeError> {
    let mut look = server.open().await?;
    let facts = look.facts().await?;
    let (status, document) = look.status(&facts).await?;
    Ok(Seen {
        look,
        facts,
        status,
        document,
    })
}

/// One server, as it was found.
#[derive(Debug)]
pub(crate) struct Sighting<'a> {
    pub(crate) node: &'a Node,
    pub(crate) seen: Result<Seen<'a>, NodeError>,
}

/// What a server told, and the connection that it was told on.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) look: Look<'a>,
    pub(crate) facts: Facts,
    pub(crate) status: NodeStatus,
    document: Option<Arc<str>>,
}

impl Seen<'_> {
    /// The view that it serves, if it may.
    pub(crate) fn serving(&self) -> Option<ViewId> {
        match self.status.standing() {
            Standing::Serving(view) if self.facts.check().is_ok() => Some(view),
            _ => None,
        }
    }
}

/// All servers, and the newest view that is served among them.
#[derive(Debug)]
pub(crate) struct Survey<'a> {
    pub(crate) sightings: Vec<Sighting<'a>>,
    pub(crate) view: Option<View>,
}

/// What is to be thought of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It serves the newest view.
    Serving,
    /// It serves an older one.
    Behind,
    /// It is marked, and waits to be let in.
    Quarantined,
    /// It has no state, or that of another incarnation.
    Absent,
    /// It gave no answer.
    Unreachable,
    /// It refuses the user.
    Denied,
    /// It must not hold locks.
    Unsuitable,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Behind => "behind",
            Self::Quarantined => "quarantined",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Unsuitable => "unsuitable",
        }
    }
}

impl Survey<'_> {
    /// The state of each node in the order of the sightings, and what to know
    /// of it.
    pub(crate) fn states(&self) -> Vec<(State, Option<String>)> {
        let known = self.view.as_ref().map(View::id);
        let states = self.sightings.iter().enumerate().map(|(index, sighting)| {
            match (&sighting.seen, self.twin(index)) {
                (_, Some(twin)) => {
                    let reason = format!(
                        "it is the same server as node {}: give each node a server of its own",
                        twin.node.name
                    );
                    (State::Unsuitable, Some(reason))
                }
                (Ok(seen), None) => state(seen, known),
                (Err(error), None) => {
                    let state = match error.kind() {
                        NodeErrorKind::Denied => State::Denied,
                        NodeErrorKind::Unsuitable => State::Unsuitable,
                        _ => State::Unreachable,
                    };
                    (state, Some(error.to_string()))
                }
            }
        });
        states.collect()
    }

    /// An earlier node that is the same server.
    pub(crate) fn twin(&self, index: usize) -> Option<&Sighting<'_>> {
        let id = |sighting: &Sighting<'_>| {
            let seen = sighting.seen.as_ref().ok()?;
            seen.facts.info("run_id").map(str::to_owned)
        };
        let own = id(&self.sightings[index])?;
        let earlier = self.sightings[..index].iter();
        earlier
            .into_iter()
            .find(|other| id(other).as_ref() == Some(&own))
    }

    /// Members of the view that the configuration does not name.
    pub(crate) fn unconfigured(&self) -> Vec<String> {
        let members = self.view.iter().flat_map(|view| &view.topology().nodes);
        let names = members.map(|member| member.name.clone());
        let is_known = |name: &String| self.sightings.iter().any(|s| s.node.name == *name);
        names.filter(|name| !is_known(name)).collect()
    }

    /// An error if no server could be asked at all.
    pub(crate) fn check_any(&self) -> Result<(), Failure> {
        if self.sightings.iter().any(|sighting| sighting.seen.is_ok()) {
            return Ok(());
        }
        let errors = self.sightings.iter().filter_map(|sighting| {
            let error = sighting.seen.as_ref().err()?;
            Some(format!("node {}: {error}", sighting.node.name))
        });
        let message = errors.collect::<Vec<_>>().join("; ");
        Err(Failure::new(Exit::Failed, message).next("check each with `ringlock doctor`"))
    }
}

fn state(seen: &Seen<'_>, newest: Option<ViewId>) -> (State, Option<String>) {
    if let Err(error) = seen.facts.check() {
        return (State::Unsuitable, Some(error.to_string()));
    }
    let (state, reason) = match seen.status.standing() {
        Standing::Serving(view) if Some(view) == newest => return (State::Serving, None),
        Standing::Serving(view) => (
            State::Behind,
            format!("it serves view {view}; the next router that connects hands it the newest"),
        ),
        Standing::Quarantined => (
            State::Quarantined,
            "it waits to be let in and grants nothing".into(),
        ),
        Standing::Absent if seen.status.nonce.is_none() => {
            (State::Absent, "it has no state: it is new, or lost it".into())
        }
        Standing::Absent => (
            State::Absent,
            "it restarted, or was replaced, since it was let in: what it held may be gone, and it grants nothing".into(),
        ),
    };
    (state, Some(reason))
}

/// The newest view that a server serves and whose document can be read.
fn newest(sightings: &[Sighting<'_>]) -> Option<View> {
    let seen = sightings.iter().filter_map(|s| s.seen.as_ref().ok());
    let views = seen.filter_map(|seen| {
        let document = seen.document.as_ref()?;
        View::read(seen.serving()?, document).ok()
    });
    views.max_by_key(View::id)
}
