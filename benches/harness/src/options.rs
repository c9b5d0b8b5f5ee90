//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::rounds::Plan;

/// What is measured, where and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Your own nodes; without them servers are started on the loopback. The
    /// bench writes its own keys there and deletes them afterwards.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub(crate) nodes: Vec<String>,

    /// Fewer and shorter rounds: under a minute in all.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Also measure lock libraries of other languages, each in a process of its own.
    /// scripts/peers.sh installs them.
    #[arg(long)]
    foreign: bool,

    /// Only these scenes.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Scene>,

    /// Numbers of concurrent tasks.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = at_least_one)]
    tasks: Vec<usize>,

    /// Arrivals per second in the open loop.
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND", value_parser = positive)]
    rates: Vec<f64>,

    /// The number of keys.
    #[arg(long, value_parser = at_least_one)]
    pub(crate) keys: Option<usize>,

    /// The share of acquires that are for one hot key, from 0 to 1.
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) hot_share: f64,

    /// How long locks are held.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) hold: Duration,

    /// How long the hot key is held.
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) hot_hold: Duration,

    /// A delay to add in front of every node, in each direction.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) delay: Duration,

    /// Rounds per scene.
    #[arg(long, value_parser = at_least_one)]
    rounds: Option<usize>,

    /// How long a contender's turn is in each round.
    #[arg(long, value_parser = humantime::parse_duration)]
    turn: Option<Duration>,

    /// Worker threads of the runtime; 0 for one thread in all.
    #[arg(long, default_value = "2")]
    pub(crate) workers: usize,

    /// The folder for report.html, report.json and report.csv.
    #[arg(long, default_value = "target/ringlock-bench")]
    pub(crate) out: PathBuf,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// Many keys on one node, compared with its ceiling and with peers.
    OneNode,
    /// Many keys sharded over five nodes, compared with the bare crate.
    FiveNodes,
    /// A quorum of five, compared with peers.
    Quorum,
    /// A quorum with two slow nodes.
    Delay,
    /// One hot key in one process.
    Hot,
    /// One hot key in several processes.
    Processes,
    /// Sharded and quorum mode by nodes and tasks.
    Modes,
    /// The same in an open loop.
    Open,
    /// A hot key among many.
    HotShare,
    /// Many keys drawn by Zipf's law.
    Skew,
    /// The loss of a node.
    Loss,
    /// Lock libraries of other languages on one node; with --foreign.
    Foreign,
}

/// The size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to run every line.
    Test,
    Quick,
    Full,
}

impl Effort {
    pub(crate) fn keys(self) -> usize {
        match self {
            Self::Test => 1000,
            Self::Quick => 100_000,
            Self::Full => 1_000_000,
        }
    }
}

impl Options {
    pub(crate) fn plan(&self, effort: Effort) -> Plan {
        let (turn, rounds) = match effort {
            Effort::Test => (20, 1),
            Effort::Quick => (150, 3),
            Effort::Full => (400, 9),
        };
        let span = self.turn.unwrap_or(Duration::from_millis(turn));
        Plan {
            span,
            // Longer than a pair among thousands of tasks: no pair counts as
            // slow only because it began together with all the others.
            warm_up: span / 4,
            rounds: self.rounds.unwrap_or(rounds),
        }
    }

    pub(crate) fn tasks(&self, effort: Effort) -> Vec<usize> {
        let mut tasks = match (self.tasks.is_empty(), effort) {
            (false, _) => self.tasks.clone(),
            (true, Effort::Test) => vec![1, 16],
            (true, _) => vec![1, 16, 256, 4096],
        };
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }

    pub(crate) fn rates(&self, effort: Effort) -> Vec<f64> {
        match (self.rates.is_empty(), effort) {
            (false, _) => self.rates.clone(),
            (true, Effort::Full) => vec![1000.0, 5000.0, 20_000.0],
            (true, _) => vec![2000.0],
        }
    }

    pub(crate) fn scenes(&self) -> Vec<Scene> {
        match self.only.is_empty() {
            true => {
                let all = Scene::value_variants().iter().copied();
                all.filter(|&scene| self.foreign || scene != Scene::Foreign)
                    .collect()
            }
            false => self.only.clone(),
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().map_err(|_| "not a whole number".to_owned())?;
    match number {
        0 => Err("at least 1".into()),
        number => Ok(number),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|_| "not a number".to_owned())?;
    match number {
        number if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("more than 0".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|_| "not a number".to_owned())?;
    match (0.0..=1.0).contains(&number) {
        true => Ok(number),
        false => Err("from 0 to 1".into()),
    }
}
