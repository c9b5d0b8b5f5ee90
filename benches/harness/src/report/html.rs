//! The report as one self-contained page.

use std::fmt::Write as _;

use super::{Report, plots, short};
use crate::Fault;

const STYLE: &str = "
  :root { color-scheme: light; }
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; vertical-align: top; }
  th { font-weight: 600; background: #f7f7f7; } th.l, td.l { text-align: left; }
  td { white-space: nowrap; } td.l { white-space: normal; }
  .met { color: #00734f; font-weight: 600; } .missed { color: #b34700; font-weight: 600; }
  .fault { background: #fde8e4; border-left: 4px solid #c4280c; padding: .6rem 1rem; }
  .clean { background: #e9f6f0; border-left: 4px solid #009e73; padding: .6rem 1rem; }
  .small { color: #666; font-size: .85rem; } code { background: #f3f3f3; padding: .1rem .3rem; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem; }
  .legend { font-size: .8rem; margin: 0 0 .5rem 56px; } .legend span { margin-right: 1.1em; white-space: nowrap; }
  .legend i { display: inline-block; width: 1.4em; height: .25em; margin-right: .4em; vertical-align: middle; }
  figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; } svg { max-width: 100%; height: auto; }
";

pub(super) fn render(report: &Report) -> Result<String, Fault> {
    let mut page = String::new();
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>ringlock bench</title>\n<style>{STYLE}</style>\n<h1>ringlock bench</h1>\n"
    )?;
    machine(report, &mut page)?;
    verdict(report, &mut page)?;
    goals(report, &mut page)?;
    figures(report, &mut page)?;
    hand_offs(report, &mut page)?;
    timelines(report, &mut page)?;
    measurements(report, &mut page)?;
    page.push_str("</html>\n");
    Ok(page)
}

fn machine(report: &Report, page: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    let plan = &report.plan;
    writeln!(
        page,
        "<p class=\"small\">{} · ringlock {} · {} cores, {} · {} · {}<br><code>{}</code><br>\
         Rounds of {} ms after {} ms of warm-up, {} of them, contenders taking turns within each; \
         every ratio is the median of the rounds' own.</p>",
        escaped(&machine.date),
        machine.version,
        machine.cores,
        escaped(&machine.processor),
        escaped(&machine.servers),
        escaped(&machine.runtime),
        escaped(&machine.command),
        plan.span.as_millis(),
        plan.warm_up.as_millis(),
        plan.rounds,
    )
}

fn verdict(report: &Report, page: &mut String) -> std::fmt::Result {
    let faults = &report.faults;
    if faults.is_clean() {
        return writeln!(
            page,
            "<p class=\"clean\">No two holders overlapped, no fence went back, every release was \
             in time.</p>"
        );
    }
    writeln!(
        page,
        "<p class=\"fault\"><b>{} overlaps, {} fences that went back, {} releases that were not \
         in time.</b> First: {}</p>",
        faults.overlaps,
        faults.reversals,
        faults.late_releases,
        escaped(faults.first.as_deref().unwrap_or_default())
    )
}

fn goals(report: &Report, page: &mut String) -> std::fmt::Result {
    if report.goals.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<h2>Goals</h2>\n<table><tr><th class=\"l\"></th><th class=\"l\">what</th><th>figure</th>\
         <th>lowest and highest round</th><th>goal</th><th></th></tr>\n",
    );
    for goal in &report.goals {
        let verdict = goal.verdict();
        writeln!(
            page,
            "<tr><td class=\"l\">{}</td><td class=\"l\">{}<br><span class=\"small\">{}</span></td>\
             <td>{}</td><td>{}</td><td>{}</td><td class=\"{verdict}\">{verdict}</td></tr>",
            goal.number,
            escaped(&goal.what),
            escaped(&goal.note),
            goal.figure_text(),
            goal.range_text(),
            escaped(&goal.bound.to_string()),
        )?;
    }
    page.push_str("</table>\n");
    for note in &report.notes {
        writeln!(page, "<p class=\"small\">{}</p>", escaped(note))?;
    }
    Ok(())
}

fn figures(report: &Report, page: &mut String) -> Result<(), Fault> {
    let tasks = |scene: &str| {
        let of_scene = report
            .measurements
            .iter()
            .filter(|m| m.about.scene == scene);
        let mut tasks: Vec<usize> = of_scene.map(|m| m.tasks).collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    };
    let mut plots = vec![
        (
            "Throughput, sharded and quorum".to_owned(),
            plots::throughput(report, &["side by side"])?,
        ),
        (
            "Throughput beside others".to_owned(),
            plots::throughput(report, &["one node", "five-node quorum"])?,
        ),
    ];
    for (scene, title) in [
        ("side by side", "Latency, sharded and quorum"),
        ("one node", "Latency on one node"),
        ("open loop", "Latency from the intended start, open loop"),
        (
            "quorum behind delays",
            "Latency of a quorum with two slow nodes",
        ),
        ("hot share", "Latency with a hot key among the others"),
    ] {
        // The fewest and the most tasks show the range.
        let tasks = tasks(scene);
        let ends = [tasks.first(), tasks.last().filter(|_| tasks.len() > 1)];
        for &tasks in ends.into_iter().flatten() {
            let title = match tasks {
                1 => format!("{title}, 1 task"),
                tasks => format!("{title}, {tasks} tasks"),
            };
            plots.push((title, plots::latency(report, scene, tasks)?));
        }
    }
    plots.push((
        "Loss of one of five nodes".to_owned(),
        plots::loss(&report.timelines)?,
    ));
    plots.push((
        "Balance over the nodes, sharded".to_owned(),
        plots::balance(report)?,
    ));
    page.push_str("<h2>Plots</h2>\n<div class=\"plots\">\n");
    for (title, plot) in plots {
        let Some(plot) = plot else { continue };
        write!(page, "<figure><figcaption>{title}</figcaption>{}", plot.svg)?;
        page.push_str("<p class=\"legend\">");
        for (name, colour) in &plot.legend {
            let name = escaped(name);
            write!(
                page,
                "<span><i style=\"background:{colour}\"></i>{name}</span> "
            )?;
        }
        page.push_str("</p></figure>\n");
    }
    page.push_str("</div>\n");
    Ok(())
}

fn header(page: &mut String, title: &str, left: usize, names: &[&str]) -> std::fmt::Result {
    write!(page, "<h2>{title}</h2>\n<table><tr>")?;
    for (index, name) in names.iter().enumerate() {
        let class = if index < left { " class=\"l\"" } else { "" };
        write!(page, "<th{class}>{name}</th>")?;
    }
    page.push_str("</tr>\n");
    Ok(())
}

fn row(page: &mut String, left: usize, cells: &[String]) -> std::fmt::Result {
    page.push_str("<tr>");
    for (index, cell) in cells.iter().enumerate() {
        let class = if index < left { " class=\"l\"" } else { "" };
        write!(page, "<td{class}>{}</td>", escaped(cell))?;
    }
    page.push_str("</tr>\n");
    Ok(())
}

fn hand_offs(report: &Report, page: &mut String) -> std::fmt::Result {
    if report.hand_offs.is_empty() {
        return Ok(());
    }
    let names = [
        "contender",
        "processes",
        "waiters each",
        "holder changes/s",
        "wait p50 ms",
        "wait p99 ms",
        "hold ms",
        "Jain",
        "by-passes",
        "cmds/change",
    ];
    header(page, "One hot key", 1, &names)?;
    for hand_off in &report.hand_offs {
        let cells = [
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
                .map_or_else(|| "–".into(), short),
        ];
        row(page, 1, &cells)?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn timelines(report: &Report, page: &mut String) -> std::fmt::Result {
    if report.timelines.is_empty() {
        return Ok(());
    }
    let names = [
        "mode",
        "first failure",
        "arrivals/s",
        "pairs/s before",
        "after",
        "longest gap ms",
        "failed",
    ];
    header(page, "Loss of one of five nodes", 2, &names)?;
    for timeline in &report.timelines {
        let cells = [
            timeline.name.clone(),
            timeline.first_failure.clone().unwrap_or_default(),
            short(timeline.rate),
            short(timeline.before_per_s),
            short(timeline.after_per_s),
            short(timeline.longest_gap_ms),
            timeline.failures.to_string(),
        ];
        row(page, 2, &cells)?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn measurements(report: &Report, page: &mut String) -> std::fmt::Result {
    let names = [
        "scene",
        "contender",
        "nodes",
        "tasks",
        "load",
        "pairs/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "commands",
        "bytes",
        "client us",
        "server us",
        "failed",
    ];
    header(page, "All measurements", 2, &names)?;
    for m in &report.measurements {
        let maybe = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
        let cells = [
            m.about.scene.to_owned(),
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
        ];
        row(page, 2, &cells)?;
    }
    page.push_str("</table>\n");
    writeln!(
        page,
        "<p class=\"small\">Commands, bytes and CPU are per pair of acquire and release; commands \
         are those that servers executed, within scripts too; client CPU includes the bench \
         itself. Quantiles are of the acquire alone.</p>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
