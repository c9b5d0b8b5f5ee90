//! What the commands that carry out a change of membership have in common.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringlock::rebalancer::{Progress, RebalanceError, Rebalancer, Report};
use ringlock::{Config, Error, Router, ViewId};
use serde::Serialize;

use crate::connection::connect;
use crate::interrupts::Interrupts;
use crate::output::{Exit, Failure, Output, span};
use crate::progress::ProgressReporter;

/// The options of every command that carries out a change.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// How long nodes may block the change before the command gives up; half a
    /// minute by default.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    patience: Option<Duration>,
}

impl Patience {
    pub(crate) fn of(self, rebalancer: Rebalancer) -> Rebalancer {
        match self.patience {
            Some(patience) => rebalancer.patience(patience),
            None => rebalancer,
        }
    }
}

/// The result of a change.
#[derive(Serialize)]
struct ChangeReport {
    from: String,
    to: String,
    elapsed_ms: u64,
    retired: Vec<Retired>,
}

/// A node that has left.
#[derive(Serialize)]
struct Retired {
    node: String,
    /// Whether it knows that it has left: then it may be switched off, or used
    /// elsewhere.
    may_be_switched_off: bool,
}

/// Receives the progress of a change.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&Progress);

/// Connects, lets `act` carry out a change, and reports the result. SIGINT and
/// SIGTERM leave the change as it is.
pub(crate) async fn run(
    config: Config,
    output: Output,
    patience: Patience,
    act: impl AsyncFnOnce(&Rebalancer, Watch<'_>) -> Result<Report, RebalanceError>,
) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let router = tokio::select! {
        router = connect(config) => router?,
        exit = interrupts.recv() => return Err(interrupted(exit, None)),
    };
    let rebalancer = patience.of(router.rebalancer());
    let mut reporter = ProgressReporter::new(output);
    let mut watch = |progress: &Progress| reporter.change(progress);
    let done = tokio::select! {
        done = act(&rebalancer, &mut watch) => done,
        exit = interrupts.recv() => return Err(interrupted(exit, Some(&router))),
    };
    drop(reporter);
    match done {
        Ok(report) => output.report(&ChangeReport::from(report), human)?,
        Err(RebalanceError::NothingUnderWay { view }) => {
            output.report(&ChangeReport::nothing(view), |reported| {
                format!(
                    "no change is under way: view {} is stable\nan `apply` that still prepares its \
                     nodes has decided nothing and is not visible: `ringlock abort --outdate-plans` stops it",
                    reported.to
                )
            })?;
        }
        Err(error) => return Err(stuck(error, &router)),
    }
    Ok(ExitCode::SUCCESS)
}

impl ChangeReport {
    /// Nothing had to be done.
    fn nothing(view: ViewId) -> Self {
        Self {
            from: view.to_string(),
            to: view.to_string(),
            elapsed_ms: 0,
            retired: Vec::new(),
        }
    }
}

impl From<Report> for ChangeReport {
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

fn human(reported: &ChangeReport) -> String {
    let elapsed = span(Duration::from_millis(reported.elapsed_ms));
    let mut text = format!("view {} is in force, after {elapsed}", reported.to);
    for retired in &reported.retired {
        let name = &retired.node;
        text += &match retired.may_be_switched_off {
            true => format!("\nnode {name} has left and knows it: it may be switched off"),
            false => format!(
                "\nnode {name} has left and does not know it: empty it before any other use"
            ),
        };
    }
    text
}

fn interrupted(exit: Exit, router: Option<&Router>) -> Failure {
    let how = router.map_or("see the state of the cluster with `ringlock status`", go_on);
    Failure::new(exit, "interrupted; what was done so far stays").next(how)
}

/// How to continue from the present state of the cluster.
fn go_on(router: &Router) -> &'static str {
    match router.view().next() {
        Some(_) => "`ringlock resume` finishes it, `ringlock abort` takes it back",
        None => {
            "no joint view is known to be decided: see `ringlock status`, then repeat the command"
        }
    }
}

/// What to do about a change that did not complete.
pub(crate) fn stuck(error: RebalanceError, router: &Router) -> Failure {
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
        let reported = format!("{error:#}");
        let failed = |exit| Self::new(exit, reported);
        match error {
            E::Cluster(Error::Config(_)) => failed(Exit::Usage)
                .next("the planned topology contradicts itself: plan another change"),
            E::Cluster(error) => error.into(),
            E::UnknownNode { .. } | E::NameTaken { .. } => failed(Exit::Usage),
            E::Unreadable { .. } => {
                failed(Exit::Usage).next("make one with `ringlock plan … > plan.json`")
            }
            E::Outdated { .. } | E::Superseded { .. } => {
                failed(Exit::Outdated).next("make a new plan with `ringlock plan`")
            }
            E::Aborted { .. } => {
                failed(Exit::Outdated).next("if it is still wanted, make a new plan with `ringlock plan`")
            }
            E::VotePossible { .. } => failed(Exit::Usage).next(
                "make the change with `ringlock plan` and `ringlock apply`; if it must be forced, add --stop-all-locks-although-a-vote-is-possible",
            ),
            E::StillAnswering { .. } => failed(Exit::Usage).next(
                "switch these nodes off, or keep them; if clients cannot reach them, add --risk-two-holders-although-abandoned-nodes-answer",
            ),
            E::UnderWay { .. } => {
                failed(Exit::Failed).next("`ringlock resume`, or `ringlock abort`")
            }
            _ => failed(Exit::Failed),
        }
    }
}
