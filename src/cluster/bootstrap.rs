//! Finding the view that a cluster serves, and giving a new cluster its first view.
//!
//! The nodes themselves decide: every step is a compare-and-set at one of them. Any
//! number of routers may do this at the same time, and any of them may die at any
//! point.

use std::time::Duration;

use crate::clock;
use crate::cluster::first_start::{ConnectProgress, LOOK_AGAIN, Listener, Outcome, Plan, Rival};
use crate::cluster::nodes::NodeHandle;
use crate::cluster::proposer;
use crate::cluster::registry::NodeRegistry;
use crate::cluster::snapshot::{ClusterSnapshot, STEP_TIMEOUT};
use crate::config::{Init, OnMismatch};
use crate::error::{Cause, Error, NodeCause};
use crate::node;
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::membership::new_start::{Prospect, prospect};
use crate::proto::membership::topology::Topology;
use crate::proto::membership::topology_diff::differences;
use crate::proto::membership::view::View;
use crate::proto::node::message::{Ballot, NodeErrorKind, NodeState, NodeStatus, Reply, Request};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// How often the nodes that do not answer are reported.
const TELL: Duration = Duration::from_millis(500);

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
    pub(crate) patience: Duration,
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
    charter: &BootstrapOptions,
    roster: &NodeRegistry,
    seeds: &[NodeHandle],
) -> Result<(View, Vec<NodeHandle>), Error> {
    let mut patience = Patience::of(charter);
    let mut rival = Rival::default();
    loop {
        let survey = ClusterSnapshot::of(seeds).await;
        if survey.newest(charter.least_epoch).is_some() {
            if let Some(found) = survey.newest_view(charter.least_epoch).await? {
                compare(charter, &found)?;
                let (view, peers) = latest(found, roster).await?;
                if charter.init != Init::Never && is_to_start_anew(&view, &peers).await {
                    match start_anew(charter, &view, &peers).await? {
                        NewBeginning::Made(view, peers) => return Ok((view, peers)),
                        NewBeginning::Needless => {
                            patience = Patience::of(charter);
                            clock::sleep_until(clock::now() + LOOK_AGAIN).await;
                            continue;
                        }
                        // An acquire returns the reason.
                        NewBeginning::Doubtful => return Ok((view, peers)),
                    }
                }
                // Nodes that are behind receive the view here. Nodes that lost
                // their data are found soon.
                proposer::spread(&view, &peers, None);
                return Ok((view, peers));
            }
        } else if let Some(statuses) = survey.check()?.complete() {
            if charter.init == Init::Never {
                return Err(uninitialised(
                    "no node has any state and init = \"never\": connect once with init = \"wait\" (or \"now\" if nothing was locked)",
                ));
            }
            let plan = charter.first_start();
            if rival.precedence(&plan, seeds, &statuses).await.is_some() {
                patience = Patience::of(charter);
            } else {
                match plan.attempt(seeds, &statuses, &mut rival).await? {
                    Outcome::Started(view) => return Ok((view, seeds.to_vec())),
                    Outcome::Disturbed => patience = Patience::of(charter),
                    Outcome::Refused(cause) => patience.refused(cause)?,
                }
            }
        } else {
            patience.silent(&survey, charter);
        }
        if clock::now() >= patience.until {
            return Err(patience.verdict(survey));
        }
        clock::sleep_until(clock::now() + LOOK_AGAIN).await;
    }
}

/// How long to tolerate nodes that do not behave as required.
struct Patience {
    until: Instant,
    /// When the nodes that do not answer were last reported.
    told: Option<Instant>,
    refused: Option<NodeCause>,
}

impl Patience {
    fn of(charter: &BootstrapOptions) -> Self {
        Self {
            until: clock::now() + charter.patience,
            told: None,
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

    fn silent(&mut self, survey: &ClusterSnapshot<'_>, charter: &BootstrapOptions) {
        let now = clock::now();
        if self.told.is_none_or(|told| now >= told + TELL) {
            self.told = Some(now);
            let causes = survey.silent().to_vec();
            charter
                .listener
                .tell(&ConnectProgress::Unreachable { causes });
        }
    }

    fn verdict(self, survey: ClusterSnapshot<'_>) -> Error {
        let answered = survey.answers().count();
        match (survey.silent(), self.refused) {
            ([], Some(cause)) => Error::InitRefused(cause),
            ([], None) => uninitialised("another router is initialising it and has not finished"),
            (causes, _) => Error::Unreachable {
                answered,
                causes: causes.to_vec(),
            },
        }
    }
}

async fn is_to_start_anew(view: &View, peers: &[NodeHandle]) -> bool {
    let survey = ClusterSnapshot::of_most(peers).await;
    prospect(view, |name| survey.status(name)) == Prospect::StartsAnew
}

/// The result of starting a cluster again.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for as long as a start takes"
)]
pub(crate) enum NewBeginning {
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
pub(crate) async fn start_anew(
    charter: &BootstrapOptions,
    view: &View,
    peers: &[NodeHandle],
) -> Result<NewBeginning, Error> {
    let mut topology = view.topology().clone();
    // If the cluster does still run elsewhere, the empty name prevents clients from
    // taking this cluster for it.
    topology.cluster = String::new();
    // Of a joint view, only the members of the old topology.
    let members = &peers[..view.deciders().len()];
    let plan = Plan {
        topology: &topology,
        least_epoch: view.id().epoch.saturating_add(EPOCH_LEAP),
        longest_ttl: view.longest_ttl().max(charter.topology.max_ttl()),
        view_lease: Duration::ZERO,
        is_sure: false,
        listener: &charter.listener,
    };
    let mut rival = Rival::default();
    let mut refusals = 0;
    loop {
        let survey = ClusterSnapshot::of(peers).await;
        let is_over = survey.newest(view.id().epoch.saturating_add(1)).is_some();
        if is_over || prospect(view, |name| survey.status(name)) != Prospect::StartsAnew {
            return Ok(NewBeginning::Needless);
        }
        let Some(mut statuses) = survey.check()?.complete() else {
            return Ok(NewBeginning::Needless);
        };
        statuses.truncate(members.len());
        if rival.precedence(&plan, members, &statuses).await.is_none() {
            if has_accepted_passage(view, members, &statuses).await {
                return Ok(NewBeginning::Doubtful);
            }
            match plan.attempt(members, &statuses, &mut rival).await? {
                Outcome::Started(view) => return Ok(NewBeginning::Made(view, members.to_vec())),
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
async fn has_accepted_passage(view: &View, peers: &[NodeHandle], statuses: &[NodeStatus]) -> bool {
    for (peer, status) in peers.iter().zip(statuses) {
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
            match node::call(&*peer.node, request, deadline).await {
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
async fn latest(mut view: View, roster: &NodeRegistry) -> Result<(View, Vec<NodeHandle>), Error> {
    loop {
        let peers = roster.members(&view)?;
        let survey = ClusterSnapshot::of_most(&peers).await;
        match survey.check()?.successor(&view).await {
            Some(newer) => view = newer,
            None => {
                survey.check_form(Some(view.id()))?;
                survey.recognise(&view)?;
                return Ok((view, peers));
            }
        }
    }
}

/// What to do if the served topology differs from the configured one.
fn compare(charter: &BootstrapOptions, view: &View) -> Result<(), Error> {
    let served = view.next().unwrap_or(view.topology());
    let configured = &charter.topology;
    let found = differences(served, configured);
    let agrees = |topology: &Topology| topology.agrees_with(configured);
    if found.is_empty() && agrees(served)
        || agrees(view.topology()) && differences(view.topology(), configured).is_empty()
    {
        return Ok(());
    }
    let differences = found.join("; ");
    if charter.on_mismatch == OnMismatch::Refuse {
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
