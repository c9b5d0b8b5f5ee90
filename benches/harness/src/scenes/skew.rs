//! Keys drawn by Zipf's law, as in the papers on locks: a few are hot, and many are
//! used once. Waiting is part of every figure: whoever only tries tries again until
//! it holds the lock.

use std::sync::Arc;

use super::throughput::ceiling_entry;
use super::{Run, mode_name};
use crate::Fault;
use crate::contenders::bare::Bare;
use crate::contenders::patient::{PAUSE, Patient};
use crate::load::{Checked, Contender};
use crate::peers::Site;
use crate::report::goal::{Bound, Goal};
use crate::resources::memory;
use crate::rounds::{About, Entry, best};
use crate::statistics::{median, ratios};

const SKEW: &str = "skew";

const EXPONENT: f64 = 0.99;

/// The numbers of concurrent tasks; only a full run has all of them.
const TASKS: [usize; 2] = [64, 1024];

/// Something that takes part, under its name.
type Named = (String, Arc<dyn Contender>);

/// Goal 9.
pub(crate) async fn zipf(run: &mut Run) -> Result<(), Fault> {
    if run.stage.is_in_memory() {
        return Ok(());
    }
    let (tasks, sizes) = match run.is_full {
        true => (&TASKS[..], &[1, 5][..]),
        false => (&TASKS[..1], &[1][..]),
    };
    let most = run.stage.nodes.len();
    for &nodes in sizes.iter().filter(|&&nodes| nodes <= most) {
        // Gone after the last turn on these nodes: a million keys take memory.
        let contenders = contenders(run, nodes).await?;
        for &tasks in tasks {
            contest(run, &contenders, nodes, tasks).await?;
        }
        run.note(format!(
            "{SKEW}, {}: {} keys by Zipf's law with exponent {EXPONENT}; who only tries \
             pauses up to {} ms before another try; the bench has {} MiB in use",
            count_of(nodes),
            run.stage.keys,
            PAUSE.as_millis(),
            memory() >> 20
        ));
    }
    Ok(())
}

/// ringlock first.
async fn contenders(run: &mut Run, nodes: usize) -> Result<Vec<Named>, Fault> {
    let keys = run.stage.skewed_key_space("skew", EXPONENT);
    let (routed, _) = run.stage.routed(nodes, 1).await?;
    let own = Checked::new(routed.with_keys(&keys), keys);
    let mut all: Vec<Named> = vec![(mode_name(1), Arc::new(own))];
    let owners = match nodes {
        1 => None,
        nodes => Some(run.stage.owners(nodes).await?),
    };
    let keys = run.stage.skewed_key_space("skew-bare", EXPONENT);
    let urls = run.stage.urls(nodes);
    let bare = Bare::connect(&urls, owners.clone(), Arc::clone(&keys)).await?;
    let bare = Checked::new(Patient(bare), keys);
    all.push(("bare redis crate".into(), Arc::new(bare)));
    // A quick run has no time for more.
    for peer in run.peers.iter().filter(|_| run.is_full) {
        let keys = run
            .stage
            .skewed_key_space(&format!("skew-{}", peer.name), EXPONENT);
        let site = match owners.clone() {
            None => Site::together(urls.clone(), keys),
            Some(owners) => Site::sharded(urls.clone(), owners, keys),
        };
        all.push((peer.name.into(), (peer.make)(site).await?));
    }
    Ok(all)
}

async fn contest(
    run: &mut Run,
    contenders: &[Named],
    nodes: usize,
    tasks: usize,
) -> Result<(), Fault> {
    let mut entries = Vec::new();
    for (name, contender) in contenders {
        let about = About {
            scene: SKEW,
            contender: name.clone(),
            nodes,
            replicas: 1,
        };
        let (load, probes) = (run.load(tasks), run.stage.probes(nodes));
        entries.push(Entry::new(about, load, Arc::clone(contender), &probes)?);
    }
    let lockers = entries.len();
    entries.extend(ceiling_entry(run, SKEW, nodes, tasks)?);
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    let (lockers, ceiling) = entries.split_at(lockers);
    let [own, others @ ..] = lockers else {
        return Ok(());
    };
    let what = format!("Zipf {EXPONENT}, {}, {tasks} tasks", count_of(nodes));
    let throughput = Entry::throughput;
    if let Some(other) = best(others.iter()) {
        run.goal(Goal::new(
            "9",
            format!("{what}: goodput / the best of the others"),
            ratios(&throughput(own), &throughput(other)),
            Bound::None,
            of_each(others, |entry| ratios(&throughput(own), &throughput(entry))),
        ));
    }
    if let Some(ceiling) = ceiling.first() {
        let share = |entry: &Entry| ratios(&throughput(entry), &throughput(ceiling));
        run.goal(Goal::new(
            "9",
            format!("{what}: goodput / ceiling, which draws evenly"),
            share(own),
            Bound::None,
            of_each(others, share),
        ));
    }
    let spread = |entry: &Entry| entry.series(|round| round.acquire_p99_us / round.acquire_p50_us);
    run.goal(Goal::new(
        "9",
        format!("{what}: p99 / p50 of an acquire"),
        spread(own),
        Bound::None,
        of_each(others, spread),
    ));
    Ok(())
}

fn count_of(nodes: usize) -> String {
    match nodes {
        1 => "one node".into(),
        nodes => format!("{nodes} nodes"),
    }
}

/// Each entry's median of the rounds' figures.
fn of_each(entries: &[Entry], figures: impl Fn(&Entry) -> Vec<f64>) -> String {
    let each = entries
        .iter()
        .map(|entry| format!("{} {:.2}", entry.about.contender, median(&figures(entry))));
    each.collect::<Vec<_>>().join("; ")
}
