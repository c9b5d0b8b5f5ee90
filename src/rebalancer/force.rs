//! Going on without nodes that are lost for good, where too few are left to
//! decide anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Change, Phase, Progress, RebalanceError, Rebalancer, Report};
use crate::clock;
use crate::coordinate::{self, fresh_nonce};
use crate::fleet::Peer;
use crate::proto::lease::EPOCH_LEAP;
use crate::proto::time::{Instant, outwait};
use crate::proto::transition::{Obstacle, quarantine};
use crate::proto::view::{Nonces, View};
use crate::proto::wire::{NodeStatus, Reply, Standing};
use crate::survey::{Survey, tell};

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
    /// answer. [`Superseded`](RebalanceError::Superseded): somebody else did
    /// the same at the same time. [`UnknownNode`](RebalanceError::UnknownNode),
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
        let fleet = router.fleet();
        let before = Arc::clone(&fleet.view);
        let abandoned: BTreeSet<String> = abandoned.into_iter().collect();
        let mut topology = before.next().unwrap_or(before.topology()).clone();
        for name in &abandoned {
            if before.index_of(name).is_none() {
                return Err(RebalanceError::UnknownNode { name: name.clone() });
            }
        }
        topology
            .nodes
            .retain(|node| !abandoned.contains(&node.name));
        for change in changes {
            change.apply(&mut topology, |_| String::new())?;
        }
        // Finds what contradicts itself before anything is touched.
        let names = topology.nodes.iter().map(|node| node.name.clone());
        let nonces: Nonces = names.map(|name| (name, fresh_nonce())).collect();
        View::stable(1, topology.clone(), &nonces)?;

        let peers: Vec<Peer> = fleet.peers().to_vec();
        let left: Vec<Peer> = peers
            .into_iter()
            .filter(|peer| !abandoned.contains(&*peer.name))
            .collect();
        let survey = Survey::of(&left).await;
        let mut highest = before.id().epoch;
        let mut letters = Vec::new();
        let mut silent = Vec::new();
        for (peer, status) in left.iter().zip(&survey.statuses) {
            let Some(status) = status else {
                silent.push((peer.name.to_string(), Obstacle::Silent));
                continue;
            };
            highest = highest.max(status.serving.map_or(0, |view| view.epoch));
            // Whom the topology does not name any more stops serving, too.
            let nonce = nonces.get(&*peer.name).map_or_else(fresh_nonce, Arc::clone);
            letters.push((peer.clone(), quarantine(status, nonce)));
        }
        if !silent.is_empty() {
            return Err(RebalanceError::Blocked { nodes: silent });
        }
        tracing::warn!(?abandoned, "going on without nodes that were given up");
        let superseded = RebalanceError::Superseded { view: before.id() };
        let answers = tell(letters).await;
        if answers.iter().any(|answer| *answer != Ok(Reply::Done)) {
            return Err(superseded);
        }
        let span = before.longest_ttl().max(topology.max_ttl()) + before.longest_view_lease();
        let until = clock::now() + outwait(span);
        while clock::now() < until {
            let now = clock::now();
            progress(&told(before.id(), begun, now, until));
            clock::sleep_until(until.min(now + TELL)).await;
        }
        let is_own = |peer: &Peer, status: &NodeStatus| {
            let own = nonces.get(&*peer.name);
            own.is_none()
                || status.standing() == Standing::Quarantined && status.nonce.as_ref() == own
        };
        let survey = Survey::of(&left).await;
        if survey
            .answers()
            .filter(|(peer, status)| is_own(peer, status))
            .count()
            < left.len()
        {
            return Err(superseded);
        }
        let view = View::stable(highest + EPOCH_LEAP, topology, &nonces)?;
        let members = router.roster().members(&view)?;
        coordinate::spread(&view, &members, None);
        let to = view.id();
        router.move_up(view, members);
        Ok(Report {
            from: before.id(),
            to,
            elapsed: clock::now().saturating_since(begun),
            retired: abandoned.into_iter().map(|name| (name, false)).collect(),
        })
    }
}

fn told(view: crate::ViewId, begun: Instant, now: Instant, until: Instant) -> Progress {
    Progress {
        phase: Phase::Quarantine,
        view,
        elapsed: now.saturating_since(begun),
        remaining: Some(until.saturating_since(now)),
    }
}
