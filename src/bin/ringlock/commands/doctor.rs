//! `ringlock doctor`: what is wrong, and what to do about it.

mod checks;

use std::path::Path;
use std::process::ExitCode;

use ringlock::{Config, ConfigError};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::output::{Exit, Failure, Output, or_dash, table};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, and may not be meant so.
    Warn,
    /// It must be remedied.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    node: Option<String>,
    verdict: Verdict,
    detail: String,
    remedy: Option<String>,
}

/// Everything that was checked.
#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    checks: Vec<Check>,
}

impl Report {
    fn ok(&mut self, check: &'static str, node: Option<&str>, detail: impl Into<String>) {
        self.note(check, node, Verdict::Ok, detail.into(), None);
    }

    fn warn(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.note(
            check,
            node,
            Verdict::Warn,
            detail.into(),
            Some(remedy.into()),
        );
    }

    fn fail(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.note(
            check,
            node,
            Verdict::Fail,
            detail.into(),
            Some(remedy.into()),
        );
    }

    fn note(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        verdict: Verdict,
        detail: String,
        remedy: Option<String>,
    ) {
        self.verdict = self.verdict.max(verdict);
        self.checks.push(Check {
            check,
            node: node.map(Into::into),
            verdict,
            detail,
            remedy,
        });
    }
}

pub(crate) async fn run(path: &Path, output: Output) -> Result<ExitCode, Failure> {
    let mut report = Report {
        verdict: Verdict::Ok,
        checks: Vec::new(),
    };
    if let Some(config) = configuration(path, &mut report) {
        match Cluster::new(&config) {
            Ok(cluster) => {
                let mut survey = cluster.survey().await;
                checks::servers(&mut survey, &mut report).await;
                checks::together(&config, &survey, &mut report);
            }
            Err(Failure { message, next, .. }) => {
                let remedy = next.unwrap_or_default();
                report.fail("nodes", None, message, remedy);
            }
        }
    }
    output.tell(&report, human)?;
    Ok(match report.verdict {
        Verdict::Fail => Exit::Degraded.into(),
        _ => ExitCode::SUCCESS,
    })
}

/// What can be found before any server is asked; `None`: there is nothing to go
/// by.
fn configuration(path: &Path, report: &mut Report) -> Option<Config> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let failure = Failure::from(error);
            let remedy = failure.next.unwrap_or_default();
            report.fail("configuration", None, failure.message, remedy);
            return None;
        }
    };
    let remedy = "correct it in the configuration of every router";
    match config.check() {
        Err(error @ ConfigError::Ttl(_)) => report.fail("ttl", None, error.to_string(), remedy),
        Err(error @ ConfigError::Topology(_)) => {
            report.fail("replicas", None, error.to_string(), remedy);
        }
        Err(error) => report.fail("configuration", None, error.to_string(), remedy),
        Ok(()) => {
            let (router, nodes) = (&config.router, config.nodes.len());
            report.ok("configuration", None, path.display().to_string());
            let ttls = format!("ttl {:?}, max_ttl {:?}", router.ttl, router.max_ttl);
            report.ok("ttl", None, ttls);
            let replicas = format!("{} of {nodes} nodes", router.replicas);
            report.ok("replicas", None, replicas);
        }
    }
    checks::labels(&config, report);
    Some(config)
}

fn human(report: &Report) -> String {
    let mut rows = table(["", "check", "node", "found"]);
    for check in &report.checks {
        rows.add_row([
            check.verdict.word(),
            check.check,
            &or_dash(check.node.as_ref()),
            &check.detail,
        ]);
    }
    let mut text = rows.to_string();
    for check in &report.checks {
        if let Some(remedy) = &check.remedy {
            let node = check.node.as_ref();
            let node = node.map_or_else(String::new, |node| format!(" of node {node}"));
            text += &format!("\n{}{node}: {remedy}", check.check);
        }
    }
    text
}
