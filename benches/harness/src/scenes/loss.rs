//! A node dies under load: what a sharded cluster and a quorum still grant.

use std::sync::Arc;
use std::time::Duration;

use super::Run;
use crate::Fault;
use crate::contenders::routed::Routed;
use crate::keys::KeySpace;
use crate::load::{Checked, Contender, Load, Pace, Turn};
use crate::report::Timeline;
use crate::servers::Server;

const NODES: usize = 5;

/// Points of the timeline.
const BUCKETS: usize = 40;

/// How many times longer the turns of this scene are than those of others.
const STRETCH: u32 = 5;

/// How long a task waits for a key of the dead node at most.
const WAIT: Duration = Duration::from_millis(200);

/// More tasks than arrivals during [`WAIT`], so that no arrival lacks a task.
const TASKS: usize = 1024;

/// Arrivals per second.
const RATE: f64 = 2000.0;

pub(crate) async fn node_loss(run: &mut Run) -> Result<(), Fault> {
    for (name, replicas) in [("sharded", 1), ("quorum of 5", NODES)] {
        // Separate servers: those of the stage must stay alive.
        let mut servers = Vec::new();
        while servers.len() < NODES {
            match Server::start()? {
                Some(server) => servers.push(server),
                None => return Ok(()),
            }
        }
        run.progress.inc_length(1);
        run.progress.set_message(format!("node loss: {name}"));
        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let keys = Arc::new(KeySpace::new("lock:", run.stage.keys, 0.0));
        let routed = Routed::connect_with(&urls, replicas, "loss", &keys, Some(WAIT)).await?;
        let checked = Checked::new(routed, keys);
        let load = Load {
            span: run.plan.span * STRETCH,
            pace: Pace::Open(RATE),
            ..run.load(TASKS)
        };
        let dies = load.warm_up + load.span / 2;
        let kill = async {
            tokio::time::sleep(dies).await;
            servers[0].kill();
        };
        let (turn, ()) = tokio::join!(checked.turn(&load), kill);
        let turn = turn?;
        run.report.faults.add(&checked.faults());
        run.report
            .timelines
            .push(timeline(name, &turn, &load, dies));
        run.progress.inc(1);
    }
    Ok(())
}

fn timeline(name: &str, turn: &Turn, load: &Load, dies: Duration) -> Timeline {
    let whole = load.warm_up + load.span;
    let width = whole / BUCKETS as u32;
    let mut counts = [0u32; BUCKETS];
    for sample in &turn.samples {
        let bucket = (sample.done.as_secs_f64() / width.as_secs_f64()) as usize;
        if let Some(count) = counts.get_mut(bucket) {
            *count += 1;
        }
    }
    let rate = |from: Duration, to: Duration| {
        let within = turn
            .samples
            .iter()
            .filter(|sample| (from..to).contains(&sample.done));
        within.count() as f64 / (to - from).as_secs_f64()
    };
    let mut after: Vec<Duration> = turn
        .samples
        .iter()
        .map(|sample| sample.done)
        .filter(|done| (dies..whole).contains(done))
        .collect();
    after.sort_unstable();
    let ends = std::iter::once(dies).chain(after.iter().copied());
    let gaps = ends.zip(after.iter().copied().chain([whole]));
    Timeline {
        name: name.into(),
        rate: RATE,
        dies_s: dies.as_secs_f64(),
        before_per_s: rate(load.warm_up, dies),
        after_per_s: rate(dies, whole),
        longest_gap_ms: gaps
            .map(|(a, b)| (b - a).as_secs_f64() * 1e3)
            .fold(0.0, f64::max),
        failures: turn.failures,
        first_failure: turn.first_failure.clone(),
        points: counts
            .iter()
            .enumerate()
            .map(|(index, &count)| {
                let at = width.as_secs_f64() * (index as f64 + 0.5);
                (at, f64::from(count) / width.as_secs_f64())
            })
            .collect(),
    }
}
