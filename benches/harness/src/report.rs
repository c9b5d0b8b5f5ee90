//! The results of a run and the forms of the output.

pub(crate) mod goal;
mod html;
mod plots;
mod table;

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::checker::Faults;
use super::rounds::{Measurement, Plan};
use crate::Fault;
use goal::Goal;

/// The whole report, as it is written to `report.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) plan: Plan,
    pub(crate) goals: Vec<Goal>,
    pub(crate) faults: Faults,
    /// What a reader must know to interpret the figures.
    pub(crate) notes: Vec<String>,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) hand_offs: Vec<HandOff>,
    pub(crate) timelines: Vec<Timeline>,
    pub(crate) balance: Vec<Balance>,
}

/// Where and how the run was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) servers: String,
    pub(crate) runtime: String,
    pub(crate) command: String,
    pub(crate) version: &'static str,
}

/// A hot key and its hand-overs between holders.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HandOff {
    pub(crate) contender: String,
    pub(crate) processes: usize,
    /// Per process.
    pub(crate) waiters: usize,
    pub(crate) changes_per_s: f64,
    pub(crate) wait_p50_ms: f64,
    pub(crate) wait_p99_ms: f64,
    pub(crate) hold_ms: f64,
    /// Jain's index of the waiters' grants.
    pub(crate) jain: f64,
    /// The most grants to others while one waits.
    pub(crate) bypasses: f64,
    /// Executed by the server, also within scripts.
    pub(crate) commands_per_change: Option<f64>,
    /// Changes per second, round by round.
    pub(crate) rounds: Vec<f64>,
}

/// Grants over time while a node dies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Timeline {
    pub(crate) name: String,
    /// Arrivals per second.
    pub(crate) rate: f64,
    pub(crate) dies_s: f64,
    pub(crate) before_per_s: f64,
    pub(crate) after_per_s: f64,
    pub(crate) longest_gap_ms: f64,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
    /// Seconds, and pairs per second.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A node's share of all grants, and of all weights.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Balance {
    pub(crate) node: String,
    pub(crate) granted: f64,
    pub(crate) weight: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: Plan) -> Self {
        Self {
            machine,
            plan,
            goals: Vec::new(),
            faults: Faults::default(),
            notes: Vec::new(),
            measurements: Vec::new(),
            hand_offs: Vec::new(),
            timelines: Vec::new(),
            balance: Vec::new(),
        }
    }

    /// Prints it as text tables.
    pub(crate) fn print(&self) {
        println!("{}", table::render(self));
    }

    pub(crate) fn json(&self) -> Result<String, Fault> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Writes `report.json`, `report.csv` and `report.html` into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Fault> {
        std::fs::create_dir_all(folder)?;
        let file = |name: &str| folder.join(name);
        std::fs::write(file("report.json"), self.json()?)?;
        std::fs::write(file("report.csv"), self.csv())?;
        std::fs::write(file("report.html"), html::render(self)?)?;
        Ok(())
    }

    /// One line per measurement.
    fn csv(&self) -> String {
        let mut csv = String::from(
            "scene,contender,nodes,replicas,tasks,load,pairs_per_s,acquire_p50_us,acquire_p99_us,\
             acquire_p999_us,commands_per_pair,bytes_per_pair,client_us_per_pair,\
             server_us_per_pair,failures\n",
        );
        for m in &self.measurements {
            let maybe = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.3}"));
            let words = [m.about.scene, &m.about.contender, &m.load].map(quoted);
            let [scene, contender, load] = words;
            // Writing to a string cannot fail.
            let _ = writeln!(
                csv,
                "{scene},{contender},{},{},{},{load},{:.1},{:.1},{:.1},{:.1},{},{},{:.3},{},{}",
                m.about.nodes,
                m.about.replicas,
                m.tasks,
                m.pairs_per_s,
                m.acquire_p50_us,
                m.acquire_p99_us,
                m.acquire_p999_us,
                maybe(m.commands_per_pair),
                maybe(m.bytes_per_pair),
                m.client_us_per_pair,
                maybe(m.server_us_per_pair),
                m.failures,
            );
        }
        csv
    }
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// A number in short form: 1234567 is 1.23M.
fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1e6 => format!("{:.2}M", number / 1e6),
        n if n >= 1e4 => format!("{:.0}k", number / 1e3),
        n if n >= 1e3 => format!("{:.1}k", number / 1e3),
        n if n >= 100.0 || n.fract() == 0.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 1.0, 1.234, 12.34, 123.4, 1234.0, 12_345.0, 1_234_567.0];
        let short: Vec<String> = numbers.into_iter().map(short).collect();
        assert_eq!(
            short,
            ["0", "1", "1.23", "12.3", "123", "1.2k", "12k", "1.23M"]
        );
    }
}
