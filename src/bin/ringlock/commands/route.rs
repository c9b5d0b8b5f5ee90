//! `ringlock route`: where a key lives.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use ringlock::{Config, Error, Init, Router};
use serde::Serialize;

use crate::connection::impatiently;
use crate::output::{Exit, Failure, Output, printable, table};

/// Prints the nodes of a key, and which of them must agree on it.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The lock key.
    key: OsString,
}

#[derive(Serialize)]
struct Route {
    key: String,
    owner: String,
    replicas: Vec<String>,
    quorum: usize,
    successors: Vec<String>,
    view: String,
    epoch: u32,
}

pub(crate) async fn run(
    options: &Options,
    mut config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    // A query for the nodes of a key must not start a cluster. A cluster in
    // memory belongs to this process.
    let is_embedded = |url: &str| url.starts_with("memory://");
    if !config.nodes.iter().all(|node| is_embedded(&node.url)) {
        config.router.init = Init::Never;
        impatiently(&mut config);
    }
    let key = options.key.as_bytes();
    let router = Router::connect(config).await.map_err(|error| match error {
        Error::Uninitialised { .. } => Failure::new(Exit::Failed, "no node serves a view yet")
            .next(
                "`ringlock init` or the first router that connects puts one in force; \
             `ringlock ring` shows the shares as configured, `ringlock doctor` shows what is wrong",
            ),
        error => error.into(),
    })?;
    let route = router.route(key)?;
    let names = |names: &[std::sync::Arc<str>]| names.iter().map(ToString::to_string).collect();
    let route = Route {
        key: printable(key),
        owner: route.owner.to_string(),
        replicas: names(&route.replicas),
        quorum: route.quorum,
        successors: names(&route.successors),
        view: route.view.to_string(),
        epoch: route.view.epoch,
    };
    output.report(&route, human)?;
    Ok(ExitCode::SUCCESS)
}

fn human(route: &Route) -> String {
    let mut table = table(["key", &route.key]);
    table.add_row(["owner", &route.owner]);
    table.add_row(["replicas", &route.replicas.join(", ")]);
    table.add_row([
        "quorum",
        &format!("{} of {}", route.quorum, route.replicas.len()),
    ]);
    table.add_row(["successors", &route.successors.join(", ")]);
    table.add_row(["view", &route.view]);
    table.to_string()
}
