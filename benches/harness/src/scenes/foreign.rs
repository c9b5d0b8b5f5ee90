//! Lock libraries of other languages on one node, each in a process of its own.

use std::sync::Arc;

use super::Run;
use super::throughput::best_against_best;
use crate::Fault;
use crate::contenders::foreign::{Foreign, PROGRAMS};
use crate::load::Load;
use crate::report::goal::Bound;
use crate::rounds::{About, Entry};

const FOREIGN: &str = "other languages";

/// The numbers of tasks among which the best is taken.
const TASKS: [usize; 3] = [1, 16, 64];

/// Goal 10.
pub(crate) async fn others(run: &mut Run) -> Result<(), Fault> {
    if run.stage.is_in_memory() {
        return Ok(());
    }
    let mut entries = Vec::new();
    for tasks in run.tasks.clone() {
        let load = run.load(tasks);
        entries.push(run.ringlock(FOREIGN, 1, 1, load).await?);
    }
    let owned = entries.len();
    for program in PROGRAMS {
        if !program.is_installed() {
            run.note(format!(
                "{} is not here: scripts/peers.sh installs it",
                program.name
            ));
            continue;
        }
        let keys = run.stage.key_space(program.name);
        let contender = Arc::new(Foreign::new(program, &run.stage.nodes[0].url, keys));
        for tasks in TASKS {
            let about = About {
                scene: FOREIGN,
                contender: program.name.into(),
                nodes: 1,
                replicas: 1,
            };
            let load = Load {
                tasks,
                ..run.load(tasks)
            };
            let contender = Arc::clone(&contender);
            entries.push(Entry::new(about, load, contender, &run.stage.probes(1))?);
        }
    }
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    let (own, others) = entries.split_at(owned);
    for program in PROGRAMS {
        best_against_best(
            run,
            "10",
            "one node",
            own,
            others,
            (program.name, Bound::None),
        );
    }
    Ok(())
}
