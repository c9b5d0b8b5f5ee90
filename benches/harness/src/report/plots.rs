//! Plots, as SVG within the page.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::{Report, Timeline, short};
use crate::Fault;
use crate::rounds::Measurement;

const SIZE: (u32, u32) = (560, 340);
const FONT: (&str, u32) = ("sans-serif", 13);

/// Okabe and Ito's colours, which most people can distinguish.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(150, 120, 0),
];

/// A plot, and the meaning of its colours in CSS notation.
pub(super) struct Plot {
    pub(super) svg: String,
    pub(super) legend: Vec<(String, String)>,
}

/// One named line.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pairs per second over tasks, one line per contender, cluster and mode.
pub(super) fn throughput(report: &Report, scenes: &[&str]) -> Result<Option<Plot>, Fault> {
    let lines = lines(
        report
            .measurements
            .iter()
            .filter(|m| scenes.contains(&m.about.scene)),
        |m| (m.tasks as f64, m.pairs_per_s),
    );
    let axes = Axes {
        x: "concurrent tasks",
        y: "pairs per second",
        is_y_log: true,
    };
    draw(lines, &axes, None)
}

/// The share of acquires that took at most a given time.
pub(super) fn latency(report: &Report, scene: &str, tasks: usize) -> Result<Option<Plot>, Fault> {
    let of_tasks = report
        .measurements
        .iter()
        .filter(|m| m.about.scene == scene && m.tasks == tasks);
    let lines = of_tasks
        .map(|m| Line {
            name: match m.load.as_str() {
                "closed" => name(m),
                load => format!("{}, {load}", name(m)),
            },
            points: m
                .cdf
                .iter()
                .map(|(us, share)| (us.max(1.0), *share))
                .collect(),
        })
        .collect();
    let axes = Axes {
        x: "acquire, microseconds",
        y: "share of acquires",
        is_y_log: false,
    };
    draw(lines, &axes, Some(1.0))
}

/// Pairs per second while a node dies.
pub(super) fn loss(timelines: &[Timeline]) -> Result<Option<Plot>, Fault> {
    let Some(first) = timelines.first() else {
        return Ok(None);
    };
    let of = |timeline: &Timeline| Line {
        name: timeline.name.clone(),
        points: timeline.points.clone(),
    };
    let lines: Vec<Line> = timelines.iter().map(of).collect();
    let highest = highest(&lines) * 1.15;
    let end = first.points.last().map_or(1.0, |(at, _)| *at);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = chart(&area, 0.0..end, 0.0..highest)?;
        mesh(&mut chart, "seconds", "pairs per second")?;
        let death = [(first.dies_s, 0.0), (first.dies_s, highest)];
        chart.draw_series(LineSeries::new(death, BLACK.mix(0.5)))?;
        draw_lines(&mut chart, &lines)?;
        area.present()?;
    }
    let mut legend = legend(&lines);
    legend.push(("a node is killed".to_owned(), "#888".to_owned()));
    Ok(Some(Plot { svg, legend }))
}

/// What each node granted, next to its weight.
pub(super) fn balance(report: &Report) -> Result<Option<Plot>, Fault> {
    if report.balance.is_empty() {
        return Ok(None);
    }
    let shares = report
        .balance
        .iter()
        .map(|balance| balance.granted.max(balance.weight));
    let highest = shares.fold(0.0, f64::max) * 1.2;
    let nodes = report.balance.len() as f64;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = chart(&area, 0.0..nodes, 0.0..highest)?;
        let node_of = |at: &f64| {
            let index = at.floor() as usize;
            let is_label = (at.fract() - 0.5).abs() < 1e-6;
            let node = report.balance.get(index).filter(|_| is_label);
            node.map_or_else(String::new, |balance| balance.node.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(2 * report.balance.len() + 1)
            .x_label_formatter(&node_of)
            .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
            .y_desc("share of the grants")
            .label_style(FONT)
            .draw()?;
        let bars = report.balance.iter().enumerate().map(|(index, balance)| {
            let at = index as f64;
            let corners = [(at + 0.2, 0.0), (at + 0.8, balance.granted)];
            Rectangle::new(corners, COLOURS[0].filled())
        });
        chart.draw_series(bars)?;
        let weights = report.balance.iter().enumerate().map(|(index, balance)| {
            let at = index as f64;
            let ends = [(at + 0.1, balance.weight), (at + 0.9, balance.weight)];
            PathElement::new(ends, COLOURS[1].stroke_width(3))
        });
        chart.draw_series(weights)?;
        area.present()?;
    }
    let legend = ["granted", "weight"].into_iter().enumerate();
    let legend = legend.map(|(index, name)| (name.to_owned(), css(index)));
    Ok(Some(Plot {
        svg,
        legend: legend.collect(),
    }))
}

/// One line per contender and cluster, in the order of their first appearance.
fn lines<'m>(
    measurements: impl Iterator<Item = &'m Measurement>,
    point: impl Fn(&Measurement) -> (f64, f64),
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for measurement in measurements {
        let name = name(measurement);
        let point = point(measurement);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name,
                points: vec![point],
            }),
        }
    }
    lines
}

fn name(measurement: &Measurement) -> String {
    let about = &measurement.about;
    match about.nodes {
        1 => format!("{}, 1 node", about.contender),
        nodes => format!("{}, {nodes} nodes", about.contender),
    }
}

struct Axes {
    x: &'static str,
    y: &'static str,
    is_y_log: bool,
}

/// Lines over a logarithmic x axis.
fn draw(lines: Vec<Line>, axes: &Axes, top: Option<f64>) -> Result<Option<Plot>, Fault> {
    let lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| !line.points.is_empty())
        .collect();
    let xs = || {
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|(x, _)| *x))
    };
    let ys = || {
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|(_, y)| *y))
    };
    let low = xs().fold(f64::MAX, f64::min).max(0.1);
    let high = xs().fold(0.0, f64::max);
    if high <= low {
        return Ok(None);
    }
    let highest = top.unwrap_or_else(|| highest(&lines) * 1.3);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let x = (low..high).log_scale();
        if axes.is_y_log {
            let lowest = ys().fold(f64::MAX, f64::min).max(1.0) * 0.7;
            let mut chart = chart(&area, x, (lowest..highest).log_scale())?;
            mesh(&mut chart, axes.x, axes.y)?;
            draw_lines(&mut chart, &lines)?;
        } else {
            let mut chart = chart(&area, x, 0.0..highest)?;
            mesh(&mut chart, axes.x, axes.y)?;
            draw_lines(&mut chart, &lines)?;
        }
        area.present()?;
    }
    let legend = legend(&lines);
    Ok(Some(Plot { svg, legend }))
}

fn legend(lines: &[Line]) -> Vec<(String, String)> {
    let lines = lines.iter().enumerate();
    lines
        .map(|(index, line)| (line.name.clone(), css(index)))
        .collect()
}

/// The colour of line `index`.
fn css(index: usize) -> String {
    let RGBColor(red, green, blue) = COLOURS[index % COLOURS.len()];
    format!("rgb({red},{green},{blue})")
}

fn highest(lines: &[Line]) -> f64 {
    let ys = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|(_, y)| *y));
    ys.fold(1.0, f64::max)
}

type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

fn chart<'a, 'b, X, Y>(
    area: &'a Area<'b>,
    x: X,
    y: Y,
) -> Result<Chart<'a, 'b, X::CoordDescType, Y::CoordDescType>, Fault>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
{
    area.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56);
    Ok(builder.build_cartesian_2d(x, y)?)
}

fn mesh<X, Y>(chart: &mut Chart<'_, '_, X, Y>, x: &str, y: &str) -> Result<(), Fault>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    Ok(chart
        .configure_mesh()
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .x_labels(6)
        .y_labels(6)
        .x_desc(x)
        .y_desc(y)
        .label_style(FONT)
        .draw()?)
}

fn draw_lines<'a, 'b: 'a, X, Y>(
    chart: &mut Chart<'a, 'b, X, Y>,
    lines: &[Line],
) -> Result<(), Fault>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    for (index, line) in lines.iter().enumerate() {
        let style = COLOURS[index % COLOURS.len()].stroke_width(2);
        let points = line.points.iter().copied();
        chart.draw_series(LineSeries::new(points.clone(), style).point_size(0))?;
        // Few points are measurements, many are a curve.
        if line.points.len() <= 8 {
            chart.draw_series(points.map(|point| Circle::new(point, 3, style.filled())))?;
        }
    }
    Ok(())
}
