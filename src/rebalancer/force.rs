//! Going on without nodes that are lost for good, where too few are left to
//! decide anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringlock_ring::NodeIndex;

use super::{Change, Phase, Progress, RebalanceError, Rebalancer, Report};
use crate::clock;
use crate::coordinate::fresh_nonce;
use crate::events;
use crate::fleet::Peer;
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::time::{Instant, outwait};
use crate::proto::topology::Topology;
use crate::proto::transition::{Obstacle, adopt, quarantine};
use crate::proto::view::{Nonces, View};
use crate::proto::wire::{NodeStatus, Reply, Standing, ViewId};
use crate::survey::{Survey, ask_all, tell};

/// How often to tell how long is left.
const TELL: std::time::Duration = std::time::Duration::from_millis(500);

impl Rebalancer {
    /// **Dangerous.** Goes on without the nodes `abandoned`, although too few
    /// are left to vote. Every other node must answer.
    ///
    /// The caller thereby promises that no abandoned node ever serves anybody
    /// again with the data that it has: each is destroyed, or emptied before it
    /// starts. If one does, two holders may have one lock, and fences may go
    /// back. The nodes that are left are kept out until all leases have
    /// expired; nothing can be locked meanwhile.
    ///
    /// `changes` are made on the way: a cluster with fewer nodes may need fewer
    /// replicas.
    ///
    /// # Errors
    /// [`RebalanceError::Blocked`]: a node that is not abandoned does not
    /// answer, or in the end none took the view: call it again.
    /// [`Superseded`](RebalanceError::Superseded): somebody else did the same
    /// at the same time, or a node serves a view that cannot be read. [`UnknownNode`](RebalanceError::UnknownNode),
    /// and [`Cluster`](RebalanceError::Cluster): what is left makes no cluster.
    ///
    /// # Cancel safety
    /// May be dropped at any point. The nodes that are left then grant nothing
    /// before it is called again.
    pub async fn force(
        &self,
        abandoned: impl IntoIterator<Item = String>,
        changes: impl IntoIterator<Item = Change>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let (begun, router) = (clock::now(), &self.router);
        router.life().check()?;
        // Too few nodes may be left for that to succeed.
        let _ = self.refreshed().await;
        let fleet = router.fleet();
        let before = Arc::clone(&fleet.view);
        let abandoned: BTreeSet<String> = abandoned.into_iter().collect();
        let topology = remainder(&before, &abandoned, changes)?;
        // Finds what contradicts itself before anything is touched.
        let names = topology.nodes.iter().map(|node| node.name.clone());
        let nonces: Nonces = names.map(|name| (name, fresh_nonce())).collect();
        View::stable(1, topology.clone(), &nonces)?;

        let peers = fleet.peers().iter();
        let is_left = |peer: &&Peer| !abandoned.contains(&*peer.name);
        let left: Vec<Peer> = peers.filter(is_left).cloned().collect();
        let highest = stop_all(&left, &before, &nonces).await?;
        events::forced(&abandoned);
        let span = before.longest_ttl().max(topology.max_ttl()) + before.longest_view_lease();
        let until = clock::now() + outwait(span);
        while clock::now() < until {
            let now = clock::now();
            progress(&told(before.id(), begun, now, until));
            clock::sleep_until(until.min(now + TELL)).await;
        }
        let is_own = |(peer, status): &(&Peer, &NodeStatus)| {
            let own = nonces.get(&*peer.name);
            own.is_none()
                || status.standing() == Standing::Quarantined && status.nonce.as_ref() == own
        };
        let survey = Survey::of(&left).await;
        if survey.answers().filter(is_own).count() < left.len() {
            return Err(RebalanceError::Superseded { view: before.id() });
        }
        let view = View::stable(highest + EPOCH_LEAP, topology, &nonces)?;
        let (to, members) = (view.id(), router.roster().members(&view)?);
        let answers = ask_all(&members, |index| adopt(&view, NodeIndex::new(index as u16))).await;
        // What one of them serves, the others learn.
        if !answers.contains(&Ok(Reply::Done)) {
            let behind = |peer: &Peer| (peer.name.to_string(), Obstacle::Behind);
            let nodes = members.iter().map(behind).collect();
            return Err(RebalanceError::Blocked { nodes });
        }
        router.move_up(view, members);
        Ok(Report {
            from: before.id(),
            to,
            elapsed: clock::now().saturating_since(begun),
            retired: abandoned.into_iter().map(|name| (name, false)).collect(),
        })
    }
}

/// What is to be in force without the nodes that are given up.
fn remainder(
    before: &View,
    abandoned: &BTreeSet<String>,
    changes: impl IntoIterator<Item = Change>,
) -> Result<Topology, RebalanceError> {
    if let Some(name) = abandoned
        .iter()
        .find(|name| before.index_of(name).is_none())
    {
        return Err(RebalanceError::UnknownNode { name: name.clone() });
    }
    let mut topology = before.next().unwrap_or(before.topology()).clone();
    let nodes = &mut topology.nodes;
    nodes.retain(|node| !abandoned.contains(&node.name));
    for change in changes {
        change.apply(&mut topology, |_| String::new())?;
    }
    Ok(topology)
}

/// Has all nodes that are left stop serving, those that are to go on under
/// these nonces; the highest epoch that was seen.
async fn stop_all(left: &[Peer], before: &View, nonces: &Nonces) -> Result<u32, RebalanceError> {
    let survey = Survey::of(left).await;
    let silent = left.iter().zip(&survey.statuses);
    let silent = silent.filter(|(_, status)| status.is_none());
    let nodes: Vec<_> = silent
        .map(|(peer, _)| (peer.name.to_string(), Obstacle::Silent))
        .collect();
    if !nodes.is_empty() {
        return Err(RebalanceError::Blocked { nodes });
    }
    if let Some(view) = survey.newest(before.id().epoch + 1) {
        return Err(RebalanceError::Superseded { view });
    }
    let epochs = survey.answers().filter_map(|(_, status)| status.serving);
    let highest = epochs.map(|view| view.epoch).max().unwrap_or(0);
    let letters = survey.answers().map(|(peer, status)| {
        // Whom the topology does not name any more stops serving, too.
        let nonce = nonces.get(&*peer.name).map_or_else(fresh_nonce, Arc::clone);
        (peer.clone(), quarantine(status, nonce))
    });
    let answers = tell(letters).await;
    if answers.iter().any(|answer| *answer != Ok(Reply::Done)) {
        return Err(RebalanceError::Superseded { view: before.id() });
    }
    Ok(highest.max(before.id().epoch))
}

fn told(view: ViewId, begun: Instant, now: Instant, until: Instant) -> Progress {
    Progress {
        phase: Phase::Quarantine,
        view,
        elapsed: now.saturating_since(begun),
        remaining: Some(until.saturating_since(now)),
    }
}
