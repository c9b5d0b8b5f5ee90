//! Finding the view that a cluster serves, and giving a new cluster its first view.
//!
//! The nodes themselves decide: every step is a compare-and-set at one of them. Any
//! number of routers may do this at the same time, and any of them may die at any
//! point.

use std::time::Duration;

use crate::clock;
use crate::cluster::first_start::{
    ConnectProgress, LOOK_AGAIN, Listener, OtherStarter, Outcome, Plan,
};
use crate::cluster::nodes::NodeHandle;
use crate::cluster::proposer;
use crate::cluster::registry::NodeRegistry;
use crate::cluster::snapshot::{ClusterSnapshot, STEP_TIMEOUT};
use crate::config::{Init, OnMismatch};
use crate::error::{Cause, Error, NodeCause};
use crate::node;
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::membership::new_start::{VoteOutlook, vote_outlook};
use crate::proto::membership::topology::Topology;
use crate::proto::membership::topology_diff::differences;
use crate::proto::membership::view::View;
use crate::proto::node::message::{Ballot, NodeErrorKind, NodeState, NodeStatus, Reply, Request};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// How often the nodes that do not answer are reported.
const REPORT: Duration = Duration::from_millis(500);

/// How often a node may refuse to be initialised, or outbid, before this step gives
/// up on it.
const MAX_REFUSALS: u32 = 5;

/// The settings of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct BootstrapOptions {
    pub(crate) topology: Topology,
    pub(crate) init: Init,
    pub(crate) on_mismatch: OnMismatch,
    /// How long to wait for nodes that do not answer.
    pub(crate) tolerance: Duration,
    /// The first epoch that is acceptable.
    pub(crate) least_epoch: u32,
    /// Receives what the start waits for.
    pub(crate) listener: Listener,
}

impl BootstrapOptions {
    /// The start to make where no node serves a view. For nodes that have served
    /// one, it is not known which others were in it.
    fn first_start(&self) -> Plan<'_> {
        Plan {
            topology: &self.topology,
            least_epoch: self.least_epoch,
            longest_ttl: self.topology.max_ttl(),
            view_lease: self.topology.view_lease(),
            is_sure: self.init == Init::Now,
            listener: &self.listener,
        }
    }
}

/// Finds the view that the cluster serves, by asking `seeds`, or gives the cluster
/// one. Returns the view and its members.
///
/// Cancel safe: any process may resume it at any point.
pub(crate) async fn establish(
    options: &BootstrapOptions,
    registry: &NodeRegistry,
    seeds: &[NodeHandle],
) -> Result<(View, Vec<NodeHandle>), Error> {
    let mut tolerance = Tolerance::of(options);
    let mut rival = OtherStarter::default();
    loop {
        let snapshot = ClusterSnapshot::of(seeds).await;
        if snapshot.newest(options.least_epoch).is_some() {
            if let Some(found) = snapshot.newest_view(options.least_epoch).await? {
                compare(options, &found)?;
                let (view, handles) = latest(found, registry).await?;
                if options.init != Init::Never && is_to_start_again(&view, &handles).await {
                    match start_again(options, &view, &handles).await? {
                        FirstStart::Made(view, handles) => return Ok((view, handles)),
                        FirstStart::Needless => {
                            tolerance = Tolerance::of(options);
                            clock::sleep_until(clock::now() + LOOK_AGAIN).await;
                            continue;
                        }
                        // An acquire returns the reason.
                        FirstStart::Doubtful => return Ok((view, handles)),
                    }
                }
                // Nodes that are behind receive the view here. Nodes that lost
                // their data are found soon.
                proposer::spread(&view, &handles, None);
                return Ok((view, handles));
            }
        } else if let Some(statuses) = snapshot.check()?.complete() {
            if options.init == Init::Never {
                return Err(uninitialised(
                    "no node has any state and init = \"never\": connect once with init = \"wait\" (or \"now\" if nothing was locked)",
                ));
            }
            let plan = options.first_start();
            if rival.precedence(&plan, seeds, &statuses).await.is_some() {
                tolerance = Tolerance::of(options);
            } else {
                match plan.attempt(seeds, &statuses, &mut rival).await? {
                    Outcome::Started(view) => return Ok((view, seeds.to_vec())),
                    Outcome::Disturbed => tolerance = Tolerance::of(options),
                    Outcome::Refused(cause) => tolerance.refused(cause)?,
                }
            }
        } else {
            tolerance.silent(&snapshot, options);
        }
        if clock::now() >= tolerance.until {
            return Err(tolerance.verdict(snapshot));
        }
        clock::sleep_until(clock::now() + LOOK_AGAIN).await;
    }
}

/// How long to tolerate nodes that do not behave as required.
struct Tolerance {
    until: Instant,
    /// When the nodes that do not answer were last reported.
    reported: Option<Instant>,
    refused: Option<NodeCause>,
}

impl Tolerance {
    fn of(options: &BootstrapOptions) -> Self {
        Self {
            until: clock::now() + options.tolerance,
            reported: None,
            refused: None,
        }
    }

    /// A node cannot be initialised. A node that never can be ends the wait.
    fn refused(&mut self, cause: NodeCause) -> Result<(), Error> {
        let is_final = matches!(&cause.cause, Cause::Failed(error)
            if matches!(error.kind(), NodeErrorKind::Denied | NodeErrorKind::Unsuitable));
        if is_final {
            return Err(Error::InitRefused(cause));
        }
        self.refused = Some(cause);
        Ok(())
    }

    fn silent(&mut self, snapshot: &ClusterSnapshot<'_>, options: &BootstrapOptions) {
        let now = clock::now();
        if self
            .reported
            .is_none_or(|reported| now >= reported + REPORT)
        {
            self.reported = Some(now);
            let causes = snapshot.silent().to_vec();
            options
                .listener
                .report(&ConnectProgress::Unreachable { causes });
        }
    }

    fn verdict(self, snapshot: ClusterSnapshot<'_>) -> Error {
        let answered = snapshot.answers().count();
        match (snapshot.silent(), self.refused) {
            ([], Some(cause)) => Error::InitRefused(cause),
            ([], None) => uninitialised("another router is initialising it and has not finished"),
            (causes, _) => Error::Unreachable {
                answered,
                causes: causes.to_vec(),
            },
        }
    }
}

async fn is_to_start_again(view: &View, handles: &[NodeHandle]) -> bool {
    let snapshot = ClusterSnapshot::of_most(handles).await;
    vote_outlook(view, |name| snapshot.status(name)) == VoteOutlook::StartsAnew
}

/// The result of starting a cluster again.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for as long as a start takes"
)]
pub(crate) enum FirstStart {
    /// The cluster is started.
    Made(View, Vec<NodeHandle>),
    /// Another process was quicker, a vote helps, or members no longer answer.
    Needless,
    /// The cluster may still run elsewhere.
    Doubtful,
}

/// Starts a cluster again after most members lost their data, if nothing else
/// helps.
///
/// Cancel safe: any process may resume it at any point.
pub(crate) async fn start_again(
    options: &BootstrapOptions,
    view: &View,
    handles: &[NodeHandle],
) -> Result<FirstStart, Error> {
    let mut topology = view.topology().clone();
    // If the cluster does still run elsewhere, the empty name prevents clients from
    // taking this cluster for it.
    topology.cluster = String::new();
    // Of a joint view, only the members of the old topology.
    let members = &handles[..view.deciders().len()];
    let plan = Plan {
        topology: &topology,
        least_epoch: view.id().epoch.saturating_add(EPOCH_LEAP),
        longest_ttl: view.longest_ttl().max(options.topology.max_ttl()),
        view_lease: Duration::ZERO,
        is_sure: false,
        listener: &options.listener,
    };
    let mut rival = OtherStarter::default();
    let mut refusals = 0;
    loop {
        let snapshot = ClusterSnapshot::of(handles).await;
        let is_over = snapshot.newest(view.id().epoch.saturating_add(1)).is_some();
        if is_over || vote_outlook(view, |name| snapshot.status(name)) != VoteOutlook::StartsAnew {
            return Ok(FirstStart::Needless);
        }
        let Some(mut statuses) = snapshot.check()?.complete() else {
            return Ok(FirstStart::Needless);
        };
        statuses.truncate(members.len());
        if rival.precedence(&plan, members, &statuses).await.is_none() {
            if has_accepted_change(view, members, &statuses).await {
                return Ok(FirstStart::Doubtful);
            }
            match plan.attempt(members, &statuses, &mut rival).await? {
                Outcome::Started(view) => return Ok(FirstStart::Made(view, members.to_vec())),
                Outcome::Disturbed => {}
                Outcome::Refused(cause) => {
                    refusals += 1;
                    if refusals == MAX_REFUSALS {
                        return Err(Error::InitRefused(cause));
                    }
                }
            }
        }
        clock::sleep_until(clock::now() + LOOK_AGAIN).await;
    }
}

/// Whether a member that kept its data has accepted a change of membership. Members
/// that have lost their data since may have decided that change.
async fn has_accepted_change(view: &View, handles: &[NodeHandle], statuses: &[NodeStatus]) -> bool {
    for (handle, status) in handles.iter().zip(statuses) {
        if status.standing() != NodeState::Serving(view.id()) {
            continue;
        }
        let mut round = 1;
        // Nobody else can have a majority, so few ballots compete.
        for _ in 0..MAX_REFUSALS {
            let ballot = Ballot {
                round,
                proposer: rand::random(),
            };
            let request = Request::Prepare {
                view: view.id(),
                ballot,
            };
            let deadline = clock::now() + STEP_TIMEOUT;
            match node::call(&*handle.node, request, deadline).await {
                Ok(Reply::Promised(Some(accepted))) => {
                    let read = View::read(accepted.view, &accepted.document);
                    if read.is_ok_and(|next| next.next().is_some()) {
                        return true;
                    }
                    break;
                }
                Ok(Reply::Preempted(higher)) => round = higher.round.saturating_add(1),
                _ => break,
            }
        }
    }
    false
}

/// Follows `view` to the newest one that its members know: the nodes that were
/// asked may have been retired since.
async fn latest(mut view: View, registry: &NodeRegistry) -> Result<(View, Vec<NodeHandle>), Error> {
    loop {
        let handles = registry.members(&view)?;
        let snapshot = ClusterSnapshot::of_most(&handles).await;
        match snapshot.check()?.successor(&view).await {
            Some(newer) => view = newer,
            None => {
                snapshot.check_form(Some(view.id()))?;
                snapshot.recognise(&view)?;
                return Ok((view, handles));
            }
        }
    }
}

/// What to do if the served topology differs from the configured one.
fn compare(options: &BootstrapOptions, view: &View) -> Result<(), Error> {
    let served = view.next().unwrap_or(view.topology());
    let configured = &options.topology;
    let found = differences(served, configured);
    let agrees = |topology: &Topology| topology.agrees_with(configured);
    if found.is_empty() && agrees(served)
        || agrees(view.topology()) && differences(view.topology(), configured).is_empty()
    {
        return Ok(());
    }
    let differences = found.join("; ");
    if options.on_mismatch == OnMismatch::Refuse {
        return Err(Error::TopologyMismatch {
            serving: view.id(),
            differences,
        });
    }
    events::mismatch(view.id(), &differences);
    if let (Some(served), Some(own)) = (served.key_prefix(), configured.key_prefix())
        && served != own
    {
        events::other_key_prefix(view.id(), served, own);
    }
    Ok(())
}

fn uninitialised(detail: &str) -> Error {
    Error::Uninitialised {
        detail: detail.into(),
    }
}
