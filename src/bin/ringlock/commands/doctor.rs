//! `ringlock doctor`: what is wrong, and how to fix it.

pub(crate) mod checks;

use std::path::Path;
use std::process::ExitCode;

use ringlock::{Config, ConfigError};

use crate::checklist::{Report, Verdict};
use crate::cluster::Cluster;
use crate::output::{Exit, Failure, Output};

pub(crate) async fn run(path: &Path, output: Output) -> Result<ExitCode, Failure> {
    let mut report = Report::default();
    if let Some(config) = configuration(path, &mut report) {
        match Cluster::new(&config) {
            Ok(cluster) => servers(&config, &cluster, &mut report).await,
            Err(failure) => report.nodes(failure),
        }
    }
    output.report(&report, ToString::to_string)?;
    Ok(match report.verdict {
        Verdict::Fail => Exit::Degraded.into(),
        _ => ExitCode::SUCCESS,
    })
}

async fn servers(config: &Config, cluster: &Cluster, report: &mut Report) {
    match cluster.snapshot().await {
        Ok(mut snapshot) => {
            checks::servers(&mut snapshot, report).await;
            checks::together(config, &snapshot, report);
        }
        Err(failure) => report.nodes(failure),
    }
}

/// Checks what needs no server. `None` if there is no readable configuration.
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
        Err(error @ ConfigError::Ttl(_)) => report.fail("ttl", None, format!("{error:#}"), remedy),
        Err(error @ ConfigError::Topology(_)) => {
            report.fail("replicas", None, format!("{error:#}"), remedy);
        }
        Err(error) => report.fail("configuration", None, format!("{error:#}"), remedy),
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
