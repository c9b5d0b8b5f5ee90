//! `ringlock init`: gives a new cluster its first view.

use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;
use ringlock::proto::membership::view::View;
use ringlock::{Config, ConnectProgress, Init, RouterBuilder};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::connection::{impatiently, refuse_memory};
use crate::interrupts::Interrupts;
use crate::output::{Exit, Failure, Output};
use crate::progress::ProgressReporter;

/// Gives a new cluster its first view, as configured.
///
/// It waits until every earlier lock on the nodes has expired.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Do not wait for max_ttl: you promise that nothing is locked.
    #[arg(long)]
    now: bool,
}

#[derive(Serialize)]
struct Begun {
    view: String,
    epoch: u32,
    nodes: Vec<String>,
}

impl Begun {
    fn of(view: &View) -> Self {
        Self {
            view: view.id().to_string(),
            epoch: view.id().epoch,
            nodes: view.members().map(|node| node.name.clone()).collect(),
        }
    }
}

pub(crate) async fn run(
    options: &Options,
    mut config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    refuse_memory(&config)?;
    if let Some(served) = served(&config).await? {
        output.report(&served, |served| {
            format!(
                "the cluster is already initialised: view {} is in force, as configured",
                served.view
            )
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    config.router.init = match options.now {
        true => Init::Now,
        false => Init::Wait,
    };
    impatiently(&mut config);
    let reporter = Mutex::new(ProgressReporter::new(output));
    let builder = RouterBuilder::from(config).on_progress(move |progress| {
        if let Ok(mut reporter) = reporter.lock() {
            report(&mut reporter, progress);
        }
    });
    let router = tokio::select! {
        router = builder.connect() => router?,
        exit = interrupts.recv() => {
            let message = "interrupted: the cluster has no view yet";
            return Err(Failure::new(exit, message)
                .next("run the command again: the time that the nodes have waited counts"));
        }
    };
    let begun = Begun::of(&router.view());
    output.report(&begun, |begun| {
        format!(
            "view {} is in force on {}",
            begun.view,
            begun.nodes.join(", ")
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A cluster that has a view keeps it. If the view is as configured, nothing is
/// done; any other view is an error.
async fn served(config: &Config) -> Result<Option<Begun>, Failure> {
    let cluster = Cluster::new(config)?;
    let Some(view) = cluster.snapshot().await?.view else {
        return Ok(None);
    };
    let differences = config.differences(view.next().unwrap_or(view.topology()));
    if differences.is_empty() {
        return Ok(Some(Begun::of(&view)));
    }
    let message = format!(
        "the cluster is already initialised: view {} is in force, and {}",
        view.id(),
        differences.join("; ")
    );
    Err(Failure::new(Exit::Failed, message)
        .next("change what is served with `ringlock plan`, or correct the configuration"))
}

fn report(reporter: &mut ProgressReporter, progress: &ConnectProgress) {
    match progress {
        ConnectProgress::Waiting { remaining } => reporter.report(
            "waiting until all earlier locks have expired",
            Some(*remaining),
        ),
        other => reporter.report(&other.to_string(), None),
    }
}
