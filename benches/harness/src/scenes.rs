//! What is compared, scene by scene.

pub(crate) mod delay;
pub(crate) mod foreign;
pub(crate) mod hot;
pub(crate) mod loss;
pub(crate) mod matrix;
pub(crate) mod processes;
pub(crate) mod skew;
pub(crate) mod throughput;

use std::time::Duration;

use indicatif::ProgressBar;

use super::load::{Load, Pace};
use super::peers::Peer;
use super::report::Report;
use super::report::goal::Goal;
use super::rounds::{About, Entry, Plan, compete};
use super::stage::Stage;
use crate::Fault;

/// A run of the bench.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    /// Numbers of concurrent tasks.
    pub(crate) tasks: Vec<usize>,
    /// Arrivals per second of the open loop.
    pub(crate) rates: Vec<f64>,
    pub(crate) hold: Duration,
    /// How long the hot key is held.
    pub(crate) hot_hold: Duration,
    /// Whether every size of cluster is measured.
    pub(crate) is_full: bool,
    pub(crate) stage: Stage,
    pub(crate) peers: &'static [Peer],
    pub(crate) report: Report,
    pub(crate) progress: ProgressBar,
}

impl Run {
    pub(crate) fn load(&self, tasks: usize) -> Load {
        Load {
            tasks,
            hold: self.hold,
            warm_up: self.plan.warm_up,
            span: self.plan.span,
            pace: Pace::Closed,
        }
    }

    /// ringlock on the first `nodes` nodes under `load`.
    pub(crate) async fn ringlock(
        &mut self,
        scene: &'static str,
        nodes: usize,
        replicas: usize,
        load: Load,
    ) -> Result<Entry, Fault> {
        let (_, contender) = self.stage.routed(nodes, replicas).await?;
        let about = About {
            scene,
            contender: mode_name(replicas),
            nodes,
            replicas,
        };
        Entry::new(about, load, contender, &self.stage.probes(nodes))
    }

    /// Lets `entries` compete under `plan`, and records the results.
    pub(crate) async fn compete(
        &mut self,
        plan: &Plan,
        entries: &mut [Entry],
    ) -> Result<(), Fault> {
        self.progress
            .inc_length((plan.rounds * entries.len()) as u64);
        let faults = compete(plan, entries, &self.progress).await?;
        self.report.faults.add(&faults);
        let measurements = entries.iter().map(Entry::measurement);
        self.report.measurements.extend(measurements);
        Ok(())
    }

    pub(crate) fn goal(&mut self, goal: Goal) {
        self.report.goals.push(goal);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.report.notes.push(note.into());
    }
}

fn mode_name(replicas: usize) -> String {
    match replicas {
        1 => "ringlock sharded".into(),
        replicas => format!("ringlock quorum of {replicas}"),
    }
}
