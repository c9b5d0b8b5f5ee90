//! Lock libraries of other languages: a small program for each, which carries out a
//! turn in a process of its own. `scripts/peers.sh` installs what they need.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::TTL_MS;
use crate::Fault;
use crate::checker::Faults;
use crate::keys::KeySpace;
use crate::load::{Boxed, Contender, Load, Sample, Turn};

/// A program, by paths below the root of the repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// What runs it: a path, or a name that is looked up.
    interpreter: &'static str,
    source: &'static str,
    /// Must be there.
    package: &'static str,
}

/// Where the packages are, and where the programs run.
const HOME: &str = "target/peers";

pub(crate) const PROGRAMS: [Program; 2] = [
    Program {
        name: "redis-py",
        interpreter: "target/peers/venv/bin/python",
        source: "benches/harness/peers/redis_py_lock.py",
        package: "target/peers/venv/bin/python",
    },
    Program {
        name: "node-redlock",
        interpreter: "node",
        source: "benches/harness/peers/node_redlock.mjs",
        package: "target/peers/node_modules/redlock",
    },
];

impl Program {
    pub(crate) fn is_installed(&self) -> bool {
        [self.source, self.package]
            .iter()
            .all(|path| Path::new(path).exists())
    }
}

pub(crate) struct Foreign {
    program: Program,
    url: String,
    keys: Arc<KeySpace>,
    faults: Mutex<Faults>,
}

/// What the program reads: one line.
#[derive(Serialize)]
struct Task<'a> {
    url: &'a str,
    prefix: &'a str,
    keys: usize,
    tasks: usize,
    length_ms: u128,
    ttl_ms: u64,
}

/// What the program writes: one line.
#[derive(Deserialize)]
struct Log {
    failures: u64,
    overlaps: u64,
    late_releases: u64,
    processor_us: u64,
    /// When each pair was over, and how long its acquire took.
    samples_us: Vec<(u64, u64)>,
}

impl Foreign {
    pub(crate) fn new(program: Program, url: &str, keys: Arc<KeySpace>) -> Self {
        Self {
            program,
            url: url.to_owned(),
            keys,
            faults: Mutex::default(),
        }
    }

    fn run(&self, load: &Load) -> Result<Turn, Fault> {
        let root = std::env::current_dir()?;
        // A name is no path: it stays as it is.
        let interpreter = match self.program.interpreter.contains('/') {
            true => root.join(self.program.interpreter),
            false => PathBuf::from(self.program.interpreter),
        };
        let mut child = Command::new(interpreter)
            .arg(root.join(self.program.source))
            .current_dir(root.join(HOME))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let task = serde_json::to_string(&Task {
            url: &self.url,
            prefix: self.keys.prefix(),
            keys: self.keys.len(),
            tasks: load.tasks,
            length_ms: (load.warm_up + load.span).as_millis(),
            ttl_ms: TTL_MS,
        })?;
        if let Some(mut input) = child.stdin.take() {
            writeln!(input, "{task}")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("its program failed: {}", output.status).into());
        }
        let log: Log = serde_json::from_slice(&output.stdout)?;
        let mut faults = self.faults.lock();
        faults.add(&Faults {
            overlaps: log.overlaps,
            late_releases: log.late_releases,
            first: (log.overlaps + log.late_releases > 0)
                .then(|| format!("seen by the program of {}", self.program.name)),
            ..Faults::default()
        });
        let mut turn = Turn::new(load);
        turn.failures = log.failures;
        turn.processor_time = Some(Duration::from_micros(log.processor_us));
        let samples = log.samples_us.into_iter();
        turn.samples = samples
            .map(|(done, acquire)| Sample {
                done: Duration::from_micros(done),
                acquire: Duration::from_micros(acquire),
            })
            .collect();
        Ok(turn)
    }
}

impl Contender for Foreign {
    fn turn<'a>(&'a self, load: &'a Load) -> Boxed<'a, Result<Turn, Fault>> {
        Box::pin(async move {
            std::thread::scope(|scope| scope.spawn(|| self.run(load)).join())
                .map_err(|_| "the thread of the program panicked")?
        })
    }

    fn faults(&self) -> Faults {
        self.faults.lock().clone()
    }
}
