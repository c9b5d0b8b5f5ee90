//! Carrying a change of membership out: what its commands have in common.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringlock::rebalancer::{Progress, RebalanceError, Rebalancer, Report};
use ringlock::{Config, Error, Router};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::connect;
use crate::output::{Exit, Failure, Output, span};
use crate::progress::Teller;

/// What every command takes that carries a change out.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// How long nodes may stand in the way before it is given up for now; half
    /// a minute if nothing is said.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    patience: Option<Duration>,
}

/// What a change came to.
#[derive(Serialize)]
struct Told {
    from: String,
    to: String,
    elapsed_ms: u64,
    retired: Vec<Retired>,
}

/// A node that has left.
#[derive(Serialize)]
struct Retired {
    node: String,
    /// It knows that it has left: it may be switched off, or used elsewhere.
    may_be_switched_off: bool,
}

/// Whoever is told how far a change has come.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&Progress);

/// Connects, has `act` carry a change out, and tells what came of it. SIGINT
/// leaves the change as it is.
pub(crate) async fn run(
    config: Config,
    output: Output,
    patience: Patience,
    act: impl AsyncFnOnce(&Rebalancer, Watch<'_>) -> Result<Report, RebalanceError>,
) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let router = tokio::select! {
        router = connect(config) => router?,
        _ = interrupt.recv() => return Err(interrupted(None)),
    };
    let mut rebalancer = router.rebalancer();
    if let Some(patience) = patience.patience {
        rebalancer = rebalancer.patience(patience);
    }
    let mut teller = Teller::new(output);
    let mut watch = |progress: &Progress| teller.change(progress);
    let done = tokio::select! {
        done = act(&rebalancer, &mut watch) => done,
        _ = interrupt.recv() => return Err(interrupted(Some(&router))),
    };
    drop(teller);
    let report = done.map_err(|error| stuck(error, &router))?;
    output.tell(&Told::from(report), human)?;
    Ok(ExitCode::SUCCESS)
}

impl From<Report> for Told {
    fn from(report: Report) -> Self {
        let retired = report.retired.into_iter();
        Self {
            from: report.from.to_string(),
            to: report.to.to_string(),
            elapsed_ms: u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
            retired: retired
                .map(|(node, may_be_switched_off)| Retired {
                    node,
                    may_be_switched_off,
                })
                .collect(),
        }
    }
}

fn human(told: &Told) -> String {
    let elapsed = span(Duration::from_millis(told.elapsed_ms));
    let mut text = format!("view {} is in force, after {elapsed}", told.to);
    for retired in &told.retired {
        let name = &retired.node;
        text += &match retired.may_be_switched_off {
            true => format!("\nnode {name} has left and knows it: it may be switched off"),
            false => format!(
                "\nnode {name} has left and does not know it: empty it before it is used for anything else"
            ),
        };
    }
    text
}

fn interrupted(router: Option<&Router>) -> Failure {
    let how = router.map_or("see where the cluster is with `ringlock status`", go_on);
    Failure::new(Exit::Interrupted, "interrupted; what was done so far stays").next(how)
}

/// How to go on from where the cluster is now.
fn go_on(router: &Router) -> &'static str {
    match router.view().next() {
        Some(_) => "`ringlock resume` finishes it, `ringlock abort` takes it back",
        None => {
            "the joint view was not decided as far as is known: see `ringlock status`, then do the same again"
        }
    }
}

fn stuck(error: RebalanceError, router: &Router) -> Failure {
    use RebalanceError as E;
    let failure = Failure::from(error.clone());
    match error {
        E::Blocked { .. } => failure.next(format!(
            "bring these nodes back, or make a plan without them; then {}",
            go_on(router)
        )),
        E::TooFewVotes { .. } => failure.next(format!(
            "bring nodes back, then {}; if most are lost for good, see `ringlock force --help`",
            go_on(router)
        )),
        _ => failure,
    }
}

impl From<RebalanceError> for Failure {
    fn from(error: RebalanceError) -> Self {
        use RebalanceError as E;
        let told = format!("{error:#}");
        let failed = |exit| Self::new(exit, told);
        match error {
            E::Cluster(Error::Config(_)) => failed(Exit::Usage)
                .next("what would be in force contradicts itself: plan otherwise"),
            E::Cluster(error) => error.into(),
            E::UnknownNode { .. } | E::NameTaken { .. } => failed(Exit::Usage),
            E::Unreadable { .. } => {
                failed(Exit::Usage).next("make one with `ringlock plan … > plan.json`")
            }
            E::Outdated { .. } | E::Superseded { .. } => {
                failed(Exit::Outdated).next("make a new plan with `ringlock plan`")
            }
            E::UnderWay { .. } => {
                failed(Exit::Failed).next("`ringlock resume`, or `ringlock abort`")
            }
            E::NothingUnderWay { .. } => failed(Exit::Failed).next("there is nothing to do"),
            _ => failed(Exit::Failed),
        }
    }
}
