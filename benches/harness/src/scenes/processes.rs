//! One hot key, waiters in several processes that run the same program. Each
//! process records when its waiters held the key, by a clock that all processes
//! share. The parent checks all records together.

use std::sync::Arc;
use std::time::Duration;

use super::{Run, hot};
use crate::Fault;
use crate::checker::Tenure;
use crate::contenders::routed::Routed;
use crate::crowd::{Census, Commands};
use crate::keys::KeySpace;
use crate::load::{Locker, ReleaseOutcome};
use crate::monitor::Monitor;
use crate::report::goal::{Bound, Goal};
use crate::resources::now;
use crate::rounds::nanos;
use crate::statistics::{median, ratios};
use crate::worker::{Protocol, Task, Worker};

const PROCESSES: usize = 4;
const WAITERS: usize = 8;

/// The time between the order and the start of a turn.
const LEAD: Duration = Duration::from_millis(5);

/// Goal 8.
pub(crate) async fn several(run: &mut Run) -> Result<(), Fault> {
    if run.stage.is_in_memory() {
        run.note("goal 8 needs servers: what is in memory is not shared by processes");
        return Ok(());
    }
    run.progress.inc_length(run.plan.rounds as u64 + 1);
    run.progress.set_message("hot key, several processes");
    // This connection comes first and alone, so that the cluster is set up
    // before the workers connect.
    let keys = Arc::new(KeySpace::new("hot:", 1, 0.0));
    let namespace = run.stage.namespace("hot");
    let parent = Routed::connect(&run.stage.urls(1), 1, &namespace, &keys).await?;
    let mut own = start(run, Protocol::Ringlock)?;
    let mut list = start(run, Protocol::SignalList)?;
    let (mut owns, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..run.plan.rounds {
        owns.push(turn(run, &mut own)?);
        lists.push(turn(run, &mut list)?);
        run.progress.inc(1);
    }
    hot::record(run, "ringlock", PROCESSES, WAITERS, &owns);
    hot::record(run, "BLPOP port", PROCESSES, WAITERS, &lists);
    let changes =
        |turns: &[Census]| -> Vec<f64> { turns.iter().map(|turn| turn.changes_per_s).collect() };
    run.goal(Goal::new(
        "8",
        format!(
            "hot key, {PROCESSES} processes x {WAITERS} waiters: holder changes/s / BLPOP port"
        ),
        ratios(&changes(&owns), &changes(&lists)),
        Bound::AtLeast(1.0),
        "python-redis-lock's protocol, ported to the redis crate",
    ));
    fairness(run, &owns, &lists);
    polls(run, &parent, &mut own).await?;
    run.progress.inc(1);
    Ok(())
}

fn start(run: &Run, protocol: Protocol) -> Result<Vec<Worker>, Fault> {
    let mut workers = Vec::new();
    for process in 0..PROCESSES {
        workers.push(Worker::start(&Task {
            protocol,
            url: run.stage.nodes[0].url.clone(),
            namespace: run.stage.namespace("hot"),
            first: process * WAITERS,
            waiters: WAITERS,
            hold_us: nanos(run.hot_hold) / 1000,
        })?);
    }
    for worker in &mut workers {
        worker.ready()?;
    }
    Ok(workers)
}

/// Runs all processes at once, from the same instant on.
fn turn(run: &mut Run, workers: &mut [Worker]) -> Result<Census, Fault> {
    let begin = now() + nanos(LEAD);
    let counted = begin + nanos(run.plan.warm_up);
    let end = counted + nanos(run.plan.span * 2);
    let probe = Arc::clone(&run.stage.probes(1)[0]);
    let before = probe.info()?.all_calls();
    for worker in workers.iter_mut() {
        worker.order(begin, end)?;
    }
    let mut history = histories(workers)?;
    let after = probe.info()?.all_calls();
    let census = Census::take(&mut history, counted, end);
    run.report.faults.add(&census.faults);
    Ok(census.with_commands(&history, &before, after))
}

/// How even the waits are, and what a change of the holder costs the server.
fn fairness(run: &mut Run, owns: &[Census], lists: &[Census]) {
    let what = format!("hot key, {PROCESSES} processes x {WAITERS} waiters");
    let others = PROCESSES * WAITERS - 1;
    let of = |turns: &[Census], figure: fn(&Census) -> f64| -> Vec<f64> {
        turns.iter().map(figure).collect()
    };
    let mut goal = |text: String, figure: fn(&Census) -> f64, note: String| {
        let its = median(&of(lists, figure));
        run.goal(Goal::new(
            "8",
            format!("{what}: {text}"),
            of(owns, figure),
            Bound::None,
            format!("BLPOP port {its:.2}{note}"),
        ));
    };
    goal(
        "Jain's index of the grants".into(),
        |turn| turn.jain,
        String::new(),
    );
    goal(
        "most grants to others while one waits".into(),
        |turn| turn.bypasses,
        format!("; first come, first served: {others}"),
    );
    goal(
        "share of the time that it is held".into(),
        |turn| turn.changes_per_s * turn.hold_us / 1e6,
        "; the most that any hand-over allows is 1".into(),
    );
    let breakdown = |turns: &[Census]| {
        let commands = turns.last().and_then(|turn| turn.commands.as_ref());
        commands.map_or_else(String::new, Commands::breakdown)
    };
    goal(
        "commands executed per holder change, in scripts too".into(),
        |turn| {
            turn.commands
                .as_ref()
                .map_or(f64::NAN, Commands::per_change)
        },
        format!(
            " ({}); ringlock: {}; a script counts beside its commands",
            breakdown(lists),
            breakdown(owns)
        ),
    );
}

fn histories(workers: &mut [Worker]) -> Result<Vec<Tenure>, Fault> {
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.history()?);
    }
    Ok(all)
}

/// Counts what the waiters send while another process holds the key.
async fn polls(run: &mut Run, parent: &Routed, workers: &mut [Worker]) -> Result<(), Fault> {
    let Some(address) = run.stage.nodes[0].address.clone() else {
        return Ok(());
    };
    let watched = (run.plan.span * 3).min(Duration::from_secs(1));
    let settled = watched / 2;
    let asked = now();
    let lease = parent.acquire(0, 0).await?;
    let from = now();
    let fence = Routed::fence(&lease);
    let begin = now() + nanos(LEAD);
    for worker in workers.iter_mut() {
        worker.order(begin, begin + nanos(settled))?;
    }
    // Until every waiter has asked once and waits.
    tokio::time::sleep(LEAD + settled).await;
    let monitor = Monitor::start(&address)?;
    tokio::time::sleep(watched).await;
    let sent = monitor.stop()?;
    let to = now();
    let was_late = parent.release(lease).await? == ReleaseOutcome::Late;
    let mut history = histories(workers)?;
    history.push(Tenure {
        holder: u64::MAX,
        asked,
        from,
        to,
        fence,
        was_late,
    });
    let census = Census::take(&mut history, begin, u64::MAX);
    run.report.faults.add(&census.faults);
    run.goal(Goal::new(
        "8",
        "polls per process and second while another process holds the key",
        vec![sent.attempts() as f64 / PROCESSES as f64 / watched.as_secs_f64()],
        Bound::AtMost(0.0),
        format!(
            "sent by all in {} ms: {}",
            watched.as_millis(),
            sent.breakdown(1.0)
        ),
    ));
    Ok(())
}
