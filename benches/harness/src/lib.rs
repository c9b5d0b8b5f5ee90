//! The bench harness: it compares sharded and quorum mode with each other and
//! with peers, in one run. The program `ringlock-bench` and the bench `modes`
//! are two forms of it; the latter adds peers that need further crates. The
//! other benches use its servers, proxies and figures.
//!
//! Contenders take turns in short `rounds` under loads ([`load`]), and their
//! results are checked (`checker`). `scenes` defines what is compared, `report`
//! the forms of the output.

#![cfg(feature = "redis")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program: it reports"
)]

pub mod arguments;
mod checker;
pub mod cluster;
pub mod contenders;
pub mod cost;
mod crowd;
pub mod keys;
pub mod load;
mod monitor;
mod options;
pub mod peers;
pub mod probe;
pub mod process;
mod program;
pub mod proxy;
mod report;
pub mod resources;
mod rounds;
mod scenes;
pub mod servers;
mod stage;
pub mod statistics;
mod worker;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub use checker::Faults;
use options::{Effort, Options, Scene};
use peers::Peer;
pub use program::{run_bench, run_program};
use report::{Machine, Report};
use scenes::{Run, delay, foreign, hot, loss, matrix, processes, skew, throughput};
use stage::Stage;

/// What went wrong, in words: a bench passes it on to its user.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How a complete run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Clean,
    /// Holders overlapped, a fence went back or a release was not in time.
    Faulty,
}

impl Outcome {
    fn of(faults: &Faults) -> Self {
        match faults.is_clean() {
            true => Self::Clean,
            false => Self::Faulty,
        }
    }

    fn exit_code(self) -> ExitCode {
        match self {
            Self::Clean => ExitCode::SUCCESS,
            Self::Faulty => ExitCode::from(1),
        }
    }
}

/// Runs the bench on its own runtime and reports the results: as tables, or as
/// one JSON document.
fn run(
    options: &Options,
    effort: Effort,
    peers: &'static [Peer],
    is_json: bool,
) -> Result<Outcome, Fault> {
    let mut builder = match options.workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    };
    let runtime = builder.enable_all().build()?;
    let report = runtime.block_on(play(options, effort, peers))?;
    // Threads that wait for input would delay the shutdown.
    runtime.shutdown_timeout(Duration::from_millis(100));
    report.write(&options.out)?;
    if is_json {
        println!("{}", report.json()?);
    } else {
        report.print();
        println!("report: {}", options.out.join("report.html").display());
    }
    let faults = &report.faults;
    let outcome = Outcome::of(faults);
    match outcome {
        Outcome::Clean if is_json => {}
        Outcome::Clean => {
            println!("no two holders overlapped, no fence went back, every release was in time");
        }
        Outcome::Faulty => eprintln!(
            "error: {} overlaps, {} fences that went back, {} releases not in time; first: {}",
            faults.overlaps,
            faults.reversals,
            faults.late_releases,
            faults.first.as_deref().unwrap_or_default()
        ),
    }
    Ok(outcome)
}

async fn play(options: &Options, effort: Effort, peers: &'static [Peer]) -> Result<Report, Fault> {
    let plan = options.plan(effort);
    let keys = options.keys.unwrap_or(effort.keys());
    let stage = Stage::set(&options.nodes, options.delay, keys, options.hot_share)?;
    let progress = progress();
    let mut run = Run {
        plan,
        tasks: options.tasks(effort),
        rates: options.rates(effort),
        hold: options.hold,
        hot_hold: options.hot_hold,
        is_full: effort == Effort::Full,
        report: Report::new(machine(options, &stage)?, plan),
        stage,
        peers,
        progress: progress.clone(),
    };
    if run.stage.is_in_memory() {
        let note = "NO SERVER WAS FOUND: nodes are in memory, nothing here says how fast ringlock is \
                    on Redis. Install redis-server, or name your nodes with --nodes.";
        progress.suspend(|| eprintln!("\n{note}\n"));
        run.note(note);
    }
    if peers.is_empty() {
        run.note(
            "goals 3 and 5 compare with other libraries, which are part of `cargo bench --bench modes` only",
        );
    }
    for scene in options.scenes() {
        match scene {
            Scene::OneNode => throughput::one_node(&mut run).await?,
            Scene::FiveNodes => throughput::five_sharded(&mut run).await?,
            Scene::Quorum => throughput::quorum(&mut run).await?,
            Scene::Delay => delay::slow_minority(&mut run).await?,
            Scene::Hot => hot::one_process(&mut run).await?,
            Scene::Processes => processes::several(&mut run).await?,
            Scene::Modes => matrix::side_by_side(&mut run).await?,
            Scene::Open => matrix::open_loop(&mut run).await?,
            Scene::HotShare => matrix::hot_share(&mut run).await?,
            Scene::Skew => skew::zipf(&mut run).await?,
            Scene::Loss => loss::node_loss(&mut run).await?,
            Scene::Foreign => foreign::others(&mut run).await?,
        }
    }
    progress.finish_and_clear();
    run.stage.clear()?;
    Ok(run.report)
}

fn progress() -> ProgressBar {
    let progress = ProgressBar::new(0);
    // The template is a constant; without it the bar has its default style.
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(500));
    progress
}

fn machine(options: &Options, stage: &Stage) -> Result<Machine, Fault> {
    let mut versions = Vec::new();
    for probe in stage.probes(usize::MAX) {
        let version = probe.version()?;
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("processor unknown", |(_, name)| name);
    Ok(Machine {
        date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        cores: std::thread::available_parallelism()?.get(),
        processor: processor.to_owned(),
        servers: match stage.is_in_memory() {
            true => "NODES IN MEMORY".into(),
            false => format!("{} x {}", stage.nodes.len(), versions.join(", ")),
        },
        runtime: match options.workers {
            0 => "tokio current_thread".into(),
            workers => format!("tokio with {workers} workers"),
        },
        command: command(),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// The command line, without the folder of the program.
fn command() -> String {
    let mut arguments: Vec<String> = std::env::args().collect();
    if let Some(program) = arguments.first_mut() {
        let name = Path::new(program.as_str()).file_name();
        *program = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    }
    without_logins(&arguments.join(" "))
}

/// `text` without the part between `://` and `@` of every URL.
fn without_logins(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([',', ' ', '/']).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        clean += "://";
        clean += &part[host..];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reports_no_password() {
        let line = "bench --nodes redis://u:p@a:1/2,rediss://:p@b,redis://c --out x@y";
        let clean = "bench --nodes redis://a:1/2,rediss://b,redis://c --out x@y";
        assert_eq!(without_logins(line), clean);
    }

    #[test]
    fn any_fault_is_an_error_of_the_run() {
        assert_eq!(Outcome::of(&Faults::default()), Outcome::Clean);
        let faulty = [
            Faults {
                overlaps: 1,
                ..Faults::default()
            },
            Faults {
                reversals: 1,
                ..Faults::default()
            },
            Faults {
                late_releases: 1,
                ..Faults::default()
            },
        ];
        for faults in faulty {
            assert_eq!(Outcome::of(&faults), Outcome::Faulty);
        }
    }
}
