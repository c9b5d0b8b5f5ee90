//! Starting a cluster, as specified in
//! [`proto::new_start`](crate::proto::membership::new_start): a new one, or one in
//! which most members lost their data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::NodeIndex;

use crate::clock;
use crate::cluster::nodes::NodeHandle;
use crate::cluster::proposer::fresh_nonce;
use crate::cluster::snapshot::{ClusterSnapshot, STEP_TIMEOUT, ask_all};
use crate::error::{Cause, Error, NodeCause, whole_millis};
use crate::node;
use crate::proto::membership::new_start::NewStart;
use crate::proto::membership::topology::Topology;
use crate::proto::membership::transition::adopt;
use crate::proto::membership::view::View;
use crate::proto::node::message::{
    Answer, NodeError, NodeErrorKind, NodeState, NodeStatus, Nonce, PriorState, Reply, Request,
};
use crate::proto::time::{Instant, drift, outwait};
use crate::telemetry::events;

/// How often, during the wait, all members are checked for changes and the
/// remaining time is reported.
const LOOK: Duration = Duration::from_millis(500);

/// Time between two checks of a cluster that is not ready.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How much longer than needed another process may take before it counts as dead.
/// With the random part it is at most twice that.
const GRACE: Duration = Duration::from_millis(500);

/// The same where its members do not report since when they are quarantined.
const LONG_GRACE: Duration = Duration::from_secs(5);

/// What [`Router::connect`](crate::Router::connect) waits for.
///
/// Reported on every change, and about every half second in between. Its `Display`
/// is a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectProgress {
    /// No node serves a view. To start the cluster every node is needed, and these
    /// do not answer.
    Unreachable {
        /// What is known of each.
        causes: Vec<NodeCause>,
    },
    /// Every node is kept from granting until all earlier locks have expired. Then
    /// the cluster gets its view.
    Waiting {
        /// How long that takes, if nothing interrupts it.
        remaining: Duration,
    },
}

impl fmt::Display for ConnectProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { causes } => {
                write!(f, "waiting for nodes: {}", crate::error::Causes(causes))
            }
            Self::Waiting { remaining } => write!(
                f,
                "waiting until all earlier locks have expired: {:?} left",
                whole_millis(*remaining)
            ),
        }
    }
}

/// The callback that receives each stage.
type ProgressCallback = dyn Fn(&ConnectProgress) + Send + Sync;

/// Receives what the start waits for.
#[derive(Clone, Default)]
pub(crate) struct Listener(Option<Arc<ProgressCallback>>);

impl Listener {
    pub(crate) fn new(hear: impl Fn(&ConnectProgress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    pub(crate) fn report(&self, progress: &ConnectProgress) {
        if let Some(hear) = &self.0 {
            hear(progress);
        }
    }

    fn waits(&self, remaining: Duration) {
        self.report(&ConnectProgress::Waiting { remaining });
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.0.is_some()).finish()
    }
}

/// The cluster to start.
pub(crate) struct Plan<'a> {
    pub(crate) topology: &'a Topology,
    /// The first epoch that is acceptable.
    pub(crate) least_epoch: u32,
    /// The longest ttl that an earlier lock may have.
    pub(crate) longest_ttl: Duration,
    /// How long clients may have relied on members that are not known here, if any
    /// member has served. Zero if all are known.
    pub(crate) view_lease: Duration,
    /// Whether the operator guarantees that nothing was locked, if the nodes turn
    /// out to be new.
    pub(crate) is_sure: bool,
    pub(crate) listener: &'a Listener,
}

/// The result of one try.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for as long as a start takes"
)]
pub(crate) enum Outcome {
    Started(View),
    /// Another process was quicker, or a member changed: check again.
    Disturbed,
    /// This member refuses a request.
    Refused(NodeCause),
}

/// Another process that starts the cluster, as reported by the members. The process
/// that has quarantined the first member has precedence.
#[derive(Default)]
pub(crate) struct OtherStarter {
    /// Its mark on the first member, and since when that is seen.
    seen: Option<(Nonce, Instant)>,
    /// Since when it is overdue.
    overdue: Option<Instant>,
    /// When the remaining time was last reported.
    reported: Option<Instant>,
    own: Option<Nonce>,
}

impl OtherStarter {
    /// How long to wait for the rival before the next check; `None`: go ahead. The
    /// time that it has waited also counts for another process that continues.
    pub(crate) async fn precedence(
        &mut self,
        plan: &Plan<'_>,
        handles: &[NodeHandle],
        statuses: &[NodeStatus],
    ) -> Option<Duration> {
        let now = clock::now();
        let first = &statuses[0];
        let nonce = first.nonce.as_ref()?;
        if first.standing() != NodeState::Quarantined || self.own.as_ref() == Some(nonce) {
            return None;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == nonce => *since,
            _ => {
                (self.seen, self.overdue) = (Some((Arc::clone(nonce), now)), None);
                now
            }
        };
        let is_quarantined = |status: &NodeStatus| status.standing() == NodeState::Quarantined;
        let are_quarantined = statuses.iter().all(is_quarantined);
        let mut pasts = Vec::new();
        if are_quarantined {
            pasts = ask_all(handles, |_| Request::PriorState).await;
        }
        let are_new = |pasts: &[Answer]| {
            let is_new = |answer: &Answer| {
                matches!(answer, Ok(Reply::PriorState(PriorState { epoch: 0, .. })))
            };
            pasts.iter().all(is_new)
        };
        // This also applies where this process is sure that nothing was locked: the
        // other process is not sure, and was first.
        let needed = match are_new(&pasts) {
            true => outwait(plan.longest_ttl),
            false => outwait(plan.longest_ttl + plan.view_lease),
        };
        let waited = pasts.iter().map(known_span).min().flatten();
        let left = match waited {
            Some(span) => needed.saturating_sub(span.saturating_sub(drift(span))),
            // They do not report since when: a version of ringlock that cannot record
            // the time leaves them in this state.
            None if are_quarantined => (since + needed + LONG_GRACE).saturating_since(now),
            // The rival may be in the middle of it, or the mark may come from a
            // process that was about to admit the node.
            None => Duration::ZERO,
        };
        if !left.is_zero() {
            self.overdue = None;
            let is_reported = self.reported.is_some_and(|reported| now < reported + LOOK);
            if waited.is_some() && !is_reported {
                self.reported = Some(now);
                plan.listener.waits(left);
            }
            return Some(left.min(LOOK_AGAIN));
        }
        let grace = || now + GRACE + GRACE.mul_f64(rand::random::<f64>());
        let overdue = *self.overdue.get_or_insert_with(grace);
        (now < overdue).then_some(LOOK_AGAIN)
    }
}

/// How long a member has been quarantined, by its own report.
fn known_span(answer: &Answer) -> Option<Duration> {
    match answer {
        Ok(Reply::PriorState(past)) => past.quarantined_for,
        _ => None,
    }
}

impl Plan<'_> {
    /// Makes one try.
    ///
    /// Cancel safe: any process may resume it at any point.
    pub(crate) async fn attempt(
        &self,
        handles: &[NodeHandle],
        statuses: &[NodeStatus],
        rival: &mut OtherStarter,
    ) -> Result<Outcome, Error> {
        let nonces: Vec<Nonce> = handles.iter().map(|_| fresh_nonce()).collect();
        rival.own = nonces.first().cloned();
        let mut start = NewStart::new(
            nonces,
            (self.longest_ttl, self.view_lease),
            self.least_epoch,
        );
        // One after the other: the first member is the referee.
        for (index, (handle, status)) in handles.iter().zip(statuses).enumerate() {
            let deadline = clock::now() + STEP_TIMEOUT;
            let request = start.quarantine(index, status);
            match node::call(&*handle.node, request, deadline).await {
                Ok(Reply::Done) => {}
                Ok(_) => return Ok(Outcome::Disturbed),
                Err(error) => return Ok(refused(handle, error)),
            }
        }
        let mut pasts: Vec<PriorState> = Vec::new();
        for (handle, answer) in handles
            .iter()
            .zip(ask_all(handles, |_| Request::PriorState).await)
        {
            match answer {
                Ok(Reply::PriorState(past)) => pasts.push(past),
                Ok(_) => {
                    let error = NodeError::new(NodeErrorKind::Protocol, "no answer to PAST");
                    return Ok(refused(handle, error));
                }
                Err(error) => return Ok(refused(handle, error)),
            }
        }
        let now = clock::now();
        start.heard(now, &pasts);
        // Nothing was locked before on in-memory nodes. Neither shortcut applies to
        // nodes that have served.
        let is_embedded = handles.iter().all(|handle| handle.node.is_embedded());
        let have_served = self.least_epoch > 1 || pasts.iter().any(|past| past.epoch > 0);
        if !have_served && (self.is_sure || is_embedded) {
            start.spare_the_wait(now);
        }
        if !self.wait(handles, &start).await {
            return Ok(Outcome::Disturbed);
        }
        self.hand_out(handles, &start).await
    }

    /// Waits until the start is due, and checks that no member has changed.
    async fn wait(&self, handles: &[NodeHandle], start: &NewStart) -> bool {
        let left = start.due().saturating_since(clock::now());
        if !left.is_zero() {
            events::first_start_waits(left);
        }
        loop {
            let now = clock::now();
            if now >= start.due() {
                return start.is_undisturbed(&ClusterSnapshot::of(handles).await.statuses);
            }
            self.listener.waits(start.due().saturating_since(now));
            clock::sleep_until(start.due().min(now + LOOK)).await;
            // A member that does not answer now may still answer later.
            let snapshot = ClusterSnapshot::of_most(handles).await;
            let is_silent = snapshot.statuses.iter().any(Option::is_none);
            if !is_silent && !start.is_undisturbed(&snapshot.statuses) {
                return false;
            }
        }
    }

    async fn hand_out(&self, handles: &[NodeHandle], start: &NewStart) -> Result<Outcome, Error> {
        let names = handles.iter().map(|handle| handle.name.to_string());
        let nonces = names.zip(start.nonces().iter().cloned()).collect();
        let topology = self.topology.clone().named(&fresh_nonce());
        let view = View::stable(start.epoch(), topology, &nonces)?;
        // The members of the view are in the order of their names; `handles` need not
        // be.
        let index = |handle: &NodeHandle| view.index_of(&handle.name).unwrap_or(NodeIndex::new(0));
        let answers = ask_all(handles, |at| adopt(&view, index(&handles[at]))).await;
        let done = |answer: &&Answer| **answer == Ok(Reply::Done);
        let adopted = answers.iter().filter(done).count();
        events::first_start(view.id(), adopted, handles.len());
        if adopted >= view.majority() {
            return Ok(Outcome::Started(view));
        }
        let refusal = handles.iter().zip(answers).find_map(|(handle, answer)| {
            let error = answer.err().filter(is_refusal)?;
            Some(refused(handle, error))
        });
        match refusal {
            // The others may serve the view already; another try would hide this
            // refusal.
            Some(Outcome::Refused(cause)) => Err(Error::InitRefused(cause)),
            // If one member serves the view, the others learn it at the next check.
            _ => Ok(Outcome::Disturbed),
        }
    }
}

/// Whether the server itself refused the request.
fn is_refusal(error: &NodeError) -> bool {
    matches!(
        error.kind(),
        NodeErrorKind::Denied
            | NodeErrorKind::Unsuitable
            | NodeErrorKind::WrongType
            | NodeErrorKind::Protocol
    )
}

fn refused(handle: &NodeHandle, error: NodeError) -> Outcome {
    Outcome::Refused(NodeCause {
        node: Arc::clone(&handle.name),
        cause: Cause::Failed(error),
    })
}
