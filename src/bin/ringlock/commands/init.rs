//! `ringlock init`: gives a new cluster its first view.

use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;
use ringlock::{Config, ConnectProgress, Init, RouterBuilder};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Cluster;
use crate::connection::{impatiently, refuse_memory};
use crate::output::{Exit, Failure, Output};
use crate::progress::Teller;

/// Gives a new cluster its first view, as the configuration has it.
///
/// It waits until whatever was locked on the nodes before has expired.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Do not wait for max_ttl: the promise that nothing is locked.
    #[arg(long)]
    now: bool,
}

#[derive(Serialize)]
struct Begun {
    view: String,
    epoch: u32,
    nodes: Vec<String>,
}

pub(crate) async fn run(
    options: &Options,
    mut config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    refuse_memory(&config)?;
    refuse_served(&config).await?;
    config.router.init = match options.now {
        true => Init::Now,
        false => Init::Wait,
    };
    impatiently(&mut config);
    let teller = Mutex::new(Teller::new(output));
    let builder = RouterBuilder::from(config).on_progress(move |progress| {
        if let Ok(mut teller) = teller.lock() {
            tell(&mut teller, progress);
        }
    });
    let router = tokio::select! {
        router = builder.connect() => router?,
        _ = interrupt.recv() => {
            let message = "interrupted: the cluster has no view yet";
            return Err(Failure::new(Exit::Interrupted, message)
                .next("call it again: the time that the nodes have waited counts"));
        }
    };
    let view = router.view();
    let begun = Begun {
        view: view.id().to_string(),
        epoch: view.id().epoch,
        nodes: view.members().map(|node| node.name.clone()).collect(),
    };
    output.tell(&begun, |begun| {
        format!(
            "view {} is in force on {}",
            begun.view,
            begun.nodes.join(", ")
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A cluster that has a view keeps it.
async fn refuse_served(config: &Config) -> Result<(), Failure> {
    let cluster = Cluster::new(config)?;
    let Some(view) = cluster.survey().await?.view else {
        return Ok(());
    };
    let differences = config.differences(view.next().unwrap_or(view.topology()));
    let told = format!(
        "the cluster is initialised already: view {} is in force",
        view.id()
    );
    Err(match differences.as_slice() {
        [] => Failure::new(Exit::Failed, format!("{told}, as it is configured"))
            .next("there is nothing to do"),
        all => Failure::new(Exit::Failed, format!("{told}, and {}", all.join("; ")))
            .next("change what is served with `ringlock plan`, or correct the configuration"),
    })
}

fn tell(teller: &mut Teller, progress: &ConnectProgress) {
    match progress {
        ConnectProgress::Waiting { remaining } => teller.tell(
            "waiting until whatever was locked before has expired",
            Some(*remaining),
        ),
        other => teller.tell(&other.to_string(), None),
    }
}
