//! One hot key, many waiters in one process: the cost of a hand-over, and how
//! even the waits are.

use std::time::Duration;

use super::Run;
use crate::Fault;
use crate::contenders::routed::Routed;
use crate::contenders::signal::SignalList;
use crate::crowd::{Census, Commands, Crowd, gather};
use crate::keys::KeySpace;
use crate::load::Locker;
use crate::monitor::Monitor;
use crate::probe::Probe;
use crate::report::HandOff;
use crate::report::goal::{Bound, Goal};
use crate::resources::now;
use crate::rounds::nanos;
use crate::statistics::{median, ratios};

const WAITERS: usize = 32;

/// Goal 7.
pub(crate) async fn one_process(run: &mut Run) -> Result<(), Fault> {
    let keys = std::sync::Arc::new(KeySpace::new("hot:", 1, 0.0));
    let namespace = run.stage.namespace("hot-local");
    let own = Routed::connect(&run.stage.urls(1), 1, &namespace, &keys).await?;
    let url = &run.stage.urls(1)[0];
    let list = match run.stage.is_in_memory() {
        true => None,
        false => Some(SignalList::connect(url, &namespace, WAITERS).await?),
    };
    let (mut owns, mut lists) = (Vec::new(), Vec::new());
    run.progress.inc_length(run.plan.rounds as u64);
    run.progress.set_message("hot key, one process");
    for _ in 0..run.plan.rounds {
        owns.push(turn(run, &own).await?);
        if let Some(list) = &list {
            lists.push(turn(run, list).await?);
        }
        run.progress.inc(1);
    }
    requests(run, &own).await?;
    record(run, "ringlock", 1, WAITERS, &owns);
    record(run, "BLPOP port", 1, WAITERS, &lists);
    let of = |turns: &[Census], of: fn(&Census) -> f64| turns.iter().map(of).collect::<Vec<_>>();
    run.goal(Goal::new(
        "7",
        format!("hot key, {WAITERS} waiters: p99 / p50 of the wait"),
        of(&owns, |turn| turn.p99_ms / turn.p50_ms),
        Bound::AtMost(1.2),
        format!("p50 {:.1} ms", median(&of(&owns, |turn| turn.p50_ms))),
    ));
    let mut note = format!(
        "hold {:.2} ms, measured; all but the last 2 ms of a hold sleep, those yield",
        median(&of(&owns, |turn| turn.hold_us)) / 1e3
    );
    let changes = of(&owns, |turn| turn.changes_per_s);
    if !lists.is_empty() {
        let its = of(&lists, |turn| turn.changes_per_s);
        let ratio = median(&ratios(&changes, &its));
        note += &format!("; / BLPOP port in one process: {ratio:.2}");
    }
    run.goal(Goal::new(
        "7",
        format!("hot key, {WAITERS} waiters: holder changes/s"),
        changes,
        Bound::None,
        note,
    ));
    Ok(())
}

async fn turn<L: Locker>(run: &mut Run, locker: &L) -> Result<Census, Fault> {
    let begin = now();
    // After each waiter's first lease, every waiter waits for all the others.
    let counted = begin + nanos(run.plan.warm_up + run.hot_hold * WAITERS as u32);
    let end = counted + nanos(run.plan.span * 2);
    let crowd = Crowd {
        first: 0,
        waiters: WAITERS,
        hold: run.hot_hold,
        begin,
        end,
    };
    let probe = run.stage.nodes[0].probe.clone();
    let before = probe.as_deref().map(Probe::info).transpose()?;
    let mut history = gather(locker, crowd).await?;
    let after = probe.as_deref().map(Probe::info).transpose()?;
    let census = Census::take(&mut history, counted, end);
    run.report.faults.add(&census.faults);
    Ok(match (before, after) {
        (Some(before), Some(after)) => {
            census.with_commands(&history, &before.all_calls(), after.all_calls())
        }
        _ => census,
    })
}

/// Counts the requests per change of the holder, in a separate turn, because
/// MONITOR slows the server down.
async fn requests(run: &mut Run, own: &Routed) -> Result<(), Fault> {
    let Some(address) = run.stage.nodes[0].address.clone() else {
        return Ok(());
    };
    let probe = run.stage.probes(1);
    let monitor = Monitor::start(&address)?;
    let before = probe[0].work()?;
    let begin = now();
    let crowd = Crowd {
        first: 0,
        waiters: WAITERS,
        hold: run.hot_hold,
        begin,
        end: begin + nanos(run.plan.span * 2),
    };
    let mut history = gather(own, crowd).await?;
    let executed = probe[0].work()?.since(&before).commands;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let sent = monitor.stop()?;
    let census = Census::take(&mut history, begin, u64::MAX);
    run.report.faults.add(&census.faults);
    // The first holder has no predecessor: its grant is a change too.
    let changes = census.changes + 1.0;
    let each = |count: u64| count as f64 / changes;
    run.goal(Goal::new(
        "7",
        "hot key: requests per holder change (a script, an acquire by commands: one)",
        vec![each(sent.requests)],
        Bound::AtMost(2.0),
        format!(
            "{:.1} commands sent ({}); {:.1} executed, by commandstats",
            each(sent.commands()),
            sent.breakdown(changes),
            each(executed)
        ),
    ));
    Ok(())
}

pub(crate) fn record(
    run: &mut Run,
    contender: &str,
    processes: usize,
    waiters: usize,
    turns: &[Census],
) {
    if turns.is_empty() {
        return;
    }
    let of = |of: fn(&Census) -> f64| median(&turns.iter().map(of).collect::<Vec<_>>());
    let commands = turns.iter().filter_map(|turn| turn.commands.as_ref());
    let commands: Vec<f64> = commands.map(Commands::per_change).collect();
    run.report.hand_offs.push(HandOff {
        contender: contender.into(),
        processes,
        waiters,
        changes_per_s: of(|turn| turn.changes_per_s),
        wait_p50_ms: of(|turn| turn.p50_ms),
        wait_p99_ms: of(|turn| turn.p99_ms),
        hold_ms: of(|turn| turn.hold_us) / 1e3,
        jain: of(|turn| turn.jain),
        bypasses: of(|turn| turn.bypasses),
        commands_per_change: (!commands.is_empty()).then(|| median(&commands)),
        rounds: turns.iter().map(|turn| turn.changes_per_s).collect(),
    });
}
