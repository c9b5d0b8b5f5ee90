//! A ring as a circle, its arcs in the colours of their owners.
//!
//! Written by hand: plotters cannot draw arcs.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use ringlock_ring::{NodeIndex, Ring, fraction};

const WIDTH: u32 = 720;
const CENTRE: f64 = 260.0;
const RADIUS: f64 = 220.0;
const STROKE: u32 = 44;
const LEGEND_X: u32 = 540;
const LINE: usize = 22;

/// The ring, clockwise from the top, and the meaning of its colours.
pub(super) fn svg(ring: &Ring) -> String {
    let height = (2.0 * CENTRE).max((LINE * (ring.len() + 3)) as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <g fill=\"none\" stroke-width=\"{STROKE}\">\n"
    );
    for arc in arcs(ring) {
        draw(&mut svg, &arc);
    }
    svg += "</g>\n";
    let middle = format!("{} points, {}", ring.segments(), ring.format());
    let _ = writeln!(
        svg,
        "<text x=\"{CENTRE}\" y=\"{CENTRE}\" text-anchor=\"middle\">{middle}</text>"
    );
    let shares = ring.shares();
    for (index, (member, share)) in ring.members().iter().zip(shares).enumerate() {
        let y = LINE * (index + 2);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEGEND_X}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{y}\">{} {:.2} %</text>",
            y - 12,
            colour(index),
            LEGEND_X + 22,
            escaped(member.name()),
            fraction(share) * 100.0
        );
    }
    svg + "</svg>\n"
}

/// A stretch with one owner.
struct Arc {
    owner: NodeIndex,
    /// Where it begins, in turns.
    start: f64,
    turns: f64,
}

/// Merges neighbouring arcs of one owner.
fn arcs(ring: &Ring) -> Vec<Arc> {
    let mut arcs: Vec<Arc> = Vec::new();
    for (_, owner, range) in ring.arcs() {
        let turns = fraction(range.width());
        match arcs.last_mut() {
            Some(last) if last.owner == owner => last.turns += turns,
            _ => arcs.push(Arc {
                owner,
                start: fraction(range.after.into()),
                turns,
            }),
        }
    }
    arcs
}

fn draw(svg: &mut String, arc: &Arc) {
    let colour = colour(arc.owner.get());
    // An arc that ends where it begins would not be drawn.
    if arc.turns > 0.9999 {
        let _ = writeln!(
            svg,
            "<circle cx=\"{CENTRE}\" cy=\"{CENTRE}\" r=\"{RADIUS}\" stroke=\"{colour}\"/>"
        );
        return;
    }
    let point = |turns: f64| {
        let (sin, cos) = (turns * TAU).sin_cos();
        (CENTRE + RADIUS * sin, CENTRE - RADIUS * cos)
    };
    let ((x0, y0), (x1, y1)) = (point(arc.start), point(arc.start + arc.turns));
    let is_large = u8::from(arc.turns > 0.5);
    let _ = writeln!(
        svg,
        "<path d=\"M{x0:.3} {y0:.3}A{RADIUS} {RADIUS} 0 {is_large} 1 {x1:.3} {y1:.3}\" stroke=\"{colour}\"/>"
    );
}

/// Okabe and Ito's colours, which most people can distinguish; then others, a
/// golden angle apart.
fn colour(index: usize) -> String {
    const COLOURS: [&str; 7] = [
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a5a5a",
    ];
    COLOURS.get(index).map_or_else(
        || format!("hsl({:.0},60%,45%)", (index as f64 * 137.508) % 360.0),
        |&colour| colour.into(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlock_ring::Member;

    fn ring(names: &[&str]) -> Ring {
        let members = names.iter().map(|&name| Member::new(name));
        Ring::builder().members(members).build().unwrap()
    }

    #[test]
    fn the_arcs_go_once_around() {
        let arcs = arcs(&ring(&["a", "b", "c"]));
        let turns: f64 = arcs.iter().map(|arc| arc.turns).sum();
        assert!((turns - 1.0).abs() < 1e-9, "{turns}");
        assert!(arcs.windows(2).all(|pair| pair[0].owner != pair[1].owner));
    }

    #[test]
    fn one_node_is_a_circle_and_names_are_escaped() {
        let svg = svg(&ring(&["<a&b"]));
        assert!(
            svg.contains("<circle") && svg.contains("&lt;a&amp;b 100.00 %"),
            "{svg}"
        );
    }
}
