//! Finding the view that a cluster serves, and giving a new cluster its first.
//!
//! The nodes themselves decide: every step is a compare-and-set at one of
//! them, so any number of routers may do this at the same time, and any of
//! them may die at any point.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::Init;
use crate::error::{Cause, Error, NodeCause};
use crate::fleet::Peer;
use crate::node;
use crate::proto::quorum::majority;
use crate::proto::time::{Instant, outwait};
use crate::proto::topology::Topology;
use crate::proto::view::View;
use crate::proto::wire::{
    Answer, NodeError, NodeErrorKind, NodeStatus, Nonce, Reply, Request, Standing, ViewId,
};

/// How long a node may take to answer about itself.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two looks at a cluster that is not ready.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Grace for another router that is initialising, beside the wait that it has
/// to make; then it counts as dead.
const TAKEOVER_GRACE: Duration = Duration::from_secs(5);

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub(crate) struct Charter {
    pub(crate) topology: Topology,
    pub(crate) init: Init,
    /// How long to wait for nodes that do not answer.
    pub(crate) patience: Duration,
    /// The first epoch that is acceptable.
    pub(crate) least_epoch: u32,
}

/// What a look at a running cluster shows.
pub(crate) enum Outlook {
    /// Some node serves the known view: it stands.
    Same,
    /// A newer one is served.
    Newer(Box<View>),
    /// The cluster was initialised anew, not above the known view: following it
    /// would start the fences anew.
    Replaced {
        /// A node that serves the other view.
        node: Arc<str>,
        /// That view.
        serving: ViewId,
    },
    /// Every node answered, and none serves a view that is not outdated.
    AllLost,
    /// Too little is seen to know.
    Unclear,
}

/// Looks at a running cluster once.
pub(crate) async fn look(
    charter: &Charter,
    peers: &[Peer],
    known: ViewId,
) -> Result<Outlook, Error> {
    let answers = ask_all(peers, |_| Request::Status).await;
    let survey = Survey::of(peers, answers)?;
    match survey.newest(known.epoch) {
        Some(view) if view.epoch == known.epoch => Ok(survey.abreast_of(known, peers)),
        Some(view) => Ok(fetch(charter, peers, &survey, view)
            .await?
            .map_or(Outlook::Unclear, |view| Outlook::Newer(Box::new(view)))),
        None if survey.complete().is_some() => Ok(Outlook::AllLost),
        None => Ok(Outlook::Unclear),
    }
}

/// Finds the view that the cluster serves, or gives it one.
///
/// Cancel safe: it may be taken up again at any point, by anybody.
pub(crate) async fn establish(charter: &Charter, peers: &[Peer]) -> Result<View, Error> {
    let mut give_up_at = clock::now() + charter.patience;
    let mut rival = Rival::default();
    loop {
        let answers = ask_all(peers, |_| Request::Status).await;
        let survey = Survey::of(peers, answers)?;
        if let Some(view) = survey.newest(charter.least_epoch) {
            let document = fetch(charter, peers, &survey, view).await?;
            if let Some(view) = document {
                help(&view, peers, &survey).await;
                return Ok(view);
            }
        } else if let Some(statuses) = survey.complete() {
            if charter.init == Init::Never {
                return Err(uninitialised(
                    "no node has any state and init = \"never\": connect once with init = \"wait\" (or \"now\" if nothing was locked)",
                ));
            }
            if rival.has_precedence(&statuses[0], charter.topology.max_ttl()) {
                give_up_at = clock::now() + charter.patience;
            } else {
                let nonces = fresh_nonces(peers);
                rival.is_not(&nonces[0]);
                if let Some(view) = first_start(charter, peers, &statuses, nonces).await? {
                    return Ok(view);
                }
            }
        }
        if clock::now() >= give_up_at {
            return Err(survey.verdict());
        }
        clock::sleep_until(clock::now() + LOOK_AGAIN).await;
    }
}

/// Asks every peer the same thing, in parallel.
async fn ask_all(peers: &[Peer], request: impl Fn(usize) -> Request) -> Vec<Answer> {
    let deadline = clock::now() + STEP_TIMEOUT;
    let mut calls = tokio::task::JoinSet::new();
    for (index, peer) in peers.iter().enumerate() {
        let (node, request) = (Arc::clone(&peer.node), request(index));
        calls.spawn(async move { (index, node::call(&*node, request, deadline).await) });
    }
    let closed = || {
        Err(NodeError::new(
            NodeErrorKind::Closed,
            "the router has shut down",
        ))
    };
    let mut answers: Vec<Answer> = peers.iter().map(|_| closed()).collect();
    while let Some(joined) = calls.join_next().await {
        if let Ok((index, answer)) = joined {
            answers[index] = answer;
        }
    }
    answers
}

/// What all nodes say of themselves.
struct Survey {
    statuses: Vec<Option<NodeStatus>>,
    silent: Vec<NodeCause>,
}

impl Survey {
    fn of(peers: &[Peer], answers: Vec<Answer>) -> Result<Self, Error> {
        let mut survey = Self {
            statuses: Vec::new(),
            silent: Vec::new(),
        };
        for (peer, answer) in peers.iter().zip(answers) {
            let node = Arc::clone(&peer.name);
            let status = match answer {
                Ok(Reply::Status(status)) => Some(status),
                Ok(_) => None,
                Err(error) => {
                    let is_final = matches!(
                        error.kind(),
                        NodeErrorKind::Denied | NodeErrorKind::Unsuitable
                    );
                    let cause = NodeCause {
                        node,
                        cause: Cause::Failed(error),
                    };
                    if is_final {
                        return Err(Error::Node(cause));
                    }
                    survey.silent.push(cause);
                    None
                }
            };
            survey.statuses.push(status);
        }
        survey.refuse_doubles(peers)?;
        Ok(survey)
    }

    /// One server under two names would vote twice.
    fn refuse_doubles(&self, peers: &[Peer]) -> Result<(), Error> {
        let mut known: Vec<(usize, &NodeStatus)> = Vec::new();
        for (index, status) in self.statuses.iter().enumerate() {
            let Some(status) = status else { continue };
            let twin = known
                .iter()
                .find(|(_, other)| other.incarnation == status.incarnation);
            if let Some(&(first, _)) = twin {
                return Err(Error::SameServer {
                    first: Arc::clone(&peers[first].name),
                    second: Arc::clone(&peers[index].name),
                });
            }
            known.push((index, status));
        }
        Ok(())
    }

    /// The newest view that any node serves.
    fn newest(&self, least_epoch: u32) -> Option<ViewId> {
        let standing = self.statuses.iter().flatten().map(NodeStatus::standing);
        standing
            .filter_map(|standing| match standing {
                Standing::Serving(view) if view.epoch >= least_epoch => Some(view),
                _ => None,
            })
            .max()
    }

    /// How `known` stands where no newer epoch is served. Two views of one
    /// epoch come only of two first starts.
    fn abreast_of(&self, known: ViewId, peers: &[Peer]) -> Outlook {
        let mut others = Vec::new();
        for (peer, status) in peers.iter().zip(&self.statuses) {
            match status.as_ref().map(NodeStatus::standing) {
                Some(Standing::Serving(view)) if view == known => return Outlook::Same,
                Some(Standing::Serving(view)) if view.epoch == known.epoch => {
                    others.push((&peer.name, view));
                }
                _ => {}
            }
        }
        match others.first() {
            Some(&(node, serving)) if others.len() >= majority(peers.len()) => Outlook::Replaced {
                node: Arc::clone(node),
                serving,
            },
            _ => Outlook::Unclear,
        }
    }

    /// Everybody's status, if everybody answered.
    fn complete(&self) -> Option<Vec<NodeStatus>> {
        self.statuses.iter().cloned().collect()
    }

    fn verdict(self) -> Error {
        match self.silent.into_iter().next() {
            Some(NodeCause { node, cause }) => uninitialised(&format!(
                "no node serves a view, and a first start needs all of them, but node {node}: {cause}"
            )),
            None => uninitialised("another router is initialising it and has not finished"),
        }
    }
}

fn uninitialised(detail: &str) -> Error {
    Error::Uninitialised {
        detail: detail.into(),
    }
}

/// Reads the document of `view` from a node that serves it. `None`: nobody
/// gave it; look again.
async fn fetch(
    charter: &Charter,
    peers: &[Peer],
    survey: &Survey,
    view: ViewId,
) -> Result<Option<View>, Error> {
    let deadline = clock::now() + STEP_TIMEOUT;
    for (peer, status) in peers.iter().zip(&survey.statuses) {
        let serving = status.as_ref().map(NodeStatus::standing);
        if serving != Some(Standing::Serving(view)) {
            continue;
        }
        let answer = node::call(&*peer.node, Request::Document, deadline).await;
        if let Ok(Reply::Document(Some(document))) = answer
            && let Ok(read) = View::read(view, &document)
        {
            if !read.topology().agrees_with(&charter.topology) {
                let difference = difference(read.topology(), &charter.topology);
                return Err(Error::TopologyMismatch {
                    serving: view,
                    difference,
                });
            }
            return Ok(Some(read));
        }
    }
    Ok(None)
}

fn difference(served: &Topology, wanted: &Topology) -> String {
    let names = |topology: &Topology| {
        topology
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let sides = [
        ("nodes", names(served), names(wanted)),
        (
            "router.replicas",
            served.replicas.to_string(),
            wanted.replicas.to_string(),
        ),
        (
            "router.max_ttl",
            format!("{:?}", served.max_ttl()),
            format!("{:?}", wanted.max_ttl()),
        ),
        (
            "router.view_lease",
            format!("{:?}", served.view_lease()),
            format!("{:?}", wanted.view_lease()),
        ),
        (
            "ring.format",
            served.format.to_string(),
            wanted.format.to_string(),
        ),
        (
            "ring.vnodes",
            served.vnodes.to_string(),
            wanted.vnodes.to_string(),
        ),
    ];
    let found = sides
        .into_iter()
        .find(|(_, served, wanted)| served != wanted);
    found.map_or_else(
        || {
            "a node's weight, zone or host, or an override; all routers must be configured alike"
                .into()
        },
        |(what, served, wanted)| {
            format!(
                "{what} is {served} there and {wanted} here; all routers must be configured alike"
            )
        },
    )
}

/// Hands the view to nodes that belong to it and have not heard of it.
async fn help(view: &View, peers: &[Peer], survey: &Survey) {
    let deadline = clock::now() + STEP_TIMEOUT;
    for (index, (peer, status)) in peers.iter().zip(&survey.statuses).enumerate() {
        let Some(status) = status else { continue };
        let nonce = view.nonce(ringlock_ring::NodeIndex::new(index as u16));
        let is_member = status.nonce.as_ref() == Some(nonce);
        match status.standing() {
            Standing::Serving(serving) if serving.epoch >= view.id().epoch => {}
            Standing::Serving(_) | Standing::Quarantined if is_member => {
                let request = adopt(view, index);
                let _ = node::call(&*peer.node, request, deadline).await;
            }
            _ => tracing::warn!(
                node = &*peer.name,
                view = %view.id(),
                "the node lost its data and grants nothing until it is re-admitted"
            ),
        }
    }
}

fn adopt(view: &View, index: usize) -> Request {
    Request::Adopt {
        view: view.id(),
        document: Arc::clone(view.document()),
        nonce: Arc::clone(view.nonce(ringlock_ring::NodeIndex::new(index as u16))),
    }
}

/// Another router that is initialising the cluster, as far as the first node
/// tells: whoever has marked that one goes ahead.
#[derive(Default)]
struct Rival {
    seen: Option<(Nonce, Instant)>,
    own: Option<Nonce>,
}

impl Rival {
    /// This mark on the first node is our own.
    fn is_not(&mut self, own: &Nonce) {
        self.own = Some(Arc::clone(own));
    }

    /// Whether to leave it the time that a first start takes.
    fn has_precedence(&mut self, first: &NodeStatus, max_ttl: Duration) -> bool {
        let now = clock::now();
        let Some(nonce) = &first.nonce else {
            return false;
        };
        if first.standing() != Standing::Quarantined || self.own.as_ref() == Some(nonce) {
            return false;
        }
        match &self.seen {
            Some((seen, since)) if seen == nonce => {
                now < *since + outwait(max_ttl) + TAKEOVER_GRACE
            }
            _ => {
                self.seen = Some((Arc::clone(nonce), now));
                true
            }
        }
    }
}

/// Nonces of one try at a first start; never used again, so that nothing that
/// is late from an earlier try can pass for this one.
fn fresh_nonces(peers: &[Peer]) -> Vec<Nonce> {
    peers
        .iter()
        .map(|_| format!("{:032x}", rand::random::<u128>()).into())
        .collect()
}

/// First start: quarantine every node under own nonces, wait until whatever
/// was locked before has expired, and hand out the first view. `None`: another
/// router was quicker.
///
/// At most one view can come of it: a node adopts only the document that lists
/// its present nonce, and a document is written only by who has seen all nodes
/// under own nonces, none of them serving.
async fn first_start(
    charter: &Charter,
    peers: &[Peer],
    statuses: &[NodeStatus],
    nonces: Vec<Nonce>,
) -> Result<Option<View>, Error> {
    let deadline = clock::now() + STEP_TIMEOUT * peers.len() as u32;
    // One after the other: the first node is the referee.
    for ((peer, status), nonce) in peers.iter().zip(statuses).zip(&nonces) {
        let request = Request::Quarantine {
            expected_nonce: status.nonce.clone(),
            expected_view: status.serving,
            nonce: Arc::clone(nonce),
        };
        if node::call(&*peer.node, request, deadline).await != Ok(Reply::Done) {
            return Ok(None);
        }
    }
    let is_embedded = peers.iter().all(|peer| peer.node.is_embedded());
    if charter.init == Init::Wait && !is_embedded {
        let wait = outwait(charter.topology.max_ttl());
        tracing::info!(
            ?wait,
            "first start: waiting until whatever was locked before has expired"
        );
        clock::sleep_until(clock::now() + wait).await;
    }
    let answers = ask_all(peers, |_| Request::Status).await;
    for (answer, nonce) in answers.into_iter().zip(&nonces) {
        match answer {
            Ok(Reply::Status(status))
                if status.standing() == Standing::Quarantined
                    && status.nonce.as_ref() == Some(nonce) => {}
            _ => return Ok(None),
        }
    }
    let names = peers.iter().map(|peer| peer.name.to_string());
    let nonces = names.zip(nonces).collect();
    let view = View::stable(charter.least_epoch, charter.topology.clone(), &nonces)?;
    let answers = ask_all(peers, |index| adopt(&view, index)).await;
    let adopted = answers
        .into_iter()
        .filter(|answer| *answer == Ok(Reply::Done))
        .count();
    tracing::info!(view = %view.id(), adopted, nodes = peers.len(), "first start");
    Ok((adopted >= view.majority()).then_some(view))
}
