//! Reading the state of a cluster: what its nodes report about themselves, and
//! which view they serve.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;

use crate::clock;
use crate::cluster::nodes::NodeHandle;
use crate::error::{Cause, Error, NodeCause};
use crate::node;
use crate::proto::membership::topology::TopologyError;
use crate::proto::membership::view::View;
use crate::proto::node::message::{
    Answer, NodeError, NodeErrorKind, NodeState, NodeStatus, Reply, Request, ViewId,
};
use crate::proto::quorum::majority;
use crate::proto::time::Instant;
use crate::telemetry::events;

/// How long a node may take to report its status.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// How much longer than the majority the other nodes may take when a working
/// cluster is checked: a node that hangs must not delay the others' answers.
const GRACE: Duration = Duration::from_millis(250);

/// Sends the same request to every node, in parallel.
pub(crate) async fn ask_all(
    handles: &[NodeHandle],
    request: impl Fn(usize) -> Request,
) -> Vec<Answer> {
    let requests = handles.iter().enumerate();
    send_all(requests.map(|(index, handle)| (handle.clone(), request(index)))).await
}

/// Sends each node its request, in parallel. Returns the answers in the same order.
pub(crate) async fn send_all(
    requests: impl IntoIterator<Item = (NodeHandle, Request)>,
) -> Vec<Answer> {
    gather(requests.into_iter().collect(), STEP_TIMEOUT).await
}

/// Sends each node its request. Once a majority has answered, the others have
/// `grace` left to answer.
async fn gather(requests: Vec<(NodeHandle, Request)>, grace: Duration) -> Vec<Answer> {
    let deadline = clock::now() + STEP_TIMEOUT;
    let silent = || Err(NodeError::new(NodeErrorKind::Timeout, "no answer yet"));
    let mut answers: Vec<Answer> = requests.iter().map(|_| silent()).collect();
    let enough = majority(requests.len());
    let calls = requests.into_iter().enumerate();
    let mut calls: FuturesUnordered<_> = calls
        .map(|(index, (handle, request))| async move {
            (index, node::call(&*handle.node, request, deadline).await)
        })
        .collect();
    let (mut answered, mut until) = (0, deadline);
    while let Some(Some((index, answer))) = clock::within(Some(until), calls.next()).await {
        answered += usize::from(answer.is_ok());
        answers[index] = answer;
        if answered == enough {
            until = until.min(clock::now() + grace);
        }
    }
    answers
}

/// The reports of all nodes about themselves.
pub(crate) struct ClusterSnapshot<'p> {
    handles: &'p [NodeHandle],
    /// When they were asked.
    pub(crate) asked_at: Instant,
    pub(crate) statuses: Vec<Option<NodeStatus>>,
    silent: Vec<NodeCause>,
    /// A view in a format of another version of ringlock.
    unreadable: Mutex<Option<(ViewId, TopologyError)>>,
}

impl<'p> ClusterSnapshot<'p> {
    /// Asks all nodes, and gives each the full time.
    pub(crate) async fn of(handles: &'p [NodeHandle]) -> Self {
        Self::within(handles, STEP_TIMEOUT).await
    }

    /// Asks all nodes, and waits for a majority.
    pub(crate) async fn of_most(handles: &'p [NodeHandle]) -> Self {
        Self::within(handles, GRACE).await
    }

    async fn within(handles: &'p [NodeHandle], grace: Duration) -> Self {
        let asked_at = clock::now();
        let requests = handles
            .iter()
            .map(|handle| (handle.clone(), Request::Status));
        let answers = gather(requests.collect(), grace).await;
        let mut snapshot = Self {
            handles,
            asked_at,
            statuses: Vec::new(),
            silent: Vec::new(),
            unreadable: Mutex::default(),
        };
        for (handle, answer) in handles.iter().zip(answers) {
            let status = match answer {
                Ok(Reply::Status(status)) => Some(status),
                other => {
                    let misfit = || NodeError::new(NodeErrorKind::Protocol, "no status");
                    snapshot.silent.push(NodeCause {
                        node: Arc::clone(&handle.name),
                        cause: Cause::Failed(other.err().unwrap_or_else(misfit)),
                    });
                    None
                }
            };
            snapshot.statuses.push(status.map(|status| *status));
        }
        snapshot
    }

    /// Refuses servers that must not be used, and one server under two names, which
    /// would vote twice.
    pub(crate) fn check(&self) -> Result<&Self, Error> {
        let is_unfit = |cause: &NodeCause| {
            let Cause::Failed(error) = &cause.cause else {
                return false;
            };
            let kind = error.kind();
            matches!(kind, NodeErrorKind::Denied | NodeErrorKind::Unsuitable)
        };
        if let Some(cause) = self.silent.iter().find(|cause| is_unfit(cause)) {
            return Err(Error::Node(cause.clone()));
        }
        let mut known: Vec<(&NodeHandle, &NodeStatus)> = Vec::new();
        for (handle, status) in self.answers() {
            let is_twin = |(_, other): &&(_, &NodeStatus)| other.incarnation == status.incarnation;
            if let Some((first, _)) = known.iter().find(is_twin) {
                return Err(Error::SameServer {
                    first: Arc::clone(&first.name),
                    second: Arc::clone(&handle.name),
                });
            }
            known.push((handle, status));
        }
        Ok(self)
    }

    /// Refuses a server that serves `view` as another member than the expected one:
    /// it would grant what the expected member may have granted.
    pub(crate) fn recognise(&self, view: &View) -> Result<&Self, Error> {
        let is_other = |(handle, status): &(&NodeHandle, &NodeStatus)| {
            let listed = view.index_of(&handle.name).map(|node| view.nonce(node));
            status.served() == Some(view.id()) && status.nonce.as_ref() != listed
        };
        match self.answers().find(is_other) {
            Some((handle, _)) => Err(Error::Node(NodeCause {
                node: Arc::clone(&handle.name),
                cause: Cause::Failed(NodeError::another_member()),
            })),
            None => Ok(self),
        }
    }

    /// The nodes that answered, with their answers.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (&'p NodeHandle, &NodeStatus)> {
        let pairs = self.handles.iter().zip(&self.statuses);
        pairs.filter_map(|(handle, status)| Some((handle, status.as_ref()?)))
    }

    /// The newest view that any node serves.
    pub(crate) fn newest(&self, least_epoch: u32) -> Option<ViewId> {
        let served = self.answers().filter_map(|(_, status)| status.served());
        served.filter(|view| view.epoch >= least_epoch).max()
    }

    /// A node that serves another view of `known`'s epoch, if most nodes do and
    /// none serves `known`. Only two first starts can create two views of one
    /// epoch.
    pub(crate) fn replaced(&self, known: ViewId) -> Option<(Arc<str>, ViewId)> {
        let served = || {
            self.answers()
                .map(|(handle, status)| (handle, status.served()))
        };
        if served().any(|(_, view)| view == Some(known)) {
            return None;
        }
        let others: Vec<_> = served()
            .filter_map(|(handle, view)| Some((handle, view?)))
            .filter(|(_, view)| view.epoch == known.epoch)
            .collect();
        let (handle, view) = others.first()?;
        (others.len() >= majority(self.handles.len())).then(|| (Arc::clone(&handle.name), *view))
    }

    /// The status of every node, if all answered.
    pub(crate) fn complete(&self) -> Option<Vec<NodeStatus>> {
        self.statuses.iter().cloned().collect()
    }

    /// The nodes that did not answer, and why.
    pub(crate) fn silent(&self) -> &[NodeCause] {
        &self.silent
    }

    /// The status that the node of this name reported.
    pub(crate) fn status(&self, name: &str) -> Option<&NodeStatus> {
        let mut answers = self.answers();
        answers.find_map(|(handle, status)| (&*handle.name == name).then_some(status))
    }

    /// Every view that is served, the newest first.
    fn served(&self) -> Vec<ViewId> {
        let mut views: Vec<ViewId> = self
            .answers()
            .filter_map(|(_, status)| status.served())
            .collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views.dedup();
        views
    }

    /// The newest view after `known`, if any node serves one. A view of another
    /// cluster does not count, since a server may have been reused elsewhere. It
    /// does count if most of the nodes serve it: then the cluster was given up.
    pub(crate) async fn successor(&self, known: &View) -> Option<View> {
        for id in self.served() {
            if id.epoch <= known.id().epoch {
                return None;
            }
            let Some(view) = self.fetch(id).await else {
                continue;
            };
            // Every node whose nonce matches the view serves it, or is about to.
            let belongs = |(handle, status): &(&NodeHandle, &NodeStatus)| {
                let listed = view.index_of(&handle.name).map(|node| view.nonce(node));
                status.standing() != NodeState::Absent && status.nonce.as_ref() == listed
            };
            let belonging = self.answers().filter(belongs).count();
            if view.cluster() == known.cluster() || belonging >= majority(self.handles.len()) {
                return Some(view);
            }
            events::foreign(id);
        }
        None
    }

    /// The newest view that any node serves, not below `least_epoch`.
    ///
    /// # Errors
    /// [`Error::TwoClusters`]; [`TopologyError::Form`] if the newest view cannot be
    /// read.
    pub(crate) async fn newest_view(&self, least_epoch: u32) -> Result<Option<View>, Error> {
        let mut newest: Option<View> = None;
        for id in self.served() {
            if id.epoch < least_epoch {
                continue;
            }
            let Some(view) = self.fetch(id).await else {
                continue;
            };
            match &newest {
                Some(newest) if newest.cluster() != view.cluster() => {
                    let serving = |id| {
                        let mut answers = self.answers();
                        let found = answers.find(|(_, status)| status.served() == Some(id));
                        found.map_or_else(|| "?".into(), |(handle, _)| Arc::clone(&handle.name))
                    };
                    return Err(Error::TwoClusters {
                        first: serving(newest.id()),
                        second: serving(id),
                    });
                }
                Some(_) => {}
                None => newest = Some(view),
            }
        }
        self.check_form(newest.as_ref().map(View::id))?;
        Ok(newest)
    }

    /// Refuses to continue with `known`, or without a view, if a newer view was
    /// found that this version of ringlock cannot read.
    pub(crate) fn check_form(&self, known: Option<ViewId>) -> Result<(), Error> {
        match &*self.unreadable.lock() {
            Some((view, error)) if known.is_none_or(|known| view.epoch > known.epoch) => {
                Err(error.clone().into())
            }
            _ => Ok(()),
        }
    }

    /// Reads the document of `view` from a node that serves it. `None`: no node
    /// returned it; check again.
    async fn fetch(&self, view: ViewId) -> Option<View> {
        let deadline = clock::now() + STEP_TIMEOUT;
        for (handle, status) in self.answers() {
            if status.served() != Some(view) {
                continue;
            }
            let answer = node::call(&*handle.node, Request::Document, deadline).await;
            let Ok(Reply::Document(Some(document))) = answer else {
                continue;
            };
            match View::read(view, &document) {
                Ok(read) => return Some(read),
                Err(error) => {
                    events::unreadable(&handle.name, &error);
                    if matches!(error, TopologyError::Form { .. }) {
                        *self.unreadable.lock() = Some((view, error));
                    }
                }
            }
        }
        None
    }
}
