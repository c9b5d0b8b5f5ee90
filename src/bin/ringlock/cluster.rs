//! The servers of a cluster, each inspected: those of the configuration, and
//! those that only the view in force names.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ringlock::node::redis::inspect::{Facts, Inspector, Server};
use ringlock::proto::membership::new_start::{VoteOutlook, vote_outlook};
use ringlock::proto::membership::view::View;
use ringlock::proto::node::message::{NodeState, NodeStatus};
use ringlock::proto::time::outwait;
use ringlock::{Config, NodeConfig, NodeError, NodeErrorKind, ViewId};
use serde::Serialize;

use crate::output::{Exit, Failure, span};

/// Why nodes in memory are not inspected.
pub(crate) const IN_MEMORY: &str =
    "a memory:// node lives in the process that created it: no other process can inspect it";

/// How many newer views a snapshot follows: all members that it asked may have
/// been retired since.
const MAX_STEPS: usize = 4;

/// How much longer than `max_ttl` a router may take to readmit a node.
const READMISSION: Duration = Duration::from_secs(1);

/// The servers of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    config: Config,
    configured: Vec<Node>,
    /// Members that are not configured, as successive views name them.
    others: [OnceCell<Vec<Node>>; MAX_STEPS],
}

/// A node of the configuration, or of the view.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) is_configured: bool,
    pub(crate) server: Server,
}

impl Node {
    pub(crate) fn new(config: &Config, node: &NodeConfig) -> Result<Self, Failure> {
        let server = Server::from_config(config, node)?.ok_or_else(|| {
            let message = format!("node {}: {IN_MEMORY}", node.name);
            Failure::new(Exit::Failed, message).next("inspect it from that process")
        })?;
        Ok(Self {
            name: node.name.clone(),
            durable: node.durable,
            is_configured: config.nodes.iter().any(|known| known.name == node.name),
            server,
        })
    }
}

impl Cluster {
    /// The servers that `config` names, sorted by name; the view that they
    /// serve may name more.
    pub(crate) fn new(config: &Config) -> Result<Self, Failure> {
        Self::of(config, &config.nodes)
    }

    /// These servers.
    pub(crate) fn of(config: &Config, nodes: &[NodeConfig]) -> Result<Self, Failure> {
        let nodes = nodes.iter().map(|node| Node::new(config, node));
        let mut configured = nodes.collect::<Result<Vec<_>, _>>()?;
        configured.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(Self {
            config: config.clone(),
            configured,
            others: std::array::from_fn(|_| OnceCell::new()),
        })
    }

    /// Inspects every server, all at once; then those that the newest view
    /// names in addition.
    pub(crate) async fn snapshot(&self) -> Result<ClusterSnapshot<'_>, Failure> {
        let mut server_reports = inspect_all(&self.configured).await;
        for others in &self.others {
            let view = newest(&server_reports);
            let missing = self.missing(view.as_ref(), &server_reports)?;
            if missing.is_empty() {
                break;
            }
            server_reports.extend(inspect_all(others.get_or_init(|| missing)).await);
            server_reports.sort_by(|a, b| a.node.name.as_bytes().cmp(b.node.name.as_bytes()));
        }
        let view = newest(&server_reports);
        Ok(ClusterSnapshot {
            server_reports,
            view,
        })
    }

    /// Inspects only these servers, as if they served no view.
    pub(crate) async fn strangers(&self) -> ClusterSnapshot<'_> {
        ClusterSnapshot {
            server_reports: inspect_all(&self.configured).await,
            view: None,
        }
    }

    fn missing(
        &self,
        view: Option<&View>,
        known: &[ServerReport<'_>],
    ) -> Result<Vec<Node>, Failure> {
        let members = view.into_iter().flat_map(View::members);
        let is_known = |name: &str| {
            known
                .iter()
                .any(|server_report| server_report.node.name == name)
        };
        members
            .filter(|member| !is_known(&member.name))
            .map(|member| {
                let node = self.config.reach(&member.name, &member.address);
                Node::new(&self.config, &node)
            })
            .collect()
    }
}

async fn inspect_all(nodes: &[Node]) -> Vec<ServerReport<'_>> {
    let looks = nodes.iter().map(async |node| ServerReport {
        node,
        seen: inspect(&node.server).await,
    });
    join_all(looks).await
}

async fn inspect(server: &Server) -> Result<Seen<'_>, NodeError> {
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
pub(crate) struct ServerReport<'a> {
    pub(crate) node: &'a Node,
    pub(crate) seen: Result<Seen<'a>, NodeError>,
}

impl ServerReport<'_> {
    fn run_id(&self) -> Option<&str> {
        self.seen.as_ref().ok()?.facts.info("run_id")
    }
}

/// What a server reported, and the connection that it was read from.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) look: Inspector<'a>,
    pub(crate) facts: Facts,
    pub(crate) status: NodeStatus,
    document: Option<Arc<str>>,
}

impl Seen<'_> {
    /// The view that it serves, if the server may hold locks.
    pub(crate) fn serving(&self) -> Option<ViewId> {
        match self.status.standing() {
            NodeState::Serving(view) if self.facts.check().is_ok() => Some(view),
            _ => None,
        }
    }
}

/// All servers, and the newest view that is served among them.
#[derive(Debug)]
pub(crate) struct ClusterSnapshot<'a> {
    pub(crate) server_reports: Vec<ServerReport<'a>>,
    pub(crate) view: Option<View>,
}

/// What is known of the view in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "view")]
pub(crate) enum ViewState {
    /// It is served and was read.
    Served,
    /// Every server was asked, and serves none.
    None,
    /// Servers that could not be asked may serve one.
    Unknown {
        /// The names of their nodes.
        silent: Vec<String>,
    },
    /// A view that is served could not be read.
    Unreadable {
        /// The ids of the views.
        views: Vec<String>,
    },
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It serves the newest view.
    Serving,
    /// It serves an older one.
    Behind,
    /// It is quarantined, and waits for readmission.
    Quarantined,
    /// It has no state, or that of another incarnation.
    Absent,
    /// It did not answer.
    Unreachable,
    /// It refuses the user.
    Denied,
    /// It must not hold locks.
    Unsuitable,
    /// It is configured, but is no member of the newest view.
    Retired,
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
            Self::Retired => "retired",
        }
    }
}

impl ClusterSnapshot<'_> {
    /// The state of each node in the order of the sightings, with the reason
    /// where there is one.
    pub(crate) fn states(&self) -> Vec<(State, Option<String>)> {
        let votes = |view| vote_outlook(view, |name| self.status(name)) == VoteOutlook::Votes;
        let can_vote = self.view.as_ref().is_some_and(votes);
        let states = self
            .server_reports
            .iter()
            .enumerate()
            .map(
                |(index, server_report)| match (&server_report.seen, self.twin(index)) {
                    (_, Some(twin)) => {
                        let reason = format!(
                            "it is the same server as node {}: give each node its own server",
                            twin.node.name
                        );
                        (State::Unsuitable, Some(reason))
                    }
                    (Ok(seen), None) => {
                        let is_out = !self.is_member(&server_report.node.name);
                        let newest = self.view.as_ref().map(|view| (view, is_out));
                        state(seen, newest, can_vote)
                    }
                    (Err(error), None) => {
                        let state = match error.kind() {
                            NodeErrorKind::Denied => State::Denied,
                            NodeErrorKind::Unsuitable => State::Unsuitable,
                            _ => State::Unreachable,
                        };
                        (state, Some(error.to_string()))
                    }
                },
            );
        states.collect()
    }

    /// The status that the node of this name reported.
    pub(crate) fn status(&self, name: &str) -> Option<&NodeStatus> {
        let mut server_reports = self.server_reports.iter();
        let server_report = server_reports.find(|server_report| server_report.node.name == name)?;
        server_report.seen.as_ref().ok().map(|seen| &seen.status)
    }

    /// An earlier node that is the same server.
    pub(crate) fn twin(&self, index: usize) -> Option<&ServerReport<'_>> {
        let own = self.server_reports[index].run_id()?;
        let mut earlier = self.server_reports[..index].iter();
        earlier.find(|other| other.run_id() == Some(own))
    }

    /// A node of another name that is the same server as `server_report`.
    pub(crate) fn same_server(
        &self,
        server_report: &ServerReport<'_>,
    ) -> Option<&ServerReport<'_>> {
        let own = server_report.run_id()?;
        let mut others = self.server_reports.iter();
        others
            .find(|other| other.node.name != server_report.node.name && other.run_id() == Some(own))
    }

    /// Whether the node is a member of the view; true for any node if there is
    /// no view.
    pub(crate) fn is_member(&self, name: &str) -> bool {
        let view = self.view.as_ref();
        view.is_none_or(|view| view.index_of(name).is_some())
    }

    /// Removes the nodes that are not members of the view: they hold no locks.
    pub(crate) fn leave_retired(&mut self) {
        let server_reports = std::mem::take(&mut self.server_reports);
        let (members, _): (Vec<_>, Vec<_>) = server_reports
            .into_iter()
            .partition(|server_report| self.is_member(&server_report.node.name));
        self.server_reports = members;
    }

    /// What is known of the view in force.
    pub(crate) fn knowledge(&self) -> ViewState {
        if self.view.is_some() {
            return ViewState::Served;
        }
        let seen = self
            .server_reports
            .iter()
            .filter_map(|s| s.seen.as_ref().ok());
        // A server that must not hold locks may still serve a view.
        let views = seen.filter_map(|seen| match seen.status.standing() {
            NodeState::Serving(view) => Some(view),
            NodeState::Absent | NodeState::Quarantined => None,
        });
        let views: BTreeSet<ViewId> = views.collect();
        if !views.is_empty() {
            let views = views.iter().map(ToString::to_string).collect();
            return ViewState::Unreadable { views };
        }
        let silent = self.server_reports.iter().filter(|s| s.seen.is_err());
        let silent: Vec<String> = silent.map(|s| s.node.name.clone()).collect();
        match silent.is_empty() {
            true => ViewState::None,
            false => ViewState::Unknown { silent },
        }
    }

    /// Members of the view that the configuration does not name.
    pub(crate) fn unconfigured(&self) -> Vec<String> {
        let others = self.server_reports.iter();
        let others = others.filter(|server_report| !server_report.node.is_configured);
        others
            .map(|server_report| server_report.node.name.clone())
            .collect()
    }

    /// An error if no server could be asked at all.
    pub(crate) fn check_any(&self) -> Result<(), Failure> {
        if self
            .server_reports
            .iter()
            .any(|server_report| server_report.seen.is_ok())
        {
            return Ok(());
        }
        let errors = self.server_reports.iter().filter_map(|server_report| {
            let error = server_report.seen.as_ref().err()?;
            Some(format!("node {}: {error}", server_report.node.name))
        });
        let message = errors.collect::<Vec<_>>().join("; ");
        Err(Failure::new(Exit::Failed, message).next("check each with `ringlock doctor`"))
    }
}

/// `newest` is the newest view, and whether the node is not a member of it.
/// `can_vote` is whether its members can readmit nodes.
fn state(
    seen: &Seen<'_>,
    newest: Option<(&View, bool)>,
    can_vote: bool,
) -> (State, Option<String>) {
    if let Err(error) = seen.facts.check() {
        return (State::Unsuitable, Some(error.to_string()));
    }
    let known = newest.map(|(view, _)| view.id());
    let is_out = newest.is_some_and(|(_, is_out)| is_out);
    let (state, reason) = match seen.status.standing() {
        NodeState::Serving(view) if is_out && Some(view) == known => (
            State::Retired,
            "it has left the cluster and knows it: it may be switched off and removed from the configuration".into(),
        ),
        NodeState::Serving(view) if is_out => (
            State::Retired,
            format!("it is not a member of the cluster, and serves view {view}: empty it before any other use"),
        ),
        _ if is_out => (
            State::Retired,
            "it is not a member of the cluster: `ringlock plan add` makes it one".into(),
        ),
        NodeState::Serving(view) if Some(view) == known => return (State::Serving, None),
        NodeState::Serving(view) => (
            State::Behind,
            format!("it serves view {view}; the next router that connects gives it the newest view"),
        ),
        NodeState::Quarantined => (State::Quarantined, quarantined(newest.map(|(view, _)| view).filter(|_| can_vote))),
        NodeState::Absent if seen.status.nonce.is_none() => {
            (State::Absent, "it has no state: it is new, or lost its data".into())
        }
        NodeState::Absent => (
            State::Absent,
            "it restarted or was replaced since it was admitted: its data may be lost, and it grants nothing".into(),
        ),
    };
    (state, Some(reason))
}

/// When a quarantined node serves again, at most: the wait counts in full,
/// whenever the quarantine began.
fn quarantined(view: Option<&View>) -> String {
    let waits = "it waits to be readmitted and grants nothing";
    match view {
        Some(view) => {
            let at_most = outwait(view.longest_ttl()) + READMISSION;
            format!(
                "{waits}; while a router runs, it is readmitted in {} at most; if none runs that long, use `ringlock readmit --wait`",
                span(at_most)
            )
        }
        None => waits.into(),
    }
}

/// The newest view that a server serves and whose document is readable.
fn newest(server_reports: &[ServerReport<'_>]) -> Option<View> {
    let seen = server_reports.iter().filter_map(|s| s.seen.as_ref().ok());
    let views = seen.filter_map(|seen| {
        let document = seen.document.as_ref()?;
        View::read(seen.serving()?, document).ok()
    });
    views.max_by_key(View::id)
}
