//! The report as tables of text.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Report, short};
use crate::rounds::Measurement;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(report, &mut text);
    text
}

fn write_all(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        text,
        "\n{} cores ({}), {}, {}",
        machine.cores, machine.processor, machine.servers, machine.runtime
    )?;
    let mut scenes: Vec<&str> = Vec::new();
    for measurement in &report.measurements {
        if !scenes.contains(&measurement.about.scene) {
            scenes.push(measurement.about.scene);
        }
    }
    for scene in scenes {
        let of_scene = report
            .measurements
            .iter()
            .filter(|measurement| measurement.about.scene == scene);
        writeln!(text, "\n{scene}\n{}", measurements(of_scene))?;
    }
    if !report.hand_offs.is_empty() {
        writeln!(text, "\none hot key\n{}", hand_offs(report))?;
    }
    if !report.timelines.is_empty() {
        writeln!(
            text,
            "\nloss of one of five nodes, open loop\n{}",
            timelines(report)
        )?;
    }
    if !report.goals.is_empty() {
        writeln!(text, "\ngoals\n{}", goals(report))?;
    }
    for note in &report.notes {
        writeln!(text, "note: {note}")?;
    }
    for measurement in &report.measurements {
        if let Some(first) = &measurement.first_failure {
            let about = &measurement.about;
            let (failures, tasks) = (measurement.failures, measurement.tasks);
            let (scene, contender) = (about.scene, &about.contender);
            writeln!(
                text,
                "note: {scene}, {contender}, {tasks} tasks: {failures} failed, first: {first}"
            )?;
        }
    }
    Ok(())
}

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn measurements<'m>(measurements: impl Iterator<Item = &'m Measurement>) -> Table {
    let header = [
        "contender",
        "nodes",
        "tasks",
        "load",
        "pairs/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "cmds/pair",
        "bytes/pair",
        "client us",
        "server us",
        "failed",
    ];
    let mut table = table(&header, 1);
    for m in measurements {
        let maybe = |value: Option<f64>| value.map_or_else(|| "-".into(), short);
        table.add_row([
            m.about.contender.clone(),
            m.about.nodes.to_string(),
            m.tasks.to_string(),
            m.load.clone(),
            short(m.pairs_per_s),
            short(m.acquire_p50_us),
            short(m.acquire_p99_us),
            short(m.acquire_p999_us),
            maybe(m.commands_per_pair),
            maybe(m.bytes_per_pair),
            short(m.client_us_per_pair),
            maybe(m.server_us_per_pair),
            m.failures.to_string(),
        ]);
    }
    table
}

fn hand_offs(report: &Report) -> Table {
    let header = [
        "contender",
        "processes",
        "waiters",
        "changes/s",
        "wait p50 ms",
        "wait p99 ms",
        "hold ms",
        "Jain",
        "by-passes",
        "cmds/change",
    ];
    let mut table = table(&header, 1);
    for hand_off in &report.hand_offs {
        table.add_row([
            hand_off.contender.clone(),
            hand_off.processes.to_string(),
            hand_off.waiters.to_string(),
            short(hand_off.changes_per_s),
            short(hand_off.wait_p50_ms),
            short(hand_off.wait_p99_ms),
            short(hand_off.hold_ms),
            format!("{:.3}", hand_off.jain),
            short(hand_off.bypasses),
            hand_off
                .commands_per_change
                .map_or_else(|| "-".into(), short),
        ]);
    }
    table
}

fn timelines(report: &Report) -> Table {
    let header = [
        "mode",
        "arrivals/s",
        "pairs/s before",
        "after",
        "longest gap ms",
        "failed",
    ];
    let mut table = table(&header, 1);
    for timeline in &report.timelines {
        table.add_row([
            timeline.name.clone(),
            short(timeline.rate),
            short(timeline.before_per_s),
            short(timeline.after_per_s),
            short(timeline.longest_gap_ms),
            timeline.failures.to_string(),
        ]);
    }
    table
}

fn goals(report: &Report) -> Table {
    let mut table = table(&["", "what", "figure", "of rounds", "goal", ""], 2);
    for goal in &report.goals {
        table.add_row([
            goal.number.to_owned(),
            goal.what.clone(),
            goal.figure_text(),
            goal.range_text(),
            goal.bound.to_string(),
            goal.verdict().to_owned(),
        ]);
    }
    table
}
