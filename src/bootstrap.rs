//! Finding the view that a cluster serves, and giving a new cluster its first.
//!
//! The nodes themselves decide: every step is a compare-and-set at one of
//! them, so any number of routers may do this at the same time, and any of
//! them may die at any point.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::{Init, OnMismatch};
use crate::coordinate::{self, fresh_nonce};
use crate::difference::differences;
use crate::error::{Error, NodeCause};
use crate::events;
use crate::fleet::Peer;
use crate::node;
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::time::{Instant, outwait};
use crate::proto::topology::Topology;
use crate::proto::transition::{adopt, quarantine};
use crate::proto::view::View;
use crate::proto::wire::{NodeStatus, Nonce, Reply, Request, Standing};
use crate::roster::Roster;
use crate::survey::{STEP_TIMEOUT, Survey, ask_all};

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
    pub(crate) on_mismatch: OnMismatch,
    /// How long to wait for nodes that do not answer.
    pub(crate) patience: Duration,
    /// The first epoch that is acceptable.
    pub(crate) least_epoch: u32,
}

impl Charter {
    /// The same for nodes that are other incarnations now, but still say what
    /// they served: fences go on growing.
    fn above(&self, statuses: &[NodeStatus]) -> Self {
        let served = statuses.iter().filter_map(|status| status.serving);
        let next = served.map(|view| view.epoch + EPOCH_LEAP).max();
        Self {
            least_epoch: self.least_epoch.max(next.unwrap_or_default()),
            ..self.clone()
        }
    }
}

/// Finds the view that the cluster serves, by asking `seeds`, or gives it one;
/// and who its members are.
///
/// Cancel safe: it may be taken up again at any point, by anybody.
pub(crate) async fn establish(
    charter: &Charter,
    roster: &Roster,
    seeds: &[Peer],
) -> Result<(View, Vec<Peer>), Error> {
    let mut give_up_at = clock::now() + charter.patience;
    let mut rival = Rival::default();
    let found = loop {
        let survey = Survey::of(seeds).await;
        if survey.newest(charter.least_epoch).is_some() {
            if let Some(view) = survey.newest_view(charter.least_epoch).await? {
                break view;
            }
        } else if let Some(statuses) = survey.check()?.complete() {
            if charter.init == Init::Never {
                return Err(uninitialised(
                    "no node has any state and init = \"never\": connect once with init = \"wait\" (or \"now\" if nothing was locked)",
                ));
            }
            if rival.has_precedence(&statuses[0], charter.topology.max_ttl()) {
                give_up_at = clock::now() + charter.patience;
            } else {
                let nonces: Vec<Nonce> = seeds.iter().map(|_| fresh_nonce()).collect();
                rival.is_not(&nonces[0]);
                let charter = charter.above(&statuses);
                if let Some(view) = first_start(&charter, seeds, &statuses, nonces).await? {
                    return Ok((view, seeds.to_vec()));
                }
            }
        }
        if clock::now() >= give_up_at {
            return Err(verdict(survey));
        }
        clock::sleep_until(clock::now() + LOOK_AGAIN).await;
    };
    compare(charter, &found)?;
    let (view, peers) = latest(found, roster).await?;
    // Whoever is behind hears of it here; whoever lost its data is found soon.
    coordinate::spread(&view, &peers, None);
    Ok((view, peers))
}

/// Follows `view` to the newest one that its members know: those that were
/// asked may have been retired since.
async fn latest(mut view: View, roster: &Roster) -> Result<(View, Vec<Peer>), Error> {
    loop {
        let peers = roster.members(&view)?;
        let survey = Survey::of_most(&peers).await;
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

/// What to do where another topology is served than configured.
fn compare(charter: &Charter, view: &View) -> Result<(), Error> {
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

fn verdict(survey: Survey<'_>) -> Error {
    match survey.first_silent() {
        Some(NodeCause { node, cause }) => uninitialised(&format!(
            "no node serves a view, and a first start needs all of them, but node {node}: {cause}"
        )),
        None => uninitialised("another router is initialising it and has not finished"),
    }
}

fn uninitialised(detail: &str) -> Error {
    Error::Uninitialised {
        detail: detail.into(),
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
        let request = quarantine(status, Arc::clone(nonce));
        if node::call(&*peer.node, request, deadline).await != Ok(Reply::Done) {
            return Ok(None);
        }
    }
    // In memory nothing was locked before. That nothing was is also what
    // `init = "now"` says, but not of nodes that have served.
    let is_embedded = peers.iter().all(|peer| peer.node.is_embedded());
    let is_first = charter.least_epoch == 1;
    if !is_first || (charter.init == Init::Wait && !is_embedded) {
        let wait = outwait(charter.topology.max_ttl());
        events::first_start_waits(wait);
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
    // Never used again: what is late from an earlier try cannot pass for this.
    let names = peers.iter().map(|peer| peer.name.to_string());
    let nonces = names.zip(nonces).collect();
    let topology = charter.topology.clone().named(&fresh_nonce());
    let view = View::stable(charter.least_epoch, topology, &nonces)?;
    let answers = ask_all(peers, |index| {
        adopt(&view, ringlock_ring::NodeIndex::new(index as u16))
    })
    .await;
    let adopted = answers
        .into_iter()
        .filter(|answer| *answer == Ok(Reply::Done))
        .count();
    events::first_start(view.id(), adopted, peers.len());
    Ok((adopted >= view.majority()).then_some(view))
}
