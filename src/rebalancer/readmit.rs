//! Readmitting nodes that lost their data, and waiting for it.

use std::collections::BTreeSet;

use super::{Progress, RebalanceError, Rebalancer, Report};
use crate::proto::membership::transition::Goal;
use crate::rebalancer::executor::Executor;

impl Rebalancer {
    /// Waits until the members that lost their data are readmitted, and readmits
    /// them. Every router does that while it lives. This call is for deployments in
    /// which every process lives for less than `max_ttl`, so that each process
    /// would start the wait again.
    ///
    /// Every one of `nodes` must serve the view in the end; `progress` reports the
    /// remaining time. Without names, every member that answers must serve it.
    ///
    /// # Errors
    /// [`RebalanceError::UnknownNode`]. [`Blocked`](RebalanceError::Blocked): one
    /// of the named nodes does not answer.
    /// [`TooFewVotes`](RebalanceError::TooFewVotes): too few members keep their
    /// data to vote. [`Cluster`](RebalanceError::Cluster).
    ///
    /// # Cancel safety
    /// May be dropped at any point; the next call starts the wait again.
    pub async fn readmit(
        &self,
        nodes: impl IntoIterator<Item = String>,
        progress: impl FnMut(&Progress),
    ) -> Result<Report, RebalanceError> {
        let view_nodes = self.refreshed().await?;
        let nodes: BTreeSet<String> = nodes.into_iter().collect();
        let is_unknown = |name: &&String| view_nodes.view.index_of(name).is_none();
        if let Some(name) = nodes.iter().find(is_unknown) {
            return Err(RebalanceError::UnknownNode { name: name.clone() });
        }
        Executor::new(self, &view_nodes, Goal::Keep, BTreeSet::new(), Vec::new())
            .awaiting(nodes)
            .run(progress)
            .await
    }
}
