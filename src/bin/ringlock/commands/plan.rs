//! `ringlock plan`: what a change of membership would move, before anything
//! changes.

mod changes;
mod preflight;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};
use ringlock::{Config, Plan};

use self::changes::{Line, Wanted};
use crate::checklist::Verdict;
use crate::cluster::Cluster;
use crate::connection::connect;
use crate::output::{Exit, Failure, Output};

/// Separates two changes of one plan.
const AND: &str = "--and";

/// Plans a change of membership, and changes nothing.
///
/// The plan goes to the standard output as JSON, to be saved and applied; a
/// summary of what it moves goes to the standard error. Several changes make
/// one plan, and take no longer than one:
/// `ringlock plan add f --url … --and remove a`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    wanted: Wanted,

    /// Your promise that no client can reach this node: it is switched off, or
    /// cut off from all clients. The change then need not wait for clients that
    /// rely on it. May be given several times.
    #[arg(long, global = true, value_name = "NODE")]
    fenced: Vec<String>,

    /// Write the plan to this file instead.
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Another change in the same plan, and more after a further --and. It must
    /// come last on the command line.
    #[arg(
        long,
        global = true,
        value_name = "CHANGE",
        num_args = 1..,
        allow_hyphen_values = true
    )]
    and: Vec<OsString>,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let lines = lines(&options.and)?;
    let wanted: Vec<&Wanted> = [&options.wanted].into_iter().chain(&lines).collect();
    let router = connect(config.clone()).await?;
    let view = router.view();
    let introduced: Vec<_> = wanted
        .iter()
        .filter_map(|wanted| wanted.introduces(&config))
        .collect();
    let newcomers = Cluster::of(&config, &introduced)?;
    let cluster = Cluster::new(&config)?;
    let mut members = cluster.snapshot().await?;
    members.leave_retired();
    let findings = preflight::newcomers(&newcomers, &members, &view).await?;
    if let Some(check) = findings.checks.iter().find(|c| c.verdict == Verdict::Fail) {
        let node = check.node.as_deref().unwrap_or_default();
        let message = format!("node {node} cannot join: {}: {}", check.check, check.detail);
        let failure = Failure::new(Exit::Failed, message);
        return Err(failure.next(check.remedy.clone().unwrap_or_default()));
    }
    let changes = wanted.iter().map(|wanted| wanted.change(&config, &view));
    let plan = router
        .rebalancer()
        .plan(changes.collect::<Vec<_>>())
        .await?;
    check_spans(config, &plan)?;
    check_fenced(&options.fenced, &plan)?;
    let plan = plan.fenced(options.fenced.iter().cloned());
    write(&plan, options.out.as_ref(), output)?;
    if !output.is_json {
        output.note(&plan.to_string());
        output.note(&preflight::moving(&mut members, &plan).await?);
        if !findings.checks.is_empty() {
            output.note(&findings.to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The further changes.
fn lines(words: &[OsString]) -> Result<Vec<Wanted>, Failure> {
    let lines = words
        .split(|word| word == AND)
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line = Line::try_parse_from(line).map_err(|error| {
                let message = format!("{error:#}");
                let message = message.trim().trim_start_matches("error: ");
                Failure::new(Exit::Usage, format!("after {AND}: {message}"))
            })?;
            Ok(line.wanted)
        })
        .collect()
}

/// A plan may set only what a configuration may have.
fn check_spans(mut config: Config, plan: &Plan) -> Result<(), Failure> {
    let router = &mut config.router;
    (router.max_ttl, router.view_lease) = (plan.to.max_ttl(), plan.to.view_lease());
    router.ttl = router.ttl.min(router.max_ttl);
    config.check().map_err(|error| {
        Failure::new(Exit::Usage, format!("{error:#}")).next("plan another max-ttl or view-lease")
    })
}

/// A promise about an unknown node would mean nothing.
fn check_fenced(fenced: &[String], plan: &Plan) -> Result<(), Failure> {
    let known: BTreeSet<&str> = plan.from.nodes.iter().map(|node| &*node.name).collect();
    match fenced.iter().find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(Failure::new(
            Exit::Usage,
            format!("--fenced {name}: the cluster has no node {name}"),
        )
        .next("see `ringlock status` for their names")),
        None => Ok(()),
    }
}

fn write(plan: &Plan, out: Option<&PathBuf>, output: Output) -> Result<(), Failure> {
    let Some(path) = out else {
        return output.print_text(&plan.to_json());
    };
    std::fs::write(path, plan.to_json() + "\n").map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Exit::Failed, message).next("name a file that can be written with --out")
    })
}
