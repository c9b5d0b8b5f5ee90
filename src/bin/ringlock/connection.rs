//! Connecting to a cluster in order to manage it.

use std::time::Duration;

use ringlock::{Config, Error, Init, OnMismatch, Router};

use crate::cluster::IN_MEMORY;
use crate::output::{Exit, Failure};

/// How long to wait for nodes, at most: an operator needs to learn of an outage
/// within seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A router that starts no cluster, follows the view that is served, and
/// reports an outage soon.
pub(crate) async fn connect(mut config: Config) -> Result<Router, Failure> {
    refuse_memory(&config)?;
    config.router.init = Init::Never;
    config.router.on_mismatch = OnMismatch::Follow;
    impatiently(&mut config);
    Router::connect(config).await.map_err(|error| match error {
        Error::Uninitialised { .. } => Failure::new(Exit::Failed, format!("{error:#}")).next(
            "check each node with `ringlock doctor`; a new cluster gets its first view with `ringlock init`",
        ),
        error => error.into(),
    })
}

pub(crate) fn impatiently(config: &mut Config) {
    config.router.connect_timeout = config.router.connect_timeout.min(PATIENCE);
}

/// Nodes in memory belong to this process and end with it.
pub(crate) fn refuse_memory(config: &Config) -> Result<(), Failure> {
    let mut nodes = config.nodes.iter();
    if nodes.any(|node| node.url.starts_with("memory://")) {
        return Err(Failure::new(Exit::Failed, IN_MEMORY).next("configure Redis or Valkey nodes"));
    }
    Ok(())
}
