//! Letting nodes in again that lost their data, and waiting for it.

use std::collections::BTreeSet;

use super::{Progress, RebalanceError, Rebalancer, Report};
use crate::proto::membership::transition::Goal;
use crate::rebalancer::executor::Executor;

impl Rebalancer {
    /// Stays until the members that lost their data are let in again, and lets
    /// them in. Every router does that while it lives; this is for whoever has
    /// only processes that live shorter than `max_ttl`, each of which would
    /// begin to wait anew.
    ///
    /// Of `nodes` every one must serve the view in the end; `progress` tells
    /// how long is left. Without names it is every member that answers.
    ///
    /// # Errors
    /// [`RebalanceError::UnknownNode`]. [`Blocked`](RebalanceError::Blocked): a
    /// node of these names does not answer.
    /// [`TooFewVotes`](RebalanceError::TooFewVotes): too few members keep their
    /// data to vote. [`Cluster`](RebalanceError::Cluster).
    ///
    /// # Cancel safety
    /// May be dropped at any point; who calls it next begins to wait anew.
    pub async fn readmit(
        &self,
        nodes: impl IntoIterator<Item = String>,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let fleet = self.refreshed().await?;
        let nodes: BTreeSet<String> = nodes.into_iter().collect();
        let is_unknown = |name: &&String| fleet.view.index_of(name).is_none();
        if let Some(name) = nodes.iter().find(is_unknown) {
            return Err(RebalanceError::UnknownNode { name: name.clone() });
        }
        Executor::new(self, &fleet, Goal::Keep, BTreeSet::new(), Vec::new())
            .awaiting(nodes)
            .run(progress)
            .await
    }
}
